"""Scores a trained model on a split of its data set, beside trivial baselines."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from tqdm import tqdm

from sedtalker_jax import axes
from sedtalker_jax import evaluation as ev
from sedtalker_jax.data.records import RecordReader
from sedtalker_jax.data.world.timeline import silences
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.evaluation.table import ScoreRow, ScoreTable
from sedtalker_jax.inference.baselines import FrameForest, measured_prosody, record_labels, true_prosody
from sedtalker_jax.inference.pipeline import SEDTalker


@dataclasses.dataclass
class Predictions:
    """What the model says of a split, clip by clip."""

    records: list[dict[str, Any]]
    clips: list[ev.EmotionClip]
    tracks: list[EmotionTrack]


def emotion_clip(record: Mapping[str, Any], labels: Sequence[str]) -> ev.EmotionClip:
    """A record's truth in the form that the emotion scores take."""
    duration = record["num_samples"] / axes.SAMPLE_RATE
    prosody = record.get("prosody") or {}
    joins = [time for time, changed in prosody.get("joins", ()) if not changed]
    speech = None
    if prosody:
        words = np.array([[start, end] for _, start, end in prosody["words"]])
        speech = _complement(silences(words, duration, 0.5), duration)
    return ev.EmotionClip(
        name=record["id"],
        speaker=record["speaker"],
        duration=duration,
        labels=tuple(labels),
        emotion=record_labels(record, labels),
        intensity=np.asarray(record["intensity"], np.float32),
        segments=record["segments"],
        joins=joins,
        speech=speech,
    )


def _complement(spans: Sequence[tuple[float, float]], duration: float) -> list[tuple[float, float]]:
    edges = [0.0, *(time for span in spans for time in span), duration]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]


def predict(model: SEDTalker, reader: RecordReader, max_clips: int | None = None) -> Predictions:
    """Diarizes the records of a split."""
    count = len(reader) if max_clips is None else min(max_clips, len(reader))
    records = [reader[i] for i in range(count)]
    tracks = [
        model.diarize(record["waveform"]) for record in tqdm(records, desc=f"diarize {reader.split}", unit="clip", mininterval=2.0)
    ]
    return Predictions(records, [emotion_clip(record, model.labels) for record in records], tracks)


