"""Speech emotion diarizer: category, intensity and change of emotion for every 20 ms frame."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sedtalker_jax.axes import SpeechFeatures, SpeechMask
from sedtalker_jax.models.backbone import Backbone, BackboneConfig
from sedtalker_jax.precision import Precision
from sedtalker_jax.randomness import ExampleKeys, dropout
from sedtalker_jax.value_ranges import at_least, below_one


@dataclasses.dataclass(frozen=True)
class DiarizerConfig:
    """Attributes:
    labels: names of the emotions, neutral first.
    backbone: temporal layers over the encoder's features; None for a head that hears every frame by itself, as the SEDTalker
      release and SpeechBrain's recipe have it.
    hidden_sizes: widths of the ReLU layers in the place of a backbone; () leaves a linear head.
    hidden_dropout: of these.
    embedding_size: size C of the continuous embedding e_t from which every head reads.
    frame_stacking: speech frames joined into one step of the temporal layers. Emotion moves slowly: two frames a step halve
      the cost of the layers, and every step still gives each of its frames an embedding of its own.
    given_size: size of the vectors that it reads, one per recording, in the place of features of the sound; 0 = it hears. What
      is left of it then is a linear map to the embedding, and the heads.
    granularity: "frame" for an embedding of every frame, "utterance" for its mean over a clip's frames, which all of them then
      share: one emotion vector per utterance, as EditEmoTalk (arXiv 2601.10000) has it. Long recordings have one per window.
    level_scales: number of levels of every ordinal intensity scale that the data knows (emotion.labels.LEVEL_SCALES); () for
      none. Scales can't be compared, so each has thresholds of its own on the one intensity.
    """

    labels: tuple[str, ...]
    backbone: BackboneConfig | None
    hidden_sizes: tuple[int, ...] = ()
    hidden_dropout: float = 0.0
    embedding_size: int = 24
    frame_stacking: int = 1
    given_size: int = 0
    granularity: str = "frame"
    level_scales: tuple[int, ...] = ()

    def __post_init__(self):
        at_least(self, 1, "frame_stacking")
        at_least(self, 0, "given_size")
        below_one(self, "hidden_dropout")
        if not self.labels or self.labels[0] != "neutral":
            raise ValueError(f"labels={self.labels}: the first label must be 'neutral'")
        if self.embedding_size <= len(self.labels):
            raise ValueError(
                f"embedding_size={self.embedding_size} must exceed the {len(self.labels)} labels: "
                "what the class boundaries leave over carries the style of the emotion"
            )
        if self.backbone is not None and self.hidden_sizes:
            raise ValueError("hidden_sizes take the place of a backbone; give one of the two")
        if self.given_size and (self.backbone is not None or self.hidden_sizes or self.frame_stacking != 1):
            raise ValueError("given_size leaves nothing to hear over time: no backbone, hidden_sizes or frame_stacking")
        if self.granularity not in ("frame", "utterance"):
            raise ValueError(f"granularity={self.granularity!r}: expected 'frame' or 'utterance'")


@flax.struct.dataclass
class Emotion:
    """What the diarizer says of every frame.

    Attributes:
      embedding: [B, T, C], the continuous embedding e_t.
      logits: [B, T, K].
      intensity: [B, T] in [0, 1], how strong the emotion is if there is one; the logits say whether there is one.
      boundary_logits: [B, T], positive where the emotion changes near this frame.
      intensity_logits: [B, T], the intensity before its sigmoid.
    """

    embedding: Float[Array, "B T C"]
    logits: Float[Array, "B T K"]
    intensity: Float[Array, "B T"]
    boundary_logits: Float[Array, "B T"]
    intensity_logits: Float[Array, "B T"]


class EmotionHeads(nn.Module):
    """Reads category, intensity and boundary from an embedding, also from an edited one.

    The category head is linear, so the boundaries between emotions are hyperplanes whose normals can be walked along
    (EditEmoTalk, arXiv 2601.10000).
    """

    num_labels: int
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, embedding: Float[Array, "B T C"]) -> Emotion:
        # Losses and decoding are taken in full precision whatever the trunk computes in.
        options = dict(dtype=self.precision.statistics, param_dtype=self.precision.params)
        embedding = embedding.astype(self.precision.statistics)
        hidden = nn.silu(nn.Dense(32, name="intensity_hidden", **options)(embedding))
        strength = nn.Dense(1, name="intensity", **options)(hidden)[..., 0]
        return Emotion(
            embedding=embedding,
            logits=nn.Dense(self.num_labels, name="category", **options)(embedding),
            intensity=jax.nn.sigmoid(strength),
            boundary_logits=nn.Dense(1, name="boundary", **options)(hidden)[..., 0],
            intensity_logits=strength,
        )


class LevelThresholds(nn.Module):
    """Ordinal levels of one latent strength, each scale cut by thresholds of its own (the proportional odds model of
    McCullagh, "Regression models for ordinal data", 1980).

    Attributes:
      num_levels: of every scale.
    """

    num_levels: tuple[int, ...]
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, strength: Float[Array, "B T"], scale: Int[Array, "B T"]) -> Float[Array, "B T J"]:
        """Args: strength [B, T]; scale [B, T] index of each frame's scale (any value where there is none).

        Returns:
          logit of P(level > j) for j < J, J the largest number of levels minus one. Columns that a scale lacks mean nothing.
        """
        shape = (len(self.num_levels), max(self.num_levels) - 1)
        # The first threshold, then positive steps: the levels of a scale can't change their order.
        first = self.param("first", nn.initializers.constant(-1.0), shape[:1], self.precision.params)
        steps = self.param("steps", nn.initializers.zeros, (shape[0], shape[1] - 1), self.precision.params)
        thresholds = jnp.concatenate([first[:, None], first[:, None] + jnp.cumsum(nn.softplus(steps), axis=1)], axis=1)
        return strength[..., None] - thresholds.astype(strength.dtype)[scale]


class Diarizer(nn.Module):
    """Temporal layers, the embedding, and its heads."""

    config: DiarizerConfig
    precision: Precision = Precision()

    def setup(self):
        options = dict(dtype=self.precision.compute, param_dtype=self.precision.params)
        if self.config.backbone is not None:
            self.project = nn.Dense(self.config.backbone.width, **options)
            self.backbone = Backbone(self.config.backbone, self.precision)
        self.hidden = [nn.Dense(size, **options) for size in self.config.hidden_sizes]
        self.embed = nn.Dense(self.config.frame_stacking * self.config.embedding_size, **options)
        self.heads = EmotionHeads(len(self.config.labels), self.precision)
        if self.config.level_scales:
            self.level_thresholds = LevelThresholds(self.config.level_scales, self.precision)

    def __call__(self, features: SpeechFeatures, mask: SpeechMask, keys: ExampleKeys | None = None) -> Emotion:
        """Args: features [B, T, D] at 50 Hz; mask [B, T]; keys per example, None = deterministic."""
        B, T, _ = features.shape
        stacking = self.config.frame_stacking
        missing = -T % stacking
        x = jnp.where(mask[..., None], features, jnp.zeros((), features.dtype))
        x = jnp.pad(x, ((0, 0), (0, missing), (0, 0))).reshape(B, (T + missing) // stacking, -1)
        step_mask = jnp.pad(mask, ((0, 0), (0, missing))).reshape(B, -1, stacking).any(axis=-1)
        if self.config.backbone is not None:
            x = self.backbone(self.project(x), step_mask, keys=keys)
        for number, layer in enumerate(self.hidden):
            x = dropout(nn.relu(layer(x)), self.config.hidden_dropout, keys, f"hidden_{number}")
        embedding = self.embed(x).reshape(B, T + missing, self.config.embedding_size)[:, :T]
        if self.config.granularity == "utterance":
            embedding = _utterance_means(embedding.astype(self.precision.statistics), mask)
        return self.heads(embedding)

    def levels(self, intensity_logits: Float[Array, "B T"], scale: Int[Array, "B T"]) -> Float[Array, "B T J"]:
        """See LevelThresholds; needs config.level_scales."""
        return self.level_thresholds(intensity_logits, scale)

    def read(self, embedding: Float[Array, "B T C"]) -> Emotion:
        """The heads' reading of an embedding, such as an edited one."""
        return self.heads(embedding)


def _utterance_means(embedding: Float[Array, "B T C"], mask: SpeechMask) -> Float[Array, "B T C"]:
    """Every frame has the mean over its clip's valid frames."""
    weights = mask.astype(embedding.dtype)
    total = jnp.einsum("btc,bt->bc", embedding, weights)
    mean = total / jnp.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    return jnp.broadcast_to(mean[:, None, :], embedding.shape)
