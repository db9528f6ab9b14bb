"""Scores a trained model on a split of its data set, beside trivial baselines."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from tqdm import tqdm

from sedtalker_jax import axes
from sedtalker_jax import evaluation as ev
from sedtalker_jax.data.faces.motion_code import true_vertices
from sedtalker_jax.data.mixing import num_records, open_records, record_name
from sedtalker_jax.data.records import read_manifest
from sedtalker_jax.data.world.timeline import silences
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.emotion.labels import ACTIVE
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.animation_evaluation import AnimationEvaluation, AnimationRegions
from sedtalker_jax.evaluation.table import ScoreRow, ScoreTable
from sedtalker_jax.face.lip_points import lip_points
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.inference.baselines import FrameForest, measured_prosody, record_labels, true_prosody
from sedtalker_jax.inference.pipeline import SEDTalker


@dataclasses.dataclass
class Predictions:
    """What the model says of a split, clip by clip."""

    records: Sequence[Mapping[str, Any]]
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
        corpus=record.get("corpus", ""),
    )


def _complement(spans: Sequence[tuple[float, float]], duration: float) -> list[tuple[float, float]]:
    edges = [0.0, *(time for span in spans for time in span), duration]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]


def predict(model: SEDTalker, records: Sequence[Mapping[str, Any]], title: str) -> Predictions:
    """Diarizes records; `title` stands before the progress bar."""
    tracks = []
    for record in tqdm(records, desc=title, unit="clip", mininterval=2.0):
        tracks.append(model.diarize(record["waveform"], given_embedding=record.get("given_embedding")))
    return Predictions(records, [emotion_clip(record, model.labels) for record in records], tracks)


def fit_temperature(predictions: Predictions) -> float:
    """Temperature that minimises the cross-entropy of labelled frames (Guo et al., arXiv 1706.04599, section 4.2).

    The tracks must have been made with temperature 1. Without labelled frames it is 1.
    """
    if not any((clip.emotion >= 0).any() for clip in predictions.clips):
        return 1.0
    logs = np.concatenate(
        [
            np.log(np.maximum(t.probabilities, 1e-9))[c.emotion >= 0]
            for c, t in zip(predictions.clips, predictions.tracks, strict=True)
        ]
    ).astype(np.float64)
    labels = np.concatenate([c.emotion[c.emotion >= 0] for c in predictions.clips])

    def cross_entropy(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        normaliser = np.log(np.exp(scaled - scaled.max(axis=1, keepdims=True)).sum(axis=1)) + scaled.max(axis=1)
        return float(np.mean(normaliser - scaled[np.arange(len(labels)), labels]))

    return float(np.exp(minimize_scalar(cross_entropy, bounds=(-2.0, 2.0), method="bounded").x))


def forest_tracks(forest: FrameForest, labels: Sequence[str], records: Sequence[Mapping[str, Any]]) -> list[EmotionTrack]:
    """Tracks of a frame forest on records; it knows no intensity."""
    tracks = []
    for record, probabilities in zip(records, forest.predict(records), strict=True):
        unknown = np.full(len(probabilities), np.nan, np.float32)
        duration = record["num_samples"] / axes.SAMPLE_RATE
        tracks.append(EmotionTrack(tuple(labels), probabilities, unknown, duration=duration))
    return tracks


def score_emotion(
    model: SEDTalker, predictions: Predictions, directories: Sequence[str], *, baseline_clips: int, workers: int = 2
) -> ev.EmotionScores:
    """Emotion scores of the model beside trivial systems and forests.

    These are: the commonest emotion of the training clips, and their shares of emotions; of several corpora, the shares in the
    training clips of each clip's own corpus, which whoever recognises the corpus knows; a forest on measured prosody and, where
    the world tells, one on the true prosody. Records without a labelled training frame, a corpus to test on, leave the model
    alone.

    Args:
      model: gives the labels.
      predictions: of the test split.
      directories: record directories, whose training split the baselines are fitted on.
      baseline_clips: training clips for the forests; 0 leaves them out.
    """
    labels = model.labels
    systems = {"model": predictions.tracks}
    train = open_records(directories, "train", decode_audio=False) if num_records(directories, "train") else ()
    sample = [record_labels(train[i], labels) for i in range(0, len(train), max(1, len(train) // 400))]
    if any((emotion >= 0).any() for emotion in sample):
        systems["majority"] = ev.constant_tracks(predictions.clips, ev.majority_label(sample, labels))
        systems["training shares"] = ev.prior_tracks(predictions.clips, _shares_of_labels(sample, len(labels)))
        own = corpus_prior_tracks(predictions, directories)
        if own is not None:
            systems["corpus shares"] = own
        kinds = {"prosody forest": measured_prosody}
        if predictions.records[0].get("prosody"):
            kinds["oracle prosody"] = true_prosody
        for name, features in kinds.items() if baseline_clips else ():
            forest = FrameForest(directories, features, labels, baseline_clips, workers=workers)
            systems[name] = forest_tracks(forest, labels, predictions.records)
    return ev.evaluate_emotion(predictions.clips, systems, title="Emotion per frame")


def corpus_prior_tracks(predictions: Predictions, directories: Sequence[str]) -> list[EmotionTrack] | None:
    """The system that gives every frame the class shares of its corpus's training split.

    A clip of a corpus without training clips gets the shares of all corpora together.

    Returns:
      None unless the clips are of at least two corpora that have training clips: the shares of one tell nothing apart.
    """
    labels = predictions.clips[0].labels
    frames: dict[str, np.ndarray] = {}
    for directory in directories:
        counts = read_manifest(directory)["splits"].get("train", {}).get("frames", {})
        own = np.array([float(counts.get(name, 0)) for name in labels])
        if own.any():
            frames[record_name(directory)] = frames.get(record_name(directory), 0.0) + own
    corpora = [str(record.get("corpus", "")) for record in predictions.records]
    if len(set(corpora) & set(frames)) < 2:
        return None
    everyone = np.sum(list(frames.values()), axis=0)
    pairs = zip(predictions.clips, corpora, strict=True)
    return [ev.prior_tracks([clip], frames.get(corpus, everyone))[0] for clip, corpus in pairs]


def _shares_of_labels(frames: Sequence[np.ndarray], num_labels: int) -> np.ndarray:
    known = np.concatenate([emotion[emotion >= 0] for emotion in frames])
    return np.bincount(known, minlength=num_labels) / max(len(known), 1)


def group_tables(predictions: Predictions) -> dict[str, ScoreTable]:
    """The model's scores apart by corpus, sex and language, where the records name more than one."""
    tables = {}
    for name in ("corpus", "sex", "language"):
        groups = [str(record.get(name) or "unknown") for record in predictions.records]
        if len(set(groups)) > 1:
            title = f"Emotion per frame, by {name}"
            tables[f"by_{name}"] = ev.scores_by_group(predictions.clips, predictions.tracks, groups, title=title)
    return tables


