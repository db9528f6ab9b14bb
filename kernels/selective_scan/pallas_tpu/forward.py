"""The forward kernel on TPU. An instance advances S x 128 channels of one example through a block of up to 256 steps.

Grid (B, blocks, channel tiles), in sequence: the channel tiles of a block share its splats, and the state of all channels stays
in VMEM. The state that enters each chunk is
written out for the backward pass.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax.experimental import pallas as pl

from kernels.selective_scan.arguments import ScanArgs, ScanOptions
from kernels.selective_scan.pallas_tpu import layout
from kernels.selective_scan.pallas_tpu.layout import LANES, Kernel, Plan

STEPS_LIMIT = 512


def _kernel(*refs, names, plan: Plan):
    k = Kernel(plan, dict(zip(names, refs, strict=True)))
    r, states, tile = k.refs, range(plan.state), k.channel_tile
    D, bias = k.channel("D"), k.channel("delta_bias")

    @pl.when(pl.program_id(1) == 0)
    def _():
        r["final"][0, :, tile] = r["initial_state"][0, :, tile]

    def prepare(group):
        _, delta = k.delta(group, bias)
        k.put_tiles("active", group, delta)
        k.put_tiles("inflow", group, delta * k.tile("u", group))

    k.prepare(prepare)

    def step(t, numbers, h):
        keep, delta_t, x_t = numbers.keep(), k.step("active", t)[...], k.step("inflow", t)[...]
        y_t, following = None, []
        for n in states:
            h_n = k.decay(delta_t, n, keep) * h[n] + numbers.to_state(n) * x_t
            read = numbers.from_state(n) * h_n
            y_t = read if y_t is None else y_t + read
            following.append(h_n)
        k.step("readout", t)[...] = y_t
        return tuple(following)

    pieces = r["entering"].shape[1]
    groups = plan.groups // pieces

    def chunk(j, h):
        j = pieces - 1 - j if plan.reverse else j
        for n in states:
            r["entering"][0, j, n, 0] = h[n]
        return k.walk(j * groups, groups, step, h, plan.reverse, together=16)

    h = layout.loop(pieces, chunk, tuple(r["final"][0, n, tile] for n in states))
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


def forward(args: ScanArgs, options: ScanOptions):
    """y [B, L, E], final state [B, E, N], states entering the chunks [B, L / chunk, N, E]."""
    plan = layout.make_plan(args, options)
    # Several chunks per grid step: setting up a step's copies costs as much as eight steps of the scan.
    pieces = max(m for m in (1, 2, 4) if plan.chunks % m == 0 and m * plan.steps <= STEPS_LIMIT or m == 1)
    plan = dataclasses.replace(plan, steps=plan.steps * pieces, chunks=plan.chunks // pieces)
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
    out = layout.call(_kernel, plan, inputs, specs, outputs, scratch, options.config.interpret, "selective_scan_fwd")
    final = jnp.swapaxes(layout.untiled_channels(out["final"], plan), 1, 2)
    y = layout.untiled_steps(out["y"], plan).astype(args.u.dtype)
    return y, final, layout.untiled_channels(out["entering"], plan)
