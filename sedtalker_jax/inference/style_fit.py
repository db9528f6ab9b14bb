"""Fits a style to a short capture of somebody whom training did not see, all else frozen.

The animator's last layer is linear in features that hold what is said, what is felt and the face at rest; how somebody's face
shows these is a linear map of its own. The change of the layer is found in closed form, by ridge regression of what the
animator misses on the features. An animator that knows subjects first gets the vector of another one, by gradient descent.

The capture's last third is not fitted. There every step and every strength of the ridge is judged, the start among them; the
layer is then fitted to all of the capture with the best one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

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
from sedtalker_jax.inference.style import Params, Style, style_digest, with_subject_vector
from sedtalker_jax.models.animator import HEAD_INPUT
from sedtalker_jax.models.sedtalker import SEDTalkerModel
from sedtalker_jax.models.subject import UNKNOWN_SUBJECT
from sedtalker_jax.training.motion_losses import FaceLossConstants, motion_sums, motion_weights

MIN_CAPTURE_S, MAX_CAPTURE_S = 3.0, 60.0
"""A third of the shortest holds a few syllables; what is longer than the longest is left out, and costs nothing."""

NUM_STEPS = 150
LEARNING_RATE = 0.03
RIDGES = (10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4)
"""Strengths of the ridge: squared weights, of features of unit mean square, against summed squared errors in standard
deviations of the training motion."""
_MISMATCH_S = 0.35  # between sound and motion; more is another recording or frame rate
_FARTHEST_M = 0.03  # root mean square from the face at rest; speech and expression move a face by some millimetres


@dataclasses.dataclass(frozen=True, eq=False)
class StyleFit:
    """Attributes:
    style: the fitted one.
    before, after: squared vertex error on the last third of the capture, as a share of the training motion's mean squared
      displacement, of nobody's style and of one that was fitted to the first two thirds alone.
    """

    style: Style
    before: float
    after: float


def fit_style(
    model: SEDTalker,
    waveform: WaveformArray,
    vertices: VertexSequence,
    face: FaceTemplate,
    track: EmotionTrack | Float[np.ndarray, "F K-1"],
    *,
    num_steps: int = NUM_STEPS,
    given_embedding: GivenEmbedding = None,
    quiet: bool = False,
) -> StyleFit:
    """The style that moves a face as a capture does.

    Args:
      model: with an animator, in nobody's style.
      waveform: float [S] at 16 kHz.
      vertices: [F, V, 3] in metres, the capture, at the model's frame rate and of its topology.
      face: the captured face at rest.
      track: what the face feels in the capture, or its strengths at the animation frames. It must be known: fitted under
        emotions that a diarizer hears wrongly, a style takes on what the emotion looks like, and makes faces worse.
      num_steps: steps of gradient descent, where the animator knows subjects.
      given_embedding: see SEDTalker.
      quiet: no progress bar.

    Raises:
      UserError: another topology, too short a capture, sound and motion of different lengths, or a capture in another unit or
        pose than the face at rest.
    """
    capture, frames = _capture(model, waveform, vertices, face, track, given_embedding)
    regions = ("vertices", "lips") if "lips" in model.codec.space.regions else ("vertices",)
    gram = FaceLossConstants.of(model.codec, regions).gram
    num_fitted = frames * 2 // 3
    truth = np.asarray(capture["motion"][0], np.float64)

    def judged(change: Float[np.ndarray, "F R"]) -> float:
        """Error of a motion that is `change` from the truth, on the last third."""
        rest = change[num_fitted:]
        return float(np.einsum("fr,rq,fq->f", rest, gram["vertices"], rest).mean())

    params, vector = model.params, None
    before = judged(_motion(model.model, params, capture)[0] - truth)
    if model.subjects:
        vector = _fit_vector(model.model, params, capture, gram, num_fitted, num_steps, quiet)
        params = with_subject_vector(params, vector)
    motion, features = _motion(model.model, params, capture)
    kernel, bias, after = fit_head(features, truth - motion, num_fitted, judged)
    return StyleFit(Style(kernel, bias, vector, style_digest(model.params)), before, after)


def fit_head(
    features: Float[np.ndarray, "F D"],
    missing: Float[np.ndarray, "F R"],
    num_fitted: int,
    judged: Callable[[Float[np.ndarray, "F R"]], float],
) -> tuple[Float[np.ndarray, "D R"], Float[np.ndarray, " R"], float]:
    """The linear change of the last layer that gives what is missing; zero where none helps on frames that it did not see.

    Args:
      features: what the layer reads.
      missing: truth minus what the layer gives.
      num_fitted: frames that every strength of the ridge is fitted to; the others choose among them.
      judged: error of what is missing after a change, [F, R], on those others.

    Returns:
      (kernel, bias, float32, fitted to all frames; error before that, fitted to the first alone).
    """
    rows = np.append(np.asarray(features, np.float64), np.ones((len(features), 1)), axis=1)
    # A feature that is silent in the capture may be loud elsewhere: its weight stays at zero.
    size = np.sqrt(np.square(rows).mean(axis=0))
    scale = np.where(size > 1e-3 * size.max(), 1.0 / np.maximum(size, 1e-30), 0.0)
    rows *= scale

    def solved(count: int, ridge: float) -> Float[np.ndarray, "D+1 R"]:
        given = rows[:count]
        return np.linalg.solve(given.T @ given + ridge * np.eye(rows.shape[1]), given.T @ missing[:count])

    errors = {ridge: judged(missing - rows @ solved(num_fitted, ridge)) for ridge in RIDGES}
    best, unchanged = min(errors, key=errors.__getitem__), judged(missing)
    if not errors[best] < unchanged:
        return np.zeros((features.shape[1], missing.shape[1]), np.float32), np.zeros(missing.shape[1], np.float32), unchanged
    change = (solved(len(rows), best) * scale[:, None]).astype(np.float32)
    return change[:-1], change[-1], errors[best]


def _capture(
    model: SEDTalker,
    waveform: WaveformArray,
    vertices: VertexSequence,
    face: FaceTemplate,
    track: EmotionTrack | Float[np.ndarray, "F K-1"],
    given_embedding: GivenEmbedding,
) -> tuple[dict[str, Any], int]:
    """What the animator reads of a capture and its true motion, one row each; and its frames. Raises as `fit_style`."""
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
    activations = model.activations(track, len(waveform)) if isinstance(track, EmotionTrack) else np.asarray(track, np.float32)
    if len(activations) < frames:
        raise UserError(f"the strengths of emotion are {len(activations)} frames, the capture {frames}")
    residual_width = style_residual_width(model.model.config)
    heard = model.read_windows(waveform, given_embedding)
    windows = window_features(model, waveform, heard, has_residual=residual_width > 0)
    features = np.concatenate(list(join_overlapping(windows, frames)))
    width = features.shape[1] - residual_width
    motion = model.codec.normalise(space.coefficients(displacements))
    capture = dict(
        content=features[None, :, :width],
        activations=activations[None, :frames],
        residual=features[None, :, width:] if residual_width else None,
        template_code=model.codec.template_code(face.vertices)[None],
        motion=motion.astype(np.float32)[None],
    )
    return capture, frames


def _animated(model: SEDTalkerModel, params: Params, capture: Mapping[str, Any], **options):
    """The animator's answer to a capture."""

    def method(m: SEDTalkerModel):
        given = (capture[name] for name in ("activations", "residual", "template_code"))
        return m.animator(capture["content"], jnp.ones(capture["motion"].shape[:2], bool), *given)

    return model.apply({"params": params}, method=method, **options)