def intended_and_perceived(predictions: Predictions) -> ScoreTable | None:
    """The model against what actors were asked for and against what listeners heard, on the clips that have both.

    A clip counts where its listeners agreed on one emotion that the model knows. None if no clip does.
    """
    kept, intended, perceived = [], [], []
    for index, (record, clip) in enumerate(zip(predictions.records, predictions.clips, strict=True)):
        heard = perceived_clip(record, clip)
        if heard is not None:
            kept.append(index)
            intended.append(clip)
            perceived.append(heard)
    if not kept:
        return None
    tracks = [predictions.tracks[index] for index in kept]
    kinds = {"intended": intended, "perceived": perceived}
    found = {name: ev.evaluate_emotion(clips, {name: tracks}).table for name, clips in kinds.items()}
    metrics = {row.metric: row for table in found.values() for row in table.rows}
    rows = []
    for metric, row in metrics.items():
        values = {name: r.values[name] for name, table in found.items() for r in table.rows if r.metric == metric}
        rows.append(dataclasses.replace(row, values=values))
    agree = np.mean([a.segments[0][2] == b.segments[0][2] for a, b in zip(intended, perceived, strict=True)])
    note = f"{found['intended'].note} Listeners heard what was intended in {agree:.1%} of these recordings."
    return ScoreTable("Emotion per frame, as intended and as perceived", tuple(kinds), rows, note)


