"""Scores of emotion tracks: frames, diarization error, boundaries, intensity, calibration.

Times are in seconds, rates are shares in [0, 1] (never per cent). Every corpus score is made of per-recording counts that
can be added up, so that an interval can be bootstrapped over recordings without going back to the frames.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy import stats

from sedtalker_jax.emotion.formats import ROUNDED_S
from sedtalker_jax.errors import UserError

NEUTRAL_NAMES = ("neutral", "n")
"""What counts as "no emotion" in segments: the canonical name and the letter that SpeechBrain's files use."""

BOUNDARY_TOLERANCES_S = (0.25, 0.5, 1.0)
"""Seconds by which a boundary may be off and still count."""

SHORTEST_GAP_S = 0.05
"""Seconds: shorter gaps between segments, and at the ends of a recording, are no silence but rounded times."""

# ---- frames ----


def confusion_counts(
    reference: Int[np.ndarray, " T"], hypothesis: Int[np.ndarray, " T"], num_labels: int
) -> Int[np.ndarray, "K K"]:
    """Frames per (true, predicted) emotion; frames with a negative reference (unlabelled, collar) are left out.

    Raises:
      UserError: different lengths, or an index outside the labels.
    """
    truth, guess = np.asarray(reference), np.asarray(hypothesis)
    if truth.shape != guess.shape or truth.ndim != 1:
        raise UserError(f"reference and hypothesis must have one label per frame each: {truth.shape} against {guess.shape}")
    scored = truth >= 0
    truth, guess = truth[scored].astype(np.int64), guess[scored].astype(np.int64)
    if len(truth) and (truth.max() >= num_labels or guess.max() >= num_labels or guess.min() < 0):
        raise UserError(f"label indices must lie below {num_labels}, and every scored frame needs a hypothesis")
    return np.bincount(truth * num_labels + guess, minlength=num_labels**2).reshape(num_labels, num_labels)


