"""Where the arms of the diarization claims differ: by length of the segments, context, noise, joins, intensity, world."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from sedtalker_jax import axes
from sedtalker_jax.data.augment import add_noise
from sedtalker_jax.data.records import RecordReader
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.evaluation import emotion_metrics as metrics
from sedtalker_jax.evaluation import report
from sedtalker_jax.evaluation.bootstrap import HierarchicalBootstrap
from sedtalker_jax.evaluation.claims.diarization_arms import Arm, Record, error_rate
from sedtalker_jax.evaluation.claims.tables import save_table
from sedtalker_jax.evaluation.emotion_evaluation import EmotionClip
from sedtalker_jax.inference.scoring import emotion_clip

SEGMENT_EDGES_S = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
CONTEXTS_S = (0.25, 0.5, 1.0, 2.0, 4.0)
SIGNAL_TO_NOISE_DB = (20.0, 10.0, 5.0, 0.0)

EVERY = 3
"""Context and noise are scored on every third clip of the test split: two of every voice of the built-in world."""

_BLOCK_FRAMES = 12
"""Frames (0.24 s) that one piece of limited context answers for."""

_PINK = 1.0
_CALIBRATION_BINS = 15


@dataclasses.dataclass(frozen=True, eq=False)
class ArmResult:
    """What an arm says of the test split: `tracks` calibrated, `decided` decoded."""

    arm: Arm
    clips: Sequence[EmotionClip]
    tracks: Sequence[EmotionTrack]
    decided: Sequence[EmotionTrack]

    @classmethod
    def of(cls, arm: Arm, records: Sequence[Record], clips: Sequence[EmotionClip]) -> ArmResult:
        """Hears the records."""
        tracks = arm.tracks(records)
        return cls(arm, clips, tracks, arm.decide(tracks))

    def error_rates(self) -> Float[np.ndarray, " clips"]:
        """Emotion diarization error rate of every clip."""
        return np.array([error_rate(clip, decided) for clip, decided in zip(self.clips, self.decided, strict=True)])

    def error_rate(self) -> float:
        """The same of all clips, weighted by seconds."""
        return float(np.average(self.error_rates(), weights=[clip.duration for clip in self.clips]))

    def confusion(self) -> np.ndarray:
        """Counts of frames, [K, K] (true, said)."""
        K = len(self.clips[0].labels)
        pairs = zip(self.clips, self.decided, strict=True)
        return sum(metrics.confusion_counts(clip.emotion, d.probabilities.argmax(axis=1), K) for clip, d in pairs)


def write(directory: Path, results: Sequence[ArmResult], records: Sequence[Record], clips: Sequence[EmotionClip]) -> None:
    """Writes tables/ and figures/ of a scoring job.

    Args:
      directory: of the job.
      results: of all arms on the whole test split; the first is the one under test.
      records, clips: the test split.
    """
    overview(directory, results)
    by_segment_length(directory, results)
    intensity(directory, results)
    some = slice(None, None, EVERY)
    by_noise(directory, [result.arm for result in results], records[some], clips[some])
    by_context(directory, results[0].arm, records[some], clips[some])
    ours = results[0]
    confusion = report.confusion_figure(ours.confusion(), ours.clips[0].labels, f"{ours.arm.name}: emotion per frame")
    report.save_figure(confusion, directory / "figures" / "confusion.png")
    reliability = {result.arm.name: _reliability(result) for result in results[:1]}
    report.save_figure(report.reliability_figure(reliability), directory / "figures" / "calibration.png")


def overview(directory: Path, results: Sequence[ArmResult]) -> None:
    """Every arm's scores, with what the validation split chose for it."""
    columns = (
        "EDER",
        "false alarm",
        "missed",
        "confusion",
        "frame accuracy",
        "macro F1",
        "transition cost [nats]",
        "temperature",
    )
    rows = []
    for result in results:
        pairs = zip(result.clips, result.decided, strict=True)
        parts = [metrics.emotion_diarization_error_rate(c.segments, d.segments(), c.duration) for c, d in pairs]
        pooled, counts = metrics.pool_diarization_errors(parts), result.confusion()
        errors = (pooled.error_rate, pooled.false_alarm, pooled.missed, pooled.confusion)
        shares = (float(metrics.frame_accuracy(counts)), float(metrics.macro_f1(counts)))
        rows.append([result.arm.name, *errors, *shares, result.arm.transition_cost, result.arm.temperature])
    note = "Pooled over the test split. Cost and temperature were chosen for each arm on the validation split."
    save_table(directory, "diarization", "Emotion diarization", columns, rows, note)