def perceived_clip(record: Mapping[str, Any], clip: ev.EmotionClip) -> ev.EmotionClip | None:
    """A clip of one emotion with the listeners' label in the place of the intended one.

    Its intensity is theirs too: known where they gave a level and heard what was intended.

    Returns:
      None where nobody rated it, the vote was a tie, or the model does not know the emotion.
    """
    votes = record.get("perceived", ())
    if len(votes) != 1 or votes[0] not in clip.labels:
        return None
    level = record.get("perceived_level", np.nan)
    return dataclasses.replace(
        clip,
        emotion=np.where(clip.emotion >= 0, clip.labels.index(votes[0]), -1).astype(clip.emotion.dtype),
        intensity=np.full(len(clip.emotion), level, np.float32),
        segments=[(start, end, votes[0]) for start, end, *_ in clip.segments],
    )


@dataclasses.dataclass(frozen=True)
class AnimationScores:
    """Tables of the animation scores, and curves of the first clips for plots."""

    table: ScoreTable
    differences: ScoreTable
    shares: ScoreTable
    curves: list[dict[str, Any]]


SYSTEMS = ("model", "model, true track", "neutral template", "mean motion")
"""The model with its own track, with the face's true activation; a still face; the training motion's mean.

Where nobody says what a face feels, its true track is the model's own."""


