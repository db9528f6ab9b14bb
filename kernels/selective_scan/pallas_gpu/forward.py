"""The forward kernel on Hopper GPUs: see `layout` for how it works."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kernels.selective_scan.arguments import ScanArgs, ScanOptions
from kernels.selective_scan.pallas_gpu import layout
from kernels.selective_scan.pallas_gpu.layout import Channels, Plan, Stream


def _kernel(*refs, names, plan: Plan):
    k = Channels(plan, dict(zip(names, refs, strict=True)))
    r, states = k.refs, range(plan.state)
    tiles = plan.padded_length // plan.tile
    streamed = [n for n in ("u", "delta", "z", "per_step") if n in r]
    stream = Stream(r, streamed, plan.tile, tiles, lambda t: tiles - 1 - t if plan.reverse else t)

    def tile_body(t, h):
        first, slot = stream.next(t)

        def step(i, h):
            i = plan.tile - 1 - i if plan.reverse else i
            valid, keep = k.flags(slot, i)
            u_t, delta_t = k.get("u", slot, i), k.delta(k.raw_delta(slot, i), valid)
            x_t = delta_t * u_t
            y_t = jnp.zeros_like(u_t) if k.D is None else k.D * u_t
            following = []
            for n in states:
                h_n = k.decay(delta_t, n, keep) * h[n] + k.number(slot, i, n) * x_t
                y_t = y_t + k.number(slot, i, plan.state + n) * h_n
                following.append(h_n)
            if "z" in r:
                z_t = k.get("z", slot, i)
                y_t = y_t * z_t * layout.sigmoid(z_t)
            y_t = y_t if valid is None else y_t * valid
            r["y"][k.example, first + i, k.here] = y_t.astype(r["y"].dtype)
            return tuple(following)

        return layout.walk(plan.tile, plan.unroll, step, h)

    def chunk_body(chunk, h):
        index = plan.chunks - 1 - chunk if plan.reverse else chunk
        for n in states:
            r["entering"][k.example, index, n, k.here] = h[n]
        per_chunk = plan.steps // plan.tile
        return layout.fori_loop(chunk * per_chunk, (chunk + 1) * per_chunk, tile_body, h)

    h = tuple(r["initial_state"][k.example, n, k.here] for n in states)
    h = layout.fori_loop(0, plan.chunks, chunk_body, h)
    for n in states:
        r["final"][k.example, n, k.here] = h[n]


def forward(args: ScanArgs, options: ScanOptions):
    """y [B, L, E], final state [B, E, N], states entering the chunks [B, L / chunk, N, E]."""
    plan = layout.make_plan(args, options)
    inputs = layout.operands(args, options, plan)
    inputs["initial_state"] = layout.padded_channels(jnp.swapaxes(args.initial_state, 1, 2), plan)
    state = (plan.batch, plan.state, plan.padded_channels)
    outputs = {
        "y": jax.ShapeDtypeStruct(inputs["u"].shape, args.u.dtype),
        "final": jax.ShapeDtypeStruct(state, jnp.float32),
        "entering": jax.ShapeDtypeStruct((plan.batch, plan.chunks, *state[1:]), jnp.float32),
    }
    scratch = layout.tiles(plan, inputs, ("u", "delta", "z", "per_step"), plan.tile)
    out = layout.call(_kernel, plan, inputs, outputs, scratch, options.config.interpret, "selective_scan_fwd")
    final = jnp.swapaxes(out["final"], 1, 2)[:, : plan.channels]
    return out["y"][:, : plan.length, : plan.channels], final, out["entering"][..., : plan.channels]
