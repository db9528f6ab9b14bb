"""Scores a test set of emotion tracks: every system on the same clips and decoder, with intervals over voices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from sedtalker_jax.emotion.track import EmotionTrack
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation import emotion_metrics as metrics
from sedtalker_jax.evaluation.bootstrap import HierarchicalBootstrap, Interval, Score, ratio_of_sums
from sedtalker_jax.evaluation.table import ScoreRow, ScoreTable

_CALIBRATION_BINS = 15

EDER_PARTS = ("error_rate", "false_alarm", "missed", "confusion", "overlap")

INTENSITY_THRESHOLDS = (1 / 3, 2 / 3)
"""Intensities at which a weak feeling becomes a medium one, and a medium one a strong one."""

JOIN_TOLERANCE_S = 0.5
"""Seconds around a join inside one emotion in which a hypothesised change is a false alarm."""


@dataclasses.dataclass(frozen=True, eq=False)
class EmotionClip:
    """The truth about one recording.

    Attributes:
      name, speaker, corpus: identify it; intervals are made over voices, which are the speakers of each corpus.
      duration: seconds.
      labels: names of the K emotions.
      emotion: int [T], index into labels per speech frame; negative = unlabelled or collar, never scored.
      intensity: float [T] in [0, 1]; NaN = unlabelled.
      segments: (start_s, end_s, label, ...), the truth on the time axis.
      joins: seconds of joins and pauses at which the emotion stays the same.
      speech: (start_s, end_s) without silence, for the second EDER; None when that is not known.
    """

    name: str
    speaker: str
    duration: float
    labels: tuple[str, ...]
    emotion: Int[np.ndarray, " T"]
    intensity: Float[np.ndarray, " T"]
    segments: Sequence[Sequence]
    joins: Sequence[float] = ()
    speech: Sequence[tuple[float, float]] | None = None
    corpus: str = ""

    @property
    def voice(self) -> str:
        """Who speaks: two corpora may each have a Sam."""
        return f"{self.corpus}/{self.speaker}"

    @property
    def fully_named(self) -> bool:
        """Whether the segments say which of the labels is felt throughout.

        False where one of them is an emotion that the labels lack, which no system could name, or where nobody said anything.
        """
        known = {*self.labels, *metrics.NEUTRAL_NAMES}
        said = bool(self.segments) or bool(np.any(np.asarray(self.emotion) >= 0))
        return said and all(segment[2] in known for segment in self.segments)


@dataclasses.dataclass(frozen=True, eq=False)
class EmotionScores:
    """What evaluate_emotion found.

    Attributes:
      table: every metric of every system, with 95% intervals.
      per_emotion: precision, recall and F1 of each emotion for the first system.
      differences: first system minus each other one, paired on the same draws of clips.
      confusion: system -> counts [K, K] (true, predicted).
      reliability: system -> bins of confidence.
      intensity: (emotion, true, predicted by the first system) of every non-neutral segment.
    """

    table: ScoreTable
    per_emotion: ScoreTable
    differences: ScoreTable | None
    confusion: Mapping[str, Int[np.ndarray, "K K"]]
    reliability: Mapping[str, metrics.Reliability]
    intensity: tuple[list[str], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]


def constant_tracks(clips: Sequence[EmotionClip], label: str, intensity: float = 0.0) -> list[EmotionTrack]:
    """The trivial system that always says `label`: the majority emotion of the training data, for instance."""
    result = []
    for clip in clips:
        probabilities = np.zeros((len(clip.emotion), len(clip.labels)), np.float32)
        probabilities[:, clip.labels.index(label)] = 1.0
        strengths = np.full(len(clip.emotion), intensity, np.float32)
        result.append(EmotionTrack(clip.labels, probabilities, strengths, duration=clip.duration))
    return result


def prior_tracks(clips: Sequence[EmotionClip], prior: Float[np.ndarray, " K"], intensity: float = 0.0) -> list[EmotionTrack]:
    """The system that gives every frame the training data's class shares: what calibration must beat."""
    shares = np.asarray(prior, np.float32) / np.sum(prior)
    return [
        EmotionTrack(
            clip.labels,
            np.tile(shares, (len(clip.emotion), 1)),
            np.full(len(clip.emotion), intensity, np.float32),
            duration=clip.duration,
        )
        for clip in clips
    ]


def majority_label(emotion_frames: Sequence[Int[np.ndarray, " T"]], labels: Sequence[str]) -> str:
    """The commonest emotion over labelled frames, of training data."""
    counts = np.zeros(len(labels), np.int64)
    for frames in emotion_frames:
        known = np.asarray(frames)[np.asarray(frames) >= 0]
        counts += np.bincount(known, minlength=len(labels))
    return labels[int(np.argmax(counts))]


