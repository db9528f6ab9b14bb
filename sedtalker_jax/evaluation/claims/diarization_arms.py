"""The arms of the diarization claims: how each is trained, how it hears, and what the validation split chooses for it."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sedtalker_jax import axes
from sedtalker_jax.data.mixing import open_records
from sedtalker_jax.data.pipeline import utterance_label
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.emotion.decoding import sharpen
from sedtalker_jax.evaluation import emotion_metrics as metrics
from sedtalker_jax.evaluation.claims.jobs import train_arm
from sedtalker_jax.evaluation.claims.settings import Settings
from sedtalker_jax.evaluation.emotion_evaluation import EmotionClip
from sedtalker_jax.inference.baselines import FrameForest, measured_prosody
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.scoring import Predictions, emotion_clip, fit_temperature, forest_tracks
from sedtalker_jax.inference.windows import split, stitch
from sedtalker_jax.training.streams import streams_of

Record = Mapping[str, Any]
Hear = Callable[[Sequence[Record]], list[EmotionTrack]]

TRAINED = ("ours", "utterance-labels", "window", "linear")
ARMS = (*TRAINED, "prosody-forest", "oracle-utterance")

WINDOW_S, WINDOW_HOP_S = 2.0, 1.0
"""Windows of the arm of that name: SEDTalker's chunked inference has the same."""