def score_animation(
    model: SEDTalker,
    records: Sequence[Mapping[str, Any]],
    tracks: Sequence[EmotionTrack | Float[np.ndarray, "F K-1"] | None],
    truth: FaceSpace,
    *,
    num_curves: int = 3,
) -> AnimationScores:
    """Animation scores of SYSTEMS, as vertices on each clip's own template.

    Args:
      model: the trained model.
      records: of a split.
      tracks: what drives the system "model" in each: the track that the diarizer hears, given strengths of all emotions of
        ACTIVE at the animation frames (data.given_tracks), or None where the face's schedule drives it, since the voice does
        not tell. If it is None everywhere, the system "model, true track" is "model" itself and is left out; and so it is
        where no record's activation is known.
      truth: the face space of these records, which may be another data set than the model's own: its templates are the ones
        to animate, its basis is what the records' motion is given in.
      num_curves: clips whose lip distance is kept for plots.

    Raises:
      UserError: the records' faces have another topology or frame rate than the model's.
    """
    columns = [ACTIVE.index(name) for name in model.labels if name != "neutral"]
    known = [bool(np.isfinite(np.asarray(record["activation"])[:, columns]).all()) for record in records]
    differ = any(track is not None and told for track, told in zip(tracks, known, strict=True))
    systems = SYSTEMS if differ else tuple(name for name in SYSTEMS if name != "model, true track")
    codec, space = model.codec, model.codec.space
    if truth.fps != model.fps:
        raise UserError(f"the records' faces move at {truth.fps:g} fps and the model's at {model.fps:g}; choose other data")
    # Published lists may name no eye region, or no upper and lower lip: what needs them is left out of the table.
    has_eyes, has_lips = ({*names} <= set(space.regions) for names in (("eye_region", "forehead"), ("upper_lip", "lower_lip")))
    regions = AnimationRegions.from_mapping(
        space.topology,
        space.regions,
        space.num_vertices,
        emotional=("eye_region", "forehead") if has_eyes else None,
        upper_lip=("upper_lip",) if has_lips else None,
        lower_lip=("lower_lip",) if has_lips else None,
        lip_points=lip_points(space.topology),
    )
    scores = AnimationEvaluation(regions, model.fps, systems)
    curves = []
    progress = tqdm(records, desc="animate", unit="clip", mininterval=2.0)
    for record, track, told in zip(progress, tracks, known, strict=True):
        face = model.template(truth.template(record["template"]))
        waveform = record["waveform"]
        F = axes.num_animation_frames(len(waveform), model.fps)
        true = _at_frames(record["activation"], F)[:, columns]
        # A split may hold subjects of the training split, with other sentences (BIWI's test A).
        subject = next((name for name in (record["speaker"], record["template"]) if name in model.subjects), None)
        given = record.get("given_embedding")
        move = functools.partial(model.motion, waveform, face=face, subject=subject, given_embedding=given)
        vertices = {
            "neutral template": np.broadcast_to(face.vertices, (F, *face.vertices.shape)),
            "mean motion": codec.vertices(face.vertices, np.zeros((F, codec.rank), np.float32)),
        }
        if told or track is None:
            vertices["model, true track"] = codec.vertices(face.vertices, move(true))
        if track is None:
            vertices["model"] = vertices["model, true track"]
        else:
            if isinstance(track, EmotionTrack):
                heard = model.activations(track, len(waveform))
            else:
                heard = _at_frames(track, F)[:, columns]
            vertices["model"] = codec.vertices(face.vertices, move(heard))
            vertices.setdefault("model, true track", vertices["model"])
        target = true_vertices(record, truth)
        transitions = [b[0] for a, b in zip(record["segments"], record["segments"][1:], strict=False) if a[2] != b[2]]
        scores.add(
            record["id"],
            f"{record.get('corpus', '')}/{record['speaker']}",
            target,
            face.vertices,
            {name: vertices[name] for name in systems},
            phonemes=record.get("phonemes", ()),
            transitions=transitions,
            waveform=waveform,
        )
        if len(curves) < num_curves and regions.upper_lip is not None:
            shown = {"truth": target, "model": vertices["model"], "mean motion": vertices["mean motion"]}
            distance = {name: ev.lip_distance(v, regions.upper_lip, regions.lower_lip) for name, v in shown.items()}
            curves.append({"id": record["id"], "phonemes": record.get("phonemes", ()), "lip_distance": distance})
    return AnimationScores(scores.table("Animation"), scores.differences("Animation"), _shares(scores), curves)


def _at_frames(activation: np.ndarray, num_frames: int) -> Float[np.ndarray, "F K-1"]:
    """Stored strengths as float32 at exactly `num_frames` frames; none past their end, and none where nobody gave one (NaN)."""
    stored = np.nan_to_num(np.asarray(activation, np.float32)[:num_frames])
    return np.pad(stored, ((0, num_frames - len(stored)), (0, 0)))


def _shares(scores: AnimationEvaluation) -> ScoreTable:
    """The model's squared errors as shares of the trivial systems', paired by clip and weighted by frames."""
    bootstrap = ev.HierarchicalBootstrap(scores.speakers)
    frames = np.asarray(scores.num_frames, np.float64)

    trivial = SYSTEMS[2:]
    rows = []
    for metric in ("lip_mean_squared_error_mm2", "lip_vertex_error_mm2", "emotional_vertex_error_mm2"):
        if not np.isfinite(scores.per_clip(metric, SYSTEMS[0])).any():
            continue
        ours = scores.per_clip(metric, SYSTEMS[0]) * frames
        cells = {
            other: bootstrap.interval(np.stack([ours, scores.per_clip(metric, other) * frames], axis=1)) for other in trivial
        }
        rows.append(ScoreRow(metric, cells, "", False))
    return ScoreTable("Squared error of the model as a share of ...", trivial, rows, "Paired by clip, weighted by frames.")
