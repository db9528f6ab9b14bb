"""The animator: speech features, emotion condition and a face template to motion coefficients."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sedtalker_jax.axes import FaceFeatures, FaceMask, Motion
from sedtalker_jax.models.backbone import Backbone, BackboneConfig, BackboneState
from sedtalker_jax.models.emotion_condition import EmotionCondition
from sedtalker_jax.models.smoothing import SmoothingState, TemporalSmoothing
from sedtalker_jax.models.subject import UNKNOWN_SUBJECT
from sedtalker_jax.precision import Precision
from sedtalker_jax.randomness import ExampleKeys, fold
from sedtalker_jax.value_ranges import at_least, below_one

HEAD_INPUT = "head_input"
"""Intermediate value [B, F, D] of an Animator: what its last layer turns into motion."""


@dataclasses.dataclass(frozen=True)
class AnimatorConfig:
    """Attributes:
    backbone: the Transformer-Mamba stack.
    rank: R, size of the vertex basis.
    template_size: size of the template code (coefficients in the basis of the training templates).
    condition_width: width of the emotion condition.
    frame_stacking: animation frames joined into one step of the stack, whose cost falls by as much. Every frame keeps its own
      features going in, its own condition at the head and its own motion coming out. In a causal stack a frame so sees to
      the end of its step, up to frame_stacking - 1 later frames.
    condition_reach: frames on either side over which the emotion condition is smoothed with learned kernels: a track jumps
      where the diarizer changes its mind, a face takes its time. 0 leaves it as it is.
    motion_reach: the same for the features that the head reads, so that it finds slow ones for the forehead beside quick ones
      for the lips, and steps of several frames join smoothly. 0 leaves them as they are.
    num_subjects: training subjects whose way of moving is learned, each as a vector of its own. In an experiment's config the
      largest number that is allowed; the data says how many there are. 0: nothing of a subject but the template is known.
    subject_dropout: share of training examples whose subject is called unknown, as an unseen one is at inference.
    """

    backbone: BackboneConfig
    rank: int
    template_size: int
    condition_width: int = 64
    frame_stacking: int = 1
    condition_reach: int = 0
    motion_reach: int = 0
    num_subjects: int = 0
    subject_dropout: float = 0.2

    def __post_init__(self):
        at_least(self, 1, "rank", "template_size", "condition_width", "frame_stacking")
        at_least(self, 0, "condition_reach", "motion_reach", "num_subjects")
        below_one(self, "subject_dropout")


@flax.struct.dataclass
class AnimatorState:
    """What a causal animator carries from one piece of a recording to the next. Its size does not depend on the past's length.

    Attributes:
      backbone: of the stack.
      condition, motion: of the smoothings, None without one.
    """

    backbone: BackboneState
    condition: SmoothingState | None
    motion: SmoothingState | None


class Animator(nn.Module):
    """Motion coefficients, in units of the training motion's standard deviation.

    The template's code joins the condition, which modulates every block: identity decides how a phoneme or an emotion looks
    on this face, not which one it is. So does the subject's vector: two people of one shape don't move alike.
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
        state: AnimatorState | None = None,
        subject: Int[Array, "B"] | None = None,
    ) -> Motion | tuple[Motion, AnimatorState]:
        """Args:
          features: [B, F, D] speech features at the animation's frame times.
          mask: [B, F], False = padding.
          activations: [B, F, K-1] emotion strengths in [0, 1].
          residual: [B, F, C] label-free part of the emotion embedding, or None.
          template_code: [B, Q].
          keys: per example, None = deterministic.
          state: of the frames before these; None = a whole clip. Valid frames that are no multiple of frame_stacking end a
            row's recording: what follows them would belong to their last step.
          subject: [B] FaceCodec.subject_index of whom the faces are to move like; None = unknown ones.

        Returns:
          [B, F, R] in full precision; with a state, that and the state after the last valid frames.
        """
        config, precision = self.config, self.precision
        options = dict(dtype=precision.compute, param_dtype=precision.params)
        condition = EmotionCondition(config.condition_width, precision, name="emotion")(activations, residual, keys)
        after_condition = after_motion = None
        if config.condition_reach:
            condition, after_condition = self._smooth("condition", condition, mask, state)
        identity = nn.Dense(config.condition_width, name="template_hidden", **options)(template_code)
        identity = nn.Dense(config.condition_width, name="template", **options)(nn.silu(identity))
        if config.num_subjects:
            identity = identity + self._style(len(mask), subject, keys)
        condition = nn.silu(condition + identity[:, None, :])
        x = self._stack(jnp.where(mask[..., None], features, jnp.zeros((), features.dtype)))
        x = nn.Dense(config.backbone.width, name="project", **options)(x)
        # Emotion moves slowly: a step's blocks are modulated by the mean over its valid frames.
        present = mask[..., None].astype(condition.dtype)
        total, count = (self._per_step(c).sum(axis=2) for c in (condition * present, present))
        mean_condition = total / jnp.maximum(count, 1)
        steps = self._per_step(mask[..., None])[..., 0].any(axis=2)
        backbone = Backbone(config.backbone, precision, name="backbone")
        if state is None:
            x = backbone(x, steps, condition=mean_condition, keys=keys)
        else:
            x, after_backbone = backbone(x, steps, condition=mean_condition, keys=keys, state=state.backbone)
        if config.frame_stacking > 1:
            B, F = mask.shape
            x = nn.Dense(config.frame_stacking * config.backbone.width, name="unstack", **options)(x)
            x = x.reshape(B, -1, config.backbone.width)[:, :F]
        if config.motion_reach:
            x, after_motion = self._smooth("motion", x, mask, state)
        # The head sees the condition directly as well: a still expression needs no detour through the stack.
        x = jnp.concatenate([x, condition.astype(x.dtype)], axis=-1)
        self.sow("intermediates", HEAD_INPUT, x)
        head = dict(dtype=precision.statistics, param_dtype=precision.params)
        motion = nn.Dense(
            config.rank, kernel_init=nn.initializers.variance_scaling(0.01, "fan_in", "normal"), name="head", **head
        )(x)
        return motion if state is None else (motion, AnimatorState(after_backbone, after_condition, after_motion))

    def _style(
        self, num_rows: int, subject: Int[Array, "B"] | None, keys: ExampleKeys | None
    ) -> Float[Array, "B condition_width"]:
        """The vector of each row's subject; in training sometimes the unknown one's, which so learns what they share."""
        config, precision = self.config, self.precision
        if subject is None:
            subject = jnp.full((num_rows,), UNKNOWN_SUBJECT)
        if keys is not None:
            named = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - config.subject_dropout))(fold(keys, "subject"))
            subject = jnp.where(named, subject, UNKNOWN_SUBJECT)
        table = nn.Embed(
            config.num_subjects + 1,
            config.condition_width,
            embedding_init=nn.initializers.zeros,
            dtype=precision.compute,
            param_dtype=precision.params,
            name="subject",
        )
        return table(subject)

    @nn.nowrap
    def initial_state(self, batch_size: int) -> AnimatorState:
        """The state before the first frame.

        Raises:
          ValueError: an animator of this shape can't take a recording piece by piece.
        """
        config = self.config
        condition = motion = None
        if config.condition_reach:
            condition = self._smoothing("condition").initial_state(batch_size, config.condition_width)
        if config.motion_reach:
            motion = self._smoothing("motion").initial_state(batch_size, config.backbone.width)
        return AnimatorState(Backbone(config.backbone, self.precision).initial_state(batch_size), condition, motion)

    @nn.nowrap
    def _smoothing(self, what: str) -> TemporalSmoothing:
        """Of "condition" or "motion"."""
        reach, narrow = dict(condition=(self.config.condition_reach, 0.5), motion=(self.config.motion_reach, 0.3))[what]
        return TemporalSmoothing(
            reach, (narrow, reach / 2), self.config.backbone.causal, self.precision, name=f"{what}_smoothing"
        )

    def _smooth(self, what: str, x: FaceFeatures, mask: FaceMask, state: AnimatorState | None):
        """(smoothed, state after it or None)."""
        smoothing = self._smoothing(what)
        return (smoothing(x, mask), None) if state is None else smoothing(x, mask, getattr(state, what))

    def _per_step(self, x: Float[Array, "B F c"]) -> Float[Array, "B L stacking c"]:
        stacking = self.config.frame_stacking
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % stacking), (0, 0)))
        return x.reshape(x.shape[0], -1, stacking, x.shape[2])

    def _stack(self, x: Float[Array, "B F c"]) -> Float[Array, "B L stacking*c"]:
        x = self._per_step(x)
        return x.reshape(*x.shape[:2], -1)
