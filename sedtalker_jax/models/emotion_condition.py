"""From what the diarizer says to what drives the face: activation, residual embedding, condition.

One signal drives the face, so that it cannot contradict itself: the activation a in [0, 1]^(K-1), one strength per
non-neutral emotion, and a residual of the emotion embedding that can tell style but not label.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sedtalker_jax.emotion.decoding import SHARPNESS
from sedtalker_jax.precision import Precision
from sedtalker_jax.randomness import ExampleKeys, fold


def activation(
    logits: Float[Array, "*b K"],
    intensity: Float[Array, "*b"],
    *,
    temperature: jax.Array | float = 1.0,
    sharpness: float = SHARPNESS,
) -> Float[Array, "*b K-1"]:
    """Strength of every non-neutral emotion: sharpened calibrated posterior times intensity.

    a_k = p_k^g / sum_j p_j^g * intensity, with p = softmax(logits / temperature) and g the sharpness. A posterior is not a
    blend: doubt between two emotions must not draw half of each. Neutral is the first class.
    """
    posterior = jax.nn.softmax(sharpness * logits / temperature, axis=-1)
    return posterior[..., 1:] * intensity[..., None]


def class_normal_projection(classifier: Float[Array, "C K"]) -> Float[Array, "C C"]:
    """Projection P onto what the linear classifier of e can't see: I minus the projection on its class differences.

    Args:
      classifier: kernel [C, K] of the logits, logits = e @ classifier + bias.
    """
    differences = classifier - classifier.mean(axis=1, keepdims=True)
    basis, triangle = jnp.linalg.qr(differences[:, 1:])
    # A degenerate classifier (all columns alike, as at initialisation) spans nothing; its QR basis would be arbitrary.
    used = jnp.abs(jnp.diagonal(triangle)) > 1e-6
    basis = basis * used
    return jnp.eye(classifier.shape[0], dtype=classifier.dtype) - basis @ basis.T


class EmotionCondition(nn.Module):
    """c_t = E_0 + sum_k psi_k(a_tk) + W P e_t.

    psi_k is piecewise linear through psi_k(0) = 0 and learned vectors at a = 1/3, 2/3 and 1, so that intensity may bend
    differently for every emotion. The residual P e_t is dropped for half of the training clips, so that the face works
    without one (user keys, data without emotional voices).
    """

    width: int
    precision: Precision = Precision()
    num_knots: int = 3
    residual_dropout: float = 0.5

    @nn.compact
    def __call__(
        self,
        activations: Float[Array, "B F K-1"],
        residual: Float[Array, "B F C"] | None = None,
        keys: ExampleKeys | None = None,
    ) -> Float[Array, "B F D"]:
        params, compute = self.precision.params, self.precision.compute
        num_emotions = activations.shape[-1]
        base = self.param("base", nn.initializers.normal(0.02), (self.width,), params)
        knots = self.param("knots", nn.initializers.normal(0.02), (num_emotions, self.num_knots, self.width), params)
        # Hat functions at 1/n, ..., 1; the one at 0 is left out, which is psi(0) = 0.
        position = jnp.clip(activations, 0.0, 1.0)[..., None] * self.num_knots
        hats = jnp.maximum(0.0, 1.0 - jnp.abs(position - jnp.arange(1, self.num_knots + 1, dtype=activations.dtype)))
        condition = base.astype(compute) + jnp.einsum("bfkn,knd->bfd", hats.astype(compute), knots.astype(compute))
        if residual is None:
            return condition
        if keys is not None:
            kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - self.residual_dropout))(fold(keys, "residual"))
            residual = residual * kept[:, None, None].astype(residual.dtype)
        project = nn.Dense(
            self.width,
            use_bias=False,
            kernel_init=nn.initializers.zeros,
            dtype=compute,
            param_dtype=params,
            name="residual",
        )
        return condition + project(residual)
