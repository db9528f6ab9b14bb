"""The conditions of the animation arms, clip by clip: "seed<S>/tracks" writes one file of given tracks per arm.

    none        no emotion: zeros
    utterance   the mean posterior of the whole clip, sharpened, times the mean intensity, held
    segments    one emotion at a time as in SEDTalker's release: argmax after a median filter of 0.1 s, one-hot, times the mean
                intensity of the segment, switched hard
    window      the window arm of the diarization claims (2 s windows every second), sharpened, times its intensity
    predicted   our diarizer's posterior, sharpened, times its intensity, frame by frame
    oracle      the face's true activation

A diarizer has seen the training clips and errs less there than it will in use: animators that train on such tracks learn to
trust them too much. Cross-fitting would cost another diarizer or two for each. Instead the tracks of training clips are made
worse, run by run of one emotion, by shifting probability to the emotions that are confused on validation clips, until they are
right as often as on validation clips (`as_on_unseen_clips`). Utterance, segments and predicted share one draw; window
has its own, measured on itself. None and oracle hear nothing and need nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sedtalker_jax.data.given_tracks import write_given_tracks
from sedtalker_jax.data.mixing import open_records, spread_records
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.emotion.labels import ACTIVE
from sedtalker_jax.evaluation.claims.diarization_arms import tempered, whole_tracks, window_tracks
from sedtalker_jax.evaluation.claims.settings import Settings
from sedtalker_jax.inference.baselines import record_labels
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.scoring import Predictions, emotion_clip, fit_temperature

ARMS = ("none", "utterance", "segments", "window", "predicted", "oracle")
"""Arms that are trained, each on its own file <arm>.npz."""

SEGMENT_MEDIAN_S = 0.1
"""Five frames: the filter of the release's command."""

SMOKE_CLIPS = {"train": None, "valid": 4, "test": 6}

Record = Mapping[str, Any]


def split_records(settings: Settings, split: str) -> list[Record]:
    """The records of a split with their sound; a few of valid and test for a smoke run."""
    # Training validates on as many clips, which `spread` chooses too.
    return spread_records(open_records(settings.record_directories, split), SMOKE_CLIPS[split] if settings.smoke else None)


def write_tracks(settings: Settings, seed: int, directory: Path) -> None:
    """Writes <arm>.npz of every arm, for the clips of all splits."""
    directory.mkdir(parents=True, exist_ok=True)
    arms: dict[str, dict[str, np.ndarray]] = {arm: {} for arm in ARMS}
    records = {split: split_records(settings, split) for split in ("train", "valid", "test")}
    ours, window = (SEDTalker.load(directory.parent / "diarizer" / arm) for arm in ("ours", "window"))
    sharpness = ours.model.config.sharpness
    heard = calibrated(ours, whole_tracks, records, seed)
    windowed = calibrated(window, window_tracks, records, seed)
    for split, rows in records.items():
        for record, track, held in zip(rows, heard[split], windowed[split], strict=True):
            times = np.arange(len(record["motion"])) / float(record["fps"])
            conditions = {
                "none": np.zeros((len(times), len(ACTIVE)), np.float32),
                "utterance": utterance(track).at_times(times, sharpness=sharpness).activation,
                "segments": segmented(track).at_times(times).activation,
                "window": held.at_times(times, sharpness=sharpness).activation,
                "predicted": track.at_times(times, sharpness=sharpness).activation,
                "oracle": np.asarray(record["activation"], np.float32),
            }
            for arm, activation in conditions.items():
                arms[arm][record["id"]] = activation
    for arm, activations in arms.items():
        write_given_tracks(directory / f"{arm}.npz", activations)


def utterance(track: EmotionTrack) -> EmotionTrack:
    """The mean posterior and the mean intensity in every frame."""
    probabilities = np.broadcast_to(track.probabilities.mean(axis=0), track.probabilities.shape)
    return dataclasses.replace(
        track, probabilities=probabilities, intensity=np.full(track.num_frames, track.intensity.mean(), np.float32)
    )


def segmented(track: EmotionTrack) -> EmotionTrack:
    """One emotion at a time, with the mean intensity of its segment."""
    segments = track.segments("median", window=SEGMENT_MEDIAN_S)
    return EmotionTrack.from_segments(segments, labels=track.labels, duration=track.duration)


