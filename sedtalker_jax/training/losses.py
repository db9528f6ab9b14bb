"""The joint objective of diarizer and animator, as sums and weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sedtalker_jax.models.sedtalker import SEDTalkerModel
from sedtalker_jax.randomness import example_keys, fold
from sedtalker_jax.training.motion_losses import MOTION_TERMS, FaceLossConstants, motion_sums, motion_weights
from sedtalker_jax.training.motion_readers import READER_TERMS, FrozenReader, reader_sums, reader_weights
from sedtalker_jax.training.step import Batch
from sedtalker_jax.value_ranges import at_least, below_one


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Scale of every term; 0 leaves a term out.

    Attributes:
      category: cross-entropy of the emotion per labelled frame, weighted by class.
      intensity: squared error of the intensity per frame that has one: onsets too, whose category is left unscored.
      levels: binary cross-entropy of "stronger than level j" for every threshold of the frame's ordinal scale.
      boundary: binary cross-entropy of "the emotion changes here".
      vertices: mean squared vertex error, in units of the training motion's mean squared displacement.
      lips, upper_face: the same over one region, in units of that region's.
      velocity: squared error of frame-to-frame differences of the lips, in units of the lips' mean squared difference.
      upper_face_velocity: the same over the upper face, which is still most of the time and must not tremble.
      acceleration, upper_face_acceleration: squared error of second differences, in the same units as the velocities.
      lip_closure: squared error of the vector between the inner lips on the frames in which the true lips are shut, in units of
        that vector's mean square over the training motion.
      shown_emotion: divergence of the emotion that a frozen reader finds in the motion from the one in the true one, in nats.
      lip_reading: squared error of a frozen lip reader's features, in units of their spread (training.motion_readers).
      consistency: squared error between the emotion that the motion shows and the one that the diarizer's heads read from the
        embedding behind it, heard or edited, in units of the strengths' mean square (training.motion_readers).
      moe_balance: load balance of the experts, the mean over clips and blocks with experts; 1 where the load is even.
      label_smoothing: of the category term.
    """

    category: float = 1.0
    intensity: float = 1.0
    levels: float = 1.0
    boundary: float = 0.1
    vertices: float = 1.0
    lips: float = 1.0
    upper_face: float = 0.5
    velocity: float = 0.5
    upper_face_velocity: float = 0.0
    acceleration: float = 0.0
    upper_face_acceleration: float = 0.0
    lip_closure: float = 0.0
    shown_emotion: float = 0.0
    lip_reading: float = 0.0
    consistency: float = 0.0
    moe_balance: float = 0.01
    label_smoothing: float = 0.05

    def __post_init__(self):
        at_least(self, 0, *(field.name for field in dataclasses.fields(self)))
        below_one(self, "label_smoothing")


