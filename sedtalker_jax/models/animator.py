"""The animator: speech features, emotion condition and a face template to motion coefficients."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from sedtalker_jax.axes import FaceFeatures, FaceMask, Motion
from sedtalker_jax.models.backbone import Backbone, BackboneConfig
from sedtalker_jax.models.emotion_condition import EmotionCondition
from sedtalker_jax.models.smoothing import TemporalSmoothing
from sedtalker_jax.precision import Precision
from sedtalker_jax.randomness import ExampleKeys


@dataclasses.dataclass(frozen=True)
class AnimatorConfig:
    """Attributes:
    backbone: the Transformer-Mamba stack.
    rank: R, size of the vertex basis.
    template_size: size of the template code (coefficients in the basis of the training templates).
    condition_width: width of the emotion condition.
    frame_stacking: animation frames joined into one step of the stack, whose cost falls by as much. Every frame keeps its own
      features going in, its own condition at the head and its own motion coming out.
    condition_reach: frames on either side over which the emotion condition is smoothed with learned kernels: a track jumps
      where the diarizer changes its mind, a face takes its time. 0 leaves it as it is.
    motion_reach: the same for the features that the head reads, so that it finds slow ones for the forehead beside quick ones
      for the lips, and steps of several frames join smoothly. 0 leaves them as they are.
    """

    backbone: BackboneConfig
    rank: int
    template_size: int
    condition_width: int = 64
    frame_stacking: int = 1
    condition_reach: int = 0
    motion_reach: int = 0


class Animator(nn.Module):
    """Motion coefficients, in units of the training motion's standard deviation.

    The template's code joins the condition, which modulates every block: identity decides how a phoneme or an emotion looks
    on this face, not which one it is.
    """

    config: AnimatorConfig
    precision: Precision = Precision()

    @nn.compact
    def __call__(
        self,
        features: FaceFeatures,
        mask: FaceMask,
        activations: Float[Array, "B F K-1"],
        residual: Float[Array, "B F C"] | None,
        template_code: Float[Array, "B Q"],
        keys: ExampleKeys | None = None,
    ) -> Motion:
        """Args:
          features: [B, F, D] speech features at the animation's frame times.
          mask: [B, F], False = padding.
          activations: [B, F, K-1] emotion strengths in [0, 1].
          residual: [B, F, C] label-free part of the emotion embedding, or None.
          template_code: [B, Q].
          keys: per example, None = deterministic.

        Returns:
          [B, F, R] in full precision.
        """
        config, precision = self.config, self.precision
        options = dict(dtype=precision.compute, param_dtype=precision.params)
        condition = EmotionCondition(config.condition_width, precision, name="emotion")(activations, residual, keys)
        if config.condition_reach:
            condition = self._smoothing(config.condition_reach, (0.5, config.condition_reach / 2), "condition_smoothing")(
                condition, mask
            )
        identity = nn.Dense(config.condition_width, name="template_hidden", **options)(template_code)
        identity = nn.Dense(config.condition_width, name="template", **options)(nn.silu(identity))
        condition = nn.silu(condition + identity[:, None, :])
        x = self._stack(jnp.where(mask[..., None], features, jnp.zeros((), features.dtype)))
        x = nn.Dense(config.backbone.width, name="project", **options)(x)
        # Emotion moves slowly: a step's blocks are modulated by the mean over its valid frames.
        present = mask[..., None].astype(condition.dtype)
        total, count = (self._per_step(c).sum(axis=2) for c in (condition * present, present))
        mean_condition = total / jnp.maximum(count, 1)
        x = Backbone(config.backbone, precision, name="backbone")(
            x, self._per_step(mask[..., None])[..., 0].any(axis=2), condition=mean_condition, keys=keys
        )
        if config.frame_stacking > 1:
            B, F = mask.shape
            x = nn.Dense(config.frame_stacking * config.backbone.width, name="unstack", **options)(x)
            x = x.reshape(B, -1, config.backbone.width)[:, :F]
        if config.motion_reach:
            x = self._smoothing(config.motion_reach, (0.3, config.motion_reach / 2), "motion_smoothing")(x, mask)
        # The head sees the condition directly as well: a still expression needs no detour through the stack.
        x = jnp.concatenate([x, condition.astype(x.dtype)], axis=-1)
        head = dict(dtype=precision.statistics, param_dtype=precision.params)
        return nn.Dense(
            config.rank, kernel_init=nn.initializers.variance_scaling(0.01, "fan_in", "normal"), name="head", **head
        )(x)

    def _smoothing(self, reach: int, deviations: tuple[float, float], name: str) -> TemporalSmoothing:
        return TemporalSmoothing(reach, deviations, self.config.backbone.causal, self.precision, name=name)

    def _per_step(self, x: Float[Array, "B F c"]) -> Float[Array, "B L stacking c"]:
        stacking = self.config.frame_stacking
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % stacking), (0, 0)))
        return x.reshape(x.shape[0], -1, stacking, x.shape[2])

    def _stack(self, x: Float[Array, "B F c"]) -> Float[Array, "B L stacking*c"]:
        x = self._per_step(x)
        return x.reshape(*x.shape[:2], -1)
