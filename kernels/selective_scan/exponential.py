"""2^x in twelve vector operations, for the CPU form of the scan.

XLA's CPU exponential spends about twenty: range checks at both ends and a reduction by ln 2. The decays of a scan are 2^x
with x <= 0, so the lower end alone needs care and the reduction is exact.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

_COEFFICIENTS = tuple(
    np.float32(c) for c in (6.93147203e-01, 2.40226479e-01, 5.55033247e-02, 9.61843739e-03, 1.33988762e-03, 1.53533573e-04)
)
"""q with 2^f = 1 + f q(f), |f| <= 1/2: least squares on Chebyshev nodes, reweighted towards the smallest largest relative
error (2e-9, below float32's rounding). The constant term is exactly 1, so a decay close to 1 keeps a small relative error
in 1 - decay, which a slow state accumulates over its memory."""


def exp2_polynomial(x: jax.Array) -> jax.Array:
    """2^x for float32 x <= 127, within 1e-7 relative; at and below -126 it is 2^-126 (about 1e-38)."""
    x = jnp.maximum(x, np.float32(-126.0))
    whole = jnp.floor(x + np.float32(0.5))
    f = x - whole
    power = jnp.full_like(f, _COEFFICIENTS[-1])
    for c in _COEFFICIENTS[-2::-1]:
        power = power * f + c
    power = power * f + np.float32(1.0)
    # Adding to the exponent field multiplies by 2^whole.
    bits = jax.lax.bitcast_convert_type(power, jnp.int32) + (whole.astype(jnp.int32) << 23)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