class JointObjective:
    """Loss of SEDTalkerModel over a joint batch; see training.step.Objective for how sums and weights combine."""

    def __init__(
        self,
        model: SEDTalkerModel,
        config: LossConfig,
        class_weights: np.ndarray | None,
        face: FaceLossConstants | None,
        readers: Mapping[str, FrozenReader] | None = None,
    ):
        """Args:
        model: the joint model.
        config: scales.
        class_weights: [K] weight of every label, in the order of the model's labels; None when batches have no speech part.
        face: constants of the face data; None when batches have no face part.
        readers: the fitted reader of every one of READER_TERMS that has a scale.
        """
        if class_weights is not None and len(class_weights) != len(model.config.diarizer.labels):
            raise ValueError(f"class_weights: {len(class_weights)} values for labels {model.config.diarizer.labels}")
        self.model, self.config, self.face = model, config, face
        self.readers = dict(readers or {})
        self.class_weights = None if class_weights is None else np.asarray(class_weights)
        every = dataclasses.asdict(config)
        every.pop("label_smoothing")
        self.scales = {name: scale for name, scale in every.items() if scale}
        unread = [] if face is None else [name for name in READER_TERMS if name in self.scales and name not in self.readers]
        if unread:
            raise ValueError(f"no fitted reader for {', '.join(unread)}")
        lacking = [] if face is None else [name for name in MOTION_TERMS if name in self.scales and name not in face.gram]
        if lacking:
            raise ValueError(f"no Gram matrix for {', '.join(lacking)}; the face constants have {', '.join(face.gram)}")

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """Denominators, from masks only."""
        weights: dict[str, jax.Array] = {}
        if "speech" in batch:
            part = batch["speech"]
            weights["category"] = jnp.sum(self._frame_weights(part))
            weights["intensity"] = jnp.sum(part["intensity_mask"])
            weights["boundary"] = jnp.sum(part["boundary_mask"])
            if self._has_levels(part):
                weights["levels"] = jnp.sum(part["level"] >= 0).astype(jnp.float32)
        if "face" in batch:
            weights.update(motion_weights(batch["face"], self.face))
            weights.update(reader_weights(batch["face"], self.readers))
        balanced = self._balance_weight(batch)
        if balanced is not None:
            weights["moe_balance"] = balanced
        return {name: weight for name, weight in weights.items() if name in self.scales}

    def sums(self, params: Any, batch: Batch, step: jax.Array) -> dict[str, jax.Array]:
        """Numerators. Randomness comes from the rows' seeds and the step."""
        return self._sums(params, batch, {name: fold(example_keys(part["seed"], step), name) for name, part in batch.items()})

    def validation_sums(self, params: Any, batch: Batch) -> dict[str, jax.Array]:
        """Numerators without randomness."""
        return self._sums(params, batch, None)

    def _sums(self, params, batch, keys):
        outputs, sown = self.model.apply({"params": params}, batch, keys, mutable=["losses"])
        sums: dict[str, jax.Array] = {}
        if "speech" in batch:
            sums.update(self._speech_sums(batch["speech"], outputs["emotion"]))
            if "levels" in outputs:
                sums["levels"] = self._level_sum(batch["speech"], outputs["levels"])
        if "face" in batch:
            sums.update(motion_sums(batch["face"], outputs["motion"], self.face))
            sums.update(reader_sums(batch["face"], outputs["motion"], outputs["activation"], self.readers))
        sums["moe_balance"] = sum((jnp.sum(x) for x in jax.tree.leaves(sown)), start=jnp.zeros(()))
        return sums

    def _balance_weight(self, batch: Batch) -> jax.Array | None:
        """How many balance losses of a clip and a block are summed; None if no block has experts.

        Of a joint model the diarizer hears the face part's own sound as well.
        """
        diarizer, animator = (
            0 if half is None or half.backbone is None else half.backbone.pattern.count("E")
            for half in (self.model.config.diarizer, self.model.config.animator)
        )
        if not diarizer + animator:
            return None
        blocks = {"speech": diarizer, "face": animator + (diarizer if "waveform" in batch.get("face", {}) else 0)}
        return sum(jnp.sum(jnp.full_like(part["seed"], blocks[name], jnp.float32)) for name, part in batch.items())

    def _frame_weights(self, part):
        labelled = part["emotion"] >= 0
        # In the format of the data, so that a double-precision run has double-precision weights.
        weights = jnp.asarray(self.class_weights, part["intensity"].dtype)
        return jnp.where(labelled, weights[part["emotion"]], 0.0)

    def _speech_sums(self, part, emotion):
        K = emotion.logits.shape[-1]
        targets = optax.smooth_labels(
            jax.nn.one_hot(part["emotion"], K, dtype=emotion.logits.dtype), self.config.label_smoothing
        )
        cross_entropy = optax.softmax_cross_entropy(emotion.logits, targets)
        boundary = optax.sigmoid_binary_cross_entropy(emotion.boundary_logits, part["boundary"])
        return {
            "category": jnp.sum(cross_entropy * self._frame_weights(part)),
            "intensity": jnp.sum(jnp.square(emotion.intensity - part["intensity"]) * part["intensity_mask"]),
            "boundary": jnp.sum(boundary * part["boundary_mask"]),
        }

    def _has_levels(self, part) -> bool:
        diarizer = self.model.config.diarizer
        return "level" in part and diarizer is not None and bool(diarizer.level_scales)

    def _level_sum(self, part, logits):
        level = part["level"][..., None]
        threshold = jnp.arange(logits.shape[-1])
        num_levels = jnp.asarray(self.model.config.diarizer.level_scales)[part["level_scale"]][..., None]
        counted = (level >= 0) & (threshold < num_levels - 1)
        entropy = optax.sigmoid_binary_cross_entropy(logits, (level > threshold).astype(logits.dtype))
        # The mean over a scale's thresholds, so that a scale of many levels weighs no more than one of two.
        return jnp.sum(jnp.where(counted, entropy / jnp.maximum(num_levels - 1, 1), 0.0))
