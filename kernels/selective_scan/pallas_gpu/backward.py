"""The backward kernel on Hopper GPUs: see `layout` for how it works."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels.selective_scan.arguments import LOG2_E, ScanArgs, ScanOptions
from kernels.selective_scan.pallas_gpu import layout
from kernels.selective_scan.pallas_gpu.layout import LANES, ROWS, Channels, Plan, Stream


def _kernel(*refs, names, plan: Plan):
    k = Channels(plan, dict(zip(names, refs, strict=True)))
    r, states, size, piece = k.refs, range(plan.state), plan.state, plan.piece
    pieces = plan.steps // piece
    walk = 2 * pieces - 1  # forwards through all pieces but the last, then backwards through all

    def locate(t):
        chunk, place = t // walk, jax.lax.rem(t, np.int32(walk))
        place = jnp.where(place < pieces - 1, place, 2 * pieces - 2 - place)
        if plan.reverse:
            return chunk * pieces + pieces - 1 - place
        return (plan.chunks - 1 - chunk) * pieces + place

    streamed = [n for n in ("u", "delta", "z", "dy", "per_step") if n in r]
    stream = Stream(r, streamed, piece, walk * plan.chunks, locate)

    def in_time(i):
        return piece - 1 - i if plan.reverse else i

    def advance(slot, i, h):
        """Activated delta, delta u and the following state of a step."""
        valid, keep = k.flags(slot, i)
        delta_t = k.delta(k.raw_delta(slot, i), valid)
        x_t = delta_t * k.get("u", slot, i)
        return x_t, tuple(k.decay(delta_t, n, keep) * h[n] + k.number(slot, i, n) * x_t for n in states)

    def output_gradient(slot, i):
        """Gradient of C_t h_t + D u_t; with a gate also z_t, silu's derivative there, and the gradient of y."""
        valid, _ = k.flags(slot, i)
        dy_t = k.get("dy", slot, i)
        dy_t = dy_t if valid is None else dy_t * valid
        if "z" not in r:
            return dy_t, None
        z_t = k.get("z", slot, i)
        gate = layout.sigmoid(z_t)
        return dy_t * z_t * gate, dy_t * gate * (1.0 + z_t * (1.0 - gate))

    def reduce_rows(name, first):
        plgpu.commit_smem()
        total = _row_sums(r["products"])
        r[name][k.example, k.channel, pl.ds(first * plan.row_states, ROWS)] = total
        plgpu.commit_smem()

    def first_pass(t, carry):
        chunk, h = carry
        place = t - chunk * walk
        _, slot = stream.next(t)
        for n in states:
            r["before_piece"][place, n, :] = h[n]
        h = layout.walk(piece, plan.unroll, lambda i, h: advance(slot, in_time(i), h)[1], h)
        return chunk, h

    def second_pass(t, carry):
        chunk, h, g, sum_A, sum_D, sum_bias = carry
        first, slot = stream.next(t)

        def recompute(i, h):
            i = in_time(i)
            for n in states:
                r["before"][i * size + n, :] = h[n]
            _, h = advance(slot, i, h)
            gy_t, dz_factor = output_gradient(slot, i)
            for n in states:
                r["products"][i * plan.row_states + n, :] = h[n] * gy_t
            if dz_factor is not None:
                y_t = k.get("u", slot, i) * (0.0 if k.D is None else k.D)
                for n in states:
                    y_t = y_t + k.number(slot, i, size + n) * h[n]
                r["dz"][k.example, first + i, k.here] = (dz_factor * y_t).astype(r["dz"].dtype)
            return h

        layout.walk(piece, plan.unroll, recompute, h)
        reduce_rows("dC", first)

        def adjoint(i, carry):
            g, sum_A, sum_D, sum_bias = carry
            i = in_time(piece - 1 - i)
            valid, keep = k.flags(slot, i)
            raw, u_t = k.raw_delta(slot, i), k.get("u", slot, i)
            delta_t = k.delta(raw, valid)
            x_t = delta_t * u_t
            gy_t, _ = output_gradient(slot, i)
            dx, d_delta = jnp.zeros_like(u_t), jnp.zeros_like(u_t)
            g_following, sum_following = [], []
            for n in states:
                g_n = g[n] + k.number(slot, i, size + n) * gy_t
                r["products"][i * plan.row_states + n, :] = g_n * x_t
                dx = dx + k.number(slot, i, n) * g_n
                g_n = g_n * k.decay(delta_t, n, keep)
                q = g_n * r["before"][i * size + n, :]
                d_delta = d_delta + q * k.A2[n]
                sum_following.append(sum_A[n] + q * delta_t)
                g_following.append(g_n)
            du = dx * delta_t
            if k.D is not None:
                du = du + k.D * gy_t
                sum_D = sum_D + gy_t * u_t
            d_delta = dx * u_t + (1.0 / LOG2_E) * d_delta
            d_delta = d_delta if valid is None else d_delta * valid
            d_delta = d_delta * layout.sigmoid(raw) if plan.softplus else d_delta
            r["du"][k.example, first + i, k.here] = du.astype(r["du"].dtype)
            r["d_delta"][k.example, first + i, k.here] = d_delta.astype(r["d_delta"].dtype)
            return tuple(g_following), tuple(sum_following), sum_D, sum_bias + d_delta

        g, sum_A, sum_D, sum_bias = layout.walk(piece, plan.unroll, adjoint, (g, sum_A, sum_D, sum_bias))
        reduce_rows("dB", first)
        # The next piece to be walked, one before this one; any piece will do after the chunk's first.
        place = jnp.maximum(chunk * walk + 2 * pieces - 3 - t, 0)
        h = tuple(r["before_piece"][place, n, :] for n in states)
        return chunk, h, g, sum_A, sum_D, sum_bias

    def chunk_body(chunk, carry):
        index = chunk if plan.reverse else plan.chunks - 1 - chunk
        h = tuple(r["entering"][k.example, index, n, k.here] for n in states)
        middle = chunk * walk + pieces - 1
        _, h = layout.fori_loop(chunk * walk, middle, first_pass, (chunk, h))
        return layout.fori_loop(middle, (chunk + 1) * walk, second_pass, (chunk, h, *carry))[2:]

    g = tuple(r["d_final"][k.example, n, k.here] for n in states)
    # One word per thread, like everything else that the loops carry; a bare zero would be one word for all.
    zero = plgpu.layout_cast(jnp.zeros_like(g[0]), plgpu.Layout.WG_STRIDED((LANES,), vec_size=1))
    carry = (g, tuple(zero for _ in states), zero, zero)
    g, sum_A, sum_D, sum_bias = layout.fori_loop(0, plan.chunks, chunk_body, carry)
    for n in states:
        r["d_initial_state"][k.example, n, k.here] = g[n]
        r["dA"][k.example, n, k.here] = sum_A[n]
    r["dD"][k.example, k.here] = sum_D
    r["d_bias"][k.example, k.here] = sum_bias


