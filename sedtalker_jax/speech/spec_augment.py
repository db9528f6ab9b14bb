"""SpecAugment on hidden states: spans of frames replaced, spans of channels zeroed, drawn per example."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from sedtalker_jax.randomness import ExampleKeys, fold


def span_masks(
    keys: ExampleKeys, lengths: Int[Array, B], size: int, probability: float, span: int, min_spans: int
) -> Bool[Array, "B size"]:
    """True where a span covers the position.

    Follows transformers' _compute_mask_indices: floor(probability * length / span + u) spans, u uniform in [0, 1), at least
    `min_spans`, as many as fit; starts are drawn without replacement, spans may overlap. Draws do not depend on `size`, so
    padding a clip does not move its spans.

    Args:
      keys: one per example.
      lengths: [B] valid positions.
      size: padded length of the masked axis.
      probability: about the share of positions covered.
      span: length of a span.
      min_spans: least number of spans.
    """

    def one(key, length):
        count_key, start_key = jax.random.split(key)
        count = jnp.floor(probability * length / span + jax.random.uniform(count_key)).astype(jnp.int32)
        starts_possible = jnp.maximum(length - (span - 1), 0)
        count = jnp.minimum(jnp.maximum(count, min_spans), jnp.minimum(starts_possible, length // span))
        position = jnp.arange(size)
        priority = jnp.where(position < starts_possible, jax.random.uniform(start_key, (size,)), 2.0)
        rank = jnp.argsort(jnp.argsort(priority))
        started = jnp.cumsum(rank < count)
        # Covered: a start lies within the last `span` positions.
        return started - jnp.pad(started, (span, 0))[:size] > 0

    return jax.vmap(one)(keys, lengths)


def time_and_feature_masks(keys: ExampleKeys, lengths: Int[Array, B], num_frames: int, config):
    """The two masks of a config: frames to replace [B, T] and channels to zero [B, D]; None where the probability is 0."""
    time, feature = None, None
    if config.mask_time_prob > 0:
        time = span_masks(
            fold(keys, "mask_time"),
            lengths,
            num_frames,
            config.mask_time_prob,
            config.mask_time_length,
            config.mask_time_min_masks,
        )
    if config.mask_feature_prob > 0:
        channels = jnp.full_like(lengths, config.hidden_size)
        feature = span_masks(
            fold(keys, "mask_feature"),
            channels,
            config.hidden_size,
            config.mask_feature_prob,
            config.mask_feature_length,
            config.mask_feature_min_masks,
        )
    return time, feature
