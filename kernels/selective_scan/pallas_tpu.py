"""The scan on TPU. One kernel instance advances S x 128 <= 1024 channels of one example through one chunk of time.

Layout. A register holds (S, 128) channels of one step, and each of the N states is a register of its own: the recurrence
moves nothing between lanes. XLA stores [B, L, E] in tiles of 8 steps x 128 channels, bfloat16 too. Seen as
[B, L / 8, E / 128, 8, 128] these are the same bytes, so no relayout passes through HBM, and the channels of one step are
every eighth row of a block: one strided load. bfloat16 blocks are widened in VMEM first. B and C are splatted along lanes
in VMEM when a block begins, 8 steps per operation; a step then loads them with a broadcast over sublanes, which takes neither
scalar nor arithmetic slots.

Grid (B, channel tiles, chunks), chunks in sequence; the state stays in VMEM between them. Forward writes the state that
enters each chunk. Backward visits the chunks in the opposite order: it recomputes the chunk's states into VMEM from the
entering one, reducing dC on the way, then runs the adjoint recurrence and reduces dB. Both are partial sums of a channel
tile, added up outside in a fixed order: deterministic.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.selective_scan.arguments import LOG2_E, ScanArgs, ScanOptions, compute_dtype, delta_padding

LANES = 128
SUBLANES = 8
MAX_STATE = 64
# The recomputed states of a chunk are the largest buffer; this leaves room for the blocks and their second copies.
STATES_LIMIT = 8 * 2**20
FORWARD_STEPS_LIMIT = 256
LN_2 = 1.0 / LOG2_E


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Sizes of a launch. rows: S, register rows that carry channels; width: numbers per step beside the channels."""

    batch: int
    length: int
    channels: int
    state: int
    steps: int
    chunks: int
    rows: int
    tiles: int
    width: int
    dtype: object
    strided: bool  # address a step's rows with a stride: what compiles to one load, and what the interpreter lacks
    softplus: bool
    reverse: bool

    @property
    def block(self) -> tuple[int, ...]:
        return (1, self.steps // SUBLANES, self.rows, SUBLANES, LANES)

    @property
    def wide(self):
        """Scratch for a widened block: every step's rows in float32."""
        return pltpu.VMEM(self.block[1:], jnp.float32)

    @property
    def splats(self):
        """Scratch for the numbers of each step, one row of equal lanes each."""
        return pltpu.VMEM((self.width, self.steps, LANES), jnp.float32)

    @property
    def padded_length(self) -> int:
        return self.steps * self.chunks

    @property
    def columns(self) -> int:
        return self.tiles * self.rows


def unsupported(args: ScanArgs, options: ScanOptions) -> str | None:
    """Why this kernel cannot run the problem, or None."""
    if compute_dtype(args) != jnp.float32:
        return "float64 (the kernel computes in float32)"
    size = args.A.shape[1]
    if size > MAX_STATE:
        return f"N = {size} (at most {MAX_STATE} states are written out)"
    if 4 * (options.chunk + SUBLANES) * size * SUBLANES * LANES > STATES_LIMIT:
        return f"chunk = {options.chunk} with N = {size}: the states of a chunk exceed the vector memory"
    return None


def _plan(args: ScanArgs, options: ScanOptions) -> _Plan:
    batch, length, channels = args.u.shape
    steps = -(-options.chunk // SUBLANES) * SUBLANES
    chunks = -(-length // options.chunk)
    columns = -(-channels // LANES)
    tiles = -(-columns // SUBLANES)
    low = all(x is None or x.dtype == jnp.bfloat16 for x in (args.u, args.delta, args.z))
    flags = args.valid is not None or args.keep is not None
    flags = flags or (steps * chunks != length and delta_padding(args, options) is None)
    return _Plan(
        batch, length, channels, args.A.shape[1], steps, chunks, -(-columns // tiles), tiles,
        2 * args.A.shape[1] + 2 * flags, jnp.bfloat16 if low else jnp.float32, not options.config.interpret,
        options.delta_softplus, options.reverse,
    )  # fmt: skip


def _tiled_steps(x, plan: _Plan, padding: float = 0.0):
    """[B, L, E] -> [B, L / 8, E / 128, 8, 128], padded: the bytes that XLA has anyway where nothing is padded."""
    pad = (plan.padded_length - plan.length, plan.columns * LANES - plan.channels)
    x = jnp.pad(x.astype(plan.dtype), ((0, 0), (0, pad[0]), (0, pad[1])), constant_values=padding)
    x = x.reshape(plan.batch, plan.padded_length // SUBLANES, SUBLANES, plan.columns, LANES)
    return jnp.swapaxes(x, 2, 3)


def _untiled_steps(x, plan: _Plan):
    x = jnp.swapaxes(x, 2, 3).reshape(plan.batch, plan.padded_length, -1)
    return x[:, : plan.length, : plan.channels]


def _tiled_channels(x, plan: _Plan):
    """[..., E] -> [..., tiles, S, 128]."""
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, plan.columns * LANES - plan.channels)])
    return x.reshape(*x.shape[:-1], plan.tiles, plan.rows, LANES)


def _untiled_channels(x, plan: _Plan):
    return x.reshape(*x.shape[:-3], -1)[..., : plan.channels]


def _per_step(args: ScanArgs, plan: _Plan):
    """B, C and, if a step can be special, `valid` and `1 - keep`, side by side: [B, L, width]."""
    parts = [args.B.astype(jnp.float32), args.C.astype(jnp.float32)]
    if plan.width > 2 * plan.state:
        ones = jnp.ones((plan.batch, plan.length), jnp.float32)
        parts.append((ones if args.valid is None else args.valid)[..., None])
        parts.append((1.0 - (ones if args.keep is None else args.keep))[..., None])
    # Padded with zeros: not valid, nothing cut.
    return jnp.pad(jnp.concatenate(parts, axis=-1), ((0, 0), (0, plan.padded_length - plan.length), (0, 0)))


def _operands(args: ScanArgs, options: ScanOptions, plan: _Plan, order):
    """Arrays and block specs by name; `order` maps the grid's chunk to the chunk of time."""
    values = {
        "per_step": _per_step(args, plan),
        "u": _tiled_steps(args.u, plan),
        "delta": _tiled_steps(args.delta, plan, delta_padding(args, options) or 0.0),
        "A": _tiled_channels(args.A.T * LOG2_E, plan),
    }
    step_spec, channel_spec = _step_spec(plan, order), pl.BlockSpec((1, plan.rows, LANES), lambda b, r, c: (r, 0, 0))
    specs = {
        "per_step": pl.BlockSpec((1, plan.steps, plan.width), lambda b, r, c: (b, order(c), 0)),
        "u": step_spec,
        "delta": step_spec,
        "A": pl.BlockSpec((plan.state, 1, plan.rows, LANES), lambda b, r, c: (0, r, 0, 0)),
    }
    for name in ("D", "delta_bias"):
        if getattr(args, name) is not None:
            values[name], specs[name] = _tiled_channels(getattr(args, name), plan), channel_spec
    if args.z is not None:
        values["z"], specs["z"] = _tiled_steps(args.z, plan), step_spec
    return values, specs


def _step_spec(plan: _Plan, order):
    return pl.BlockSpec(plan.block, lambda b, r, c: (b, order(c), r, 0, 0))


def _state_spec(plan: _Plan):
    return pl.BlockSpec((1, plan.state, 1, plan.rows, LANES), lambda b, r, c: (b, 0, r, 0, 0))


def _entering_spec(plan: _Plan, order, pieces=1):
    return pl.BlockSpec((1, pieces, plan.state, 1, plan.rows, LANES), lambda b, r, c: (b, order(c), 0, r, 0, 0))


class _Steps:
    """Reads and writes the registers of single steps of a block, through a float32 copy where the block is bfloat16."""

    def __init__(self, ref, wide, plan: _Plan):
        self.ref, self.plan, self.copied = ref, plan, plan.dtype != jnp.float32
        self.rows = wide if self.copied else ref.at[0]

    def widen(self):
        if self.copied:
            self.rows[...] = self.ref[0].astype(jnp.float32)

    def narrow(self):
        if self.copied:
            self.ref[0] = self.rows[...].astype(self.plan.dtype)

    def _at(self, group, i):
        if not self.plan.strided:
            return self.rows.at[group, :, i, :]
        rows = self.rows.reshape(self.plan.steps * self.plan.rows, LANES)
        return rows.at[pl.ds(group * (self.plan.rows * SUBLANES) + i, self.plan.rows, stride=SUBLANES), :]

    def get(self, group, i):
        return self._at(group, i)[...]

    def put(self, group, i, value):
        self._at(group, i)[...] = value


def _softplus(x):
    # log1p of w = exp(-|x|) by its series below 1/16, where 1 + w rounds too much of w away.
    w = jnp.exp2(-LOG2_E * jnp.abs(x))
    series = jnp.float32(1.0 / 6.0)
    for k in (5, 4, 3, 2, 1):
        series = 1.0 / k - w * series
    return jnp.maximum(x, 0.0) + jnp.where(w < 1.0 / 16.0, w * series, jnp.log(1.0 + w))


def _sigmoid(x):
    # One special function instead of two and a division's corrections.
    return 0.5 + 0.5 * jnp.tanh(0.5 * x)


class _Numbers:
    """What a step has beside its channels, broadcast over a register."""

    def __init__(self, plan: _Plan, splats, t):
        self.plan, self.splats, self.t = plan, splats, t

    def _get(self, k):
        return jnp.broadcast_to(self.splats[k, pl.ds(self.t, 1), :], (self.plan.rows, LANES))

    def to_state(self, n):
        """B_t[n]."""
        return self._get(n)

    def from_state(self, n):
        """C_t[n]."""
        return self._get(self.plan.state + n)

    def flags(self):
        """(valid, keep), or (None, None) where no step is special."""
        if self.plan.width == 2 * self.plan.state:
            return None, None
        return self._get(2 * self.plan.state), 1.0 - self._get(2 * self.plan.state + 1)


class _Kernel:
    """What forward and backward share: the refs by name, the numbers and the activated delta of a step."""

    def __init__(self, plan: _Plan, refs: dict):
        self.plan, self.refs = plan, refs
        self.A2 = [refs["A"][n, 0] for n in range(plan.state)]
        self.D = refs["D"][0] if "D" in refs else None
        self.bias = refs["delta_bias"][0] if "delta_bias" in refs else None

    def steps(self, name) -> _Steps:
        return _Steps(self.refs[name], self.refs.get("wide_" + name), self.plan)

    def splat(self):
        """Puts the numbers of every step of the block along all lanes: splats is [width, steps, 128]."""
        for k in range(self.plan.width):
            column = self.refs["per_step"][0, :, k : k + 1]
            self.refs["splats"][k] = jnp.broadcast_to(column, (self.plan.steps, LANES))

    def loop(self, first, groups: int, step, carry, descending: bool):
        """carry = step(group, i, numbers, carry) for the steps of `groups` groups from `first` on, eight written out."""
        sign = -1 if descending else 1
        start = first + groups - 1 if descending else first

        def body(k, carry):
            group = start + sign * k
            for i in range(SUBLANES)[::sign]:
                carry = step(group, i, _Numbers(self.plan, self.refs["splats"], group * SUBLANES + i), carry)
            return carry

        return jax.lax.fori_loop(0, groups, body, carry)

    def delta(self, raw, valid):
        x = raw if self.bias is None else raw + self.bias
        x = _softplus(x) if self.plan.softplus else x
        return x if valid is None else x * valid

    def decay(self, delta, n, keep):
        decay = jnp.exp2(delta * self.A2[n])
        return decay if keep is None else decay * keep


def _forward_kernel(*refs, names, plan: _Plan):
    k = _Kernel(plan, dict(zip(names, refs, strict=True)))
    r, states = k.refs, range(plan.state)

    @pl.when(pl.program_id(2) == 0)
    def _():
        r["state"][...] = r["initial_state"][0, :, 0]

    k.splat()
    u, delta, y = k.steps("u"), k.steps("delta"), k.steps("y")
    z = k.steps("z") if "z" in r else None
    for block in (u, delta, z):
        if block is not None:
            block.widen()

    def step(group, i, numbers, h):
        valid, keep = numbers.flags()
        u_t, delta_t = u.get(group, i), k.delta(delta.get(group, i), valid)
        x_t = delta_t * u_t
        y_t = jnp.zeros_like(u_t) if k.D is None else k.D * u_t
        following = []
        for n in states:
            h_n = k.decay(delta_t, n, keep) * h[n] + numbers.to_state(n) * x_t
            y_t = y_t + numbers.from_state(n) * h_n
            following.append(h_n)
        if z is not None:
            z_t = z.get(group, i)
            y_t = y_t * z_t * _sigmoid(z_t)
        y.put(group, i, y_t if valid is None else y_t * valid)
        return tuple(following)

    pieces = r["entering"].shape[1]
    groups = plan.steps // SUBLANES // pieces

    def chunk(j, h):
        j = pieces - 1 - j if plan.reverse else j
        for n in states:
            r["entering"][0, j, n, 0] = h[n]
        return k.loop(j * groups, groups, step, h, plan.reverse)

    h = jax.lax.fori_loop(0, pieces, chunk, tuple(r["state"][n] for n in states))
    for n in states:
        r["state"][n] = h[n]
        r["final"][0, n, 0] = h[n]
    y.narrow()


def _backward_kernel(*refs, names, plan: _Plan):
    k = _Kernel(plan, dict(zip(names, refs, strict=True)))
    r, states, size = k.refs, range(plan.state), plan.state
    last = pl.num_programs(2) - 1

    @pl.when(pl.program_id(2) == 0)
    def _():
        r["gradient"][...] = r["d_final"][0, :, 0]
        for name in ("sum_A", "sum_D", "sum_bias"):
            r[name][...] = jnp.zeros_like(r[name])

    k.splat()
    names_in = [n for n in ("u", "delta", "z", "dy") if n in r]
    names_out = [n for n in ("du", "d_delta", "dz") if n in r]
    blocks = {name: k.steps(name) for name in (*names_in, *names_out)}
    for name in names_in:
        blocks[name].widen()
    in_rows = functools.partial(_Steps, plan=dataclasses.replace(plan, dtype=jnp.bfloat16))
    # These two are float32 scratch whatever the blocks are.
    active, gy_rows = in_rows(None, r["active"]), in_rows(None, r["gy"])

    def recompute(group, i, numbers, h):
        valid, keep = numbers.flags()
        u_t, delta_t = blocks["u"].get(group, i), k.delta(blocks["delta"].get(group, i), valid)
        x_t = delta_t * u_t
        gy_t = blocks["dy"].get(group, i)
        gy_t = gy_t if valid is None else gy_t * valid
        if "z" in r:
            z_t = blocks["z"].get(group, i)
            gate = _sigmoid(z_t)
            dsilu, ungated = gate * (1.0 + z_t * (1.0 - gate)), gy_t
            gy_t = gy_t * z_t * gate
        active.put(group, i, delta_t)
        gy_rows.put(group, i, gy_t)
        y_t = jnp.zeros_like(u_t) if k.D is None else k.D * u_t
        t = group * SUBLANES + i
        following = []
        for n in states:
            r["before"][t, n] = h[n]
            h_n = k.decay(delta_t, n, keep) * h[n] + numbers.to_state(n) * x_t
            if "z" in r:
                y_t = y_t + numbers.from_state(n) * h_n
            r["rows_C"][pl.ds(t * size + n, 1), :] = jnp.sum(h_n * gy_t, axis=0, keepdims=True)
            following.append(h_n)
        if "z" in r:
            blocks["dz"].put(group, i, ungated * y_t * dsilu)
        return tuple(following)

    k.loop(0, plan.steps // SUBLANES, recompute, tuple(r["entering"][0, 0, n, 0] for n in states), plan.reverse)

    def adjoint(group, i, numbers, carry):
        g, sum_D, sum_bias = carry
        valid, keep = numbers.flags()
        u_t, delta_t, gy_t = blocks["u"].get(group, i), active.get(group, i), gy_rows.get(group, i)
        x_t = delta_t * u_t
        dx, d_delta = jnp.zeros_like(u_t), jnp.zeros_like(u_t)
        t = group * SUBLANES + i
        following = []
        for n in states:
            g_n = g[n] + numbers.from_state(n) * gy_t
            r["rows_B"][pl.ds(t * size + n, 1), :] = jnp.sum(g_n * x_t, axis=0, keepdims=True)
            dx = dx + numbers.to_state(n) * g_n
            g_n = g_n * k.decay(delta_t, n, keep)
            q = g_n * r["before"][t, n]
            d_delta = d_delta + q * k.A2[n]
            r["sum_A"][n] += q * delta_t
            following.append(g_n)
        du = dx * delta_t
        if k.D is not None:
            du = du + k.D * gy_t
            sum_D = sum_D + gy_t * u_t
        blocks["du"].put(group, i, du)
        d_delta = dx * u_t + LN_2 * d_delta
        d_delta = d_delta if valid is None else d_delta * valid
        if plan.softplus:
            raw = blocks["delta"].get(group, i)
            d_delta = d_delta * _sigmoid(raw if k.bias is None else raw + k.bias)
        blocks["d_delta"].put(group, i, d_delta)
        return tuple(following), sum_D, sum_bias + d_delta

    carry = (tuple(r["gradient"][n] for n in states), r["sum_D"][...], r["sum_bias"][...])
    g, r["sum_D"][...], r["sum_bias"][...] = k.loop(0, plan.steps // SUBLANES, adjoint, carry, not plan.reverse)
    for n in states:
        r["gradient"][n] = g[n]
    for name in names_out:
        blocks[name].narrow()
    # The sum over lanes as a product with ones leaves the results along lanes, packed.
    for out, rows in (("dB", "rows_B"), ("dC", "rows_C")):
        r[out][0, 0] = jax.lax.dot_general(
            jnp.ones((SUBLANES, LANES), jnp.float32),
            r[rows][...],
            (((1,), (1,)), ((), ())),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )[:1]

    @pl.when(pl.program_id(2) == last)
    def _():
        r["d_initial_state"][0, :, 0] = r["gradient"][...]
        r["dA"][0, :, 0] = r["sum_A"][...]
        r["dD"][0, 0] = r["sum_D"][...]
        r["d_bias"][0, 0] = r["sum_bias"][...]


def _call(kernel, plan: _Plan, inputs, input_specs, outputs, scratch, interpret, name):
    """inputs, outputs, scratch: by name; outputs: name -> (shape, dtype, spec). Returns the outputs by name."""
    names = (*inputs, *outputs, *scratch)
    out = pl.pallas_call(
        functools.partial(kernel, names=names, plan=plan),
        grid=(plan.batch, plan.tiles, plan.chunks),
        in_specs=[input_specs[n] for n in inputs],
        out_specs=[spec for _, _, spec in outputs.values()],
        out_shape=[jax.ShapeDtypeStruct(shape, dtype) for shape, dtype, _ in outputs.values()],
        scratch_shapes=list(scratch.values()),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=64 * 2**20
        ),
        interpret=False if interpret is None else interpret,
        name=name,
    )(*inputs.values())
    return dict(zip(outputs, out, strict=True))


def forward(args: ScanArgs, options: ScanOptions):
    """y [B, L, E], final state [B, E, N], states entering the chunks [B, L / chunk, N, E]."""
    plan = _plan(args, options)
    # Forward takes several chunks per grid step: setting up a step's copies costs as much as eight steps of the scan.
    pieces = max(m for m in (1, 2, 4) if plan.chunks % m == 0 and m * plan.steps <= FORWARD_STEPS_LIMIT or m == 1)
    plan = dataclasses.replace(plan, steps=plan.steps * pieces, chunks=plan.chunks // pieces)
    order = _chunk_order(plan, plan.reverse)
    inputs, specs = _operands(args, options, plan, order)
    inputs["initial_state"] = _tiled_channels(jnp.swapaxes(args.initial_state, 1, 2), plan)
    specs["initial_state"] = _state_spec(plan)
    state = (plan.batch, plan.state, plan.tiles, plan.rows, LANES)
    outputs = {
        "y": (inputs["u"].shape, plan.dtype, _step_spec(plan, order)),
        "final": (state, jnp.float32, _state_spec(plan)),
        "entering": ((plan.batch, plan.chunks * pieces, *state[1:]), jnp.float32, _entering_spec(plan, order, pieces)),
    }
    scratch = {
        "state": pltpu.VMEM((plan.state, plan.rows, LANES), jnp.float32),
        "splats": plan.splats,
    }
    if plan.dtype != jnp.float32:
        scratch |= {"wide_" + n: plan.wide for n in ("u", "delta", "z", "y") if n in inputs or n == "y"}
    out = _call(_forward_kernel, plan, inputs, specs, outputs, scratch, options.config.interpret, "selective_scan_fwd")
    final = jnp.swapaxes(_untiled_channels(out["final"], plan), 1, 2)
    return _untiled_steps(out["y"], plan).astype(args.u.dtype), final, _untiled_channels(out["entering"], plan)


def backward(args: ScanArgs, entering, dy, dfinal, options: ScanOptions) -> ScanArgs:
    """Gradients as ScanArgs; those of A, D and delta_bias per example, [B, ...]."""
    plan = _plan(args, options)
    order = _chunk_order(plan, not plan.reverse)
    inputs, specs = _operands(args, options, plan, order)
    inputs["dy"], specs["dy"] = _tiled_steps(dy, plan), _step_spec(plan, order)
    inputs["entering"], specs["entering"] = _tiled_channels(entering, plan), _entering_spec(plan, order)
    inputs["d_final"], specs["d_final"] = _tiled_channels(jnp.swapaxes(dfinal, 1, 2), plan), _state_spec(plan)
    steps = (inputs["u"].shape, plan.dtype, _step_spec(plan, order))
    state = ((plan.batch, plan.state, plan.tiles, plan.rows, LANES), jnp.float32, _state_spec(plan))
    channel = (
        (plan.batch, plan.tiles, plan.rows, LANES),
        jnp.float32,
        pl.BlockSpec((1, 1, plan.rows, LANES), lambda b, r, c: (b, r, 0, 0)),
    )
    rows = plan.steps * plan.state
    sums = (
        (plan.batch * plan.chunks, plan.tiles, 1, rows),
        jnp.float32,
        pl.BlockSpec((1, 1, 1, rows), lambda b, r, c: (b * plan.chunks + order(c), r, 0, 0)),
    )
    outputs = {"du": steps, "d_delta": steps} | ({"dz": steps} if args.z is not None else {})
    outputs |= {"dB": sums, "dC": sums, "dA": state, "dD": channel, "d_bias": channel, "d_initial_state": state}
    register = pltpu.VMEM((plan.rows, LANES), jnp.float32)
    registers = pltpu.VMEM((plan.state, plan.rows, LANES), jnp.float32)
    scratch = {
        "gradient": registers,
        "sum_A": registers,
        "sum_D": register,
        "sum_bias": register,
        "splats": plan.splats,
        "active": plan.wide,
        "gy": plan.wide,
        "before": pltpu.VMEM((plan.steps, plan.state, plan.rows, LANES), jnp.float32),
        "rows_B": pltpu.VMEM((rows, LANES), jnp.float32),
        "rows_C": pltpu.VMEM((rows, LANES), jnp.float32),
    }
    if plan.dtype != jnp.float32:
        step_names = ("u", "delta", "z", "dy", "du", "d_delta", "dz")
        scratch |= {"wide_" + n: plan.wide for n in step_names if n in inputs or n in outputs}
    out = _call(_backward_kernel, plan, inputs, specs, outputs, scratch, options.config.interpret, "selective_scan_bwd")

    def per_step(name, like):
        return None if like is None else _untiled_steps(out[name], plan).astype(like.dtype)

    def partial_sums(name, like):
        x = jnp.sum(out[name], axis=1).reshape(plan.batch, plan.padded_length, plan.state)
        return x[:, : plan.length].astype(like.dtype)

    return ScanArgs(
        u=per_step("du", args.u),
        delta=per_step("d_delta", args.delta),
        A=jnp.swapaxes(_untiled_channels(out["dA"], plan), 1, 2),
        B=partial_sums("dB", args.B),
        C=partial_sums("dC", args.C),
        D=None if args.D is None else _untiled_channels(out["dD"], plan),
        z=per_step("dz", args.z),
        delta_bias=None if args.delta_bias is None else _untiled_channels(out["d_bias"], plan),
        initial_state=jnp.swapaxes(_untiled_channels(out["d_initial_state"], plan), 1, 2),
        valid=None,
        keep=None,
    )


def _chunk_order(plan: _Plan, descending: bool):
    return (lambda c: plan.chunks - 1 - c) if descending else (lambda c: c)
