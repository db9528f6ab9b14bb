"""The scan on Hopper GPUs, through Pallas' Mosaic GPU back end.

A warpgroup of 128 threads owns 128 channels of one example, one channel per thread, and walks through time. The N states and
the N rates of a channel are registers of its thread, so the recurrence needs no exchange between threads: four float32
instructions and one exponential per state. u, delta, z and the per-step numbers (B, C, flags) arrive in shared memory by
asynchronous tile copies, the next tile while the present one is computed; B_t[n] and C_t[n] are then the same word for all
threads.

Backward walks the chunks against the scan. Shared memory does not hold the states of a chunk, so there are two levels: one
pass through the chunk leaves the state before each piece of S = 128 / N steps, then piece by piece, backwards, the states are
recomputed into shared memory and the adjoint recurrence runs over them. The products that dB and dC sum over channels,
S x N = 128 rows of 128 channels, are summed by rows from shared memory; partial sums of the warpgroups are added outside, in a
fixed order.

Within a step a thread touches only its own words, so Pallas' barriers round every store are off; the places where threads
meet (a slot is overwritten, rows are summed) have theirs written out.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels.selective_scan.arguments import LOG2_E, ScanArgs, ScanOptions, compute_dtype, delta_padding

LANES = 128
SHARED_LIMIT = 225 * 1024
"""Bytes of shared memory for the arrays of a block: Hopper's 227 KiB less barriers and the reduction's scratch."""

MAX_STATE = 16
ROWS = 128
"""Rows of products that are summed at a time: steps of a piece x states, padded to a power of two."""


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Sizes of a launch. steps: of a chunk; piece: S, steps recomputed at a time; width: numbers per step beside channels."""

    batch: int
    length: int
    channels: int
    state: int
    steps: int
    chunks: int
    piece: int
    width: int
    flags: bool
    softplus: bool
    reverse: bool

    @property
    def tile(self) -> int:
        """Steps per copy of the forward pass."""
        return next(t for t in (16, 8) if self.steps % t == 0)

    @property
    def row_states(self) -> int:
        return ROWS // self.piece

    @property
    def padded_length(self) -> int:
        return self.steps * self.chunks

    @property
    def padded_channels(self) -> int:
        return -(-self.channels // LANES) * LANES


def unsupported(args: ScanArgs, options: ScanOptions) -> str | None:
    """Why this kernel cannot run the problem, or None."""
    if compute_dtype(args) != jnp.float32:
        return "float64 (the kernel computes in float32)"
    if args.A.shape[1] > MAX_STATE:
        return f"N = {args.A.shape[1]} (at most {MAX_STATE} states fit the registers and the shared memory)"
    needed = _backward_shared_bytes(args, options)
    if needed > SHARED_LIMIT:
        return f"chunk = {options.chunk} with N = {args.A.shape[1]}: {needed} bytes of shared memory ({SHARED_LIMIT} at most)"
    return None


def _piece(state: int) -> int:
    """S: 16 steps up to N = 8, 8 steps up to N = 16."""
    return ROWS // max(8, 1 << (state - 1).bit_length())


def _backward_shared_bytes(args: ScanArgs, options: ScanOptions) -> int:
    plan = _plan(args, options)
    streamed = [x for x in (args.u, args.delta, args.z, args.u) if x is not None]
    tiles = 2 * plan.piece * (LANES * sum(x.dtype.itemsize for x in streamed) + 4 * plan.width)
    states = 4 * LANES * plan.state * (plan.piece + max(1, plan.steps // plan.piece - 1))
    return tiles + states + 4 * ROWS * LANES


def _plan(args: ScanArgs, options: ScanOptions) -> _Plan:
    batch, length, channels = args.u.shape
    piece = _piece(args.A.shape[1])
    steps = -(-options.chunk // piece) * piece
    chunks = -(-length // options.chunk)
    flags = args.valid is not None or args.keep is not None
    flags = flags or (steps * chunks != length and delta_padding(args, options) is None)
    size = args.A.shape[1]
    width = -(-(2 * size + 2 * flags) // 4) * 4  # rows of a tile copy are multiples of 16 bytes
    return _Plan(
        batch, length, channels, size, steps, chunks, piece, width, flags, options.delta_softplus, options.reverse
    )  # fmt: skip


def _padded(x, plan: _Plan, padding: float = 0.0):
    """[B, L, E] with L and E padded to whole chunks and warpgroups; no copy where they fit."""
    pad = ((0, 0), (0, plan.padded_length - plan.length), (0, plan.padded_channels - plan.channels))
    return jnp.pad(x, pad, constant_values=padding) if any(p[1] for p in pad) else x


def _padded_channels(x, plan: _Plan):
    pad = plan.padded_channels - plan.channels
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, pad)]) if pad else x


def _per_step(args: ScanArgs, plan: _Plan):
    """B, C, `valid` and `keep` side by side: [B, L, width] float32. Padding is not valid, and kept."""
    parts = [args.B.astype(jnp.float32), args.C.astype(jnp.float32)]
    if plan.flags:
        ones = jnp.ones((plan.batch, plan.length), jnp.float32)
        parts.append((ones if args.valid is None else args.valid)[..., None])
        parts.append((1.0 - (ones if args.keep is None else args.keep))[..., None])
    x = jnp.concatenate(parts, axis=-1)
    return jnp.pad(x, ((0, 0), (0, plan.padded_length - plan.length), (0, plan.width - x.shape[-1])))


def _softplus(x):
    # log1p of w = exp(-|x|) by its series below 1/16, where 1 + w rounds too much of w away.
    w = jnp.exp2(-LOG2_E * jnp.abs(x))
    series = jnp.full_like(w, 1.0 / 6.0)
    for k in (5, 4, 3, 2, 1):
        series = 1.0 / k - w * series
    return jnp.maximum(x, 0.0) + jnp.where(w < 1.0 / 16.0, w * series, jnp.log(1.0 + w))


def _sigmoid(x):
    return 1.0 / (1.0 + jnp.exp2(-LOG2_E * x))


def _fori_loop(lower, upper, body, carry):
    # With x64 enabled the index would have 64 bits.
    return jax.lax.fori_loop(lower, upper, lambda i, carry: body(jax.lax.convert_element_type(i, jnp.int32), carry), carry)


class _Stream:
    """Tiles of step-wise arrays, copied one ahead into two slots of shared memory.

    `locate(k)` is the k-th tile of the walk, counted in time; `count` tiles are walked, `steps` steps each.
    """

    def __init__(self, refs: dict, names, steps: int, count: int, locate):
        self.refs, self.names, self.steps, self.count, self.locate = refs, names, steps, count, locate
        self.example, self.channel = jax.lax.axis_index("batch"), jax.lax.axis_index("channel")
        self._start(jnp.int32(0))

    def _start(self, k):
        # A barrier: nobody may still read the slot that is overwritten.
        plgpu.commit_smem()
        slot = jax.lax.rem(k, np.int32(2))
        for name in self.names:
            columns = slice(None) if name == "per_step" else pl.ds(self.channel * LANES, LANES)
            plgpu.copy_gmem_to_smem(
                self.refs[name].at[self.example, pl.ds(self.locate(k) * self.steps, self.steps), columns],
                self.refs[name + "_tile"].at[slot],
                self.refs["barrier"].at[slot],
            )

    def next(self, k):
        """Starts the copy of the following tile, waits for this one, and returns (its first step, its slot)."""

        @pl.when(k + 1 < self.count)
        def _():
            self._start(k + 1)

        slot = jax.lax.rem(k, np.int32(2))
        plgpu.barrier_wait(self.refs["barrier"].at[slot])
        return self.locate(k) * self.steps, slot


class _Channels:
    """The refs by name, and what belongs to a thread's channel: rates, bias, skip, and the inputs of one step."""

    def __init__(self, plan: _Plan, refs: dict):
        self.plan, self.refs = plan, refs
        self.example, self.channel = jax.lax.axis_index("batch"), jax.lax.axis_index("channel")
        self.here = pl.ds(self.channel * LANES, LANES)
        self.A2 = [refs["A"][n, self.here] for n in range(plan.state)]
        self.D = refs["D"][self.here] if "D" in refs else None
        self.bias = refs["delta_bias"][self.here] if "delta_bias" in refs else None

    def get(self, name, slot, i):
        return self.refs[name + "_tile"][slot, i, :].astype(jnp.float32)

    def number(self, slot, i, k):
        return self.refs["per_step_tile"][slot, i, k]

    def flags(self, slot, i):
        """(valid, keep), or (None, None) where no step is special."""
        if not self.plan.flags:
            return None, None
        return self.number(slot, i, 2 * self.plan.state), 1.0 - self.number(slot, i, 2 * self.plan.state + 1)

    def raw_delta(self, slot, i):
        raw = self.get("delta", slot, i)
        return raw if self.bias is None else raw + self.bias

    def delta(self, raw, valid):
        delta = _softplus(raw) if self.plan.softplus else raw
        return delta if valid is None else delta * valid

    def decay(self, delta, n, keep):
        decay = jnp.exp2(delta * self.A2[n])
        return decay if keep is None else decay * keep


def _forward_kernel(*refs, names, plan: _Plan):
    k = _Channels(plan, dict(zip(names, refs, strict=True)))
    r, states = k.refs, range(plan.state)
    tiles = plan.padded_length // plan.tile
    streamed = [n for n in ("u", "delta", "z", "per_step") if n in r]
    stream = _Stream(r, streamed, plan.tile, tiles, lambda t: tiles - 1 - t if plan.reverse else t)

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
                y_t = y_t * z_t * _sigmoid(z_t)
            y_t = y_t if valid is None else y_t * valid
            r["y"][k.example, first + i, k.here] = y_t.astype(r["y"].dtype)
            return tuple(following)

        return _fori_loop(0, plan.tile, step, h)

    def chunk_body(chunk, h):
        index = plan.chunks - 1 - chunk if plan.reverse else chunk
        for n in states:
            r["entering"][k.example, index, n, k.here] = h[n]
        per_chunk = plan.steps // plan.tile
        return _fori_loop(chunk * per_chunk, (chunk + 1) * per_chunk, tile_body, h)

    h = tuple(r["initial_state"][k.example, n, k.here] for n in states)
    h = _fori_loop(0, plan.chunks, chunk_body, h)
    for n in states:
        r["final"][k.example, n, k.here] = h[n]


def _backward_kernel(*refs, names, plan: _Plan):
    k = _Channels(plan, dict(zip(names, refs, strict=True)))
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
    stream = _Stream(r, streamed, piece, walk * plan.chunks, locate)

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
        gate = _sigmoid(z_t)
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
        h = _fori_loop(0, piece, lambda i, h: advance(slot, in_time(i), h)[1], h)
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

        _fori_loop(0, piece, recompute, h)
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
            d_delta = d_delta * _sigmoid(raw) if plan.softplus else d_delta
            r["du"][k.example, first + i, k.here] = du.astype(r["du"].dtype)
            r["d_delta"][k.example, first + i, k.here] = d_delta.astype(r["d_delta"].dtype)
            return tuple(g_following), tuple(sum_following), sum_D, sum_bias + d_delta

        g, sum_A, sum_D, sum_bias = _fori_loop(0, piece, adjoint, (g, sum_A, sum_D, sum_bias))
        reduce_rows("dB", first)
        # The next piece to be walked, one before this one; any piece will do after the chunk's first.
        place = jnp.maximum(chunk * walk + 2 * pieces - 3 - t, 0)
        h = tuple(r["before_piece"][place, n, :] for n in states)
        return chunk, h, g, sum_A, sum_D, sum_bias

    def chunk_body(chunk, carry):
        index = chunk if plan.reverse else plan.chunks - 1 - chunk
        h = tuple(r["entering"][k.example, index, n, k.here] for n in states)
        middle = chunk * walk + pieces - 1
        _, h = _fori_loop(chunk * walk, middle, first_pass, (chunk, h))
        return _fori_loop(middle, (chunk + 1) * walk, second_pass, (chunk, h, *carry))[2:]

    g = tuple(r["d_final"][k.example, n, k.here] for n in states)
    # One word per thread, like everything else that the loops carry; a bare zero would be one word for all.
    zero = plgpu.layout_cast(jnp.zeros_like(g[0]), plgpu.Layout.WG_STRIDED((LANES,), vec_size=1))
    carry = (g, tuple(zero for _ in states), zero, zero)
    g, sum_A, sum_D, sum_bias = _fori_loop(0, plan.chunks, chunk_body, carry)
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


def _tiles(plan: _Plan, inputs: dict, names, steps: int):
    """Two slots of shared memory for each streamed array, and the barriers of the slots."""
    scratch = {
        n + "_tile": plgpu.SMEM((2, steps, plan.width if n == "per_step" else LANES), inputs[n].dtype)
        for n in names
        if n in inputs
    }
    scratch["barrier"] = plgpu.Barrier(num_arrivals=len(scratch), num_barriers=2)
    return scratch


def _call(kernel, plan: _Plan, inputs: dict, outputs: dict, scratch: dict, interpret, name: str) -> dict:
    names = (*inputs, *outputs, *scratch)
    out = plgpu.kernel(
        functools.partial(kernel, names=names, plan=plan),
        out_type=tuple(outputs.values()),
        scratch_types=tuple(scratch.values()),
        grid=(plan.batch, plan.padded_channels // LANES),
        grid_names=("batch", "channel"),
        # exp2, log and reciprocal as single instructions: their error, 2^-22, is below what float32 sums lose.
        compiler_params=plgpu.CompilerParams(approx_math=True, unsafe_no_auto_barriers=True),
        kernel_name=name,
        **({} if interpret is None else {"interpret": interpret}),
    )(*inputs.values())
    return dict(zip(outputs, out, strict=True))


def _operands(args: ScanArgs, options: ScanOptions, plan: _Plan) -> dict:
    inputs = {
        "u": _padded(args.u, plan),
        "delta": _padded(args.delta, plan, delta_padding(args, options) or 0.0),
        "per_step": _per_step(args, plan),
        "A": _padded_channels(args.A.T * LOG2_E, plan),
    }
    for name in ("D", "delta_bias"):
        if getattr(args, name) is not None:
            inputs[name] = _padded_channels(getattr(args, name), plan)
    if args.z is not None:
        inputs["z"] = _padded(args.z, plan)
    return inputs


def forward(args: ScanArgs, options: ScanOptions):
    """y [B, L, E], final state [B, E, N], states entering the chunks [B, L / chunk, N, E]."""
    plan = _plan(args, options)
    inputs = _operands(args, options, plan)
    inputs["initial_state"] = _padded_channels(jnp.swapaxes(args.initial_state, 1, 2), plan)
    state = (plan.batch, plan.state, plan.padded_channels)
    outputs = {
        "y": jax.ShapeDtypeStruct(inputs["u"].shape, args.u.dtype),
        "final": jax.ShapeDtypeStruct(state, jnp.float32),
        "entering": jax.ShapeDtypeStruct((plan.batch, plan.chunks, *state[1:]), jnp.float32),
    }
    scratch = _tiles(plan, inputs, ("u", "delta", "z", "per_step"), plan.tile)
    out = _call(_forward_kernel, plan, inputs, outputs, scratch, options.config.interpret, "selective_scan_fwd")
    final = jnp.swapaxes(out["final"], 1, 2)[:, : plan.channels]
    return out["y"][:, : plan.length, : plan.channels], final, out["entering"][..., : plan.channels]


def backward(args: ScanArgs, entering, dy, dfinal, options: ScanOptions) -> ScanArgs:
    """Gradients as ScanArgs; those of A, D and delta_bias per example, [B, ...]."""
    plan = _plan(args, options)
    inputs = _operands(args, options, plan)
    inputs["dy"] = _padded(dy, plan)
    inputs["entering"] = _padded_channels(entering, plan)
    inputs["d_final"] = _padded_channels(jnp.swapaxes(dfinal, 1, 2), plan)

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
    scratch = _tiles(plan, inputs, ("u", "delta", "z", "dy", "per_step"), plan.piece)
    scratch |= {
        "before_piece": plgpu.SMEM((max(1, plan.steps // plan.piece - 1), plan.state, LANES), jnp.float32),
        "before": plgpu.SMEM((plan.piece * plan.state, LANES), jnp.float32),
        "products": plgpu.SMEM((ROWS, LANES), jnp.float32),
    }
    out = _call(_backward_kernel, plan, inputs, outputs, scratch, options.config.interpret, "selective_scan_bwd")

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
