"""Emotion edits of a recording: boundaries fitted to a checkpoint, embeddings moved, the face driven by the result.

What the paper (EditEmoTalk, arXiv 2601.10000) does to one vector per utterance is done to every frame: e'_t = e_t +
sum_k x(alpha_k(t)) step_k (emotion.editing). Category, intensity and style residual are all read from e', so they can't
contradict each other.

An animator that attends to the whole clip lets an edit of one second move the face in the next one. So the edited motion is
faded into the motion as heard: it is entirely the edited one where an edit acts, and bit by bit the other REACH_S beyond.

An animator trained under a squared error understates what it can't be sure of. As guidance does in generative models, an edit's
change of the motion is taken `expression_gain` times, a number measured on faces that training did not see.

Lips meet for p, b and m whatever a face feels. Where they are shut as heard, an edit keeps the vector between them, and moves
the rest of the face.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from tqdm import tqdm

from sedtalker_jax import axes
from sedtalker_jax.axes import WaveformArray
from sedtalker_jax.data.face_codec import CLOSED_WITHIN_M, FaceCodec
from sedtalker_jax.data.mixing import spread
from sedtalker_jax.emotion import EditDictionary, EditSchedule, EmotionTrack
from sedtalker_jax.emotion.editing import segment_embeddings
from sedtalker_jax.emotion.labels import ACTIVE, NEUTRAL
from sedtalker_jax.face.template import FaceTemplate
from sedtalker_jax.inference.pipeline import Animation, GivenEmbedding, SEDTalker
from sedtalker_jax.inference.windows import HeardWindow, stitch
from sedtalker_jax.models.emotion_condition import activation

FIT_CLIPS = 240
"""Training clips that a dictionary is fitted to: some thirty segments of each emotion, heard in seconds."""

REGULARISATION = 0.01
"""Of the logistic regressions. A few hundred segments can almost be separated by chance in as many dimensions as an embedding
has. With 1.0 the normals turn towards that chance: on the demo's validation split the heads' activation of the target at alpha
= 1 is a quarter (between two emotions) to two thirds (one against all) smaller."""

SCALE_CLIPS = 48
"""Clips of unseen voices on which it is measured how far an alpha must lead."""

GAIN_CLIPS = 48
GAIN_RANGE = (1.0, 2.0)
"""Clips that the expression gain is fitted to, and what it may be: it makes up for caution, it never tones down, and beyond
twice an animator should be trained further instead."""

REACH_S = 0.2
"""Seconds after an edit's last frame (fades included) over which the face returns to what it is without the edit. With the
default fade of 0.1 s an edit of [a, b] leaves the face alone outside [a - 0.3, b + 0.3] s."""

SHUT_WITHIN_M, FREE_FROM_M = CLOSED_WITHIN_M, 3 * CLOSED_WITHIN_M
"""Openings of the lips as heard up to which an edit does not part them, and from which it moves them freely."""


@dataclasses.dataclass(frozen=True, eq=False)
class EditedEmotion:
    """What a schedule makes of a recording's emotion.

    Attributes:
      track: category and intensity as the diarizer's heads read them from the edited embedding.
      heard: the track before the edit.
      before, after: the embedding [T, C] as heard and edited.
      clipped: [T], frames that were held back at the dictionary's Mahalanobis bound.
      active: [T], frames that an edit moved.
      windows: the edited output window by window, from which the animator takes the style residual.
      heard_windows: the output as heard.
    """

    track: EmotionTrack
    heard: EmotionTrack
    before: Float[np.ndarray, "T C"]
    after: Float[np.ndarray, "T C"]
    clipped: Bool[np.ndarray, " T"]
    active: Bool[np.ndarray, " T"]
    windows: tuple[HeardWindow, ...]
    heard_windows: tuple[HeardWindow, ...]

    def describe(self) -> str:
        """One line for the user about frames that were held back; empty when there are none."""
        if not self.clipped.any():
            return ""
        # A frame that was held back altogether did not move.
        share = 100 * self.clipped.sum() / (self.active | self.clipped).sum()
        where = "where it would leave what the voice model knows"
        return f"the edit was held back in {share:.0f}% of the edited frames, {where}"

    def weight_at(self, times: Float[np.ndarray, " F"], reach: float = REACH_S) -> Float[np.ndarray, " F"]:
        """How much of the edited face shows at `times` (seconds): 1 where an edit acts, 0 from `reach` seconds away."""
        if not self.active.any():
            return np.zeros(len(times))
        moved = self.track.times[self.active]
        after = np.clip(np.searchsorted(moved, times), 0, len(moved) - 1)
        before = np.maximum(after - 1, 0)
        distance = np.minimum(np.abs(times - moved[before]), np.abs(times - moved[after]))
        # Between two frames of an edit nothing is far from it: half a hop on either side belongs to the frame.
        ramp = np.clip((reach - distance) / (reach - 0.5 / self.track.frame_rate), 0.0, 1.0)
        return ramp * ramp * (3.0 - 2.0 * ramp)


def edit(
    model: SEDTalker,
    waveform: WaveformArray,
    schedule: EditSchedule,
    *,
    heard: Sequence[HeardWindow] | None = None,
    given_embedding: GivenEmbedding = None,
) -> EditedEmotion:
    """Moves a recording's emotion embedding and reads the emotion again.

    Long recordings are heard and edited in overlapping windows and stitched as `diarize` does. Frames that no edit moves keep
    category and intensity bit by bit.

    Args:
      model: with an edit dictionary in its workdir.
      waveform: float [S] at 16 kHz.
      schedule: whose emotions are the dictionary's, in seconds of the recording.
      heard: what `model.hear` says of the waveform, where it is known already.
      given_embedding: see SEDTalker.

    Raises:
      UserError: no dictionary yet, an emotion that it has not, a time past the end, a waveform that is too short.
    """
    dictionary = model.edit_dictionary
    checked = schedule.check(dictionary.labels, len(waveform) / axes.SAMPLE_RATE)
    windows = model.hear(waveform, to_animate=True, given_embedding=given_embedding) if heard is None else heard
    read = functools.partial(strengths, model, dictionary.labels)
    edited, clipped, active = [], [], []
    for part in windows:
        times = part.window.start / axes.SAMPLE_RATE + axes.speech_frame_times(len(part.embedding))
        result = dictionary.apply(part.embedding, times, checked, read)
        logits, intensity = (np.asarray(values[0]) for values in model.read_embedding(result.embeddings[None]))
        moved = (result.embeddings != part.embedding).any(axis=1)
        edited.append(
            dataclasses.replace(
                part,
                logits=np.where(moved[:, None], logits, part.logits),
                intensity=np.where(moved, intensity, part.intensity),
                embedding=result.embeddings,
            )
        )
        clipped.append(result.clipped.astype(np.float32))
        active.append(moved.astype(np.float32))
    total = axes.num_speech_frames(len(waveform))
    starts = [part.first_frame for part in windows]
    return EditedEmotion(
        track=model.combine(edited),
        heard=model.combine(windows),
        before=stitch([part.embedding for part in windows], starts, total),
        after=stitch([part.embedding for part in edited], starts, total),
        clipped=stitch(clipped, starts, total) > 0,
        active=stitch(active, starts, total) > 0,
        windows=tuple(edited),
        heard_windows=tuple(windows),
    )


def edited_motion(
    model: SEDTalker,
    waveform: WaveformArray,
    edited: EditedEmotion,
    face: FaceTemplate,
    *,
    unedited: Float[np.ndarray, "F R"] | None = None,
    reach: float | None = REACH_S,
    subject: str | None = None,
) -> Float[np.ndarray, "F R"]:
    """Normalised motion coefficients of an edited recording.

    Args:
      model: the one that made `edited`.
      waveform: float [S], the recording that was edited.
      face: template of the model's topology.
      unedited: the motion as heard, where it is known already.
      reach: seconds beyond an edit over which its effect fades out; None leaves it as far as the animator carries it.
      subject: whose way of moving the face takes on, as of SEDTalker.animate.

    Raises:
      UserError: an unknown subject.
    """

    def motion(track, windows):
        return model.motion(waveform, model.activations(track, len(waveform)), face, heard=windows, subject=subject)

    moved = motion(edited.track, edited.windows)
    if unedited is None:
        unedited = motion(edited.heard, edited.heard_windows)
    change = np.float32(model.edit_dictionary.expression_gain) * (moved - unedited)
    change = keep_lips_shut(model.codec, face, unedited, change)
    if reach is None:
        return unedited + change
    weight = edited.weight_at(np.arange(len(moved)) / model.fps, reach)[:, None].astype(moved.dtype)
    return np.where(weight > 0, unedited + weight * change, unedited)


def keep_lips_shut(
    codec: FaceCodec, face: FaceTemplate, unedited: Float[np.ndarray, "F R"], change: Float[np.ndarray, "F R"]
) -> Float[np.ndarray, "F R"]:
    """A change of motion that parts no lips that are shut: whole from FREE_FROM_M of opening on, less and less below it.

    Args:
      codec: of the model; on a topology whose lip points are not known the change stays as it is.
      face: the face that moves.
      unedited, change: normalised motion, and what is to be added to it.
    """
    if codec.lip_points is None:
        return change
    opening = codec.lip_opening(face.vertices, unedited * codec.motion_std + codec.motion_mean)
    freedom = np.clip((opening - SHUT_WITHIN_M) / (FREE_FROM_M - SHUT_WITHIN_M), 0.0, 1.0)[:, None].astype(change.dtype)
    return freedom * change + (1 - freedom) * codec.without_lip_gap(change)


def animate_edited(
    model: SEDTalker,
    waveform: WaveformArray,
    edited: EditedEmotion,
    *,
    template: FaceTemplate | str | os.PathLike | None = None,
    subject: str | None = None,
) -> Animation:
    """A face that says the waveform with an edited emotion; see SEDTalker.animate for template and subject.

    Raises:
      UserError: another topology than the model's, an unknown subject, or a checkpoint without an animator.
    """
    face = model.template(template)
    motion = edited_motion(model, np.asarray(waveform, np.float32), edited, face, subject=subject)
    return model.animation(motion, face, edited.track)


def fit_expression_gain(model: SEDTalker, reader: Sequence[Mapping[str, Any]], num_clips: int = GAIN_CLIPS) -> float:
    """How many times larger true faces change with their emotion than the animator's (EditDictionary.expression_gain).

    With the true activation a the animator moves by d_t = motion(a) - motion(0) from its own face without emotion, and the
    true face by y_t = truth - motion(0); the gain is the least squares factor between the two, d . y / d . d over all frames
    and vertices. What the true face does beside the emotion, such as speech that the animator gets wrong, does not vary with
    d and cancels.

    Args:
      model: with an animator.
      reader: records that training did not see, with faces of the model's space and their activation; others are left out.
      num_clips: how many clips are animated.

    Returns:
      The factor, within GAIN_RANGE; 1 where no record tells the activation of its face.
    """
    columns = [ACTIVE.index(name) for name in model.labels if name != NEUTRAL]
    product = square = 0.0
    for index in tqdm(spread(len(reader), num_clips), desc="expression gain", unit="clip", mininterval=2.0):
        record = reader[int(index)]
        truth = np.asarray(record["motion"], np.float32)
        given = np.asarray(record["activation"], np.float32)[:, columns]
        if not np.isfinite(given).all() or record["template"] not in model.codec.space.template_names:
            continue
        F = axes.num_animation_frames(len(record["waveform"]), model.fps)
        given = np.pad(given, ((0, max(0, F - len(given))), (0, 0)), mode="edge")[:F]
        face = model.template(record["template"])
        voice = dict(given_embedding=record.get("given_embedding"))
        still, moved = (model.motion(record["waveform"], a, face, **voice) for a in (np.zeros_like(given), given))
        frames = min(F, len(truth))
        scale = model.codec.motion_std.astype(np.float64)
        change = (moved - still)[:frames] * scale
        wanted = (model.codec.normalise(truth[:frames]) - still[:frames]) * scale
        product += float(np.vdot(change, wanted))
        square += float(np.vdot(change, change))
    return float(np.clip(product / square, *GAIN_RANGE)) if square > 0 else 1.0


def fit_edit_dictionary(
    model: SEDTalker,
    reader: Sequence[Mapping[str, Any]],
    num_clips: int = FIT_CLIPS,
    *,
    unseen: Sequence[Mapping[str, Any]] | None = None,
    faces: Sequence[Mapping[str, Any]] | None = None,
) -> EditDictionary:
    """Draws the boundaries between a model's emotions from labelled segments of clips that are spread evenly over a split.

    Args:
      model: whose diarizer is asked; its temperature is fitted already.
      reader: the records of a training split; segments with emotions that the model does not know are left out.
      num_clips: how many clips are heard.
      unseen: records of voices that training did not hear, on which it is measured how far alpha = 1 must lead
        (EditDictionary.scaled_to_reading); without, it is the distance between means.
      faces: records for the expression gain (fit_expression_gain), which is 1 without.

    Raises:
      UserError: too few labelled segments.
    """
    rows, names, frames = [], [], []
    for embedding, times, segments in _heard(model, reader, num_clips, "edit dictionary"):
        means, labels = segment_embeddings(embedding, times, segments)
        rows.append(means)
        names += labels
        frames.append(embedding)
    fitted = EditDictionary.fit(np.concatenate(rows), names, frames=np.concatenate(frames), regularisation=REGULARISATION)
    if unseen is not None:
        read = functools.partial(strengths, model, fitted.labels)
        fitted = fitted.scaled_to_reading(read, *_labelled_frames(model, unseen))
    return fitted if faces is None else dataclasses.replace(fitted, expression_gain=fit_expression_gain(model, faces))


def _heard(
    model: SEDTalker, reader: Sequence[Mapping[str, Any]], num_clips: int, title: str
) -> Iterator[tuple[Float[np.ndarray, "T C"], Float[np.ndarray, " T"], list[Sequence]]]:
    """(embedding, times, segments whose emotion the model knows) of clips that are spread evenly over records."""
    for index in tqdm(spread(len(reader), num_clips), desc=title, unit="clip", mininterval=2.0):
        record = reader[int(index)]
        heard = model.hear(record["waveform"], given_embedding=record.get("given_embedding"))
        total = axes.num_speech_frames(len(record["waveform"]))
        embedding = stitch([part.embedding for part in heard], [part.first_frame for part in heard], total)
        yield embedding, axes.speech_frame_times(total), [s for s in record["segments"] if s[2] in model.labels]


def _labelled_frames(model: SEDTalker, reader: Sequence[Mapping[str, Any]]) -> tuple[Float[np.ndarray, "n C"], list[str]]:
    """Embeddings of the frames inside of segments, and the emotion of each."""
    frames, names = [np.zeros((0, model.model.config.diarizer.embedding_size))], []
    for embedding, times, segments in _heard(model, reader, SCALE_CLIPS, "edit scales"):
        for start, end, label, *_ in segments:
            inside = (times >= start) & (times < end)
            frames.append(embedding[inside])
            names += [label] * int(inside.sum())
    return np.concatenate(frames), names


def strengths(
    model: SEDTalker, labels: Sequence[str], embeddings: Float[np.ndarray, "n C"]
) -> tuple[Float[np.ndarray, "n K"], Float[np.ndarray, " n"]]:
    """What the heads read and the face is driven by: strength of every label, none for neutral, and intensity."""
    logits, intensity = (values[0] for values in model.read_embedding(np.asarray(embeddings, np.float32)[None]))
    sharpness = model.model.config.sharpness
    driven = np.asarray(activation(logits, intensity, temperature=model.temperature, sharpness=sharpness), np.float64)
    whole = np.concatenate([np.zeros((len(driven), 1)), driven], axis=1)
    return whole[:, [model.labels.index(name) for name in labels]], np.asarray(intensity, np.float64)
