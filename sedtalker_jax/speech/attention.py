"""Self-attention of the family, with WavLM's gated relative position bias."""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sedtalker_jax.axes import SpeechFeatures, SpeechMask
from sedtalker_jax.randomness import ExampleKeys, dropout
from sedtalker_jax.speech.config import SpeechEncoderConfig
from sedtalker_jax.speech.layers import statistics_dtype

# Two gates, each read from the sum of four projections (the gated bias of XLM-E, arXiv 2106.16138, in WavLM's form).
_GATES, _PROJECTIONS_PER_GATE = 2, 4


@functools.lru_cache(maxsize=64)
def relative_position_buckets(num_frames: int, num_buckets: int, max_distance: int) -> Int[np.ndarray, distances]:
    """Bucket of each distance key - query, laid out for `toeplitz`: entry m mod 2T holds distance m.

    Half of the buckets serve each direction; within it, the first half of the distances are exact and the others
    logarithmic up to `max_distance`, beyond which all share the last bucket.
    """
    distance = np.arange(2 * num_frames)
    distance = np.where(distance < num_frames, distance, distance - 2 * num_frames)
    half = num_buckets // 2
    exact = half // 2
    away = np.abs(distance)
    # float32, as the trained models counted.
    ratio = np.log(np.maximum(away, exact).astype(np.float32) / np.float32(exact)) / np.float32(math.log(max_distance / exact))
    logarithmic = exact + (ratio * np.float32(half - exact)).astype(np.int64)
    return half * (distance > 0) + np.where(away < exact, away, np.minimum(logarithmic, half - 1))


def toeplitz(by_distance: Float[Array, "H distances"]) -> Float[Array, "H T T"]:
    """Matrix with entry (i, j) = by_distance[(j - i) mod 2T], made of reshapes, so that its gradient needs no scatter."""
    H, doubled = by_distance.shape
    T = doubled // 2
    rows = jnp.broadcast_to(by_distance[:, None, :], (H, T, doubled)).reshape(H, T * doubled)
    # Dropping one entry per row shifts each row by one against the last.
    return rows[:, : T * (doubled - 1)].reshape(H, T, doubled - 1)[:, :, :T]


class RelativePositionBias(nn.Module):
    """WavLM's learned bias per head and distance, before the gate: -> [H, T, T]. One table serves all layers."""

    config: SpeechEncoderConfig
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, num_frames: int) -> Float[Array, "H T T"]:
        config = self.config
        shape = (config.num_buckets, config.num_attention_heads)
        table = self.param("embedding", nn.initializers.normal(0.02), shape, self.param_dtype)
        buckets = relative_position_buckets(num_frames, config.num_buckets, config.max_bucket_distance)
        return toeplitz(jnp.take(table, buckets.astype(np.int32), axis=0).T)


class SelfAttention(nn.Module):
    """Multi-head attention over valid frames.

    scores = (q / sqrt(d)) k' + gate * bias; the gate reads the attention's input, split into heads without projection:
    a, b = sigmoid(sums of four projections each), gate = a (b const_h - 1) + 2. Softmax is in float32 or better.
    """

    config: SpeechEncoderConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: SpeechFeatures, mask: SpeechMask | None, bias: Float[Array, "H T T"] | None, keys: ExampleKeys | None
    ) -> SpeechFeatures:
        config = self.config
        B, T, D = x.shape
        heads = (B, T, config.num_attention_heads, config.head_size)
        dense = functools.partial(nn.Dense, D, dtype=self.dtype, param_dtype=self.param_dtype)
        query = dense(name="query")(x).reshape(heads) * config.head_size**-0.5
        key = dense(name="key")(x).reshape(heads)
        value = dense(name="value")(x).reshape(heads)
        statistics = statistics_dtype(self.dtype)
        scores = jnp.einsum("bthd,bshd->bhts", query, key, preferred_element_type=statistics)
        if bias is not None:
            scores = scores + self._gate(x.reshape(heads).astype(statistics))[..., None] * bias
        if mask is not None:
            scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(statistics).min)
        weights = dropout(jax.nn.softmax(scores, axis=-1), config.attention_dropout, keys, "attention_weights")
        y = jnp.einsum("bhts,bshd->bthd", weights.astype(self.dtype), value)
        return dense(name="output")(y.reshape(B, T, D))

    def _gate(self, x: Float[Array, "B T H d"]) -> Float[Array, "B H T"]:
        size = (self.config.head_size, _GATES * _PROJECTIONS_PER_GATE)
        kernel = self.param("gate_kernel", nn.initializers.lecun_normal(), size, self.param_dtype)
        bias = self.param("gate_bias", nn.initializers.zeros, size[1:], self.param_dtype)
        const = self.param("gate_const", nn.initializers.ones, (self.config.num_attention_heads,), self.param_dtype)
        # Summing the four projections first is the same and eight times smaller.
        summed = kernel.reshape(-1, _GATES, _PROJECTIONS_PER_GATE).sum(-1)
        gates = jax.nn.sigmoid(jnp.einsum("bthd,dg->gbht", x, summed) + bias.reshape(_GATES, -1).sum(-1)[:, None, None, None])
        return gates[0] * (gates[1] * const[:, None] - 1.0) + 2.0