@functools.partial(jax.jit, static_argnames="model")
def _with_features(model: SEDTalkerModel, params: Params, capture: Mapping[str, Any]):
    motion, values = _animated(model, params, capture, mutable=["intermediates"])
    (features,) = values["intermediates"]["animator"][HEAD_INPUT]
    return motion[0], features[0]


def _motion(model: SEDTalkerModel, params: Params, capture: Mapping[str, Any]):
    """(normalised motion [F, R], what the last layer made it of [F, D]), float64."""
    return tuple(np.asarray(x, np.float64) for x in _with_features(model, params, capture))


def _fit_vector(
    model: SEDTalkerModel,
    params: Params,
    capture: Mapping[str, Any],
    gram: Mapping[str, np.ndarray],
    num_fitted: int,
    num_steps: int,
    quiet: bool,
) -> Float[np.ndarray, " C"]:
    """The vector in the unknown subject's place that does best on the frames that are not fitted."""
    vector = params["animator"]["subject"]["embedding"][UNKNOWN_SUBJECT]
    optimizer = optax.adam(LEARNING_RATE)
    state = optimizer.init(vector)
    best, kept = np.inf, vector
    for _ in tqdm(range(num_steps), desc="style", unit="step", mininterval=2.0, disable=quiet):
        gradient, held_out = _gradient(model, params, vector, capture, gram, num_fitted)
        if held_out < best:
            best, kept = float(held_out), vector
        updates, state = optimizer.update(gradient, state)
        vector = optax.apply_updates(vector, updates)
    return np.asarray(kept, np.float32)


@functools.partial(jax.jit, static_argnames="model")
def _gradient(model: SEDTalkerModel, params: Params, vector: Float[jax.Array, " C"], capture, gram, num_fitted):
    """(gradient of the loss on the first `num_fitted` frames, vertex error on the others)."""
    constants = FaceLossConstants(gram)
    total = capture["motion"].shape[1]

    def loss(vector):
        motion: Any = _animated(model, with_subject_vector(params, vector), capture)
        parts = [dict(motion=capture["motion"], num_frames=jnp.asarray(count)[None]) for count in (num_fitted, total)]
        (fitted, fitted_weight), (whole, whole_weight) = (
            (motion_sums(part, motion, constants), motion_weights(part, constants)) for part in parts
        )
        held_out = (whole["vertices"] - fitted["vertices"]) / (whole_weight["vertices"] - fitted_weight["vertices"])
        return sum(fitted[name] / fitted_weight[name] for name in gram), held_out

    return jax.grad(loss, has_aux=True)(vector)