TRANSITION_COSTS = (0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Viterbi costs of a change, in nats, that the validation split chooses from."""


def arm_config(settings: Settings, arm: str, seed: int, held_out: str = "") -> ConfigDict:
    """The config that a trained arm runs with; `held_out` names a recorded corpus that it must not see.

    Raises:
      ValueError: another arm.
    """
    from configs import claims

    if arm not in TRAINED:
        raise ValueError(f"unknown arm {arm!r}: expected one of {', '.join(TRAINED)}")
    config = claims.get_config(",".join(["diarizer", *([settings.variant] if settings.variant else [])]))
    config.seed = config.pipeline.seed = seed
    config.data.speech = settings.data
    if held_out:
        config.data.held_out = held_out
    if not settings.smoke:
        config.num_steps = config.eval_every = settings.diarizer_steps
    pipeline = config.pipeline
    if arm in ("utterance-labels", "window"):
        pipeline.label_granularity = "utterance"
    if arm == "window":
        pipeline.one_emotion_only = True
        pipeline.batch_size = round(pipeline.batch_size * pipeline.max_seconds / WINDOW_S)
        pipeline.max_seconds, pipeline.bucket_seconds = WINDOW_S, (WINDOW_S,)
    if arm == "linear":
        config.model.diarizer.backbone, config.model.diarizer.frame_stacking = None, 1
    return config.lock()


def train(settings: Settings, arm: str, seed: int, workdir: Path, held_out: str = "") -> None:
    """Trains an arm and, for those that hear whole clips, leaves a calibration beside the checkpoint as evaluate.py does."""
    from sedtalker_jax.inference.evaluation_run import calibrate

    config = arm_config(settings, arm, seed, held_out)
    train_arm(config, workdir)
    if arm != "window":
        (stream,) = streams_of(config.data, config.pipeline)
        calibrate(SEDTalker.load(workdir), open_records(stream.directories, "valid"), None, workdir)


@dataclasses.dataclass(frozen=True)
class Arm:
    """A system with the choices that the validation split made for it.

    Attributes:
      name: of the arm.
      hear: records -> raw tracks.
      temperature: of its probabilities.
      transition_cost: of the Viterbi decoder, in nats.
    """

    name: str
    hear: Hear
    temperature: float
    transition_cost: float

    @classmethod
    def fit(cls, name: str, hear: Hear, valid: Sequence[Record], clips: Sequence[EmotionClip]) -> Arm:
        """Chooses the temperature by cross-entropy, then the cost of a change by the error rate."""
        raw = hear(valid)
        temperature = fit_temperature(Predictions(valid, list(clips), raw))
        tracks = [tempered(track, temperature) for track in raw]
        weights = [clip.duration for clip in clips]
        errors = []
        for cost in TRANSITION_COSTS:
            decoded = [decide(track, cost) for track in tracks]
            errors.append(np.average([error_rate(c, d) for c, d in zip(clips, decoded, strict=True)], weights=weights))
        return cls(name, hear, temperature, TRANSITION_COSTS[int(np.argmin(errors))])

    def tracks(self, records: Sequence[Record]) -> list[EmotionTrack]:
        """Calibrated tracks."""
        return [tempered(track, self.temperature) for track in self.hear(records)]

    def decide(self, tracks: Sequence[EmotionTrack]) -> list[EmotionTrack]:
        """Tracks that say one emotion a frame."""
        return [decide(track, self.transition_cost) for track in tracks]


def tempered(track: EmotionTrack, temperature: float) -> EmotionTrack:
    """The track with its logarithmic probabilities divided by a temperature."""
    return dataclasses.replace(track, probabilities=sharpen(track.probabilities, 1.0 / temperature))


def decide(track: EmotionTrack, transition_cost: float) -> EmotionTrack:
    """The decoded track: probability 1 for the emotion of each frame."""
    return track.decoded("viterbi", crossfade=0.0, transition_cost=transition_cost)


def error_rate(clip: EmotionClip, decided: EmotionTrack) -> float:
    """Emotion diarization error rate of a decoded track."""
    return metrics.emotion_diarization_error_rate(clip.segments, decided.segments(), clip.duration).error_rate


def whole_tracks(model: SEDTalker, records: Sequence[Record]) -> list[EmotionTrack]:
    """A model's tracks of whole clips."""
    return model.diarize_many([record["waveform"] for record in records])


def window_tracks(model: SEDTalker, records: Sequence[Record]) -> list[EmotionTrack]:
    """The window arm's tracks: each window answers once, with the mean probability of its frames."""
    windows = [split(len(record["waveform"]), WINDOW_S, WINDOW_HOP_S, axes.FRAME_RATE) for record in records]
    pieces = [r["waveform"][w.start : w.stop] for r, own in zip(records, windows, strict=True) for w in own]
    answers = iter(model.diarize_many(pieces))
    tracks = []
    for record, own in zip(records, windows, strict=True):
        heard = [next(answers) for _ in own]
        starts = [window.start // axes.FRAME_HOP for window in own]
        total = axes.num_speech_frames(len(record["waveform"]))
        held = [np.broadcast_to(h.probabilities.mean(axis=0), h.probabilities.shape) for h in heard]
        strengths = [np.full(h.num_frames, h.intensity.mean(), np.float32) for h in heard]
        duration = len(record["waveform"]) / axes.SAMPLE_RATE
        probabilities, intensity = stitch(held, starts, total), stitch(strengths, starts, total)
        tracks.append(EmotionTrack(model.labels, probabilities, intensity, duration=duration))
    return tracks


def oracle_tracks(labels: Sequence[str], records: Sequence[Record]) -> list[EmotionTrack]:
    """The true commonest label and its mean intensity, in every frame."""
    tracks = []
    for record in records:
        clip = emotion_clip(record, labels)
        label, strength = utterance_label(clip.emotion, clip.intensity)
        probabilities = np.zeros((len(clip.emotion), len(labels)), np.float32)
        probabilities[:, max(label, 0)] = 1.0
        strengths = np.full(len(clip.emotion), strength, np.float32)
        tracks.append(EmotionTrack(tuple(labels), probabilities, strengths, duration=clip.duration))
    return tracks


def load_arms(settings: Settings, directory: Path, seed: int) -> tuple[tuple[str, ...], dict[str, Hear]]:
    """The labels, and what every arm says of records.

    Args:
      settings: names the data; the forest is fitted to all of its training clips.
      directory: holds a workdir for each of TRAINED.
      seed: of the forest.
    """
    models = {name: SEDTalker.load(directory / name) for name in TRAINED}
    for model in models.values():
        model.temperature = 1.0
    hears: dict[str, Hear] = {
        name: functools.partial(window_tracks if name == "window" else whole_tracks, model) for name, model in models.items()
    }
    labels, workers = models["ours"].labels, min(4, os.cpu_count() or 1)
    train_clips = len(open_records(settings.record_directories, "train", decode_audio=False))
    chosen = settings.record_directories, measured_prosody, labels, train_clips
    forest = FrameForest(*chosen, workers=workers, seed=seed)
    hears["prosody-forest"] = functools.partial(forest_tracks, forest, labels)
    hears["oracle-utterance"] = functools.partial(oracle_tracks, labels)
    return labels, hears