def by_segment_length(directory: Path, results: Sequence[ArmResult]) -> None:
    """Share of the time wrong in true segments of each length."""
    spans = [(i, *segment[:2]) for i, clip in enumerate(results[0].clips) for segment in clip.segments]
    lengths = np.array([end - start for _, start, end in spans])
    bins = np.digitize(lengths, SEGMENT_EDGES_S)
    names = [f"{a:g}-{b:g} s" for a, b in zip(SEGMENT_EDGES_S, SEGMENT_EDGES_S[1:], strict=False)]
    names = [f"< {SEGMENT_EDGES_S[0]:g} s", *names, f">= {SEGMENT_EDGES_S[-1]:g} s"]
    rows: list[list] = [["segments", *(int((bins == b).sum()) for b in range(len(names)))]]
    for result in results:
        wrong = np.zeros(len(spans))
        for number, (i, start, end) in enumerate(spans):
            clip, said = result.clips[i], result.decided[i].segments()
            region = [(start, min(end, clip.duration))]
            error = metrics.emotion_diarization_error_rate(clip.segments, said, clip.duration, scored_regions=region)
            wrong[number] = error.error_rate
        rows.append([result.arm.name, *(_mean(wrong[bins == b], lengths[bins == b]) for b in range(len(names)))])
    used = [b for b in range(len(names)) if (bins == b).any()]
    rows = [[row[0], *(row[1 + b] for b in used)] for row in rows]
    save_table(directory, "segment-length", "EDER by length of the true segment", [names[b] for b in used], rows)


def intensity(directory: Path, results: Sequence[ArmResult]) -> None:
    """Rank correlation of intensity within each emotion, one value a segment, of the arms that know intensity."""
    clips = results[0].clips
    segments = [[s for s in clip.segments if s[2] not in metrics.NEUTRAL_NAMES] for clip in clips]
    labels = [segment[2] for own in segments for segment in own]
    times = [axes.speech_frame_times(len(clip.emotion)) for clip in clips]
    true = [metrics.segment_means(s, t, clip.intensity) for s, t, clip in zip(segments, times, clips, strict=True)]
    rows, names = [], [name for name in clips[0].labels if name not in metrics.NEUTRAL_NAMES]
    for result in results:
        said = [metrics.segment_means(s, t, k.intensity) for s, t, k in zip(segments, times, result.tracks, strict=True)]
        mean, each = metrics.intensity_rank_correlation(labels, np.concatenate(true), np.concatenate(said))
        if each:
            rows.append([result.arm.name, mean, *(each.get(name, (float("nan"),))[0] for name in names)])
    title = "Rank correlation of intensity within the emotion"
    save_table(directory, "intensity", title, ["all", *names], rows, f"{len(labels)} segments, one value each.")


def by_noise(directory: Path, arms: Sequence[Arm], records: Sequence[Record], clips: Sequence[EmotionClip]) -> None:
    """EDER in pink noise; temperature and cost stay as chosen on clean speech. The same noise for every arm."""
    conditions = {"clean": records}
    for level in SIGNAL_TO_NOISE_DB:
        noisy = []
        for number, record in enumerate(records):
            rng = np.random.Generator(np.random.Philox(key=[number, round(100 * level)]))
            noisy.append({**record, "waveform": add_noise(record["waveform"], level, _PINK, rng)})
        conditions[f"{level:g} dB"] = noisy
    rows = [[arm.name, *(ArmResult.of(arm, heard, clips).error_rate() for heard in conditions.values())] for arm in arms]
    note = f"{len(clips)} test clips with Gaussian noise of spectrum 1/f, this far below the speech."
    save_table(directory, "noise", "EDER by signal-to-noise ratio", list(conditions), rows, note)
    _save_lines(directory, "noise", {row[0]: row[1:] for row in rows}, list(conditions), "signal-to-noise ratio")


def by_context(directory: Path, arm: Arm, records: Sequence[Record], clips: Sequence[EmotionClip]) -> None:
    """EDER of an arm that hears only so many seconds around each quarter of a second."""
    rates = [ArmResult.of(dataclasses.replace(arm, hear=_limited(arm, c)), records, clips).error_rate() for c in CONTEXTS_S]
    rates.append(ArmResult.of(arm, records, clips).error_rate())
    names = [*(f"{context:g} s" for context in CONTEXTS_S), "whole clip"]
    note = f"{len(clips)} test clips, cut out around every {_BLOCK_FRAMES * 20} ms; decoded as whole clips are."
    save_table(directory, "context", "EDER by audible context", names, [[arm.name, *rates]], note)
    _save_lines(directory, "context", {arm.name: rates}, names, "audible context")


