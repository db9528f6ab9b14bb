"""What lets a causal model take a sequence piece by piece: states, and what becomes of them.

A layer that is called with a state takes the next piece of a sequence and returns (output, state for the piece after it), equal
to what it gives for the whole sequence up to rounding. Pieces have any lengths; padding lies behind a piece's valid steps, and
leaves the state as it was.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped


def last_steps(steps: Shaped[Array, "B P+L *c"], mask: Bool[Array, "B L"]) -> Shaped[Array, "B P *c"]:
    """The P steps up to the last valid one.

    Args:
      steps: P steps that were carried over, and the L of a piece.
      mask: [B, L], False = padding at the end of the piece.
    """
    past = steps.shape[1] - mask.shape[1]
    index = mask.sum(axis=1, dtype=jnp.int32)[:, None] + jnp.arange(past)
    return jnp.take_along_axis(steps, index.reshape(*index.shape, *(1,) * (steps.ndim - 2)), axis=1)


def after_past(past: Float[Array, "B P *c"], piece: Float[Array, "B L *c"]) -> Float[Array, "B P+L *c"]:
    """The steps that were carried over, followed by those of the piece, in the piece's number format."""
    return jnp.concatenate([past.astype(piece.dtype), piece], axis=1)
