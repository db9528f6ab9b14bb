"""Grouped-query self-attention with rotary positions (fixed, or with JambaTalk's low-rank learned correction)."""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sedtalker_jax.models.streaming import after_past, last_steps
from sedtalker_jax.precision import Precision


def rotary_angles(length: int, dim: int, base: float = 10_000.0) -> Float[np.ndarray, "L dim/2"]:
    """Angle of position p and channel pair i: p * base^(-2 i / dim)."""
    return np.arange(length)[:, None] * base ** (-np.arange(0, dim, 2) / dim)


def rotary_angles_at(positions: Int[Array, "*b"], dim: int, base: float = 10_000.0) -> Float[Array, "*b dim/2"]:
    """`rotary_angles` modulo 2 pi of positions that are known at run time only, in float32, to 1e-6 however large they are.

    Thousands of turns leave float32 no digits for the fraction of one. So a turn has 2^32 units here: the whole units of a
    step, times the position, are exact modulo a turn in uint32, and what is left of a step is less than one unit.
    """
    units = base ** (-np.arange(0, dim, 2) / dim) / (2 * np.pi) * 2.0**32
    steps = positions[..., None]
    rest = steps.astype(jnp.float32) * (units % 1.0).astype(np.float32)
    phase = steps.astype(jnp.uint32) * units.astype(np.uint32) + rest.astype(jnp.uint32)
    return phase.astype(jnp.float32) * np.float32(2 * np.pi / 2.0**32)


def rotate_pairs(x: Float[Array, "*b dim"], sin: Float[Array, "..."], cos: Float[Array, "..."]) -> Float[Array, "*b dim"]:
    """Rotates the channel pairs (2 i, 2 i + 1) of x by the angles whose sine and cosine are given."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def attention_mask(
    mask: Bool[Array, "B past+L"], *, causal: bool, window: int | None, past: int = 0
) -> Bool[Array, "B 1 L past+L"]:
    """Which keys each query may see: valid ones, no later ones if `causal`, none further than `window` steps away.

    The first `past` keys are of steps before the first query.
    """
    length = mask.shape[1]
    distance = np.arange(past, length)[:, None] - np.arange(length)[None, :]
    allowed = np.ones(distance.shape, bool)
    if causal:
        allowed &= distance >= 0
    if window is not None:
        allowed &= np.abs(distance) <= window
    return mask[:, None, None, :] & jnp.asarray(allowed)[None, None]


@flax.struct.dataclass
class AttentionState:
    """What causal attention with a window carries from one piece of a sequence to the next.

    Attributes:
      keys, values: [B, window, G, head_dim] of the last steps before the piece, oldest first, keys rotated.
      position: int32 [B], how many steps there were before the piece; of the oldest keys none may be true.
    """

    keys: Float[Array, "B window G head_dim"]
    values: Float[Array, "B window G head_dim"]
    position: Int[Array, "B"]


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
    def __call__(
        self, x: Float[Array, "B L D"], mask: Bool[Array, "B L"], state: AttentionState | None = None
    ) -> Float[Array, "B L D"] | tuple[Float[Array, "B L D"], AttentionState]:
        """Args:
        x: [B, L, D].
        mask: [B, L], False = padding.
        state: of the steps before these; then padding lies at the end of each row, and the result is (y, state). For causal
          attention with a window.
        """
        B, L, _ = x.shape
        H, G = self.num_heads, self.num_kv_heads
        head_dim = self.width // H
        query = self._dense(H * head_dim, "query")(x)
        key = self._dense(G * head_dim, "key")(x)
        value = self._dense(G * head_dim, "value")(x).reshape(B, L, G, head_dim)
        position = None if state is None else state.position
        query, key = self._rotate(query, H, "query", position), self._rotate(key, G, "key", position)
        query = query.reshape(B, L, G, H // G, head_dim)
        key = key.reshape(B, L, G, head_dim)
        seen, past = mask, 0
        if state is not None:
            key, value, past = after_past(state.keys, key), after_past(state.values, value), self.window
            filled = jnp.arange(past) >= past - state.position[:, None]
            seen = jnp.concatenate([filled, mask], axis=1)
        scores = jnp.einsum("blghd,bmgd->bghlm", query, key, preferred_element_type=self.precision.statistics)
        allowed = attention_mask(seen, causal=self.causal, window=self.window, past=past)[:, :, None]
        # A finite floor instead of -inf: rows of padding see no key, and must give finite (unused) numbers, not NaN.
        scores = jnp.where(allowed, scores * head_dim**-0.5, -1e30)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.precision.compute)
        mixed = jnp.einsum("bghlm,bmgd->blghd", weights, value).reshape(B, L, H * head_dim)
        y = self._dense(self.width, "out")(mixed)
        if state is None:
            return y
        following = state.position + mask.sum(axis=1, dtype=jnp.int32)
        return y, AttentionState(last_steps(key, mask), last_steps(value, mask), following)

    @nn.nowrap
    def initial_state(self, batch_size: int) -> AttentionState:
        """The state before the first step."""
        shape = (batch_size, self.window, self.num_kv_heads, self.width // self.num_heads)
        empty = jnp.zeros(shape, self.precision.compute)
        return AttentionState(empty, empty, jnp.zeros((batch_size,), jnp.int32))

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, use_bias=False, dtype=self.precision.compute, param_dtype=self.precision.params, name=name)

    def _rotate(
        self, x: Float[Array, "B L Q"], heads: int, role: str, position: Int[Array, "B"] | None
    ) -> Float[Array, "B L Q"]:
        B, L, Q = x.shape
        statistics = self.precision.statistics
        dim = Q if self.learned_rotary_rank else Q // heads
        # Positions of a whole sequence are constants of the program; those of a piece depend on where it lies.
        xp = np if position is None else jnp
        angles = rotary_angles(L, dim) if position is None else rotary_angles_at(position[:, None] + jnp.arange(L), dim)
        if self.learned_rotary_rank:
            base = jnp.asarray(xp.concatenate([xp.sin(angles), xp.cos(angles)], axis=-1), statistics)
            down = self.param(
                f"{role}_rotary_down", nn.initializers.lecun_normal(), (Q, self.learned_rotary_rank), self.precision.params
            )
            up = self.param(f"{role}_rotary_up", nn.initializers.zeros, (self.learned_rotary_rank, Q), self.precision.params)
            sin, cos = jnp.split(base + base @ down.astype(statistics) @ up.astype(statistics), 2, axis=-1)
            return rotate_pairs(x.astype(statistics), sin, cos).astype(x.dtype)
        sin, cos = (jnp.asarray(f(angles), statistics)[..., None, :] for f in (xp.sin, xp.cos))
        split = x.astype(statistics).reshape(B, L, heads, Q // heads)
        return rotate_pairs(split, sin, cos).reshape(B, L, Q).astype(x.dtype)
