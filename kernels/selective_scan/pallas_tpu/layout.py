"""How the TPU kernels lay out their arrays, and what forward and backward share.

A register holds (S, 128) channels of one step, S <= 8, and each of the N states is a register of its own: the recurrence
moves nothing between lanes. XLA stores [B, L, E] in tiles of 8 steps x 128 channels, bfloat16 too. Seen as
[B, L / 8, E / 128, 8, 128] these are the same bytes, so no relayout passes through HBM.

What concerns each element of [B, L, E] alone (softplus, delta u, skip, gate) is computed on those tiles, in loops of their own
before and after the recurrence. The recurrence takes the channels of one step, every eighth row of the tiles: a store with a
stride puts them together.

B_t[n] and C_t[n] must fill a register each. Two units that are idle otherwise copy them along the lanes, in the loop before the
recurrence: B the permute unit, C the matrix unit, as three bfloat16 parts that add up to the float32 exactly, times a matrix
for each state that has ones in the rows of its parts. A step loads a number with a broadcast over sublanes, which takes no
arithmetic slot.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.selective_scan.arguments import LOG2_E, ScanArgs, ScanOptions, compute_dtype, delta_padding

LANES = 128
SUBLANES = 8
MAX_STATE = 64
# The recomputed states of a chunk are the largest buffer; this leaves room for the blocks and their second copies.
STATES_LIMIT = 8 * 2**20
# A loop of more groups is too long a program to compile in reasonable time.
GROUPS_LIMIT = 40


def loop(count, body, carry):
    """carry after body(0, carry), ..., body(count - 1, carry); the index is 32 bits wide in double precision too.

    count: an int, or an int32 that the kernel computes.
    """
    return jax.lax.fori_loop(np.int32(0), np.int32(count) if isinstance(count, int) else count, body, carry)


def groups_together(groups: int) -> int:
    """How many groups of eight steps to write out: the largest divisor that keeps the program short."""
    return max(m for m in range(1, GROUPS_LIMIT + 1) if groups % m == 0)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes of a launch.

    rows: S, register rows that carry channels. width: N, padded to whole registers. parts: bfloat16 numbers that make up one
    of C. flags: a step can be padding or cut.
    """

    batch: int
    length: int
    channels: int
    state: int
    steps: int
    chunks: int
    rows: int
    tiles: int
    width: int
    parts: int
    flags: bool
    dtype: object
    strided: bool  # address a step's rows with a stride: what compiles to one store, and what the interpreter lacks
    softplus: bool
    reverse: bool
    unroll: int | None  # steps written out in a turn of the recurrence's loop; None = each pass has its own number

    @property
    def groups(self) -> int:
        return self.steps // SUBLANES

    @property
    def block(self) -> tuple[int, ...]:
        return (1, self.groups, self.rows, SUBLANES, LANES)

    @property
    def stepwise(self):
        """Scratch for float32 registers of single steps. A row more than S: with a distance of eight rows, those of a tile
        would lie in the same banks of the memory, and one access would become two."""
        return pltpu.VMEM((self.steps * (self.rows + 1), LANES), jnp.float32)

    @property
    def splats(self):
        """Scratch by name for the numbers of each step, one row of equal lanes each: C, B, `1 - keep` if flags."""
        return {"splats": pltpu.VMEM((2 * self.state + self.flags, self.steps, LANES), jnp.float32)}

    @property
    def padded_length(self) -> int:
        return self.steps * self.chunks

    @property
    def columns(self) -> int:
        return self.tiles * self.rows


def unsupported(args: ScanArgs, options: ScanOptions) -> str | None:
    """Why these kernels cannot run the problem, or None."""
    if compute_dtype(args) != jnp.float32:
        return "float64 (the kernel computes in float32)"
    size = args.A.shape[1]
    if size > MAX_STATE:
        return f"N = {size} (at most {MAX_STATE} states are written out)"
    if options.chunk > LANES:
        return f"chunk = {options.chunk} (at most {LANES}: the sums over channels of a chunk's steps lie along lanes)"
    if 4 * (options.chunk + SUBLANES) * size * SUBLANES * LANES > STATES_LIMIT:
        return f"chunk = {options.chunk} with N = {size}: the states of a chunk exceed the vector memory"
    return None


