"""How the kernels for Hopper GPUs work (Pallas' Mosaic GPU back end), and what forward and backward share.

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
class Plan:
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
    unroll: int

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
    plan = make_plan(args, options)
    streamed = [x for x in (args.u, args.delta, args.z, args.u) if x is not None]
    tiles = 2 * plan.piece * (LANES * sum(x.dtype.itemsize for x in streamed) + 4 * plan.width)
    states = 4 * LANES * plan.state * (plan.piece + max(1, plan.steps // plan.piece - 1))
    return tiles + states + 4 * ROWS * LANES


def make_plan(args: ScanArgs, options: ScanOptions) -> Plan:
    batch, length, channels = args.u.shape
    piece = _piece(args.A.shape[1])
    steps = -(-options.chunk // piece) * piece
    chunks = -(-length // options.chunk)
    flags = args.valid is not None or args.keep is not None
    flags = flags or (steps * chunks != length and delta_padding(args, options) is None)
    size = args.A.shape[1]
    width = -(-(2 * size + 2 * flags) // 4) * 4  # rows of a tile copy are multiples of 16 bytes
    return Plan(
        batch, length, channels, size, steps, chunks, piece, width, flags, options.delta_softplus, options.reverse,
        options.config.unroll or 1,
    )  # fmt: skip


def padded(x, plan: Plan, padding: float = 0.0):
    """[B, L, E] with L and E padded to whole chunks and warpgroups; no copy where they fit."""
    pad = ((0, 0), (0, plan.padded_length - plan.length), (0, plan.padded_channels - plan.channels))
    return jnp.pad(x, pad, constant_values=padding) if any(p[1] for p in pad) else x


def padded_channels(x, plan: Plan):
    pad = plan.padded_channels - plan.channels
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, pad)]) if pad else x


def _per_step(args: ScanArgs, plan: Plan):
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


def sigmoid(x):
    return 1.0 / (1.0 + jnp.exp2(-LOG2_E * x))


def fori_loop(lower, upper, body, carry):
    # With x64 enabled the index would have 64 bits.
    return jax.lax.fori_loop(lower, upper, lambda i, carry: body(jax.lax.convert_element_type(i, jnp.int32), carry), carry)


def walk(steps: int, together: int, body, carry):
    """carry = body(i, carry) for `steps` steps; the largest divisor of them up to `together` is written out in a turn."""
    together = max(m for m in range(1, min(steps, together) + 1) if steps % m == 0)

    def turn(k, carry):
        for i in range(together):
            carry = body(k * together + i, carry)
        return carry

    return fori_loop(0, steps // together, turn, carry)


class Stream:
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


class Channels:
    """The refs by name, and what belongs to a thread's channel: rates, bias, skip, and the inputs of one step."""

    def __init__(self, plan: Plan, refs: dict):
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


def tiles(plan: Plan, inputs: dict, names, steps: int):
    """Two slots of shared memory for each streamed array, and the barriers of the slots."""
    scratch = {
        n + "_tile": plgpu.SMEM((2, steps, plan.width if n == "per_step" else LANES), inputs[n].dtype)
        for n in names
        if n in inputs
    }
    scratch["barrier"] = plgpu.Barrier(num_arrivals=len(scratch), num_barriers=2)
    return scratch


def call(kernel, plan: Plan, inputs: dict, outputs: dict, scratch: dict, interpret, name: str) -> dict:
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


def operands(args: ScanArgs, options: ScanOptions, plan: Plan) -> dict:
    inputs = {
        "u": padded(args.u, plan),
        "delta": padded(args.delta, plan, delta_padding(args, options) or 0.0),
        "per_step": _per_step(args, plan),
        "A": padded_channels(args.A.T * LOG2_E, plan),
    }
    for name in ("D", "delta_bias"):
        if getattr(args, name) is not None:
            inputs[name] = padded_channels(getattr(args, name), plan)
    if args.z is not None:
        inputs["z"] = padded(args.z, plan)
    return inputs