def fit_temperature(predictions: Predictions) -> float:
    """Temperature that minimises the cross-entropy of labelled frames (Guo et al., arXiv 1706.04599, section 4.2).

    The tracks must have been made with temperature 1.
    """
    logs = np.concatenate(
        [np.log(np.maximum(t.probabilities, 1e-9))[c.emotion >= 0] for c, t in zip(predictions.clips, predictions.tracks, strict=True)]
    ).astype(np.float64)
    labels = np.concatenate([c.emotion[c.emotion >= 0] for c in predictions.clips])

    def cross_entropy(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        normaliser = np.log(np.exp(scaled - scaled.max(axis=1, keepdims=True)).sum(axis=1)) + scaled.max(axis=1)
        return float(np.mean(normaliser - scaled[np.arange(len(labels)), labels]))

    return float(np.exp(minimize_scalar(cross_entropy, bounds=(-2.0, 2.0), method="bounded").x))


def forest_tracks(forest: FrameForest, predictions: Predictions) -> list[EmotionTrack]:
    """Tracks of a frame forest on the same clips; it knows no intensity."""
    tracks = []
    for record, clip in zip(predictions.records, predictions.clips, strict=True):
        probabilities = forest.predict(record)
        tracks.append(
            EmotionTrack(clip.labels, probabilities, np.full(len(probabilities), np.nan, np.float32), duration=clip.duration)
        )
    return tracks


def score_emotion(
    model: SEDTalker, predictions: Predictions, directory: pathlib.Path, *, baseline_clips: int, workers: int = 2
) -> ev.EmotionScores:
    """Emotion scores of the model, the majority emotion, the prosody forest and, where the world tells, the oracle.

    Args:
      model: gives the labels.
      predictions: of the test split.
      directory: record directory, whose training split the baselines are fitted on.
      baseline_clips: training clips for the forests.
    """
    labels = model.labels
    train = RecordReader(directory, "train", decode_audio=False)
    sample = [record_labels(train[i], labels) for i in range(0, len(train), max(1, len(train) // 400))]
    forest = FrameForest(str(directory), measured_prosody, labels, baseline_clips, workers=workers)
    systems = {
        "model": predictions.tracks,
        "majority": ev.constant_tracks(predictions.clips, ev.majority_label(sample, labels)),
        "prosody forest": forest_tracks(forest, predictions),
    }
    if predictions.records[0].get("prosody"):
        oracle = FrameForest(str(directory), true_prosody, labels, baseline_clips, workers=workers)
        systems["oracle prosody"] = forest_tracks(oracle, predictions)
    return ev.evaluate_emotion(predictions.clips, systems, title="Emotion per frame, unseen voices and sentences")


@dataclasses.dataclass(frozen=True)
class AnimationScores:
    """Tables of the animation scores, and curves of the first clips for plots."""

    table: ScoreTable
    ratios: ScoreTable
    curves: list[dict[str, Any]]


def score_animation(model: SEDTalker, predictions: Predictions, *, num_curves: int = 3) -> AnimationScores:
    """Animation scores of the model with its own track and with the true one, a still face, and the mean motion.

    Truth and predictions are vertices on the clip's own template; the lip, upper-face and eye sets are the face space's
    regions, named with their sizes in the table's note.
    """
    codec, space = model.codec, model.codec.space
    lips, upper, eyes = (np.asarray(space.regions[name]) for name in ("lips", "upper_face", "eye_region"))
    points = np.asarray(space.regions["upper_lip_middle"]), np.asarray(space.regions["lower_lip_middle"])
    names = ("model", "model, true track", "neutral template", "mean motion")
    values: dict[str, dict[str, list]] = {name: {} for name in names}
    weights, curves, closures = [], [], {name: [] for name in (*names, "truth")}
    for record, track in zip(
        tqdm(predictions.records, desc="animate test", unit="clip", mininterval=2.0), predictions.tracks, strict=True
    ):
        face = model.template(record["template"])
        target = space.vertices(face.vertices, np.asarray(record["motion"], np.float32))
        waveform = record["waveform"]
        F = axes.num_animation_frames(len(waveform), model.fps)
        times = np.arange(F) / model.fps
        heard = track.at_times(times, sharpness=model.model.config.sharpness).activation
        true = np.zeros_like(heard)
        stored = np.asarray(record["activation"], np.float32)[:F]
        true[: len(stored)] = stored
        systems = {
            "model": codec.vertices(face.vertices, model.motion(waveform, heard, face)),
            "model, true track": codec.vertices(face.vertices, model.motion(waveform, true, face)),
            "neutral template": np.broadcast_to(face.vertices, (F, *face.vertices.shape)),
            "mean motion": codec.vertices(face.vertices, np.zeros((F, codec.rank), np.float32)),
        }
        rest = float(ev.lip_distance(face.vertices[None], *points)[0])
        distances = {}
        for name, prediction in systems.items():
            prediction, reference = ev.cut_to_shorter(prediction, target)
            scores = _animation_scores(prediction, reference, face.vertices, lips, upper, eyes, model.fps)
            for metric, value in scores.items():
                values[name].setdefault(metric, []).append(value)
            distances[name] = ev.lip_distance(prediction, *points)
        distances["truth"] = ev.lip_distance(target, *points)
        for name, distance in distances.items():
            closures[name].append(ev.bilabial_closures(distance, model.fps, record["phonemes"], closed_distance=rest))
        weights.append(len(target))
        if len(curves) < num_curves:
            curves.append({"id": record["id"], "phonemes": record["phonemes"], "lip_distance": distances})
    bootstrap = ev.HierarchicalBootstrap([record["speaker"] for record in predictions.records])
    return AnimationScores(*_animation_tables(values, closures, np.array(weights, float), bootstrap, space.regions), curves)


def _animation_scores(prediction, reference, template, lips, upper, eyes, fps) -> dict[str, float]:
    def mean_square_mm2(vertices):
        return float(np.mean(np.sum(np.square(1e3 * (prediction[:, vertices] - reference[:, vertices])), axis=-1)))

    return {
        "lip_mean_squared_error_mm2": mean_square_mm2(lips),
        "lip_vertex_error_mm2": ev.lip_vertex_error_mm2(prediction, reference, lips),
        "lip_vertex_error_rooted_mm": ev.lip_vertex_error_rooted_mm(prediction, reference, lips),
        "mean_vertex_error_mm": ev.mean_vertex_error_mm(prediction, reference),
        "emotional_vertex_error_mm2": 1e6 * ev.emotional_vertex_error(prediction, reference, eyes),
        "upper_face_mean_squared_error_mm2": mean_square_mm2(upper),
        "upper_face_dynamics_deviation_mm2": 1e6 * ev.upper_face_dynamics_deviation(prediction, reference, template, upper),
        "velocity_error_mm_per_s": ev.velocity_error_mm_per_s(prediction, reference, fps),
    }


_UNITS = {"mm2": "mm²", "mm": "mm", "mm_per_s": "mm/s"}


def _animation_tables(values, closures, weights, bootstrap, regions) -> tuple[ScoreTable, ScoreTable]:
    names = list(values)
    rows = []
    for metric in values[names[0]]:
        cells = {name: bootstrap.mean(np.array(values[name][metric]), weights) for name in names}
        unit = next(_UNITS[suffix] for suffix in ("mm_per_s", "mm2", "mm") if metric.endswith("_" + suffix))
        better = None if metric.startswith("upper_face_dynamics") else False
        rows.append(ScoreRow(metric, cells, unit, better, 3))
    recall = {name: bootstrap.interval(np.array(counts, float)) for name, counts in closures.items()}
    rows.append(ScoreRow("bilabial_closure_recall", recall, "", True, 3))
    sizes = ", ".join(f"{name} {len(regions[name])}" for name in ("lips", "upper_face", "eye_region"))
    note = f"Frame-weighted means, 95% intervals over voices, then clips. Vertex sets of the face space: {sizes}."
    table = ScoreTable("Animation, unseen voices, sentences and heads", [*names, "truth"], rows, note)

    def ratio(sums):
        return sums[..., 0] / np.maximum(sums[..., 1], 1e-12)

    ratios = []
    for metric in ("lip_mean_squared_error_mm2", "lip_vertex_error_mm2", "upper_face_mean_squared_error_mm2"):
        ours = np.array(values["model"][metric]) * weights
        cells = {
            other: bootstrap.interval(np.stack([ours, np.array(values[other][metric]) * weights], axis=1), ratio)
            for other in ("neutral template", "mean motion")
        }
        ratios.append(ScoreRow(metric, cells, "", False, 3))
    return table, ScoreTable("Model's error as a share of ...", ["neutral template", "mean motion"], ratios, "Paired over clips.")