def _row_sums(products):
    """The sums of 128 rows of 128 numbers, read in the layout of the matrix units: four threads share a row."""
    total = None
    for start in (0, LANES // 2):
        half = products.at[:, pl.ds(start, LANES // 2)]
        # The index became part of the reference in jax 0.11.
        index = {"idx": ()} if "idx" in inspect.signature(plgpu.load).parameters else {}
        part = jnp.sum(plgpu.load(half, **index, layout=plgpu.Layout.WGMMA, optimized=False), axis=1)
        total = part if total is None else total + part
    return total


def backward(args: ScanArgs, entering, dy, dfinal, options: ScanOptions) -> ScanArgs:
    """Gradients as ScanArgs; those of A, D and delta_bias per example, [B, ...]."""
    plan = layout.make_plan(args, options)
    inputs = layout.operands(args, options, plan)
    inputs["dy"] = layout.padded(dy, plan)
    inputs["entering"] = layout.padded_channels(entering, plan)
    inputs["d_final"] = layout.padded_channels(jnp.swapaxes(dfinal, 1, 2), plan)

    def like(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype)

    outputs = {"du": like(inputs["u"]), "d_delta": like(inputs["delta"])}
    if args.z is not None:
        outputs["dz"] = like(inputs["z"])
    tiles = plan.padded_channels // LANES
    sums = jax.ShapeDtypeStruct((plan.batch, tiles, plan.padded_length * plan.row_states), jnp.float32)
    channel = jax.ShapeDtypeStruct((plan.batch, plan.padded_channels), jnp.float32)
    outputs |= {"dB": sums, "dC": sums, "dA": like(inputs["d_final"]), "dD": channel, "d_bias": channel}
    outputs["d_initial_state"] = like(inputs["d_final"])
    scratch = layout.tiles(plan, inputs, ("u", "delta", "z", "dy", "per_step"), plan.piece)
    scratch |= {
        "before_piece": plgpu.SMEM((max(1, plan.steps // plan.piece - 1), plan.state, LANES), jnp.float32),
        "before": plgpu.SMEM((plan.piece * plan.state, LANES), jnp.float32),
        "products": plgpu.SMEM((ROWS, LANES), jnp.float32),
    }
    out = layout.call(_kernel, plan, inputs, outputs, scratch, options.config.interpret, "selective_scan_bwd")

    def per_step(name):
        return out[name][:, : plan.length, : plan.channels] if name in out else None

    def summed(name, like):
        x = jnp.sum(out[name], axis=1).reshape(plan.batch, plan.padded_length, plan.row_states)
        return x[:, : plan.length, : plan.state].astype(like.dtype)

    return ScanArgs(
        u=per_step("du"),
        delta=per_step("d_delta"),
        A=jnp.swapaxes(out["dA"], 1, 2)[:, : plan.channels],
        B=summed("dB", args.B),
        C=summed("dC", args.C),
        D=None if args.D is None else out["dD"][:, : plan.channels],
        z=per_step("dz"),
        delta_bias=None if args.delta_bias is None else out["d_bias"][:, : plan.channels],
        initial_state=jnp.swapaxes(out["d_initial_state"], 1, 2)[:, : plan.channels],
        valid=None,
        keep=None,
    )
