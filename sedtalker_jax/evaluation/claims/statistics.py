"""Effects of a claim with their intervals and p values: seeds are drawn, voices, then clips, paired by clip.

Every seed trains anew and is scored on the same clips, so seeds and voices are crossed. A resample draws the seeds with
replacement, then the voices, then each drawn voice's clips, and takes this one draw of clips for all of its seeds. Drawing
voices anew for every seed would count each voice as often as there are seeds, and give intervals for other voices that are too
narrow by up to the root of that number (A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1, 2007).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from sedtalker_jax.evaluation.bootstrap import HierarchicalBootstrap, ratio_of_sums
from sedtalker_jax.evaluation.claims.scores import ArmScores

NUM_RESAMPLES = 10_000
"""So many that a claim among fifty can survive Holm's correction: the smallest p value is 2 / (NUM_RESAMPLES + 1)."""
BOOTSTRAP_SEED = 20_260_413
CONFIDENCE = 0.95

Quantity = Literal["difference", "ratio", "value"]
"""What is compared: score(arm) - score(against), score(arm) / score(against), or score(arm)."""


@dataclasses.dataclass(frozen=True)
class Effect:
    """A quantity with its 95% percentile interval.

    Attributes:
      value: of the data as they are.
      low, high: NaN where fewer than nine in ten resamples have a value.
      p: two-sided p value against the claim's bounds (see `effect`); NaN without bounds or interval.
      arm_score, against_score: scores over the same clips; NaN without an arm to compare with.
      num_clips, num_voices, num_seeds: what was resampled; clips count once, not once for each seed.
    """

    value: float
    low: float
    high: float
    p: float
    arm_score: float
    against_score: float
    num_clips: int
    num_voices: int
    num_seeds: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, None for NaN."""
        values = dataclasses.asdict(self)
        return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in values.items()}


def effect(
    arm: Sequence[ArmScores],
    against: Sequence[ArmScores],
    measure: str,
    quantity: Quantity,
    low: float = -math.inf,
    high: float = math.inf,
) -> Effect | None:
    """The effect of an arm, over the seeds and clips that it shares with what it is compared with.

    A clip counts where both have a value. A claim says on which side of which bound the effect lies; its p value is twice the
    share of resamples on the wrong side of a bound, the larger one where there are two (two one-sided tests). Twice, so that
    p < 0.05 exactly if the two-sided 95% interval lies inside the bounds: a direction chosen in advance buys nothing here.
    A bound at zero is crossed by an effect of zero, another bound only by an effect beyond it.

    Args:
      arm: scores of an arm, one entry for each seed.
      against: those of the other arm; empty when `quantity` is "value".
      measure: which of their measures.
      low, high: bounds of the claim.

    Returns:
      None when no seed, or no clip with a value, is shared.
    """
    firsts, seconds = _by_seed(arm, measure), _by_seed(against, measure)
    seeds = sorted(set(firsts) & set(seconds) if quantity != "value" else set(firsts))
    shared = [set(scores[seed].clips) for scores in (firsts, seconds) for seed in seeds if seed in scores]
    clips = [clip for clip in firsts[seeds[0]].clips if all(clip in known for known in shared)] if seeds else []
    if not clips:
        return None
    voice = dict(zip(firsts[seeds[0]].clips, firsts[seeds[0]].voices, strict=True))
    statistics = _statistics(firsts, clips, seeds, measure)[None]
    if quantity != "value":
        statistics = np.concatenate([statistics, _statistics(seconds, clips, seeds, measure)[None]])
        known = (statistics[..., 1:] > 0).all(axis=0)
        statistics = np.where(known, statistics, 0.0)
    counted = statistics[0, :, :, 1].sum(axis=0) > 0
    if not counted.any():
        return None
    voices = tuple(voice[clip] for clip in clips)
    # [arms, seeds, clips, 2] -> sums of each arm and resample [arms, resamples, 2]
    clip_draws, seed_draws = _draws(voices, len(seeds))
    resampled = np.einsum("bs,asbk->abk", seed_draws, np.einsum("bc,asck->asbk", clip_draws, statistics, optimize=True))
    scores, totals = ratio_of_sums(resampled), ratio_of_sums(statistics.sum(axis=(1, 2)))
    values = _quantity(scores, quantity)
    finite = values[np.isfinite(values)]
    interval = (math.nan, math.nan)
    if len(clips) > 1 and len(finite) >= 0.9 * len(values):
        tail = 50 * (1 - CONFIDENCE)
        interval = tuple(float(bound) for bound in np.percentile(finite, [tail, 100 - tail]))
    return Effect(
        value=float(_quantity(totals, quantity)),
        low=interval[0],
        high=interval[1],
        p=_p_value(finite, low, high) if not math.isnan(interval[0]) else math.nan,
        arm_score=float(totals[0]),
        against_score=float(totals[1]) if len(totals) > 1 else math.nan,
        num_clips=int(counted.sum()),
        num_voices=len({name for name, used in zip(voices, counted, strict=True) if used}),
        num_seeds=len(seeds),
    )


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p values adjusted for their number by Holm's step-down method: below 0.05, the claim holds among all of them.

    The i-th smallest of m is multiplied by m - i + 1, and none is smaller than one before it (S. Holm, "A simple sequentially
    rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979).
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def _by_seed(scores: Sequence[ArmScores], measure: str) -> dict[int, ArmScores]:
    return {entry.seed: entry for entry in scores if measure in entry.measures}


def _statistics(
    scores: Mapping[int, ArmScores], clips: Sequence[str], seeds: Sequence[int], measure: str
) -> Float[np.ndarray, "seeds clips 2"]:
    rows = []
    for seed in seeds:
        entry = scores[seed]
        place = {clip: index for index, clip in enumerate(entry.clips)}
        order = [place[clip] for clip in clips]
        values = np.asarray(entry.measures[measure], np.float64)[order]
        weights = np.asarray(entry.weights[measure], np.float64)[order] if measure in entry.weights else np.ones(len(clips))
        known = np.isfinite(values) & np.isfinite(weights)
        weights = np.where(known, weights, 0.0)
        rows.append(np.stack([np.where(known, values, 0.0) * weights, weights], axis=-1))
    return np.stack(rows)


@functools.lru_cache(maxsize=8)
def _draws(voices: tuple[str, ...], num_seeds: int) -> tuple[np.ndarray, np.ndarray]:
    clip_draws = HierarchicalBootstrap(voices, NUM_RESAMPLES, BOOTSTRAP_SEED, CONFIDENCE).counts.astype(np.float64)
    rng = np.random.default_rng([BOOTSTRAP_SEED, num_seeds])
    seed_draws = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=NUM_RESAMPLES).astype(np.float64)
    return clip_draws, seed_draws


def _quantity(scores: Float[np.ndarray, "arms *B"], quantity: Quantity) -> Float[np.ndarray, "*B"]:
    if quantity == "value":
        return scores[0]
    if quantity == "difference":
        return scores[0] - scores[1]
    return np.where(scores[1] != 0, scores[0] / np.where(scores[1] != 0, scores[1], 1.0), np.nan)


def _p_value(resampled: Float[np.ndarray, " n"], low: float, high: float) -> float:
    wrong = []
    if math.isfinite(low):
        wrong.append((resampled <= low) if low == 0 else (resampled < low))
    if math.isfinite(high):
        wrong.append((resampled >= high) if high == 0 else (resampled > high))
    if not wrong:
        return math.nan
    # The data count as one more resample, so that no p value is zero.
    return min(1.0, 2 * max((1 + int(side.sum())) / (len(resampled) + 1) for side in wrong))
