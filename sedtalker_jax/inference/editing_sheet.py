"""Contact sheet of edits: one moment of a recording in every emotion, from less of it to more than usual."""

from __future__ import annotations

import os

import numpy as np

from sedtalker_jax import axes
from sedtalker_jax.axes import WaveformArray
from sedtalker_jax.emotion import Edit, EditSchedule
from sedtalker_jax.evaluation.lip_metrics import speech_envelope
from sedtalker_jax.face.render import render_sheet
from sedtalker_jax.face.template import FaceTemplate
from sedtalker_jax.inference.editing import edit, edited_motion
from sedtalker_jax.inference.pipeline import GivenEmbedding, SEDTalker

SHEET_ALPHAS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)


def edit_sheet(
    model: SEDTalker,
    waveform: WaveformArray,
    *,
    template: FaceTemplate | str | os.PathLike | None = None,
    alphas: tuple[float, ...] = SHEET_ALPHAS,
    size: int = 150,
    given_embedding: GivenEmbedding = None,
    subject: str | None = None,
) -> tuple[np.ndarray, float]:
    """Renders one frame, the loudest, for every emotion of the dictionary (rows) and alpha (columns).

    Each edit covers the whole recording, or of a long one the window around that frame. given_embedding, subject:
    see SEDTalker.animate.

    Returns:
      (uint8 [height, width, 3], seconds of the frame in the recording).

    Raises:
      UserError: no dictionary, another topology than the model's, an unknown subject, rendering is not possible here.
    """
    frames = axes.num_animation_frames(len(waveform), model.fps)
    loudest = int(np.argmax(speech_envelope(waveform, axes.SAMPLE_RATE, model.fps, frames))) / model.fps
    window = int(model.window_s * axes.SAMPLE_RATE)
    first = int(np.clip(round(loudest * axes.SAMPLE_RATE) - window // 2, 0, max(0, len(waveform) - window)))
    part = np.asarray(waveform[first : first + window], np.float32)
    face = model.template(template)
    shown = axes.num_animation_frames(len(part), model.fps)
    frame = min(int(round((loudest - first / axes.SAMPLE_RATE) * model.fps)), shown - 1)
    labels = model.edit_dictionary.labels
    heard, rows = model.hear(part, given_embedding=given_embedding), []
    activations = model.activations(model.combine(heard), len(part))
    unedited = model.motion(part, activations, face, given_embedding=given_embedding, subject=subject)
    for name in labels:
        edits = [edit(model, part, EditSchedule((Edit(name, alpha),)), heard=heard) for alpha in alphas]
        # The edit covers the clip, so nothing is left that the unedited motion would show.
        options = dict(unedited=unedited, reach=None, subject=subject)
        motions = [edited_motion(model, part, edited, face, **options) for edited in edits]
        rows.append(list(model.codec.vertices(face.vertices, np.stack([motion[frame] for motion in motions]))))
    columns = [f"{alpha:+g}" if alpha else "as heard" for alpha in alphas]
    return render_sheet(rows, model.codec.space.faces, size, row_labels=labels, column_labels=columns), loudest
