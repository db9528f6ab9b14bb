"""RMS normalisation, plain and adaptive (modulated by a condition)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sedtalker_jax.precision import Precision


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * (1 + scale), statistics in float32.

    The scale is stored as its difference from one, so weight decay pulls towards the identity.
    """

    precision: Precision = Precision()
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
        scale = self.param("scale", nn.initializers.zeros, (x.shape[-1],), self.precision.params)
        y = x.astype(self.precision.statistics)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        return (y * (1.0 + scale)).astype(self.precision.compute)


class AdaptiveRMSNorm(nn.Module):
    """RMS normalisation with scale, shift and residual gate read from a condition.

    Returns the modulated input of the sub-block and the gate for its output:
        y = RMSNorm(x) * (1 + s(c)) + b(c),   x <- x + (1 + g(c)) * SubBlock(y)
    The projection starts at zero, so an untrained condition changes nothing.
    """

    precision: Precision = Precision()

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], condition: Float[Array, "B L C"] | None
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B L D"] | None]:
        y = RMSNorm(self.precision, name="norm")(x)
        if condition is None:
            return y, None
        modulation = nn.Dense(
            3 * x.shape[-1],
            kernel_init=nn.initializers.zeros,
            dtype=self.precision.compute,
            param_dtype=self.precision.params,
            name="modulation",
        )(condition)
        scale, shift, gate = jnp.split(modulation, 3, axis=-1)
        return y * (1.0 + scale) + shift, 1.0 + gate
