"""Edits of the emotion embedding inside the training step (EditEmoTalk, arXiv 2601.10000): e' = e + alpha v.

For use, boundaries are fitted to a finished diarizer's embeddings (emotion.editing). While the diarizer still learns there is
nothing to fit to, and nothing to store either: its linear category head draws the boundaries of the moment.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def move_across_boundary(
    embedding: Float[Array, "B T C"],
    mask: Bool[Array, "B T"],
    kernel: Float[Array, "C K"],
    bias: Float[Array, " K"],
    target: Int[Array, " B"],
    margin: Float[Array, " B"],
    span: Float[Array, "B 2"],
    times: Float[Array, " T"],
) -> Float[Array, "B T C"]:
    """Moves embeddings along the unit normal v of the target's boundary against the mean of all other emotions.

    alpha is one number for a clip, so that the movement within it stays: its mean over the valid frames comes to lie `margin`
    logits beyond the boundary. Only frames in `span` move.

    Args:
      embedding: [B, T, C].
      mask: [B, T], False = padding.
      kernel, bias: of the category head, logits = e @ kernel + bias.
      target: [B] index of the emotion to move to.
      margin: [B] logits by which the target is to lead.
      span: [B, 2] seconds.
      times: [T] of the frames.

    Returns:
      [B, T, C].
    """
    K = kernel.shape[1]
    # Logit k minus the mean of the others.
    contrast = (jnp.eye(K, dtype=kernel.dtype) * K - 1.0) / (K - 1)
    weight, threshold = (kernel @ contrast).T[target], (bias @ contrast)[target]
    length = jnp.maximum(jnp.linalg.norm(weight, axis=-1), 1e-6)
    count = jnp.maximum(mask.sum(axis=1), 1)
    lead = jnp.einsum("btc,bc->bt", embedding, weight) + threshold[:, None]
    mean_lead = jnp.where(mask, lead, 0.0).sum(axis=1) / count
    alpha = (margin - mean_lead) / length
    acts = (times[None, :] >= span[:, :1]) & (times[None, :] <= span[:, 1:])
    step = (alpha / length)[:, None] * weight
    return embedding + jnp.where(acts[..., None], step[:, None, :], 0.0).astype(embedding.dtype)


def chosen_rows(rows: Bool[Array, " B"], yes: jax.Array, no: jax.Array) -> jax.Array:
    """Row by row one of two arrays [B, ...]."""
    return jnp.where(rows.reshape(-1, *(1,) * (yes.ndim - 1)), yes, no)
