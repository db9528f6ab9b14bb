"""The forward kernel on TPU. An instance advances S x 128 channels of one example through a block of up to 640 steps.

Grid (B, blocks, channel tiles), in sequence: the channel tiles of a block share its splats, and the state of all channels stays
in VMEM. The state that enters each chunk is written out for the backward pass.
"""

from __future__ import annotations

import dataclasses
import functools

import jax.numpy as jnp
from jax.experimental import pallas as pl

from kernels.selective_scan.arguments import ScanArgs, ScanOptions
from kernels.selective_scan.pallas_tpu import layout
from kernels.selective_scan.pallas_tpu.layout import LANES, SUBLANES, Kernel, Plan

STEPS_LIMIT = 640
# Steps of the recurrence that are written out, if the caller does not say.
TOGETHER = 2 * SUBLANES
# Of the 64 MiB: splats, step-wise scratch, and the blocks with their second copies.
MEMORY_LIMIT = 44 * 2**20


def _kernel(*refs, names, plan: Plan, chunk: int):
    k = Kernel(plan, dict(zip(names, refs, strict=True)))
    r, states, tile = k.refs, range(plan.state), k.channel_tile
    D, bias = k.channel("D"), k.channel("delta_bias")

    @pl.when(pl.program_id(1) == 0)
    def _():
        r["final"][0, :, tile] = r["initial_state"][0, :, tile]

    def prepare(group, splats):
        _, delta = k.delta(group, bias, splats)
        k.put_tiles("active", group, delta)
        k.put_tiles("inflow", group, delta * k.tile("u", group))

    k.prepare(prepare)

    def step(t, numbers, h):
        keep, delta_t, x_t = numbers.keep(), k.step("active", t)[...], k.step("inflow", t)[...]
        following = tuple(k.decay(delta_t, n, keep) * h[n] + numbers.to_state(n) * x_t for n in states)
        reads = [numbers.from_state(n) * following[n] for n in states]
        # Sums of four: a chain of all would be the longest path of the step.
        while len(reads) > 1:
            reads = [functools.reduce(jnp.add, reads[i : i + 4]) for i in range(0, len(reads), 4)]
        k.step("readout", t)[...] = reads[0]
        return following

    def enter(j, h):
        for n in states:
            r["entering"][0, j, n, 0] = h[n]

    def walk_piece(j, steps, h):
        enter(j, h)
        return k.walk(j * chunk, steps, plan.unroll or TOGETHER, step, h, plan.reverse)

    pieces = r["entering"].shape[1]
    # A block that holds all of time ends with its last step; of several, the last one walks through its padding.
    whole, rest = divmod(plan.length, chunk) if plan.chunks == 1 else (pieces, 0)

    def walk_whole(h):
        return layout.loop(whole, lambda j, h: walk_piece(whole - 1 - j if plan.reverse else j, chunk, h), h)

    def walk_rest(h):
        return walk_piece(whole, rest, h) if rest else h

    def pass_padding(h):
        for j in range(whole + (rest > 0), pieces):
            enter(j, h)
        return h

    order = (walk_whole, walk_rest, pass_padding)
    h = tuple(r["final"][0, n, tile] for n in states)
    for part in reversed(order) if plan.reverse else order:
        h = part(h)
    for n in states:
        r["final"][0, n, tile] = h[n]

    def finish(group, carry):
        y, valid = k.get_tiles("readout", group), k.valid(group)
        y = y if D is None else y + D * k.tile("u", group)
        if "z" in r:
            half = 0.5 * k.tile("z", group)
            y = y * (half + half * jnp.tanh(half))
        r["y"][0, group] = (y if valid is None else y * valid).astype(plan.dtype)
        return carry

    k.for_groups(finish)


def _blocks(plan: Plan) -> tuple[Plan, int]:
    """The plan with several chunks per grid step, and how many: setting up a step's copies costs as much as eight steps."""
    numbers, rows = 2 * plan.width + plan.flags, 3 * (plan.rows + 1) + 8 * plan.rows
    limit = min(STEPS_LIMIT, MEMORY_LIMIT // (4 * LANES * (numbers + rows)))
    needed = -(-plan.length // SUBLANES)
    if needed * SUBLANES > limit:
        pieces = max(m for m in range(1, plan.chunks + 1) if plan.chunks % m == 0 and m * plan.steps <= limit or m == 1)
        return dataclasses.replace(plan, steps=plan.steps * pieces, chunks=plan.chunks // pieces), pieces
    # One block, no longer than it must be for loops of many groups (see `groups_together`).
    groups = min(range(needed, plan.groups * plan.chunks + 1), key=lambda g: g + 2 * g // layout.groups_together(g))
    return dataclasses.replace(plan, steps=groups * SUBLANES, chunks=1), plan.chunks


def forward(args: ScanArgs, options: ScanOptions):
    """y [B, L, E], final state [B, E, N], states entering the chunks [B, L / chunk, N, E]."""
    by_chunk = layout.make_plan(args, options)
    plan, pieces = _blocks(by_chunk)
    order = layout.chunk_order(plan, plan.reverse)
    inputs, specs = layout.operands(args, options, plan, order)
    inputs["initial_state"] = layout.tiled_channels(jnp.swapaxes(args.initial_state, 1, 2), plan)
    specs["initial_state"] = layout.whole_spec(plan, plan.state)
    state = (plan.batch, plan.state, plan.tiles, plan.rows, LANES)
    entering = (plan.batch, plan.chunks * pieces, *state[1:])
    outputs = {
        "y": (inputs["u"].shape, plan.dtype, layout.step_spec(plan, order)),
        "final": (state, jnp.float32, layout.whole_spec(plan, plan.state)),
        "entering": (entering, jnp.float32, layout.entering_spec(plan, order, pieces)),
    }
    scratch = plan.splats | {"active": plan.stepwise, "inflow": plan.stepwise, "readout": plan.stepwise}
    kernel = functools.partial(_kernel, chunk=by_chunk.steps)
    out = layout.call(kernel, plan, inputs, specs, outputs, scratch, options.config.interpret, "selective_scan_fwd")
    final = jnp.swapaxes(layout.untiled_channels(out["final"], plan), 1, 2)
    y = layout.untiled_steps(out["y"], plan).astype(args.u.dtype)
    return y, final, layout.untiled_channels(out["entering"], plan)