def evaluate_emotion(
    clips: Sequence[EmotionClip],
    systems: Mapping[str, Sequence[EmotionTrack]],
    *,
    decoder: str = "viterbi",
    decoder_options: Mapping[str, object] | None = None,
    num_resamples: int = 1_000,
    seed: int = 0,
    title: str = "Emotion",
) -> EmotionScores:
    """Scores systems on the same clips with the same decoder.

    Frame scores, EDER and boundaries are of the decoded path; calibration is of the probabilities as given. Frames are
    pooled for accuracy and F1; `eder` is the mean over recordings, `eder_pooled` weighs by duration. EDER and boundaries leave
    out recordings with an emotion that the labels lack (EmotionClip.fully_named), as frame scores leave out its frames.

    Args:
      clips: the truth; all with the same labels in the same order.
      systems: name -> one track per clip, on the clip's frames. The first is the system under test.

    Raises:
      UserError: no clips, differing labels, or tracks that do not belong to the clips.
    """
    if not clips or not systems:
        raise UserError("evaluation needs at least one clip and one system")
    labels = clips[0].labels
    for clip in clips:
        if clip.labels != labels:
            raise UserError(f"clip {clip.name} has labels {clip.labels}, the first one {labels}; evaluate them apart")
    bootstrap = HierarchicalBootstrap([clip.voice for clip in clips], num_resamples, seed)
    measured = {
        name: _SystemStatistics(clips, tracks, name, decoder, dict(decoder_options or {})) for name, tracks in systems.items()
    }
    first, *others = systems
    found = _metrics(measured[first])
    rows = []
    for metric in found:
        scores = {name: bootstrap.interval(metric.statistics(one), metric.score) for name, one in measured.items()}
        rows.append(ScoreRow(metric.name, scores, "", metric.higher_is_better))
    if np.isfinite(measured[first].true_means).any():
        scores = {name: one.intensity_correlation(bootstrap) for name, one in measured.items()}
        rows.append(ScoreRow("intensity_rank_correlation", scores, "", True))
    note = (
        f"{len(clips)} recordings of {bootstrap.num_speakers} voices, "
        f"{int(measured[first].counts.sum())} scored frames; decoder {decoder}; "
        f"95% intervals: {num_resamples} resamples of voices, then recordings."
    )
    unnamed = sum(not clip.fully_named for clip in clips)
    if unnamed:
        note += f" EDER and boundaries leave out {unnamed} recordings with an emotion that the labels lack, or with none given."
    differences = None
    if others:
        difference_rows = []
        for metric in found:
            if metric.compared:
                reference = metric.statistics(measured[first])
                values = {
                    name: bootstrap.paired_difference(reference, metric.statistics(measured[name]), metric.score)
                    for name in others
                }
                difference_rows.append(ScoreRow(metric.name, values, "", metric.higher_is_better))
        differences = ScoreTable(f"{title}: {first} minus ...", others, difference_rows, "Paired on the same draws of clips.")
    return EmotionScores(
        ScoreTable(title, list(systems), rows, note),
        _per_emotion(title, labels, measured[first].counts, bootstrap),
        differences,
        {name: one.counts.sum(axis=0).astype(np.int64) for name, one in measured.items()},
        {name: one.reliability() for name, one in measured.items()},
        measured[first].intensity_pairs(),
    )


def scores_by_group(
    clips: Sequence[EmotionClip],
    tracks: Sequence[EmotionTrack],
    groups: Sequence[str],
    *,
    decoder: str = "viterbi",
    decoder_options: Mapping[str, object] | None = None,
    num_resamples: int = 1_000,
    seed: int = 0,
    title: str = "By group",
) -> ScoreTable:
    """One system's scores apart for each group of clips (corpus, sex, language), one column per group.

    Args:
      groups: the group of each clip.

    Raises:
      UserError: not one group per clip, or what evaluate_emotion raises.
    """
    if len(groups) != len(clips):
        raise UserError(f"{len(groups)} groups were given for {len(clips)} clips")
    names = sorted(set(groups))
    columns: dict[str, dict[str, ScoreRow]] = {}
    for name in names:
        own = [index for index, group in enumerate(groups) if group == name]
        scores = evaluate_emotion(
            [clips[index] for index in own],
            {name: [tracks[index] for index in own]},
            decoder=decoder,
            decoder_options=decoder_options,
            num_resamples=num_resamples,
            seed=seed,
        )
        columns[name] = {row.metric: row for row in scores.table.rows}
    metrics_found = dict.fromkeys(metric for rows in columns.values() for metric in rows)
    rows = []
    for metric in metrics_found:
        present = {name: found[metric] for name, found in columns.items() if metric in found}
        example = next(iter(present.values()))
        values = {name: row.values[name] for name, row in present.items()}
        rows.append(ScoreRow(metric, values, example.unit, example.higher_is_better, example.digits))
    sizes = ", ".join(f"{name} {list(groups).count(name)}" for name in names)
    return ScoreTable(title, names, rows, f"Recordings: {sizes}; decoder {decoder}.")