def calibrated(model: SEDTalker, hear, records: Mapping[str, Sequence[Record]], seed: int) -> dict[str, list[EmotionTrack]]:
    """Tracks of all splits, with the temperature that the validation split gives; of training clips as on unseen ones.

    Args:
      model: a diarizer.
      hear: (model, records) -> raw tracks.
      records: of "train", "valid" and others.
      seed: of the confusions.
    """
    model.temperature = 1.0
    raw = {split: hear(model, rows) for split, rows in records.items()}
    clips = [emotion_clip(record, model.labels) for record in records["valid"]]
    temperature = fit_temperature(Predictions(records["valid"], clips, raw["valid"]))
    tracks = {split: [tempered(track, temperature) for track in rows] for split, rows in raw.items()}
    truth = {split: [record_labels(record, model.labels) for record in records[split]] for split in ("train", "valid")}
    tracks["train"] = as_on_unseen_clips(tracks["train"], truth["train"], tracks["valid"], truth["valid"], seed)
    return tracks


def as_on_unseen_clips(
    seen: Sequence[EmotionTrack],
    seen_truth: Sequence[Int[np.ndarray, " T"]],
    unseen: Sequence[EmotionTrack],
    unseen_truth: Sequence[Int[np.ndarray, " T"]],
    seed: int,
) -> list[EmotionTrack]:
    """Tracks of clips that the diarizer was trained on, made as often wrong as its tracks of other clips.

    Every run of frames with one most likely emotion draws, if that emotion is right, another one from the confusions on the
    unseen clips, and a share uniform in [0, 1] of the difference between the two probabilities that changes sides. Half of
    the chosen runs so become wrong, and the less sure the more often. As many runs are chosen as bring the share of right
    frames down to that on the unseen clips; none if it is there already. Intensity stays as heard.

    Args:
      seen, unseen: calibrated tracks.
      seen_truth, unseen_truth: true label of each frame, negative = unlabelled.
      seed: of the draws.
    """
    goal = frame_accuracy(_joined(unseen), np.concatenate(unseen_truth))
    probabilities, truth = _joined(seen), np.concatenate(seen_truth)
    others = _confusions(_joined(unseen), np.concatenate(unseen_truth))
    rng = np.random.default_rng([seed, 0xC0])
    top = probabilities.argmax(axis=1)
    clip = np.repeat(np.arange(len(seen)), [track.num_frames for track in seen])
    run = np.concatenate([[0], np.cumsum((np.diff(top) != 0) | (np.diff(clip) != 0))])
    first = np.unique(run, return_index=True)[1]
    drawn = np.array([rng.choice(len(others), p=others[label]) for label in top[first]])[run]
    place, moved = rng.random(len(first))[run], rng.random(len(first))[run]
    right = (top == truth) | (truth < 0)
    frames = np.arange(len(top))
    difference = probabilities[frames, top] - probabilities[frames, drawn]

    def confused(share: float) -> np.ndarray:
        shift = np.where(right & (place < share), moved * difference, 0.0).astype(probabilities.dtype)
        result = probabilities.copy()
        result[frames, top] -= shift
        result[frames, drawn] += shift
        return result

    low, high = 0.0, 1.0
    for _ in range(12):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if frame_accuracy(confused(middle), truth) > goal else (low, middle)
    result = confused(low)
    ends = np.cumsum([track.num_frames for track in seen])
    return [
        dataclasses.replace(track, probabilities=result[end - track.num_frames : end])
        for track, end in zip(seen, ends, strict=True)
    ]


def frame_accuracy(probabilities: Float[np.ndarray, "N K"], truth: Int[np.ndarray, " N"]) -> float:
    """Share of labelled frames whose most likely emotion is the true one."""
    known = truth >= 0
    return float((probabilities.argmax(axis=1) == truth)[known].mean())


def _joined(tracks: Sequence[EmotionTrack]) -> Float[np.ndarray, "N K"]:
    return np.concatenate([track.probabilities for track in tracks])


def _confusions(probabilities: Float[np.ndarray, "N K"], truth: Int[np.ndarray, " N"]) -> Float[np.ndarray, "K K"]:
    """Of each true label, how often each other label is said where it is missed."""
    K = probabilities.shape[1]
    known = truth >= 0
    counts = np.bincount(truth[known] * K + probabilities.argmax(axis=1)[known], minlength=K * K).reshape(K, K) + 1.0
    np.fill_diagonal(counts, 0.0)
    return counts / counts.sum(axis=1, keepdims=True)
