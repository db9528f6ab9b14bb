"""Confidence intervals by a hierarchical bootstrap: speakers are drawn first, then each drawn speaker's clips.

Frames of a clip, and clips of a voice, resemble each other; drawing frames, or clips from one pot, would give intervals far
too narrow. A clip enters through additive statistics (counts, sums), so a resample is one row of a matrix of draw counts and
1,000 resamples are one matrix product.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from sedtalker_jax.errors import UserError

Score = Callable[[np.ndarray], np.ndarray]
"""Maps summed statistics [*B, ...] to one score each, [*B] (emotion_metrics.macro_f1, for instance)."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A score with its percentile interval.

    Attributes:
      value: the score of the data as they are, not the mean of the resamples.
      low, high: bounds at the bootstrap's confidence; NaN with fewer than two clips.
      num_clips, num_speakers: what was resampled. With few speakers (below about ten) intervals are too narrow, whatever
        the method: quote the number beside them.
    """

    value: float
    low: float
    high: float
    num_clips: int
    num_speakers: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside: for a paired difference, whether the two systems differ."""
        return bool(self.low > 0 or self.high < 0)

    def to_dict(self) -> dict[str, float | int]:
        return dataclasses.asdict(self)


def ratio_of_sums(sums: Float[np.ndarray, "*B 2"]) -> Float[np.ndarray, "*B"]:
    """Numerator over denominator: the score of statistics (sum, weight) per clip. NaN where the weight is zero."""
    numerator, denominator = np.asarray(sums[..., 0], np.float64), np.asarray(sums[..., 1], np.float64)
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1.0), np.nan)


class HierarchicalBootstrap:
    """Resamples of one set of clips, made once, so that every score and every pair of systems sees the same draws.

    Args:
      speakers: the speaker of each clip.
      num_resamples: 1,000 by default.
      seed: of the draws.
      confidence: of the intervals.

    Raises:
      UserError: no clips, fewer than 100 resamples, a confidence outside (0, 1).
    """

    def __init__(self, speakers: Sequence[str], num_resamples: int = 1_000, seed: int = 0, confidence: float = 0.95):
        names, group = np.unique(np.asarray(speakers), return_inverse=True)
        if not len(group):
            raise UserError("no clips to bootstrap over")
        if num_resamples < 100 or not 0 < confidence < 1:
            given = f"{num_resamples} and {confidence}"
            raise UserError(f"a bootstrap needs at least 100 resamples and a confidence inside (0, 1), not {given}")
        self.num_clips, self.num_speakers, self.confidence = len(group), len(names), confidence
        rng = np.random.default_rng(seed)
        times_drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=num_resamples)
        self.counts: Int[np.ndarray, "resamples clips"] = np.zeros((num_resamples, len(group)), np.int32)
        for index in range(len(names)):
            clips = np.flatnonzero(group == index)
            # A speaker drawn m times brings m independent draws of its n clips: together one multinomial of m n.
            self.counts[:, clips] = rng.multinomial(times_drawn[:, index] * len(clips), np.full(len(clips), 1 / len(clips)))

    def scores(
        self, statistics: Float[np.ndarray, "clips ..."], score: Score = ratio_of_sums
    ) -> Float[np.ndarray, " resamples"]:
        """The score of every resample.

        Args:
          statistics: additive statistics of each clip, [clips, ...].
          score: maps their sums [resamples, ...] to scores [resamples].
        """
        values = self._checked(statistics)
        sums = self.counts.astype(np.float64) @ values.reshape(len(values), -1)
        return np.asarray(score(sums.reshape(-1, *values.shape[1:])), np.float64)

    def interval(self, statistics: Float[np.ndarray, "clips ..."], score: Score = ratio_of_sums) -> Interval:
        """The score of all clips with its interval; arguments as in `scores`."""
        total = self._checked(statistics).sum(axis=0)
        return self._interval(float(score(total[None])[0]), self.scores(statistics, score))

    def mean(self, values: Float[np.ndarray, " clips"], weights: Float[np.ndarray, " clips"] | None = None) -> Interval:
        """Mean over clips, of equal weight or weighted (by frames, say); clips with a NaN value are left out."""
        return self.interval(_mean_statistics(values, weights))

    def paired_difference(
        self,
        first: Float[np.ndarray, "clips ..."],
        second: Float[np.ndarray, "clips ..."],
        score: Score = ratio_of_sums,
    ) -> Interval:
        """score(first) - score(second), both on the same draws of clips, so that what clips share cancels."""
        difference = self.scores(first, score) - self.scores(second, score)
        totals = [self._checked(statistics).sum(axis=0)[None] for statistics in (first, second)]
        return self._interval(float(score(totals[0])[0] - score(totals[1])[0]), difference)

    def paired_mean_difference(
        self,
        first: Float[np.ndarray, " clips"],
        second: Float[np.ndarray, " clips"],
        weights: Float[np.ndarray, " clips"] | None = None,
    ) -> Interval:
        """Mean of first - second over clips; a clip in which either is NaN is left out of both."""
        return self.mean(np.asarray(first, np.float64) - np.asarray(second, np.float64), weights)

    def of_clips(self, score: Callable[[Int[np.ndarray, " draws"]], float]) -> Interval:
        """Interval of a score that is no function of sums (a rank correlation).

        Args:
          score: maps clip indices, each as often as it was drawn, to a number. It is called once per resample.
        """
        resampled = [score(np.repeat(np.arange(self.num_clips), row)) for row in self.counts]
        return self._interval(float(score(np.arange(self.num_clips))), np.array(resampled, np.float64))

    def _checked(self, statistics) -> np.ndarray:
        values = np.asarray(statistics, np.float64)
        if len(values) != self.num_clips:
            raise UserError(f"statistics of {len(values)} clips do not belong to a bootstrap over {self.num_clips}")
        return values

    def _interval(self, value: float, resampled: np.ndarray) -> Interval:
        finite = resampled[np.isfinite(resampled)]
        low = high = float("nan")
        # Resamples without a defined score are left out; when they are many, no interval is honest.
        if self.num_clips > 1 and len(finite) >= 0.9 * len(resampled):
            tail = 50 * (1 - self.confidence)
            low, high = (float(bound) for bound in np.percentile(finite, [tail, 100 - tail]))
        return Interval(value, low, high, self.num_clips, self.num_speakers)


def _mean_statistics(values, weights) -> np.ndarray:
    numbers = np.asarray(values, np.float64)
    weight = np.ones(len(numbers)) if weights is None else np.asarray(weights, np.float64)
    known = np.isfinite(numbers)
    return np.stack([np.where(known, numbers, 0.0) * weight, known * weight], axis=-1)
