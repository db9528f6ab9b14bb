"""Learned smoothing along time, with a bandwidth of its own for every channel."""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from sedtalker_jax.models.streaming import after_past, last_steps
from sedtalker_jax.precision import Precision


def gaussian_logits(num_channels: int, offsets: Float[np.ndarray, " k"], narrow: float, wide: float) -> np.ndarray:
    """Logarithms of Gaussians over `offsets`, [k, num_channels], whose deviations rise geometrically over the channels."""
    deviations = np.geomspace(narrow, wide, num_channels)
    return -0.5 * np.square(offsets[:, None] / deviations[None, :])


@flax.struct.dataclass
class SmoothingState:
    """The last steps before a piece of a sequence, oldest first.

    Attributes:
      values: [B, reach, D].
      present: [B, reach, 1], 1 where there was a step, 0 before the first.
    """

    values: Float[Array, "B reach D"]
    present: Float[Array, "B reach 1"]


class TemporalSmoothing(nn.Module):
    """y_t = sum_k w_k m_{t+k} x_{t+k} / sum_k w_k m_{t+k}, channel by channel, with learned w > 0 that sum to one.

    What is constant passes unchanged, also at the ends of a clip, and no kernel can sharpen. Channels start from quick to slow,
    so that layers after it choose at which pace each of their outputs may move.

    Attributes:
      reach: steps that a kernel sees on either side; of the past alone if `causal`.
      deviations: of the first and of the last channel's Gaussian at the start, in steps.
      causal: no step sees a later one.
    """

    reach: int
    deviations: tuple[float, float]
    causal: bool = False
    precision: Precision = Precision()

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], mask: Bool[Array, "B L"], state: SmoothingState | None = None
    ) -> Float[Array, "B L D"] | tuple[Float[Array, "B L D"], SmoothingState]:
        """Args:
        x: [B, L, D].
        mask: [B, L], False = padding, which adds nothing to valid steps.
        state: of the steps before these; then padding lies at the end of each row, and the result is (y, state). Causal
          smoothing only.
        """
        length, channels = x.shape[1:]
        last = 0 if self.causal else self.reach
        offsets = np.arange(-self.reach, last + 1)
        # Stored as the difference from the start, so that weight decay pulls towards it and not towards the widest mean.
        change = self.param("log_weight", nn.initializers.zeros, (len(offsets), channels), self.precision.params)
        start = gaussian_logits(channels, offsets.astype(float), *self.deviations)
        weights = jax.nn.softmax(change.astype(self.precision.statistics) + start, axis=0)
        present = mask[..., None].astype(x.dtype)
        values = jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))
        if state is None:
            pad = ((0, 0), (self.reach, last), (0, 0))
            values, counted = jnp.pad(values, pad), jnp.pad(present, pad)
        else:
            values, counted = after_past(state.values, values), after_past(state.present, present)
        total = weight = jnp.zeros((), weights.dtype)
        for tap in range(len(offsets)):
            total = total + weights[tap] * values[:, tap : tap + length]
            weight = weight + weights[tap] * counted[:, tap : tap + length]
        # Only steps of padding can lack every neighbour.
        y = (total / jnp.maximum(weight, 1e-6)).astype(x.dtype)
        return y if state is None else (y, SmoothingState(last_steps(values, mask), last_steps(counted, mask)))

    @nn.nowrap
    def initial_state(self, batch_size: int, channels: int) -> SmoothingState:
        """The state before the first step."""
        empty = jnp.zeros((batch_size, self.reach, channels), self.precision.compute)
        return SmoothingState(empty, empty[..., :1])
