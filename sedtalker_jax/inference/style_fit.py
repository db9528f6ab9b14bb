"""Fits a style to a short capture of somebody whom training did not see, all else frozen.

The capture's last third is not fitted. There every step is judged, the start among them, which is the unknown subject's vector;
the vector that does best on it is kept.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float
from tqdm import tqdm

from sedtalker_jax import axes
from sedtalker_jax.axes import VertexSequence, WaveformArray
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.template import FaceTemplate
from sedtalker_jax.inference.pipeline import GivenEmbedding, SEDTalker
from sedtalker_jax.inference.streaming import join_overlapping, style_residual_width, window_features
from sedtalker_jax.inference.style import Style, check_knows_subjects, style_digest
from sedtalker_jax.models.sedtalker import SEDTalkerModel
from sedtalker_jax.models.subject import UNKNOWN_SUBJECT
from sedtalker_jax.training.motion_losses import FaceLossConstants, motion_sums, motion_weights

MIN_CAPTURE_S, MAX_CAPTURE_S = 3.0, 30.0
"""A third of the shortest holds a few syllables; what is longer than the longest is left out, and costs nothing."""

NUM_STEPS = 150
LEARNING_RATE = 0.03
_MISMATCH_S = 0.35  # between sound and motion; more is another recording or frame rate
_FARTHEST_M = 0.03  # root mean square from the face at rest; speech and expression move a face by some millimetres


@dataclasses.dataclass(frozen=True, eq=False)
class StyleFit:
    """Attributes:
    style: the fitted one.
    before, after: squared vertex error on the last third of the capture, as a share of the training motion's mean squared
      displacement, of the unknown subject and of the style.
    """

    style: Style
    before: float
    after: float


def fit_style(
    model: SEDTalker,
    waveform: WaveformArray,
    vertices: VertexSequence,
    face: FaceTemplate,
    track: EmotionTrack | None = None,
    *,
    num_steps: int = NUM_STEPS,
    given_embedding: GivenEmbedding = None,
) -> StyleFit:
    """The style that moves a face as a capture does.

    Args:
      model: with an animator that knows subjects.
      waveform: float [S] at 16 kHz.
      vertices: [F, V, 3] in metres, the capture, at the model's frame rate and of its topology.
      face: the captured face at rest.
      track: what the face feels; None = what the diarizer hears.
      num_steps: steps of gradient descent.
      given_embedding: see SEDTalker.

    Raises:
      UserError: a model without subjects, another topology, too short a capture, sound and motion of different lengths, or a
        capture in another unit or pose than the face at rest.
    """
    check_knows_subjects(model)
    space = model.codec.space
    if vertices.shape[1:] != (space.num_vertices, 3):
        raise UserError(f"the capture has {vertices.shape[1]} vertices, the model's topology {space.num_vertices}")
    seconds = len(waveform) / axes.SAMPLE_RATE, len(vertices) / model.fps
    if abs(seconds[0] - seconds[1]) > _MISMATCH_S:
        raise UserError(f"sound of {seconds[0]:.2f} s and motion of {seconds[1]:.2f} s at {model.fps:g} fps: not one capture")
    used = min(*seconds, MAX_CAPTURE_S)
    if used < MIN_CAPTURE_S:
        raise UserError(f"the capture lasts {used:.2f} s; at least {MIN_CAPTURE_S:g} s are needed")
    waveform = np.asarray(waveform, np.float32)[: int(used * axes.SAMPLE_RATE)]
    frames = min(axes.num_animation_frames(len(waveform), model.fps), len(vertices))
    displacements = np.asarray(vertices[:frames], np.float32) - face.vertices
    distance = float(np.sqrt(np.square(displacements, dtype=np.float64).sum(axis=-1).mean()))
    if not distance <= _FARTHEST_M:
        raise UserError(
            f"the capture lies {distance:.3g} m from the face at rest; it must be in metres and posed like the template, "
            "without the head's own movement"
        )
    track = model.diarize(waveform, given_embedding=given_embedding) if track is None else track
    residual_width = style_residual_width(model.model.config)
    heard = model.read_windows(waveform, given_embedding)
    windows = window_features(model, waveform, heard, has_residual=residual_width > 0)
    features = np.concatenate(list(join_overlapping(windows, frames)))
    width = features.shape[1] - residual_width
    motion = model.codec.normalise(space.coefficients(displacements))
    capture = dict(
        content=features[None, :, :width],
        activations=model.activations(track, len(waveform))[None, :frames],
        residual=features[None, :, width:] if residual_width else None,
        template_code=model.codec.template_code(face.vertices)[None],
        motion=motion.astype(np.float32)[None],
    )
    constants = FaceLossConstants.of(model.codec, ("vertices", "lips") if "lips" in space.regions else ("vertices",))
    vector = model.params["animator"]["subject"]["embedding"][UNKNOWN_SUBJECT]
    optimizer = optax.adam(LEARNING_RATE)
    state = optimizer.init(vector)
    before, best, kept = None, np.inf, vector
    for _ in tqdm(range(num_steps), desc="style", unit="step", mininterval=2.0):
        gradient, held_out = _gradient(model.model, model.params, vector, capture, constants.gram, frames * 2 // 3)
        before = float(held_out) if before is None else before
        if held_out < best:
            best, kept = float(held_out), vector
        updates, state = optimizer.update(gradient, state)
        vector = optax.apply_updates(vector, updates)
    return StyleFit(Style(np.asarray(kept, np.float32), style_digest(model.params)), before, best)


@functools.partial(jax.jit, static_argnames="model")
def _gradient(model: SEDTalkerModel, params, vector: Float[jax.Array, " C"], capture, gram, num_fitted):
    """(gradient of the loss on the first `num_fitted` frames, vertex error on the others)."""
    constants = FaceLossConstants(gram)
    total = capture["motion"].shape[1]

    def loss(vector):
        def method(m: SEDTalkerModel):
            mask = jnp.ones((1, total), bool)
            given = (capture[name] for name in ("activations", "residual", "template_code"))
            return m.animator(capture["content"], mask, *given, subject=vector[None])

        motion = model.apply({"params": params}, method=method)
        parts = [dict(motion=capture["motion"], num_frames=jnp.asarray(count)[None]) for count in (num_fitted, total)]
        (fitted, fitted_weight), (whole, whole_weight) = (
            (motion_sums(part, motion, constants), motion_weights(part, constants)) for part in parts
        )
        held_out = (whole["vertices"] - fitted["vertices"]) / (whole_weight["vertices"] - fitted_weight["vertices"])
        return sum(fitted[name] / fitted_weight[name] for name in gram), held_out

    return jax.grad(loss, has_aux=True)(vector)