def make_plan(args: ScanArgs, options: ScanOptions) -> Plan:
    """Sizes for a problem, one chunk per grid step."""
    batch, length, channels = args.u.shape
    steps = -(-options.chunk // SUBLANES) * SUBLANES
    chunks = -(-length // options.chunk)
    columns = -(-channels // LANES)
    tiles = -(-columns // ((options.config.channel_tile or SUBLANES * LANES) // LANES))
    low = all(x is None or x.dtype == jnp.bfloat16 for x in (args.u, args.delta, args.z))
    flags = args.valid is not None or args.keep is not None
    flags = flags or (steps * chunks != length and delta_padding(args, options) is None)
    return Plan(
        batch=batch,
        length=length,
        channels=channels,
        state=args.A.shape[1],
        steps=steps,
        chunks=chunks,
        rows=-(-columns // tiles),
        tiles=tiles,
        width=-(-args.A.shape[1] // SUBLANES) * SUBLANES,
        parts=1 if args.C.dtype == jnp.bfloat16 else 3,
        flags=flags,
        dtype=jnp.bfloat16 if low else jnp.float32,
        strided=not options.config.interpret,
        softplus=options.delta_softplus,
        reverse=options.reverse,
        unroll=options.config.unroll,
    )


def tiled_steps(x, plan: Plan, padding: float = 0.0):
    """[B, L, E] -> [B, L / 8, E / 128, 8, 128], padded: the bytes that XLA has anyway where nothing is padded."""
    pad = (plan.padded_length - plan.length, plan.columns * LANES - plan.channels)
    x = jnp.pad(x.astype(plan.dtype), ((0, 0), (0, pad[0]), (0, pad[1])), constant_values=padding)
    x = x.reshape(plan.batch, plan.padded_length // SUBLANES, SUBLANES, plan.columns, LANES)
    return jnp.swapaxes(x, 2, 3)


def untiled_steps(x, plan: Plan):
    """The inverse of `tiled_steps`."""
    x = jnp.swapaxes(x, 2, 3).reshape(plan.batch, plan.padded_length, -1)
    return x[:, : plan.length, : plan.channels]


def tiled_channels(x, plan: Plan):
    """[..., E] -> [..., tiles, S, 128]."""
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, plan.columns * LANES - plan.channels)])
    return x.reshape(*x.shape[:-1], plan.tiles, plan.rows, LANES)


def untiled_channels(x, plan: Plan):
    """The inverse of `tiled_channels`."""
    return x.reshape(*x.shape[:-3], -1)[..., : plan.channels]


def _per_step(args: ScanArgs, plan: Plan):
    """Side by side, in float32: C in `parts` parts of `width` numbers; B; if a step can be special, `1 - keep` and `valid`.

    The parts of a number have eight bits each, which bfloat16 holds, and add up to the float32.
    """
    ones = jnp.ones((plan.batch, plan.length), jnp.float32)
    columns, rest = [], jnp.pad(args.C.astype(jnp.float32), ((0, 0), (0, 0), (0, plan.width - plan.state)))
    for _ in range(plan.parts):
        columns.append(jax.lax.reduce_precision(rest, exponent_bits=8, mantissa_bits=7))
        rest = rest - columns[-1]
    columns.append(args.B.astype(jnp.float32))
    if plan.flags:
        columns.append((1.0 - (ones if args.keep is None else args.keep))[..., None])
        columns.append((ones if args.valid is None else args.valid)[..., None])
    # Padded with zeros: not valid, nothing cut.
    return jnp.pad(jnp.concatenate(columns, axis=-1), ((0, 0), (0, plan.padded_length - plan.length), (0, 0)))


def _selectors(plan: Plan):
    """[N x parts x width, 128]: times the parts of C of a step, the rows of state n give C_t[n] in all lanes."""
    part = np.arange(plan.parts * plan.width) % plan.width
    return jnp.asarray(np.repeat((part == np.arange(plan.state)[:, None]).reshape(-1, 1), LANES, axis=1), jnp.float32)


def step_spec(plan: Plan, order) -> pl.BlockSpec:
    """Block of a step-wise array; `order` maps the grid's chunk to the chunk of time."""
    return pl.BlockSpec(plan.block, lambda b, c, r: (b, order(c), r, 0, 0))


def whole_spec(plan: Plan, *leading: int) -> pl.BlockSpec:
    """Block of an array [B, *leading, tiles, S, 128] that stays while an example's chunks and tiles pass."""
    return pl.BlockSpec((1, *leading, plan.tiles, plan.rows, LANES), lambda b, c, r: (b,) + (0,) * (len(leading) + 3))


def entering_spec(plan: Plan, order, pieces: int = 1) -> pl.BlockSpec:
    """Block of the states that enter `pieces` chunks."""
    return pl.BlockSpec((1, pieces, plan.state, 1, plan.rows, LANES), lambda b, c, r: (b, order(c), 0, r, 0, 0))


def chunk_order(plan: Plan, descending: bool):
    """The chunk of time of a chunk of the grid."""
    return (lambda c: plan.chunks - 1 - c) if descending else (lambda c: c)


def operands(args: ScanArgs, options: ScanOptions, plan: Plan, order):
    """Arrays and block specs by name, of what both passes read."""
    values = {
        "per_step": _per_step(args, plan),
        "u": tiled_steps(args.u, plan),
        "delta": tiled_steps(args.delta, plan, delta_padding(args, options) or 0.0),
        "A": tiled_channels(args.A.T * LOG2_E, plan),
        "selectors": _selectors(plan),
    }
    specs = {
        "per_step": pl.BlockSpec((1, plan.steps, values["per_step"].shape[-1]), lambda b, c, r: (b, order(c), 0)),
        "u": step_spec(plan, order),
        "delta": step_spec(plan, order),
        "A": pl.BlockSpec(values["A"].shape, lambda b, c, r: (0, 0, 0, 0)),
        "selectors": pl.BlockSpec(values["selectors"].shape, lambda b, c, r: (0, 0)),
    }
    for name in ("D", "delta_bias"):
        if getattr(args, name) is not None:
            values[name] = tiled_channels(getattr(args, name), plan)
            specs[name] = pl.BlockSpec(values[name].shape, lambda b, c, r: (0, 0, 0))
    if args.z is not None:
        values["z"], specs["z"] = tiled_steps(args.z, plan), step_spec(plan, order)
    return values, specs


# log1p(w) = w (1 + w (c0 + c1 w + c2 w^2)) on [0, 1/16], least largest relative error: 2.5e-8.
_LOG1P = (-0.49999192, 0.33254004, -0.22759317)


def softplus(x):
    """log(1 + exp(x)), relative error that of the special functions."""
    # Below 1/16, 1 + w would round too much of w away. Above 126 ln 2 the result is x.
    w = jnp.exp2(jnp.minimum(LOG2_E * x, 126.0))
    series = w * (1.0 + w * (_LOG1P[0] + w * (_LOG1P[1] + w * _LOG1P[2])))
    return jnp.where(w < 1.0 / 16.0, series, jnp.maximum(x, jnp.log(1.0 + w)))


def sigmoid(x):
    """One special function instead of two and a division's corrections."""
    return 0.5 + 0.5 * jnp.tanh(0.5 * x)


class Kernel:
    """The refs by name, and the loops that forward and backward share."""

    def __init__(self, plan: Plan, refs: dict):
        self.plan, self.refs, self.channel_tile = plan, refs, pl.program_id(2)

    def tile(self, name, group):
        """The tiles [S, 8, 128] of eight steps in float32."""
        return self.refs[name][0, group].astype(jnp.float32)

    def channel(self, name):
        """[S, 8, 128]: a number per channel, to meet tiles; None where the argument is absent."""
        if name not in self.refs:
            return None
        return jnp.broadcast_to(self.refs[name][self.channel_tile][:, None, :], self.plan.block[2:])

    def valid(self, group):
        """[1, 8, 128]: whether each of eight steps counts; None where all do."""
        if not self.plan.flags:
            return None
        here, column = pl.ds(group * SUBLANES, SUBLANES), self.plan.parts * self.plan.width + self.plan.state + 1
        column = self.refs["per_step"][0, here, pl.ds(column, 1)]
        return jnp.broadcast_to(column, (SUBLANES, LANES))[None]

    def delta(self, group, bias, splats=None):
        """(raw, activated) delta of eight steps, as tiles; if given, in the order that `behind` describes."""
        raw, valid = self.behind(self.tile("delta", group), splats), self.valid(group)
        raw = raw if bias is None else raw + bias
        delta = softplus(raw) if self.plan.softplus else raw
        return raw, delta if valid is None else delta * valid

    def behind(self, tiles, splats):
        """`tiles` [S, 8, 128], row by row behind `splats`, a tile of each state, or None for no order.

        The compiler orders operations by the longest path that follows and takes no turns: it would do all arithmetic, then
        all splats, though different units do them. A selection that never selects costs an operation and forces the turns.
        """
        if splats is None:
            return tiles
        never = self.refs["selectors"][pl.ds(0, SUBLANES), :] > 1.0
        last = [(row + 1) * len(splats) // self.plan.rows - 1 for row in range(self.plan.rows)]
        return jnp.stack([jnp.where(never, splats[max(n, 0)], tiles[row]) for row, n in enumerate(last)])

    def put_tiles(self, name, group, tiles):
        """Writes tiles [S, 8, 128] to step-wise scratch."""
        rows = self.plan.rows + 1
        for row in range(self.plan.rows):
            start = group * (SUBLANES * rows) + row
            if self.plan.strided:
                self.refs[name][pl.ds(start, SUBLANES, stride=rows), :] = tiles[row]
            else:
                for i in range(SUBLANES):
                    self.refs[name][start + i * rows, :] = tiles[row, i]

    def get_tiles(self, name, group):
        """Reads what single steps wrote to step-wise scratch, as tiles [S, 8, 128]."""
        rows = self.plan.rows + 1
        return jnp.stack([self.strided(name, group * (SUBLANES * rows) + row, rows) for row in range(self.plan.rows)])

    def step(self, name, t):
        """The channels (S, 128) of step t of step-wise scratch, a reference."""
        return self.refs[name].at[pl.ds(t * (self.plan.rows + 1), self.plan.rows), :]

    def for_groups(self, body, carry=()):
        """carry = body(group, carry) for each group of eight steps; many are written out.

        Filling and draining the pipelines of the matrix and permute units costs as much as sixteen steps' work, each time.
        """
        count = groups_together(self.plan.groups)

        def some(k, carry):
            for i in range(count):
                carry = body(k * count + i, carry)
            return carry

        return loop(self.plan.groups // count, some, carry)

    def prepare(self, body):
        """body(group, splats) for each group of eight steps, once for all channel tiles after splats of B_t and C_t.

        splats: the tiles (8, 128) of B_t[0], ..., B_t[N - 1]; None for the other channel tiles. Loads A for the recurrence.
        """
        count = groups_together(self.plan.groups)

        def with_splats(k, carry):
            to_state = self._splat(k * count, count)
            for i in range(count):
                body(k * count + i, [b[i * SUBLANES : (i + 1) * SUBLANES] for b in to_state])
            return carry

        def without(group, carry):
            body(group, None)
            return carry

        if self.plan.tiles == 1:
            loop(self.plan.groups // count, with_splats, ())
        else:

            @pl.when(self.channel_tile == 0)
            def _():
                loop(self.plan.groups // count, with_splats, ())

            @pl.when(self.channel_tile > 0)
            def _():
                self.for_groups(without)

        # Not before: the loops above need the registers.
        self.A2 = [self.refs["A"][n, self.channel_tile] for n in range(self.plan.state)]

    def _splat(self, group, count: int):
        """Puts the numbers of `count` groups of eight steps along all lanes; returns B's, of each state (8 count, 128)."""
        plan, here = self.plan, pl.ds(group * SUBLANES, count * SUBLANES)
        size = plan.parts * plan.width
        columns = []
        for k in range(plan.state + plan.flags):
            column = self.refs["per_step"][0, here, pl.ds(size + k, 1)]
            columns.append(jnp.broadcast_to(column, (count * SUBLANES, LANES)))
            self.refs["splats"][plan.state + k, here] = columns[-1]
        for n in range(plan.state):
            self.refs["splats"][n, here] = jnp.dot(
                self.refs["per_step"][0, here, pl.ds(0, size)],
                self.refs["selectors"][pl.ds(n * size, size), :],
                # One pass in bfloat16: both factors are bfloat16 numbers already.
                precision=jax.lax.Precision.DEFAULT,
                preferred_element_type=jnp.float32,
            )
        return columns[: plan.state]

    def walk(self, first, steps: int, together: int, step, carry, descending: bool):
        """carry = step(t, numbers, carry) for `steps` steps from `first` on, `together` of them written out in a turn."""

        def turns_of(first, turns, together, carry):
            def body(k, carry):
                for i in range(together):
                    t = k * together + i
                    t = first + turns * together - 1 - t if descending else first + t
                    carry = step(t, Numbers(self.plan, self.refs, t), carry)
                return carry

            return loop(turns, body, carry) if turns * together else carry

        turns, left = divmod(steps, together)
        parts = [(first, turns, together), (first + turns * together, 1, left)]
        for part in reversed(parts) if descending else parts:
            carry = turns_of(*part, carry)
        return carry

    def decay(self, delta, n, keep):
        decay = jnp.exp2(delta * self.A2[n])
        return decay if keep is None else decay * keep

    def strided(self, name, start, stride: int):
        """Eight rows (8, 128) of step-wise scratch."""
        if self.plan.strided:
            return self.refs[name][pl.ds(start, SUBLANES, stride=stride), :]
        return jnp.stack([self.refs[name][start + i * stride, :] for i in range(SUBLANES)])


class Numbers:
    """What a step has beside its channels, broadcast over a register."""

    def __init__(self, plan: Plan, refs, t):
        self.plan, self.refs, self.t = plan, refs, t

    def _get(self, k):
        return jnp.broadcast_to(self.refs["splats"][k, pl.ds(self.t, 1), :], (self.plan.rows, LANES))

    def to_state(self, n):
        """B_t[n]."""
        return self._get(self.plan.state + n)

    def from_state(self, n):
        """C_t[n]."""
        return self._get(n)

    def keep(self):
        """0 where the incoming state is discarded, else 1; None where that never happens."""
        return 1.0 - self._get(2 * self.plan.state) if self.plan.flags else None


def call(kernel, plan: Plan, inputs, input_specs, outputs, scratch, interpret, name):
    """Runs `kernel` over (B, chunks, channel tiles), one after another; returns the outputs by name.

    inputs, scratch: by name. outputs: name -> (shape, dtype, spec).
    """
    names = (*inputs, *outputs, *scratch)
    out = pl.pallas_call(
        functools.partial(kernel, names=names, plan=plan),
        grid=(plan.batch, plan.chunks, plan.tiles),
        in_specs=[input_specs[n] for n in inputs],
        out_specs=[spec for _, _, spec in outputs.values()],
        out_shape=[jax.ShapeDtypeStruct(shape, dtype) for shape, dtype, _ in outputs.values()],
        scratch_shapes=list(scratch.values()),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=64 * 2**20
        ),
        interpret=False if interpret is None else interpret,
        name=name,
    )(*inputs.values())
    return dict(zip(outputs, out, strict=True))