def _limited(arm: Arm, context_s: float):
    def hear(records: Sequence[Record]) -> list[EmotionTrack]:
        plans = [context_pieces(axes.num_speech_frames(len(record["waveform"])), context_s) for record in records]
        cut = [
            {**r, "waveform": r["waveform"][first * axes.FRAME_HOP : (last - 1) * axes.FRAME_HOP + axes.FRAME_WINDOW]}
            for r, plan in zip(records, plans, strict=True)
            for first, last, _, _ in plan
        ]
        answers = iter(arm.hear(cut))
        tracks = []
        for record, plan in zip(records, plans, strict=True):
            parts = [(next(answers), start - first, stop - first) for first, _, start, stop in plan]
            probabilities = np.concatenate([track.probabilities[a:b] for track, a, b in parts])
            intensities = np.concatenate([track.intensity[a:b] for track, a, b in parts])
            duration = len(record["waveform"]) / axes.SAMPLE_RATE
            tracks.append(EmotionTrack(parts[0][0].labels, probabilities, intensities, duration=duration))
        return tracks

    return hear


def context_pieces(num_frames: int, context_s: float) -> list[tuple[int, int, int, int]]:
    """(first, last, start, stop): the piece of frames [first, last) answers for its frames [start, stop).

    The answered frames follow one another without gaps; each has half of the context on either side, less at the ends of the
    recording.
    """
    around = max(0, round((context_s * axes.FRAME_RATE - _BLOCK_FRAMES) / 2))
    pieces = []
    for start in range(0, num_frames, _BLOCK_FRAMES):
        stop = min(start + _BLOCK_FRAMES, num_frames)
        # The last block may be a frame or two, which is less than anything can be heard in.
        first = max(0, min(start, stop - _BLOCK_FRAMES) - around)
        pieces.append((first, min(num_frames, stop + around), start, stop))
    return pieces


def write_other_world(directory: Path, arms: Sequence[Arm], records_directory: str, labels: Sequence[str]) -> None:
    """Scores arms of the one world on the test split of another, with nothing chosen there; intervals over its voices."""
    records = list(RecordReader(records_directory, "test"))
    clips = [emotion_clip(record, labels) for record in records]
    bootstrap = HierarchicalBootstrap([clip.voice for clip in clips])
    seconds = np.array([clip.duration for clip in clips])
    results = [ArmResult.of(arm, records, clips) for arm in arms]
    rates = [result.error_rates() for result in results]
    rows = []
    for result, own in zip(results, rates, strict=True):
        counts = result.confusion()
        score = bootstrap.mean(own, seconds)
        against = bootstrap.paired_mean_difference(rates[0], own, seconds)
        difference = [None] * 3 if own is rates[0] else [against.value, against.low, against.high]
        rows.append([result.arm.name, score.value, score.low, score.high, float(metrics.frame_accuracy(counts)), *difference])
    first = arms[0].name
    columns = ("EDER", "low", "high", "frame accuracy", f"EDER of {first} less this one's", "low", "high")
    note = f"{len(clips)} clips of {bootstrap.num_speakers} voices; 95% intervals over voices, then clips."
    save_table(directory, "other-world", "The hidden world: other synthesiser, rules and heads", columns, rows, note)


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    return float(np.average(values, weights=weights)) if len(values) else float("nan")


def _reliability(result: ArmResult) -> metrics.Reliability:
    true = np.concatenate([clip.emotion for clip in result.clips])
    return metrics.reliability(true, np.concatenate([track.probabilities for track in result.tracks]), _CALIBRATION_BINS)


def _save_lines(directory: Path, name: str, curves: Mapping[str, Sequence[float]], places: Sequence[str], label: str) -> None:
    figure = report.new_figure(6.4, 3.6)
    plot = figure.subplots()
    for curve, values in curves.items():
        plot.plot(range(len(places)), values, marker="o", linewidth=1.4, label=curve)
    plot.set_xticks(range(len(places)), places)
    plot.set_xlabel(label)
    plot.set_ylabel("EDER")
    plot.set_ylim(0, None)
    plot.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    report.save_figure(figure, directory / "figures" / f"{name}.png")
