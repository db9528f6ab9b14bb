"""What models do with hidden states: a learned mixture of layers, and features at the times of animation frames."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sedtalker_jax.axes import FRAME_HOP, FRAME_WINDOW, SAMPLE_RATE, FaceFeatures, SpeechFeatures, SpeechMask


class WeightedLayerSum(nn.Module):
    """A mixture of hidden states with softmax weights, as in SUPERB (arXiv 2105.01051): [n, B, T, D] -> [B, T, D].

    Starts as the plain mean. With `norm_layers` each state is first brought to zero mean and unit variance over its channels,
    so that a layer counts by its weight and not by its scale (late states of pre-norm models are many times larger).
    """

    norm_layers: bool = False
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, hidden_states: Float[Array, "layers B T D"] | tuple[SpeechFeatures, ...]) -> SpeechFeatures:
        if isinstance(hidden_states, tuple | list):
            hidden_states = jnp.stack(hidden_states)
        logits = self.param("logits", nn.initializers.zeros, (len(hidden_states),), self.param_dtype)
        weights = jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
        if self.norm_layers:
            states = hidden_states.astype(jnp.promote_types(hidden_states.dtype, jnp.float32))
            states = states - states.mean(axis=-1, keepdims=True)
            states = states * jax.lax.rsqrt(jnp.square(states).mean(axis=-1, keepdims=True) + 1e-5)
            hidden_states = states.astype(hidden_states.dtype)
        return jnp.einsum("n,nbtd->btd", weights.astype(hidden_states.dtype), hidden_states)


def resample_to_fps(features: SpeechFeatures, mask: SpeechMask, fps: Float[Array, B] | float, num_frames: int) -> FaceFeatures:
    """Speech features at the times of animation frames: frame f lies at f / fps seconds, whatever the clip's length.

    Linear interpolation at position t = (16000 f / fps - 200) / 320 on the speech frames' axis; before the first and after the
    last valid frame the nearest valid one holds. Animation frames past the clip's end therefore repeat its last frame.

    Args:
      features: [B, T, D].
      mask: bool [B, T], valid frames first.
      fps: frames per second, [B] or one number.
      num_frames: F.

    Returns:
      [B, F, D]; zeros for a clip without a valid frame.
    """
    # Positions stay in float32: bfloat16 can't tell frame 257 from 258.
    dtype = jnp.promote_types(features.dtype, jnp.float32)
    fps = jnp.broadcast_to(jnp.asarray(fps, dtype), features.shape[:1])
    seconds = jnp.arange(num_frames, dtype=dtype)[None, :] / fps[:, None]
    return _interpolate(features, mask, (SAMPLE_RATE * seconds - FRAME_WINDOW / 2) / FRAME_HOP)


def resample_align_corners(
    features: SpeechFeatures, mask: SpeechMask, num_frames: Array | int, padded_frames: int
) -> FaceFeatures:
    """Speech features stretched over an animation so that the first and last frames of both meet.

    This is F.interpolate(align_corners=True) of FaceFormer and its followers. It drifts by up to 12.5 ms and depends on the
    clip's length: for the `paper` configuration only.

    Args:
      features: [B, T, D].
      mask: bool [B, T], valid frames first.
      num_frames: animation frames of each clip, [B] or one number.
      padded_frames: F.

    Returns:
      [B, F, D]; frames past a clip's own number repeat its last one.
    """
    dtype = jnp.promote_types(features.dtype, jnp.float32)
    last = jnp.maximum(mask.sum(axis=1) - 1, 0).astype(dtype)[:, None]
    count = jnp.broadcast_to(jnp.asarray(num_frames), features.shape[:1]).astype(dtype)[:, None]
    positions = jnp.arange(padded_frames, dtype=dtype)[None, :] * last / jnp.maximum(count - 1, 1)
    return _interpolate(features, mask, positions)


def _interpolate(features: SpeechFeatures, mask: SpeechMask, positions: Float[Array, "B F"]) -> FaceFeatures:
    last = jnp.maximum(mask.sum(axis=1) - 1, 0)[:, None]
    positions = jnp.clip(positions, 0, last.astype(positions.dtype))
    low = jnp.floor(positions).astype(jnp.int32)
    high = jnp.minimum(low + 1, last)
    fraction = (positions - low.astype(positions.dtype))[..., None].astype(features.dtype)
    features = jnp.where(mask[..., None], features, jnp.zeros((), features.dtype))
    below = jnp.take_along_axis(features, low[..., None], axis=1)
    above = jnp.take_along_axis(features, high[..., None], axis=1)
    return below * (1 - fraction) + above * fraction