class _SystemStatistics:
    """Additive statistics of one system, one row per clip."""

    def __init__(self, clips, tracks, name: str, decoder: str, options: dict):
        if len(tracks) != len(clips):
            raise UserError(f"system '{name}' has {len(tracks)} tracks for {len(clips)} clips")
        K = len(clips[0].labels)
        n, bins = len(clips), _CALIBRATION_BINS
        self.counts = np.zeros((n, K, K))
        self.calibration = np.zeros((n, bins, 3))
        self.brier = np.zeros((n, 2))
        self.diarization = np.full((n, len(EDER_PARTS)), np.nan)
        self.speech_rates = np.full(n, np.nan)
        self.durations = np.array([clip.duration for clip in clips])
        self.boundaries = {tolerance: np.zeros((n, 2)) for tolerance in metrics.BOUNDARY_TOLERANCES_S}
        self.alarms = np.zeros((n, 2))
        self.segment_clip, self.segment_label = [], []
        true_means, guess_means = [], []
        for row, (clip, track) in enumerate(zip(clips, tracks, strict=True)):
            if track.num_frames != len(clip.emotion):
                raise UserError(
                    f"system '{name}' has {track.num_frames} frames for clip {clip.name}, the truth has {len(clip.emotion)}"
                )
            track = dataclasses.replace(track.with_labels(clip.labels), duration=clip.duration)
            path = track.path(decoder, **options)
            self.counts[row] = metrics.confusion_counts(clip.emotion, path, K)
            if np.any(np.asarray(clip.emotion) >= 0):
                self._add_calibration(row, clip.emotion, track.probabilities)
            if clip.fully_named:
                self._add_diarization(row, clip, track.segments(decoder, **options))
            emotional = [segment for segment in clip.segments if segment[2] not in metrics.NEUTRAL_NAMES]
            self.segment_clip += [row] * len(emotional)
            self.segment_label += [segment[2] for segment in emotional]
            true_means.append(metrics.segment_means(emotional, track.times, clip.intensity))
            guess_means.append(metrics.segment_means(emotional, track.times, track.intensity))
        self.true_means, self.guess_means = np.concatenate(true_means), np.concatenate(guess_means)

    def _add_diarization(self, row: int, clip: EmotionClip, segments) -> None:
        error = metrics.emotion_diarization_error_rate(clip.segments, segments, clip.duration)
        self.diarization[row] = [getattr(error, part) for part in EDER_PARTS]
        if clip.speech:
            speech = metrics.emotion_diarization_error_rate(clip.segments, segments, clip.duration, scored_regions=clip.speech)
            self.speech_rates[row] = speech.error_rate
        true_boundaries = metrics.segment_boundaries(clip.segments, clip.duration)
        boundaries = metrics.segment_boundaries(segments, clip.duration)
        for tolerance, statistic in self.boundaries.items():
            match = metrics.match_boundaries(true_boundaries, boundaries, tolerance)
            statistic[row] = 2 * match.matched, match.reference + match.hypothesis
        self.alarms[row] = metrics.join_false_alarms(np.asarray(clip.joins), true_boundaries, boundaries, JOIN_TOLERANCE_S)

    def _add_calibration(self, row: int, emotion, probabilities) -> None:
        bins = metrics.reliability(emotion, probabilities, _CALIBRATION_BINS)
        filled = bins.count > 0
        self.calibration[row, filled] = np.stack(
            [bins.count, bins.count * bins.confidence, bins.count * bins.accuracy], axis=-1
        )[filled]
        scored = int(bins.count.sum())
        self.brier[row] = metrics.brier_score(emotion, probabilities) * scored, scored

    def reliability(self) -> metrics.Reliability:
        count, confidence, right = self.calibration.sum(axis=0).T
        known = np.where(count > 0, count, np.nan)
        edges = np.linspace(0, 1, _CALIBRATION_BINS + 1)
        return metrics.Reliability(edges, count.astype(np.int64), confidence / known, right / known)

    def intensity_pairs(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        known = np.isfinite(self.true_means) & np.isfinite(self.guess_means)
        names = [label for label, keep in zip(self.segment_label, known, strict=True) if keep]
        return names, self.true_means[known], self.guess_means[known]

    def level_errors(self) -> np.ndarray:
        """(sum of absolute errors in levels, segments) of every clip: additive."""
        result = np.zeros((len(self.durations), 2))
        known = np.isfinite(self.true_means) & np.isfinite(self.guess_means)
        true, guess = (
            metrics.intensity_levels(means[known], INTENSITY_THRESHOLDS) for means in (self.true_means, self.guess_means)
        )
        clips = np.array(self.segment_clip, np.int64)[known]
        np.add.at(result, clips, np.stack([np.abs(true - guess), np.ones(len(true))], axis=-1))
        return result

    def intensity_correlation(self, bootstrap: HierarchicalBootstrap) -> Interval:
        labels, clip = np.array(self.segment_label, dtype=object), np.array(self.segment_clip, np.int64)

        def score(drawn: np.ndarray) -> float:
            times = np.bincount(drawn, minlength=bootstrap.num_clips)
            chosen = np.repeat(np.arange(len(clip)), times[clip])
            return metrics.intensity_rank_correlation(
                labels[chosen].tolist(), self.true_means[chosen], self.guess_means[chosen]
            )[0]

        return bootstrap.of_clips(score)


def _calibration_error(sums: np.ndarray) -> np.ndarray:
    count, confidence, right = sums[..., 0], sums[..., 1], sums[..., 2]
    return ratio_of_sums(np.stack([np.abs(right - confidence).sum(axis=-1), count.sum(axis=-1)], axis=-1))


@dataclasses.dataclass(frozen=True)
class _Metric:
    """A score of additive statistics; `compared`: whether systems are compared on it."""

    name: str
    higher_is_better: bool
    statistics: Callable[[_SystemStatistics], np.ndarray]
    score: Score = ratio_of_sums
    compared: bool = False


def _metrics(example: _SystemStatistics) -> list[_Metric]:
    ones = np.ones(len(example.durations))
    found = [
        _Metric("frame_accuracy", True, lambda s: s.counts, metrics.frame_accuracy, True),
        _Metric("macro_f1", True, lambda s: s.counts, metrics.macro_f1, True),
        _Metric("weighted_f1", True, lambda s: s.counts, metrics.weighted_f1),
        _Metric("eder", False, lambda s: _weighted(s.diarization[:, 0], ones), compared=True),
        _Metric("eder_pooled", False, lambda s: _weighted(s.diarization[:, 0], s.durations)),
    ]
    for column, part in enumerate(EDER_PARTS[1:], start=1):
        found.append(_Metric(f"eder_{part}", False, lambda s, c=column: _weighted(s.diarization[:, c], ones)))
    if np.isfinite(example.speech_rates).any():
        found.append(_Metric("eder_without_silence", False, lambda s: _weighted(s.speech_rates, ones), compared=True))
    for tolerance in example.boundaries:
        name = f"boundary_f1_{tolerance:g}s"
        found.append(_Metric(name, True, lambda s, t=tolerance: s.boundaries[t], compared=True))
    if example.alarms[:, 1].sum():
        found.append(_Metric(f"join_false_alarm_rate_{JOIN_TOLERANCE_S:g}s", False, lambda s: s.alarms, compared=True))
    if np.isfinite(example.true_means).any():
        found.append(_Metric("intensity_ordinal_error_3_levels", False, lambda s: s.level_errors(), compared=True))
    found.append(_Metric("brier_score", False, lambda s: s.brier, compared=True))
    found.append(_Metric("expected_calibration_error", False, lambda s: s.calibration, _calibration_error))
    return found


def _weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    return np.stack([np.where(known, values, 0.0) * weights, known * weights], axis=-1)


def _per_emotion(title: str, labels: Sequence[str], counts: np.ndarray, bootstrap: HierarchicalBootstrap) -> ScoreTable:
    rows = []
    for index, label in enumerate(labels):
        values: dict[str, Interval | float] = {}
        for column, name in enumerate(("precision", "recall", "f1")):
            values[name] = bootstrap.interval(
                counts, lambda sums, i=index, c=column: metrics.precision_recall_f1(sums)[c][..., i]
            )
        values["share of frames"] = float(counts[:, index].sum() / max(counts.sum(), 1))
        rows.append(ScoreRow(label, values, "", None))
    return ScoreTable(f"{title}: by emotion", ["precision", "recall", "f1", "share of frames"], rows)
