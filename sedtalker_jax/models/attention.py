"""Grouped-query self-attention with rotary positions (fixed, or with JambaTalk's low-rank learned correction)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from sedtalker_jax.precision import Precision


def rotary_angles(length: int, dim: int, base: float = 10_000.0) -> Float[np.ndarray, "L dim/2"]:
    """Angle of position p and channel pair i: p * base^(-2 i / dim)."""
    return np.arange(length)[:, None] * base ** (-np.arange(0, dim, 2) / dim)


def rotate_pairs(x: Float[Array, "*b dim"], sin: Float[Array, "..."], cos: Float[Array, "..."]) -> Float[Array, "*b dim"]:
    """Rotates the channel pairs (2 i, 2 i + 1) of x by the angles whose sine and cosine are given."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def attention_mask(mask: Bool[Array, "B L"], *, causal: bool, window: int | None) -> Bool[Array, "B 1 L L"]:
    """Which keys each query may see: valid ones, no later ones if `causal`, none further than `window` steps away."""
    length = mask.shape[1]
    distance = np.arange(length)[:, None] - np.arange(length)[None, :]
    allowed = np.ones((length, length), bool)
    if causal:
        allowed &= distance >= 0
    if window is not None:
        allowed &= np.abs(distance) <= window
    return mask[:, None, None, :] & jnp.asarray(allowed)[None, None]


class Attention(nn.Module):
    """Grouped-query attention: `num_heads` query heads share `num_kv_heads` keys and values.

    Attributes:
      width: D, of input and output.
      num_heads: query heads H; must divide D.
      num_kv_heads: key / value heads; must divide num_heads.
      causal: a query sees no later key.
      window: a query sees no key further away than this many steps; None = all.
      learned_rotary_rank: 0 for fixed rotary positions; r > 0 adds the low-rank correction of JambaTalk (LRL-RoPE,
        sin and cos of all angles, concatenated, times W1 (D x r) W2 (r x D) is added to them before the rotation, which acts
        on the full width before the split into heads. W2 starts at zero, so training starts from fixed positions.
    """

    width: int
    num_heads: int
    num_kv_heads: int
    causal: bool = False
    window: int | None = None
    learned_rotary_rank: int = 0
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B L D"]:
        B, L, _ = x.shape
        H, G = self.num_heads, self.num_kv_heads
        head_dim = self.width // H
        query = self._dense(H * head_dim, "query")(x)
        key = self._dense(G * head_dim, "key")(x)
        value = self._dense(G * head_dim, "value")(x).reshape(B, L, G, head_dim)
        query, key = self._rotate(query, H, "query"), self._rotate(key, G, "key")
        query = query.reshape(B, L, G, H // G, head_dim)
        key = key.reshape(B, L, G, head_dim)
        scores = jnp.einsum("blghd,bmgd->bghlm", query, key, preferred_element_type=self.precision.statistics)
        allowed = attention_mask(mask, causal=self.causal, window=self.window)[:, :, None]
        # A finite floor instead of -inf: rows of padding see no key, and must give finite (unused) numbers, not NaN.
        scores = jnp.where(allowed, scores * head_dim**-0.5, -1e30)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.precision.compute)
        mixed = jnp.einsum("bghlm,bmgd->blghd", weights, value).reshape(B, L, H * head_dim)
        return self._dense(self.width, "out")(mixed)

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, use_bias=False, dtype=self.precision.compute, param_dtype=self.precision.params, name=name)

    def _rotate(self, x: Float[Array, "B L Q"], heads: int, role: str) -> Float[Array, "B L Q"]:
        B, L, Q = x.shape
        statistics = self.precision.statistics
        if self.learned_rotary_rank:
            angles = rotary_angles(L, Q)
            base = jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], axis=-1), statistics)
            down = self.param(
                f"{role}_rotary_down", nn.initializers.lecun_normal(), (Q, self.learned_rotary_rank), self.precision.params
            )
            up = self.param(f"{role}_rotary_up", nn.initializers.zeros, (self.learned_rotary_rank, Q), self.precision.params)
            sin, cos = jnp.split(base + base @ down.astype(statistics) @ up.astype(statistics), 2, axis=-1)
            return rotate_pairs(x.astype(statistics), sin, cos).astype(x.dtype)
        angles = rotary_angles(L, Q // heads)
        sin, cos = jnp.asarray(np.sin(angles), statistics)[:, None], jnp.asarray(np.cos(angles), statistics)[:, None]
        split = x.astype(statistics).reshape(B, L, heads, Q // heads)
        return rotate_pairs(split, sin, cos).reshape(B, L, Q).astype(x.dtype)
