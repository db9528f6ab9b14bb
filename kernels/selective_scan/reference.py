"""The scan as the paper writes it, one step after another. Written to be read; every other form is tested against it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kernels.selective_scan.arguments import ScanArgs, ScanOptions, activate_delta, compute_dtype, finish_output


def scan(args: ScanArgs, options: ScanOptions) -> tuple[jax.Array, jax.Array]:
    """h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t,  y_t = C_t h_t  (arXiv 2312.00752, eq. 2 with zero-order-hold A).

    Returns y [B, L, E] in u.dtype and the final state [B, E, N]. Differentiated by JAX, which stores every state.
    """
    dtype = compute_dtype(args)
    delta = activate_delta(args.delta, args.delta_bias, options.delta_softplus, dtype)
    ones = jnp.ones(args.u.shape[:2], dtype)
    valid = ones if args.valid is None else args.valid
    keep = ones if args.keep is None else args.keep

    def step(h, inputs):
        u_t, delta_t, B_t, C_t, valid_t, keep_t = inputs  # [B, E], [B, E], [B, N], [B, N], [B], [B]
        delta_t = delta_t * valid_t[:, None]  # a padded step: decay 1, input 0
        decay = jnp.exp(delta_t[:, :, None] * args.A) * keep_t[:, None, None]
        h = decay * h + (delta_t * u_t.astype(dtype))[:, :, None] * B_t.astype(dtype)[:, None, :]
        y_t = jnp.sum(h * C_t.astype(dtype)[:, None, :], axis=-1)
        return h, y_t

    steps = [jnp.moveaxis(x, 1, 0) for x in (args.u, delta, args.B, args.C, valid, keep)]
    final, y = jax.lax.scan(step, args.initial_state, tuple(steps), reverse=options.reverse)
    y = finish_output(jnp.moveaxis(y, 0, 1), args.u, args.D, args.z, None if args.valid is None else valid[:, :, None])
    return y.astype(args.u.dtype), final
