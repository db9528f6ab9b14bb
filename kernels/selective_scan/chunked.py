"""The scan in chunks with a hand-written backward pass: the default on CPU and the fallback on any device.

Forward keeps the state that enters each chunk, [B, L / chunk, N, E], and nothing else. Backward walks the chunks from the
other end, recomputes the chunk's states from that one, and runs the adjoint recurrence. The state is [N, E] with the
channels minor, so that every operation runs along full vectors.

On a CPU the batch is a loop. Forward advances as many examples together as the second-level cache holds; backward, which
has reductions over E, takes one at a time: XLA's CPU compiler turns a batched matrix-vector product into scalar loops.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kernels.selective_scan.arguments import (
    LOG2_E,
    SHARED,
    ScanArgs,
    ScanOptions,
    activate_delta,
    compute_dtype,
    finish_output,
)
from kernels.selective_scan.exponential import exp2_polynomial

GROUP_STATES = 65536
"""State elements (examples x N x E) that the CPU's forward pass advances together: 256 KiB stay in the second-level cache,
and each operation is long enough for XLA to share it between threads."""

PARALLEL_STATES = 16384
"""From this many state elements on, XLA's threads pay for their handover and the cheaper exponential shows."""


def _prologue(u, delta, delta_bias, valid, softplus, dtype):
    """Activated delta and delta u of some steps, [..., E]; both zero at padded steps."""
    delta = activate_delta(delta, delta_bias, softplus, dtype)
    if valid is not None:
        delta = delta * valid[..., None]
    return delta, delta * u.astype(dtype)


def _epilogue(y, u, D, z, valid):
    return finish_output(y, u, D, z, None if valid is None else valid[..., None])


def _in_chunks(x, chunk, pad_value=0.0):
    """[L, ...] -> [L / chunk, chunk, ...], padded at the end."""
    pad = -x.shape[0] % chunk
    x = jnp.pad(x, [(0, pad)] + [(0, 0)] * (x.ndim - 1), constant_values=pad_value)
    return x.reshape((-1, chunk) + x.shape[1:])


def _chunk_steps(args: ScanArgs, chunk: int, dtype):
    """The step-wise arrays of one example in chunks. Padding at the end is marked as padding: it is exact anywhere."""
    length = args.u.shape[0]
    valid = args.valid
    if valid is None and length % chunk:
        valid = jnp.ones(length, dtype)
    keep = args.keep
    return {
        "u": _in_chunks(args.u, chunk),
        "delta": _in_chunks(args.delta, chunk),
        "B": _in_chunks(args.B, chunk),
        "C": _in_chunks(args.C, chunk),
        "z": None if args.z is None else _in_chunks(args.z, chunk),
        "valid": None if valid is None else _in_chunks(valid, chunk),
        "keep": None if keep is None else _in_chunks(keep, chunk, 1.0),
    }


def _decay(delta_t, keep_t, A):
    decay = jnp.exp(delta_t * A)
    return decay if keep_t is None else decay * keep_t


def _contract_states(C_t, h):
    """sum_n C_t[g, n] h[g, n, e]. Of one example as a matrix-vector product, which XLA's CPU compiler does far better."""
    if h.shape[0] == 1:
        return jnp.einsum("n,ne->e", C_t[0], h[0], precision=jax.lax.Precision.HIGHEST)[None]
    return jnp.sum(h * C_t[:, :, None], axis=1)


