"""The scan in chunks with a hand-written backward pass: the default on CPU and the fallback on any device.

Forward keeps the state that enters each chunk, [B, L / chunk, N, E], and nothing else. Backward walks the chunks from the
other end, recomputes the chunk's states from that one, and runs the adjoint recurrence. The state is [N, E] with the
channels minor, so that every operation runs along full vectors. On a CPU the batch is a loop: one example's state stays in
the nearest cache, and a reduction over N is a matrix-vector product rather than a batched one, which XLA's CPU compiler
turns into slow scalar loops.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kernels.selective_scan.arguments import ScanArgs, ScanOptions, activate_delta, compute_dtype, finish_output

LOG2_E = 1.4426950408889634


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


def _chunk_steps(args: ScanArgs, chunk: int):
    """The step-wise arrays of one example in chunks. Padding at the end is marked as padding: it is exact anywhere."""
    length = args.u.shape[0]
    valid = args.valid
    if valid is None and length % chunk:
        valid = jnp.ones(length, compute_dtype(args))
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


def _decay(delta_t, keep_t, A2):
    decay = jnp.exp2(delta_t * A2)
    return decay if keep_t is None else decay * keep_t


def _forward_one(args: ScanArgs, options: ScanOptions):
    """One example: arrays without the batch axis."""
    dtype = compute_dtype(args)
    A2 = args.A.T * LOG2_E  # exp2 is one instruction on most vector units; exp is that and a multiplication

    def chunk_step(h, c):
        entering = h
        delta, x = _prologue(c["u"], c["delta"], args.delta_bias, c["valid"], options.delta_softplus, dtype)

        def step(h, t):
            delta_t, x_t, B_t, C_t, keep_t = t
            h = _decay(delta_t, keep_t, A2) * h + B_t[:, None] * x_t
            return h, jnp.einsum("n,ne->e", C_t, h)

        h, y = jax.lax.scan(step, h, (delta, x, c["B"].astype(dtype), c["C"].astype(dtype), c["keep"]), reverse=options.reverse)
        y = _epilogue(y, c["u"], args.D, c["z"], c["valid"]).astype(args.u.dtype)
        return h, (y, entering)

    final, (y, entering) = jax.lax.scan(
        chunk_step, args.initial_state.T, _chunk_steps(args, options.chunk), reverse=options.reverse
    )
    return y.reshape((-1,) + y.shape[2:])[: args.u.shape[0]], final.T, entering


def _backward_one(args: ScanArgs, entering, dy, dfinal, options: ScanOptions) -> ScanArgs:
    """Gradients of one example, every one of them in the compute dtype or the argument's own."""
    dtype = compute_dtype(args)
    A = args.A.T
    A2 = A * LOG2_E
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
            return _decay(delta_t, keep_t, A2) * h + B_t[:, None] * x_t, h

        last, before = jax.lax.scan(recompute, entering, (delta, x, B, c["keep"]), reverse=options.reverse)
        if options.reverse:
            after = jnp.concatenate([last[None], before[:-1]])
        else:
            after = jnp.concatenate([before[1:], last[None]])
        y = jnp.einsum("kn,kne->ke", C, after)
        _, epilogue_vjp = jax.vjp(epilogue, y, c["u"], args.D, c["z"])
        gy, du_skip, dD_chunk, dz = epilogue_vjp(dy)
        dC = jnp.einsum("kne,ke->kn", after, gy)

        def adjoint(carry, t):
            g, dA = carry
            delta_t, x_t, B_t, C_t, keep_t, gy_t, before_t = t
            g = g + C_t[:, None] * gy_t
            dB_t = jnp.einsum("ne,e->n", g, x_t)
            dx_t = jnp.einsum("n,ne->e", B_t, g)
            g = g * _decay(delta_t, keep_t, A2)
            q = g * before_t
            return (g, dA + q * delta_t), (dB_t, dx_t, jnp.sum(q * A, axis=0))

        (g, dA), (dB, dx, ddelta) = jax.lax.scan(
            adjoint, (g, dA), (delta, x, B, C, c["keep"], gy, before), reverse=not options.reverse
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
    steps = (_chunk_steps(args, options.chunk), entering, _in_chunks(dy, options.chunk))
    (g, dA, dD, dbias), per_step = jax.lax.scan(chunk_step, carry, steps, reverse=not options.reverse)
    du, ddelta, dB, dC, dz = (None if x is None else x.reshape((-1,) + x.shape[2:])[:length] for x in per_step)
    return ScanArgs(
        u=du, delta=ddelta, A=dA.T, B=dB.astype(args.B.dtype), C=dC.astype(args.C.dtype), D=dD, z=dz,
        delta_bias=dbias, initial_state=g.T, valid=None, keep=None,
    )  # fmt: skip


_SHARED = ("A", "D", "delta_bias")


def _split(args: ScanArgs):
    """The arrays with a batch axis, and a function that joins one example of them with the shared ones."""
    shared = {name: getattr(args, name) for name in _SHARED}
    batched = args._replace(**{name: None for name in _SHARED})
    return batched, lambda one: one._replace(**shared)


def _over_batch(function, xs, loop: bool):
    return jax.lax.map(function, xs) if loop else jax.vmap(function)(xs)


def forward(args: ScanArgs, options: ScanOptions, *, loop_over_batch: bool):
    """y [B, L, E], final state [B, E, N], and the states entering each chunk [B, L / chunk, N, E]."""
    batched, join = _split(args)
    return _over_batch(lambda one: _forward_one(join(one), options), batched, loop_over_batch)


def backward(args: ScanArgs, entering, dy, dfinal, options: ScanOptions, *, loop_over_batch: bool) -> ScanArgs:
    """Gradients as ScanArgs; those of A, D and delta_bias per example, [B, ...]."""
    batched, join = _split(args)

    def one(inputs):
        args, entering, dy, dfinal = inputs
        return _backward_one(join(args), entering, dy, dfinal, options)

    return _over_batch(one, (batched, entering, dy, dfinal), loop_over_batch)
