"""The backward kernel on TPU. An instance takes S x 128 channels of one example back through one chunk of time.

Grid (B, chunks, channel tiles), the chunks in the opposite order. The states of a chunk are recomputed into VMEM from the one
that entered it, and dC is summed from them; then the adjoint recurrence runs over them, leaves its own in their places, and dB
is summed from those. Both are added up over the channel tiles in the output block, like dA, dD and the bias' gradient over the
chunks: in a fixed order, so results are deterministic.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.selective_scan.arguments import LOG2_E, ScanArgs, ScanOptions
from kernels.selective_scan.pallas_tpu import layout
from kernels.selective_scan.pallas_tpu.layout import LANES, SUBLANES, Kernel, Plan

LN_2 = 1.0 / LOG2_E


def _kernel(*refs, names, plan: Plan):
    k = Kernel(plan, dict(zip(names, refs, strict=True)))
    r, states, tile = k.refs, range(plan.state), k.channel_tile
    D, bias = k.channel("D"), k.channel("delta_bias")

    @pl.when(pl.program_id(1) == 0)
    def _():
        r["d_initial_state"][0, :, tile] = r["d_final"][0, :, tile]
        r["dA"][0, :, tile] = jnp.zeros_like(r["dA"][0, :, tile])
        r["dD"][0, tile] = jnp.zeros_like(r["dD"][0, tile])
        r["d_bias"][0, tile] = jnp.zeros_like(r["d_bias"][0, tile])

    @pl.when(tile == 0)
    def _():
        r["dB"][...] = jnp.zeros_like(r["dB"])
        r["dC"][...] = jnp.zeros_like(r["dC"])

    def output_gradient(group):
        """Gradients of y and of C_t h_t + D u_t, and silu's derivative, of eight steps; the last is None without a gate."""
        dy, valid = k.tile("dy", group), k.valid(group)
        dy = dy if valid is None else dy * valid
        if "z" not in r:
            return dy, dy, None
        z = k.tile("z", group)
        gate = layout.sigmoid(z)
        silu = z * gate
        return dy, dy * silu, gate + silu * (1.0 - gate)

    def prepare(group, splats):
        _, delta = k.delta(group, bias, splats)
        k.put_tiles("active", group, delta)
        k.put_tiles("inflow", group, delta * k.tile("u", group))
        k.put_tiles("gy", group, output_gradient(group)[1])

    k.prepare(prepare)

    def state(slot, n):
        """State n at a slot, a reference. Slots lie between the steps: slot t before step t in time, slot t + 1 after it."""
        return r["states"].at[pl.ds((slot * plan.width + n) * (plan.rows + 1), plan.rows), :]

    entering, leaving = (1, 0) if plan.reverse else (0, 1)

    def recompute(t, numbers, h):
        keep, delta_t, x_t = numbers.keep(), k.step("active", t)[...], k.step("inflow", t)[...]
        y_t, following = None, []
        for n in states:
            h_n = k.decay(delta_t, n, keep) * h[n] + numbers.to_state(n) * x_t
            state(t + leaving, n)[...] = h_n
            if "z" in r:
                read = numbers.from_state(n) * h_n
                y_t = read if y_t is None else y_t + read
            following.append(h_n)
        if "z" in r:
            k.step("readout", t)[...] = y_t
        return tuple(following)

    h = tuple(r["entering"][0, 0, n, 0] for n in states)
    for n in states:
        state(plan.steps if plan.reverse else 0, n)[...] = h[n]
    k.walk(0, plan.steps, plan.unroll or SUBLANES, recompute, h, plan.reverse)
    _add_channel_sums(k, r["dC"], leaving, "gy")

    def adjoint(t, numbers, g):
        keep, delta_t, gy_t = numbers.keep(), k.step("active", t)[...], k.step("gy", t)[...]
        dx, d_delta, following = None, None, []
        for n in states:
            h_n = state(t + entering, n)[...]
            g_n = g[n] + numbers.from_state(n) * gy_t
            # The place of the state that entered the step, which is of no more use.
            state(t + entering, n)[...] = g_n
            part = numbers.to_state(n) * g_n
            dx = part if dx is None else dx + part
            g_n = g_n * k.decay(delta_t, n, keep)
            q = g_n * h_n
            part = q * k.A2[n]
            d_delta = part if d_delta is None else d_delta + part
            r["dA"][0, n, tile] += q * delta_t
            following.append(g_n)
        k.step("dx", t)[...] = dx
        k.step("d_active", t)[...] = d_delta
        return tuple(following)

    g = tuple(r["d_initial_state"][0, n, tile] for n in states)
    g = k.walk(0, plan.steps, plan.unroll or SUBLANES, adjoint, g, not plan.reverse)
    for n in states:
        r["d_initial_state"][0, n, tile] = g[n]
    _add_channel_sums(k, r["dB"], entering, "inflow")

    def finish(group, carry):
        sum_D, sum_bias = carry
        dx, u, delta = k.get_tiles("dx", group), k.tile("u", group), k.get_tiles("active", group)
        dy, gy, dsilu = output_gradient(group)
        du = dx * delta
        if D is not None:
            du = du + D * gy
            sum_D = sum_D + gy * u
        r["du"][0, group] = du.astype(plan.dtype)
        d_delta, valid = dx * u + LN_2 * k.get_tiles("d_active", group), k.valid(group)
        d_delta = d_delta if valid is None else d_delta * valid
        if plan.softplus:
            raw = k.tile("delta", group)
            raw = raw if bias is None else raw + bias
            # softplus'(x) = exp(x - softplus(x)), which keeps its digits for steps much below 1; delta is 0 where masked.
            d_delta = d_delta * jnp.exp2(LOG2_E * jnp.minimum(raw - delta, 0.0))
        r["d_delta"][0, group] = d_delta.astype(plan.dtype)
        if dsilu is not None:
            y = k.get_tiles("readout", group)
            r["dz"][0, group] = (dy * dsilu * (y if D is None else y + D * u)).astype(plan.dtype)
        return sum_D, sum_bias + d_delta

    zeros = jnp.zeros(plan.block[2:], jnp.float32)
    sum_D, sum_bias = k.for_groups(finish, (zeros, zeros))
    r["dD"][0, tile] += jnp.sum(sum_D, axis=1)
    r["d_bias"][0, tile] += jnp.sum(sum_bias, axis=1)


