"""What a diarizer must beat, and what it can't: random forests on measured and on true prosody."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.ensemble import RandomForestClassifier

from sedtalker_jax import axes
from sedtalker_jax.data.mixing import open_records, spread
from sedtalker_jax.data.pool import WorkerPool
from sedtalker_jax.data.world.prosody import prosody_track
from sedtalker_jax.errors import UserError

WINDOW_S = 1.5
"""Seconds around a frame whose prosody is measured."""

STRIDE = 5
"""Speech frames between windows; frames in between take the nearest window's answer."""

Features = Callable[[Mapping[str, Any]], Float[np.ndarray, "windows features"]]


def record_labels(record: Mapping[str, Any], labels: Sequence[str]) -> Int[np.ndarray, " T"]:
    """A record's frame labels as indices into `labels`, -1 where unlabelled or unknown to them."""
    table = np.array([labels.index(name) if name in labels else -1 for name in record["labels"]] + [-1], np.int32)
    return table[np.asarray(record["emotion"])]


def measured_prosody(record: Mapping[str, Any]) -> Float[np.ndarray, "windows 14"]:
    """Seven prosody statistics of the 1.5 s around every STRIDE-th frame, as heard and relative to the whole clip.

    The relative values stand in for knowing the voice: test voices are new, and this is the forest's only way to learn that
    one of them always speaks high.
    """
    track = prosody_track(np.asarray(record["waveform"], np.float64))
    times = axes.speech_frame_times(len(record["emotion"]))[::STRIDE]
    duration = record["num_samples"] / axes.SAMPLE_RATE
    half = WINDOW_S / 2
    windows = np.stack([track.statistics(max(0.0, t - half), min(duration, t + half)) for t in times])
    return np.concatenate([windows, windows - track.statistics(0.0, duration)], axis=1)


def true_prosody(record: Mapping[str, Any]) -> Float[np.ndarray, "windows 2P"]:
    """The parameters that the world's synthesiser was given at every STRIDE-th frame, and relative to the clip's mean."""
    frames = np.asarray(record["prosody"]["frames"], np.float64)
    return np.concatenate([frames, frames - frames.mean(axis=0)], axis=1)[::STRIDE]


def _training_rows(
    reader: Sequence[Mapping[str, Any]], index: int, features: Features, labels: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    record = reader[index]
    targets = record_labels(record, labels)[::STRIDE]
    rows = features(record)[: len(targets)]
    return rows[targets >= 0], targets[targets >= 0]


class FrameForest:
    """A random forest on features of every STRIDE-th frame."""

    def __init__(
        self,
        directories: Sequence[str],
        features: Features,
        labels: Sequence[str],
        num_clips: int,
        *,
        workers: int = 2,
        seed: int = 0,
    ):
        """Fits on up to `num_clips` training records, spread evenly over all.

        Args:
          directories: record directories.
          features: measured_prosody or true_prosody.
          labels: names of the K emotions.
          num_clips: how many records.
          workers: processes that measure.
          seed: of the forest.

        Raises:
          UserError: no training record has a frame of these labels, or a worker has died.
        """
        chosen = spread(len(open_records(directories, "train", decode_audio=False)), num_clips)
        self.num_clips, self.num_labels, self.features = len(chosen), len(labels), features
        jobs = [(int(i), features, tuple(labels)) for i in chosen]
        with WorkerPool(workers, open_records, (tuple(directories), "train", features is measured_prosody)) as pool:
            parts = [part for part in pool.map(_training_rows, jobs, chunk=8) if len(part[1])]
        if not parts:
            raise UserError(f"{', '.join(map(str, directories))}: no training clip has one of the labels {', '.join(labels)}")
        rows, targets = (np.concatenate(column) for column in zip(*parts, strict=True))
        self.forest = RandomForestClassifier(
            200, min_samples_leaf=8, max_features="sqrt", class_weight="balanced", n_jobs=workers, random_state=seed
        ).fit(rows, targets)

    def predict(self, records: Sequence[Mapping[str, Any]]) -> list[Float[np.ndarray, "T K"]]:
        """Class probabilities of every speech frame of each record."""
        asked = [self.features(record)[: len(record["emotion"][::STRIDE])] for record in records]
        # All at once: asking two hundred trees takes far longer than a clip's rows do.
        known = self.forest.predict_proba(np.concatenate(asked))
        answers = np.zeros((len(known), self.num_labels), np.float32)
        answers[:, self.forest.classes_] = known
        result, first = [], 0
        for record, rows in zip(records, asked, strict=True):
            nearest = np.round(np.arange(len(record["emotion"])) / STRIDE).astype(int)
            result.append(answers[first + np.minimum(nearest, len(rows) - 1)])
            first += len(rows)
        return result
