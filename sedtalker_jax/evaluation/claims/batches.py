"""Animating many clips at once, as the arms of the claims need it.

Clips are animated whole and padded to few lengths; arms of one shape share one compiled program.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from sedtalker_jax import axes
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.programs import animate_rows
from sedtalker_jax.models.emotion_condition import EmotionCondition, class_normal_projection

BATCH_SIZE = 16
"""Clips of a batch; the last one is filled up with copies."""

PAD_TO_S = 5.0
"""Clips are padded to multiples of this many seconds, so that two programs serve nearly all lengths."""


def animate(
    model: SEDTalker,
    waveforms: Sequence[Float[np.ndarray, " S"]],
    activations: Sequence[Float[np.ndarray, "F K-1"]],
    codes: Float[np.ndarray, "n Q"],
) -> list[Float[np.ndarray, "F R"]]:
    """Motion of each recording under given emotion strengths, as coefficients in metres.

    Args:
      model: with an animator; of a joint model the residual of the voice's own embedding joins the condition.
      waveforms: n recordings.
      activations: of each, at the animation frames f / fps.
      codes: template code of each.
    """
    result: list[Any] = [None] * len(waveforms)
    for rows, padded, lengths in _batches(waveforms):
        num_frames = np.array([len(activations[row]) for row in rows])
        given = _stacked([activations[row] for row in rows], axes.num_animation_frames(padded.shape[1], model.fps))
        motion = animate_rows(model.model, model.params, padded, lengths, given, codes[rows], num_frames, fps=model.fps)
        metres = np.asarray(motion) * model.codec.motion_std + model.codec.motion_mean
        for place, row in enumerate(rows):
            result[row] = metres[place, : num_frames[place]]
    return result


def conditions(model: SEDTalker, activations: Sequence[Float[np.ndarray, "F K-1"]]) -> list[Float[np.ndarray, "F C"]]:
    """The animator's emotion condition c_t of each activation, without residual and before the template joins it."""
    animator = model.model.config.animator
    assert animator is not None
    condition = EmotionCondition(animator.condition_width, model.model.config.precision)
    params = model.params["animator"]["emotion"]
    longest = max(len(activation) for activation in activations)
    whole = condition.apply({"params": params}, jnp.asarray(_stacked(activations, longest)))
    return [np.asarray(rows[: len(a)]) for rows, a in zip(whole, activations, strict=True)]


def residual_projection(model: SEDTalker) -> Float[np.ndarray, "C C"]:
    """P: what of an embedding e_t may reach the face beside the activation is e_t P."""
    return np.asarray(class_normal_projection(model.params["diarizer"]["heads"]["category"]["kernel"]))


def template_codes(model: SEDTalker, records: Sequence[Mapping[str, Any]]) -> Float[np.ndarray, "n Q"]:
    """Code of each record's head."""
    space = model.codec.space
    names = {record["template"] for record in records}
    codes = {name: model.codec.template_code(space.template(name).vertices) for name in names}
    return np.stack([codes[record["template"]] for record in records])


def _batches(waveforms: Sequence[np.ndarray]) -> Iterator[tuple[Int[np.ndarray, " b"], jax.Array, jax.Array]]:
    """(rows, waveforms [BATCH_SIZE, S], lengths), short clips first."""
    order = np.argsort([len(waveform) for waveform in waveforms], kind="stable")
    unit = int(PAD_TO_S * axes.SAMPLE_RATE)
    for start in range(0, len(order), BATCH_SIZE):
        rows = order[start : start + BATCH_SIZE]
        filled = np.resize(rows, BATCH_SIZE)
        lengths = np.array([len(waveforms[row]) for row in filled], np.int32)
        padded = np.zeros((BATCH_SIZE, -(-int(lengths.max()) // unit) * unit), np.float32)
        for place, row in enumerate(filled):
            padded[place, : lengths[place]] = waveforms[row]
        yield filled, jnp.asarray(padded), jnp.asarray(lengths)


def _stacked(values: Sequence[np.ndarray], length: int) -> np.ndarray:
    stacked = np.zeros((len(values), length, values[0].shape[1]), np.float32)
    for row, value in zip(stacked, values, strict=True):
        row[: len(value)] = value
    return stacked
