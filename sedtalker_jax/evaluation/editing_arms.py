"""Ways to edit an emotion, side by side: sweeps of one clip from as heard to another emotion, in one compiled program.

    ours        along the normal of the boundary between the two emotions (emotion.editing), read by the diarizer's heads
    class-mean  along the difference of the two emotions' mean embeddings, read by the same heads
    random      along a random direction of the same length in whitened space, read by the same heads
    one-hot     no embedding: the activation goes over into the target's label, at the strength that faces have in it

Ways through the embedding are paced by what is read on them (emotion.pacing). Whatever the way, the motion changes by the
dictionary's expression gain and parts no shut lips, as in use.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from jaxtyping import Float

from sedtalker_jax import axes
from sedtalker_jax.emotion import EditDictionary, EmotionTrack
from sedtalker_jax.emotion.labels import NEUTRAL
from sedtalker_jax.emotion.pacing import Pace
from sedtalker_jax.face.template import FaceTemplate
from sedtalker_jax.inference.editing import keep_lips_shut, strengths
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.programs import animate_rows

ARMS = ("ours", "class-mean", "one-hot", "random")

ROWS = 8
"""Alphas that are animated together; the last ones of a sweep are filled up."""

PAD_TO_S = 5.0
"""Clips are padded to multiples of this many seconds, so that few shapes are compiled."""


@dataclasses.dataclass
class ClipSweep:
    """One clip, to be edited from its own emotion to another.

    Attributes:
      model: a joint model.
      dictionary: its boundaries.
      waveform: [S] at 16 kHz.
      embedding: [T, C] as heard.
      face: that is moved.
      source, target: emotions.
      strength: activation of the target in faces that show it.
      seed: of the random direction.
    """

    model: SEDTalker
    dictionary: EditDictionary
    waveform: Float[np.ndarray, " S"]
    embedding: Float[np.ndarray, "T C"]
    face: FaceTemplate
    source: str
    target: str
    strength: float
    seed: int
    _paces: dict[str, Pace] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def motion(self, arm: str, alphas: Float[np.ndarray, " A"]) -> Float[np.ndarray, "A F R"]:
        """Motion coefficients in metres for every alpha, the whole clip edited.

        Args:
          arm: one of ARMS.
          alphas: 0 = as heard, 1 = the arm's own unit.
        """
        if arm == "one-hot":
            embeddings = np.broadcast_to(self.embedding, (len(alphas), *self.embedding.shape))
            activations = self._towards_label(alphas)
        else:
            embeddings = self.embeddings(arm, alphas)
            activations = np.stack([self._activation(embedding) for embedding in embeddings])
        moved = self._animate(activations, embeddings)
        codec = self.model.codec
        change = keep_lips_shut(codec, self.face, self.unedited, self.dictionary.expression_gain * (moved - self.unedited))
        return (self.unedited + change) * codec.motion_std + codec.motion_mean

    def embeddings(self, arm: str, alphas: Float[np.ndarray, " A"]) -> Float[np.ndarray, "A T C"]:
        """Edited embeddings of every alpha, held back at the dictionary's bound."""
        step, pace = self.step(arm), self._pace(arm)
        positions = [pace.positions(np.full(len(self.embedding), alpha)) for alpha in alphas]
        return np.stack([self.dictionary.displace(self.embedding, x[:, None] * step).embeddings for x in positions])

    def step(self, arm: str) -> Float[np.ndarray, " C"]:
        """What alpha = 1 adds to an embedding.

        Raises:
          ValueError: an arm without embeddings.
        """
        direction = self.dictionary.direction(self.target, self.source)
        if arm == "ours":
            return direction.step
        if arm == "class-mean":
            labels, means = self.dictionary.labels, self.dictionary.class_means
            return (means[labels.index(self.target)] - means[labels.index(self.source)]) @ self.dictionary.colouring
        if arm == "random":
            drawn = np.random.default_rng(self.seed).normal(size=len(direction.normal))
            return abs(direction.scale) * drawn / np.linalg.norm(drawn) @ self.dictionary.colouring
        raise ValueError(f"{arm!r} moves no embedding")

    def boundary_distances(self, arm: str, alphas: Float[np.ndarray, " A"]) -> Float[np.ndarray, " A"]:
        """How far the clip lies beyond the boundary between the two emotions (EditDictionary.distance) at every alpha.

        NaN for an arm without embeddings.
        """
        if arm == "one-hot":
            return np.full(len(alphas), np.nan)
        direction = self.dictionary.direction(self.target, self.source)
        return np.array([self.dictionary.distance(embedding, direction) for embedding in self.embeddings(arm, alphas)])

    def _pace(self, arm: str) -> Pace:
        if arm not in self._paces:
            read = functools.partial(strengths, self.model, self.dictionary.labels)
            self._paces[arm] = self.dictionary.pace(self.embedding, self.step(arm), read)
        return self._paces[arm]

    @functools.cached_property
    def unedited(self) -> Float[np.ndarray, "F R"]:
        """Normalised motion as heard."""
        return self._animate(self._activation(self.embedding)[None], self.embedding[None])[0]

    def _activation(self, embedding: Float[np.ndarray, "T C"]) -> Float[np.ndarray, "F K-1"]:
        logits, intensity = (np.asarray(values[0]) for values in self.model.read_embedding(embedding[None]))
        scaled = logits.astype(np.float64) / self.model.temperature
        posterior = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        posterior /= posterior.sum(axis=1, keepdims=True)
        duration = len(self.waveform) / axes.SAMPLE_RATE
        track = EmotionTrack(self.model.labels, posterior.astype(np.float32), np.clip(intensity, 0.0, 1.0), duration=duration)
        return self.model.activations(track, len(self.waveform))

    def _towards_label(self, alphas: Float[np.ndarray, " A"]) -> Float[np.ndarray, "A F K-1"]:
        heard = self._activation(self.embedding)
        label = np.zeros(heard.shape[1], np.float32)
        active = [name for name in self.model.labels if name != NEUTRAL]
        label[active.index(self.target)] = self.strength
        share = np.asarray(alphas)[:, None, None]
        return np.clip((1.0 - share) * heard + share * label, 0.0, 1.0).astype(np.float32)

    def _animate(self, activations: Float[np.ndarray, "A F K-1"], embeddings: Float[np.ndarray, "A T C"]) -> np.ndarray:
        model = self.model
        unit = int(PAD_TO_S * axes.SAMPLE_RATE)
        padded = np.zeros((1, -(-len(self.waveform) // unit) * unit), np.float32)
        padded[0, : len(self.waveform)] = self.waveform
        room = axes.num_speech_frames(padded.shape[1]), axes.num_animation_frames(padded.shape[1], model.fps)
        frames, pieces = activations.shape[1], []
        length, num_frames = np.array([len(self.waveform)], np.int32), np.array([frames], np.int32)
        code = model.codec.template_code(self.face.vertices)[None]
        for start in range(0, len(activations), ROWS):
            rows = slice(start, start + ROWS)
            embedding, activation = _filled(embeddings[rows], room[0]), _filled(activations[rows], room[1])
            motion = animate_rows(
                model.model, model.params, padded, length, activation, code, num_frames, fps=model.fps, embeddings=embedding
            )
            pieces.append(np.asarray(motion)[: len(activations) - start, :frames])
        return np.concatenate(pieces).astype(np.float64)


def _filled(values: Float[np.ndarray, "A L c"], length: int) -> Float[np.ndarray, "rows length c"]:
    padding = ((0, ROWS - len(values)), (0, length - values.shape[1]), (0, 0))
    return np.pad(np.asarray(values, np.float32), padding)