def _forward_group(args: ScanArgs, options: ScanOptions, exp2):
    """Some examples [G, L, ...] side by side: y [G, L, E], final [G, E, N], entering states [G, L / chunk, N, E]."""
    dtype = compute_dtype(args)
    A2 = args.A.T * LOG2_E
    length = args.u.shape[1]
    pad = -length % options.chunk
    arrays = {n: getattr(args, n) for n in ("u", "delta", "B", "C", "z", "valid", "keep")}
    if pad:
        if args.valid is None:
            arrays["valid"] = jnp.ones(args.u.shape[:2], dtype)
        for name, x in arrays.items():
            if x is not None:
                widths = ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2)
                arrays[name] = jnp.pad(x, widths, constant_values=1.0 if name == "keep" else 0.0)

    def steps_of(c):
        # Time first, so that a step reads one contiguous block. Chunk by chunk: a copy of the whole would be as large as u.
        def pick(x):
            return jnp.moveaxis(jax.lax.dynamic_slice_in_dim(x, c * options.chunk, options.chunk, axis=1), 1, 0)

        return {name: None if x is None else pick(x) for name, x in arrays.items()}

    def chunk_step(h, c):
        entering, c = h, steps_of(c)
        delta, x = _prologue(c["u"], c["delta"], args.delta_bias, c["valid"], options.delta_softplus, dtype)

        def step(h, t):
            delta_t, x_t, B_t, C_t, keep_t = t
            decay = exp2(delta_t[:, None] * A2)
            if keep_t is not None:
                decay = decay * keep_t[:, None, None]
            h = decay * h + B_t[:, :, None] * x_t[:, None]
            return h, _contract_states(C_t, h)

        inputs = (delta, x, c["B"].astype(dtype), c["C"].astype(dtype), c["keep"])
        h, y = jax.lax.scan(step, h, inputs, reverse=options.reverse, unroll=options.config.unroll or 1)
        y = _epilogue(y, c["u"], args.D, c["z"], c["valid"]).astype(args.u.dtype)
        return h, (y, entering)

    start = jnp.swapaxes(args.initial_state, 1, 2)
    final, (y, entering) = jax.lax.scan(chunk_step, start, jnp.arange((length + pad) // options.chunk), reverse=options.reverse)
    y = y.reshape((-1,) + y.shape[2:])[:length]
    return jnp.moveaxis(y, 0, 1), jnp.swapaxes(final, 1, 2), jnp.moveaxis(entering, 0, 1)


def _backward_one(args: ScanArgs, entering, dy, dfinal, options: ScanOptions) -> ScanArgs:
    """Gradients of one example, every one of them in the compute dtype or the argument's own."""
    dtype = compute_dtype(args)
    A = args.A.T
    length = args.u.shape[0]

    def chunk_step(carry, inputs):
        g, dA, dD, dbias = carry  # g: gradient of the state that leaves this chunk
        c, entering, dy = inputs

        def prologue(u, delta, bias):
            return _prologue(u, delta, bias, c["valid"], options.delta_softplus, dtype)

        def epilogue(y, u, D, z):
            return _epilogue(y, u, D, z, c["valid"]).astype(args.u.dtype)

        (delta, x), prologue_vjp = jax.vjp(prologue, c["u"], c["delta"], args.delta_bias)
        B, C = c["B"].astype(dtype), c["C"].astype(dtype)

        def recompute(h, t):
            delta_t, x_t, B_t, keep_t = t
            return _decay(delta_t, keep_t, A) * h + B_t[:, None] * x_t, h

        last, before = jax.lax.scan(
            recompute, entering, (delta, x, B, c["keep"]), reverse=options.reverse, unroll=options.config.unroll or 1
        )
        if options.reverse:
            after = jnp.concatenate([last[None], before[:-1]])
        else:
            after = jnp.concatenate([before[1:], last[None]])
        y = jnp.einsum("kn,kne->ke", C, after, precision=jax.lax.Precision.HIGHEST)
        _, epilogue_vjp = jax.vjp(epilogue, y, c["u"], args.D, c["z"])
        gy, du_skip, dD_chunk, dz = epilogue_vjp(dy)
        dC = jnp.einsum("kne,ke->kn", after, gy, precision=jax.lax.Precision.HIGHEST)

        def adjoint(carry, t):
            g, dA = carry
            delta_t, x_t, B_t, C_t, keep_t, gy_t, before_t = t
            g = g + C_t[:, None] * gy_t
            dB_t = jnp.einsum("ne,e->n", g, x_t, precision=jax.lax.Precision.HIGHEST)
            dx_t = jnp.einsum("n,ne->e", B_t, g, precision=jax.lax.Precision.HIGHEST)
            g = g * _decay(delta_t, keep_t, A)
            q = g * before_t
            return (g, dA + q * delta_t), (dB_t, dx_t, jnp.sum(q * A, axis=0))

        (g, dA), (dB, dx, ddelta) = jax.lax.scan(
            adjoint,
            (g, dA),
            (delta, x, B, C, c["keep"], gy, before),
            reverse=not options.reverse,
            unroll=options.config.unroll or 1,
        )
        du, ddelta, dbias_chunk = prologue_vjp((ddelta, dx))
        if dD is not None:
            dD = dD + dD_chunk
        if dbias is not None:
            dbias = dbias + dbias_chunk
        return (g, dA, dD, dbias), (du + du_skip, ddelta, dB, dC, dz)

    zeros = jnp.zeros_like
    carry = (
        dfinal.T,
        zeros(A),
        None if args.D is None else zeros(args.D),
        None if args.delta_bias is None else zeros(args.delta_bias),
    )
    steps = (_chunk_steps(args, options.chunk, dtype), entering, _in_chunks(dy, options.chunk))
    (g, dA, dD, dbias), per_step = jax.lax.scan(chunk_step, carry, steps, reverse=not options.reverse)
    du, ddelta, dB, dC, dz = (None if x is None else x.reshape((-1,) + x.shape[2:])[:length] for x in per_step)
    return ScanArgs(
        u=du, delta=ddelta, A=dA.T, B=dB.astype(args.B.dtype), C=dC.astype(args.C.dtype), D=dD, z=dz,
        delta_bias=dbias, initial_state=g.T, valid=None, keep=None,
    )  # fmt: skip


def _split(args: ScanArgs):
    """The arrays with a batch axis, and a function that joins some examples of them with the shared ones."""
    shared = {name: getattr(args, name) for name in SHARED}
    return args._replace(**dict.fromkeys(SHARED)), lambda some: some._replace(**shared)


def _cpu_group(batch: int, state: int) -> int:
    """Examples side by side in the CPU's forward pass: the largest divisor of the batch within GROUP_STATES."""
    return max(g for g in range(1, batch + 1) if batch % g == 0 and g * state <= max(GROUP_STATES, state))


def forward(args: ScanArgs, options: ScanOptions, *, loop_over_batch: bool):
    """y [B, L, E], final state [B, E, N], and the states entering each chunk [B, L / chunk, N, E]."""
    if not loop_over_batch:
        return _forward_group(args, options, jnp.exp2)
    batched, join = _split(args)
    batch, state = args.u.shape[0], args.A.size
    group = _cpu_group(batch, state)
    exp2 = jnp.exp2
    if compute_dtype(args) == jnp.float32 and group * state >= PARALLEL_STATES:
        exp2 = exp2_polynomial
    groups = jax.tree.map(lambda x: x.reshape((-1, group) + x.shape[1:]), batched)
    out = jax.lax.map(lambda some: _forward_group(join(some), options, exp2), groups)
    return jax.tree.map(lambda x: x.reshape((batch,) + x.shape[2:]), out)


def backward(args: ScanArgs, entering, dy, dfinal, options: ScanOptions, *, loop_over_batch: bool) -> ScanArgs:
    """Gradients as ScanArgs; those of A, D and delta_bias per example, [B, ...]."""
    batched, join = _split(args)

    def one(inputs):
        args, entering, dy, dfinal = inputs
        return _backward_one(join(args), entering, dy, dfinal, options)

    inputs = (batched, entering, dy, dfinal)
    return jax.lax.map(one, inputs) if loop_over_batch else jax.vmap(one)(inputs)
