"""The scan as a parallel prefix over (decay, input) pairs, by `jax.lax.associative_scan`.

Work grows by log L and [B, L, E, N] is stored several times over, so this form is a teacher and a baseline, not a default.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kernels.selective_scan.arguments import ScanArgs, ScanOptions, activate_delta, compute_dtype, finish_output


def scan(args: ScanArgs, options: ScanOptions) -> tuple[jax.Array, jax.Array]:
    """Returns y [B, L, E] in u.dtype and the final state [B, E, N]. Differentiated by JAX."""
    dtype = compute_dtype(args)
    delta = activate_delta(args.delta, args.delta_bias, options.delta_softplus, dtype)
    valid = None if args.valid is None else args.valid[:, :, None]
    if valid is not None:
        delta = delta * valid
    decay = jnp.exp(delta[..., None] * args.A)  # [B, L, E, N]
    if args.keep is not None:
        decay = decay * args.keep[:, :, None, None]
    inputs = (delta * args.u.astype(dtype))[..., None] * args.B.astype(dtype)[:, :, None, :]
    # The initial state enters as part of the first step's input.
    first = -1 if options.reverse else 0
    inputs = inputs.at[:, first].add(decay[:, first] * args.initial_state)

    def compose(earlier, later):
        # x -> a2 (a1 x + b1) + b2
        return later[0] * earlier[0], later[0] * earlier[1] + later[1]

    _, h = jax.lax.associative_scan(compose, (decay, inputs), reverse=options.reverse, axis=1)
    y = finish_output(
        jnp.einsum("blen,bln->ble", h, args.C.astype(dtype), precision=jax.lax.Precision.HIGHEST), args.u, args.D, args.z, valid
    )
    return y.astype(args.u.dtype), h[:, 0 if options.reverse else -1]