def _add_channel_sums(k: Kernel, out, offset: int, weights: str):
    """Adds sum_channels states[t + offset, n] weights[t] to lane t of row n of `out` [1, N / 8, 8, 128].

    The channels of a register are multiplied and added row by row, for eight states at a time: the rows of eight states are
    one load with a stride, and a row of the weights is loaded into all sublanes. Only the sum over lanes moves data.
    """
    plan, rows = k.plan, k.plan.rows + 1
    lane = jax.lax.broadcasted_iota(jnp.int32, (SUBLANES, LANES), 1)

    def group_sums(group, totals):
        for i in range(SUBLANES):
            t, following = group * SUBLANES + i, []
            for block, total in enumerate(totals):
                start = ((t + offset) * plan.width + block * SUBLANES) * rows
                parts = [
                    k.strided("states", start + s, rows) * k.refs[weights][pl.ds(t * rows + s, 1), :] for s in range(plan.rows)
                ]
                column = jnp.sum(functools.reduce(jnp.add, parts), axis=1, keepdims=True)
                following.append(jnp.where(lane == t, column, total))
            totals = tuple(following)
        return totals

    nothing = tuple(jnp.zeros((SUBLANES, LANES), jnp.float32) for _ in range(plan.width // SUBLANES))
    for block, total in enumerate(layout.loop(plan.groups, group_sums, nothing)):
        out[0, block] += total


def backward(args: ScanArgs, entering, dy, dfinal, options: ScanOptions) -> ScanArgs:
    """Gradients as ScanArgs; those of A, D and delta_bias per example, [B, ...]."""
    plan = layout.make_plan(args, options)
    order = layout.chunk_order(plan, not plan.reverse)
    inputs, specs = layout.operands(args, options, plan, order)
    inputs["dy"], specs["dy"] = layout.tiled_steps(dy, plan), layout.step_spec(plan, order)
    inputs["entering"], specs["entering"] = layout.tiled_channels(entering, plan), layout.entering_spec(plan, order)
    inputs["d_final"] = layout.tiled_channels(jnp.swapaxes(dfinal, 1, 2), plan)
    specs["d_final"] = layout.whole_spec(plan, plan.state)
    steps = (inputs["u"].shape, plan.dtype, layout.step_spec(plan, order))
    channel = ((plan.batch, plan.tiles, plan.rows, LANES), jnp.float32, layout.whole_spec(plan))
    state = ((plan.batch, plan.state, *channel[0][1:]), jnp.float32, layout.whole_spec(plan, plan.state))
    sums_shape = (1, plan.width // SUBLANES, SUBLANES, LANES)
    sums = (
        (plan.batch * plan.chunks, *sums_shape[1:]),
        jnp.float32,
        pl.BlockSpec(sums_shape, lambda b, c, r: (b * plan.chunks + order(c), 0, 0, 0)),
    )
    outputs = {"du": steps, "d_delta": steps} | ({"dz": steps} if args.z is not None else {})
    outputs |= {"dB": sums, "dC": sums, "dA": state, "dD": channel, "d_bias": channel, "d_initial_state": state}
    scratch = plan.splats | {n: plan.stepwise for n in ("active", "inflow", "gy", "readout", "dx", "d_active")}
    scratch["states"] = pltpu.VMEM(((plan.steps + 1) * plan.width * (plan.rows + 1), LANES), jnp.float32)
    out = layout.call(_kernel, plan, inputs, specs, outputs, scratch, options.config.interpret, "selective_scan_bwd")

    def per_step(name, like):
        return None if like is None else layout.untiled_steps(out[name], plan).astype(like.dtype)

    def per_number(name, like):
        # [B x chunks, N / 8, 8, steps along lanes] -> [B, L, N]
        x = out[name].reshape(plan.batch, plan.chunks, plan.width, LANES)[:, :, : plan.state, : plan.steps]
        x = jnp.swapaxes(x, 2, 3).reshape(plan.batch, plan.padded_length, plan.state)
        return x[:, : plan.length].astype(like.dtype)

    return ScanArgs(
        u=per_step("du", args.u),
        delta=per_step("d_delta", args.delta),
        A=jnp.swapaxes(layout.untiled_channels(out["dA"], plan), 1, 2),
        B=per_number("dB", args.B),
        C=per_number("dC", args.C),
        D=None if args.D is None else layout.untiled_channels(out["dD"], plan),
        z=per_step("dz", args.z),
        delta_bias=None if args.delta_bias is None else layout.untiled_channels(out["d_bias"], plan),
        initial_state=jnp.swapaxes(layout.untiled_channels(out["d_initial_state"], plan), 1, 2),
        valid=None,
        keep=None,
    )