def frame_accuracy(counts: Num[np.ndarray, "*B K K"]) -> Float[np.ndarray, "*B"]:
    """Share of frames whose emotion is right; NaN without frames."""
    counts = np.asarray(counts, np.float64)
    return _ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def precision_recall_f1(counts: Num[np.ndarray, "*B K K"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per class, [*B, K] each: TP / (TP + FP), TP / (TP + FN), 2 TP / (2 TP + FP + FN); 0 where undefined, as scikit-learn."""
    counts = np.asarray(counts, np.float64)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    predicted, true = counts.sum(axis=-2), counts.sum(axis=-1)
    return _ratio(hits, predicted, 0.0), _ratio(hits, true, 0.0), _ratio(2 * hits, predicted + true, 0.0)


def macro_f1(counts: Num[np.ndarray, "*B K K"]) -> Float[np.ndarray, "*B"]:
    """Unweighted mean F1 of the classes that occur in the reference or the hypothesis (scikit-learn's default)."""
    counts = np.asarray(counts, np.float64)
    f1 = precision_recall_f1(counts)[2]
    present = counts.sum(axis=-2) + counts.sum(axis=-1) > 0
    return _ratio((f1 * present).sum(axis=-1), present.sum(axis=-1).astype(np.float64))


def weighted_f1(counts: Num[np.ndarray, "*B K K"]) -> Float[np.ndarray, "*B"]:
    """Mean F1 weighted by how often each class is true."""
    counts = np.asarray(counts, np.float64)
    support = counts.sum(axis=-1)
    return _ratio((precision_recall_f1(counts)[2] * support).sum(axis=-1), support.sum(axis=-1))


def row_normalised_confusion(counts: Num[np.ndarray, "*B K K"]) -> Float[np.ndarray, "*B K K"]:
    """P(predicted | true): each row sums to one, or is 0 where the emotion never occurs."""
    counts = np.asarray(counts, np.float64)
    return _ratio(counts, counts.sum(axis=-1, keepdims=True), 0.0)


# ---- emotion diarization error rate ----


@dataclasses.dataclass(frozen=True)
class EmotionDiarizationError:
    """EDER of one recording, or of several pooled; all but the last field are shares of `duration`.

    Attributes:
      error_rate: false_alarm + missed + confusion + overlap.
      false_alarm: neutral time given an emotion.
      missed: emotional time called neutral, and any time that the hypothesis leaves empty.
      confusion: emotional time given another emotion.
      overlap: time given a second label besides the right one.
      uncovered: the part of `missed` that the hypothesis leaves empty.
      duration: scored seconds.
    """

    error_rate: float
    false_alarm: float
    missed: float
    confusion: float
    overlap: float
    uncovered: float
    duration: float


def emotion_diarization_error_rate(
    reference: Iterable[Sequence],
    hypothesis: Iterable[Sequence],
    duration: float,
    *,
    scored_regions: Iterable[tuple[float, float]] | None = None,
    neutral: Collection[str] = NEUTRAL_NAMES,
) -> EmotionDiarizationError:
    """EDER: the share of a recording whose emotion is wrong (Wang et al., arXiv 2306.12991).

    Equals SpeechBrain's measure where that is defined (one event, no overlaps), with full labels and any number of events.
    Neutral is a class, so time that the reference leaves empty is neutral; time that the hypothesis leaves empty is an error,
    because nothing was said about it. With exclusive labels it equals pyannote's identification error rate over the same
    time; unlike diarization of speakers, labels are never re-mapped. Moments with several hypothesised labels count once:
    as overlap if the right one is among them. (SpeechBrain splits overlaps half and half instead.)

    Args:
      reference: segments (start_s, end_s, label, ...) that do not overlap by more than rounded times in files do (ROUNDED_S);
        only the first three fields are read.
      hypothesis: segments, in any order; they may overlap and may have gaps.
      duration: seconds; the denominator, and what lies beyond is ignored.
      scored_regions: (start_s, end_s) of the time to score, speech without silence for instance; all of it by default. The
        denominator is then the length of these regions.
      neutral: labels that mean "no emotion"; they count as equal.

    Raises:
      UserError: duration is not positive, a segment ends before it starts, the reference overlaps itself, nothing is scored.
    """
    if not (duration > 0 and np.isfinite(duration)):
        raise UserError(f"the duration must be positive and finite, not {duration} s")
    truth = _clipped(reference, duration, neutral, "reference")
    guess = _clipped(hypothesis, duration, neutral, "hypothesis")
    regions = [(0.0, float(duration))] if scored_regions is None else list(scored_regions)
    regions = [(max(0.0, float(start)), min(float(end), float(duration))) for start, end in regions]
    for before, after in zip(truth, truth[1:], strict=False):
        if after[0] < before[1] - ROUNDED_S:
            raise UserError(f"reference segments overlap at {after[0]:g} s; EDER is defined for one true emotion at a time")
    bounds = [row[:2] for row in truth + guess] + regions
    cuts = np.unique([0.0, float(duration), *(time for pair in bounds for time in pair)])
    cuts = cuts[(cuts >= 0) & (cuts <= duration)]
    names = {name: column for column, name in enumerate(dict.fromkeys(["neutral", *(s[2] for s in truth + guess)]))}
    length = np.diff(cuts)
    truth_label = np.zeros(len(length), np.int64)  # 0 is neutral: what the reference does not mention has no emotion
    for start, end, label in truth:
        truth_label[np.searchsorted(cuts, start) : np.searchsorted(cuts, end)] = names[label]
    said = np.zeros((len(length), len(names)), bool)
    for start, end, label in guess:
        said[np.searchsorted(cuts, start) : np.searchsorted(cuts, end), names[label]] = True
    scored = np.zeros(len(length), bool)
    for start, end in regions:
        scored[np.searchsorted(cuts, start) : np.searchsorted(cuts, end)] = True
    total = float(length[scored].sum())
    if total <= 0:
        raise UserError("no time is left to score: the scored regions lie outside the recording")

    def share(condition: np.ndarray) -> float:
        return float(length[scored & condition].sum()) / total

    right = said[np.arange(len(length)), truth_label]
    number, emotional_truth, emotional_guess = said.sum(axis=1), truth_label > 0, said[:, 1:].any(axis=1)
    uncovered = share(number == 0)
    false_alarm = share(~right & ~emotional_truth & emotional_guess)
    missed = uncovered + share(~right & emotional_truth & ~emotional_guess & (number > 0))
    confusion = share(~right & emotional_truth & emotional_guess)
    overlap = share(right & (number > 1))
    rate = false_alarm + missed + confusion + overlap
    return EmotionDiarizationError(rate, false_alarm, missed, confusion, overlap, uncovered, total)


def pool_diarization_errors(errors: Sequence[EmotionDiarizationError]) -> EmotionDiarizationError:
    """EDER of several recordings as if they were one: shares weighted by duration (pyannote's way of adding up)."""
    return _combine(errors, np.array([error.duration for error in errors], np.float64))


def mean_diarization_error(errors: Sequence[EmotionDiarizationError]) -> EmotionDiarizationError:
    """Mean of the per-recording EDER: every recording weighs the same (SpeechBrain's way; the published numbers)."""
    return _combine(errors, np.ones(len(errors)))


# ---- boundaries ----


@dataclasses.dataclass(frozen=True)
class BoundaryMatch:
    """Counts of changes of emotion: `matched` one-to-one within the tolerance, out of `reference` and `hypothesis`."""

    matched: int
    reference: int
    hypothesis: int

    @property
    def precision(self) -> float:
        return self.matched / self.hypothesis if self.hypothesis else float("nan")

    @property
    def recall(self) -> float:
        return self.matched / self.reference if self.reference else float("nan")

    @property
    def f1(self) -> float:
        """2 matched / (reference + hypothesis); NaN when neither has a boundary."""
        both = self.reference + self.hypothesis
        return 2 * self.matched / both if both else float("nan")

    def __add__(self, other: BoundaryMatch) -> BoundaryMatch:
        return BoundaryMatch(self.matched + other.matched, self.reference + other.reference, self.hypothesis + other.hypothesis)


def segment_boundaries(
    segments: Iterable[Sequence], duration: float, *, neutral: Collection[str] = NEUTRAL_NAMES
) -> Float[np.ndarray, " boundaries"]:
    """Times at which the emotion changes inside a recording, in seconds, rising.

    Equal neighbours are merged (a join without a change is no boundary), gaps are neutral, and the edges of the file are
    never boundaries. Gaps and distances from the edges below SHORTEST_GAP_S are rounding of times in files, and ignored.
    """
    rows = _clipped(segments, duration, neutral, "segments")
    changes: list[float] = []
    label, cursor = None, 0.0
    for start, end, name in rows:
        if start > cursor + SHORTEST_GAP_S:
            if label not in (None, "neutral"):
                changes.append(cursor)
            label = "neutral"
        if label is not None and name != label:
            changes.append(start)
        label, cursor = name, max(cursor, end)
    if rows and cursor < duration - SHORTEST_GAP_S and label != "neutral":
        changes.append(cursor)
    return np.array([time for time in changes if SHORTEST_GAP_S < time < duration - SHORTEST_GAP_S])


def match_boundaries(
    reference: Float[np.ndarray, " reference"], hypothesis: Float[np.ndarray, " hypothesis"], tolerance: float
) -> BoundaryMatch:
    """Largest one-to-one matching of boundary times no more than `tolerance` seconds apart.

    A boundary can't be matched twice, so neither precision nor recall can exceed one.
    """
    return BoundaryMatch(len(_matching(reference, hypothesis, tolerance)), len(reference), len(hypothesis))


def join_false_alarms(
    joins: Float[np.ndarray, " joins"],
    reference: Float[np.ndarray, " reference"],
    hypothesis: Float[np.ndarray, " hypothesis"],
    tolerance: float,
) -> tuple[int, int]:
    """How often a splice inside one emotion is mistaken for a change of it.

    Args:
      joins: seconds of joins and pauses at which the emotion stays the same.
      reference: true boundaries; hypothesised boundaries that match one are explained and raise no alarm.
      hypothesis: hypothesised boundaries.

    Returns:
      (joins with an unexplained boundary within `tolerance`, joins).
    """
    explained = {column for _, column in _matching(reference, hypothesis, tolerance)}
    order = np.sort(np.asarray(hypothesis, np.float64))
    free = np.array([time for column, time in enumerate(order) if column not in explained])
    alarms = sum(bool(len(free)) and bool(np.abs(free - join).min() <= tolerance + 1e-9) for join in np.asarray(joins))
    return int(alarms), len(joins)


# ---- intensity ----


def segment_means(
    segments: Iterable[Sequence], times: Float[np.ndarray, " T"], values: Float[np.ndarray, " T"]
) -> Float[np.ndarray, " segments"]:
    """Mean of `values` over the frames whose time lies inside each segment; NaN where there are none (NaN frames are left out).

    One value per segment, because neighbouring frames are no independent evidence.
    """
    times, values = np.asarray(times), np.asarray(values, np.float64)
    means = []
    for start, end, *_ in segments:
        inside = values[(times >= start) & (times < end)]
        inside = inside[np.isfinite(inside)]
        means.append(inside.mean() if len(inside) else np.nan)
    return np.array(means)


def intensity_rank_correlation(
    labels: Sequence[str],
    reference: Float[np.ndarray, " segments"],
    hypothesis: Float[np.ndarray, " segments"],
    *,
    least: int = 5,
    neutral: Collection[str] = NEUTRAL_NAMES,
) -> tuple[float, dict[str, tuple[float, int]]]:
    """Spearman's rank correlation of intensity within each non-neutral emotion, and its mean weighted by segments.

    Within the emotion, since knowing the emotion alone already tells something about strength. Segments with NaN on either
    side are left out, emotions with fewer than `least` segments or without spread too.

    Args:
      labels: the true emotion of each segment.
      reference, hypothesis: one intensity per segment (segment_means).

    Returns:
      (weighted mean, {emotion: (correlation, segments)}); NaN and {} when no emotion qualifies.
    """
    names, truth, guess = np.asarray(labels), np.asarray(reference, np.float64), np.asarray(hypothesis, np.float64)
    per_emotion: dict[str, tuple[float, int]] = {}
    for name in sorted(set(names.tolist()) - set(neutral)):
        chosen = (names == name) & np.isfinite(truth) & np.isfinite(guess)
        if chosen.sum() >= least and np.ptp(truth[chosen]) > 0:
            # A constant guess ranks nothing: that is a correlation of zero, not a reason to leave the emotion out.
            # (Spearman's as Pearson's of ranks: scipy's spearmanr spends most of its time on a p-value.)
            ranks = [stats.rankdata(values[chosen]) for values in (truth, guess)]
            value = float(np.corrcoef(*ranks)[0, 1]) if np.ptp(guess[chosen]) > 0 else 0.0
            per_emotion[name] = (value, int(chosen.sum()))
    if not per_emotion:
        return float("nan"), {}
    weights = np.array([count for _, count in per_emotion.values()], np.float64)
    return float(np.average([value for value, _ in per_emotion.values()], weights=weights)), per_emotion


def intensity_levels(intensity: Float[np.ndarray, " segments"], thresholds: Sequence[float]) -> Int[np.ndarray, " segments"]:
    """Ordinal level of each intensity: how many of the rising `thresholds` it reaches."""
    if list(thresholds) != sorted(set(thresholds)):
        raise UserError(f"intensity thresholds must rise: {list(thresholds)}")
    return np.searchsorted(np.asarray(thresholds, np.float64), np.asarray(intensity), side="right")


def ordinal_error(reference: Int[np.ndarray, " segments"], hypothesis: Int[np.ndarray, " segments"]) -> tuple[float, float]:
    """(mean, macro) absolute error in levels; macro averages over the true levels first, so rare ones count as much."""
    truth, guess = np.asarray(reference), np.asarray(hypothesis)
    if truth.shape != guess.shape or not len(truth):
        raise UserError(f"ordinal error needs as many true as predicted levels, at least one: {truth.shape}, {guess.shape}")
    error = np.abs(truth - guess).astype(np.float64)
    return float(error.mean()), float(np.mean([error[truth == level].mean() for level in np.unique(truth)]))


# ---- calibration ----


def brier_score(reference: Int[np.ndarray, " T"], probabilities: Float[np.ndarray, "T K"]) -> float:
    """Mean over frames of sum_k (p_k - [k is true])^2: 0 is perfect, 2 is certain and wrong.

    Frames with a negative reference are left out.
    """
    truth, p = _scored_frames(reference, probabilities)
    return float(np.mean(np.sum((p - np.eye(p.shape[1])[truth]) ** 2, axis=1)))


@dataclasses.dataclass(frozen=True, eq=False)
class Reliability:
    """Equal-width bins of the largest probability: edges [bins + 1]; count, mean confidence, accuracy [bins], NaN if empty."""

    edges: Float[np.ndarray, " edges"]
    count: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]

    @property
    def expected_calibration_error(self) -> float:
        """sum_b n_b / n |accuracy_b - confidence_b| (Guo et al., ICML 2017)."""
        filled = self.count > 0
        gap = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float(np.sum(self.count[filled] * gap) / self.count.sum())


def reliability(reference: Int[np.ndarray, " T"], probabilities: Float[np.ndarray, "T K"], num_bins: int = 15) -> Reliability:
    """Bins frames by the probability of their likeliest emotion and compares it with how often that emotion is right."""
    truth, p = _scored_frames(reference, probabilities)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == truth
    index = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    count = np.bincount(index, minlength=num_bins)
    return Reliability(
        np.linspace(0, 1, num_bins + 1),
        count,
        _ratio(np.bincount(index, weights=confidence, minlength=num_bins), count.astype(np.float64)),
        _ratio(np.bincount(index, weights=right, minlength=num_bins), count.astype(np.float64)),
    )


def expected_calibration_error(
    reference: Int[np.ndarray, " T"], probabilities: Float[np.ndarray, "T K"], num_bins: int = 15
) -> float:
    """ECE of the likeliest emotion over equal-width bins; 0 is perfect. Negative references are left out."""
    return reliability(reference, probabilities, num_bins).expected_calibration_error


# ---- shared by the above ----


def _ratio(numerator: np.ndarray, denominator: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    defined: Bool[np.ndarray, ...] = denominator > 0
    return np.where(defined, numerator / np.where(defined, denominator, 1.0), otherwise)


def _clipped(
    segments: Iterable[Sequence], duration: float, neutral: Collection[str], role: str
) -> list[tuple[float, float, str]]:
    rows = []
    for start, end, label, *_ in segments:
        if not (np.isfinite(start) and np.isfinite(end)) or end < start:
            raise UserError(f"{role} segment {start}-{end} s '{label}' must have a start before its end")
        start, end = max(0.0, float(start)), min(float(end), float(duration))
        if end > start:
            rows.append((start, end, "neutral" if label in neutral else str(label)))
    return sorted(rows)


def _combine(errors: Sequence[EmotionDiarizationError], weights: np.ndarray) -> EmotionDiarizationError:
    if not len(errors):
        raise UserError("no recordings to average the emotion diarization error over")
    shares = np.array([dataclasses.astuple(error)[:-1] for error in errors])
    mean = np.average(shares, axis=0, weights=weights)
    return EmotionDiarizationError(*(float(value) for value in mean), duration=float(sum(e.duration for e in errors)))


def _matching(reference, hypothesis, tolerance: float) -> list[tuple[int, int]]:
    # All windows have one width, so taking the earliest candidate for each in turn gives a largest matching.
    truth, guess = np.sort(np.asarray(reference, np.float64)), np.sort(np.asarray(hypothesis, np.float64))
    pairs, row, column = [], 0, 0
    while row < len(truth) and column < len(guess):
        if abs(truth[row] - guess[column]) <= tolerance + 1e-9:
            pairs.append((row, column))
            row, column = row + 1, column + 1
        elif truth[row] < guess[column]:
            row += 1
        else:
            column += 1
    return pairs


def _scored_frames(reference, probabilities) -> tuple[np.ndarray, np.ndarray]:
    truth, p = np.asarray(reference), np.asarray(probabilities, np.float64)
    if p.ndim != 2 or truth.shape != p.shape[:1]:
        raise UserError(f"one reference label per frame of probabilities is needed: {truth.shape} against {p.shape}")
    scored = truth >= 0
    if not scored.any():
        raise UserError("no labelled frames to score")
    return truth[scored].astype(np.int64), p[scored]
