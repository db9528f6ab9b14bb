"""Linear probes: what can be read from a signal frame by frame, cross-validated over groups of clips."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

FOLDS = 5

STRIDE = 6
"""Every which frame a probe is fitted to and asked about: neighbours say the same, and fits take time."""

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class ProbeScores:
    """Per clip: accuracy of the probe and of always saying the commonest class, and the number of frames asked about."""

    accuracy: Float[np.ndarray, " n"]
    majority: Float[np.ndarray, " n"]
    frames: Int[np.ndarray, " n"]


def probe(
    signals: Sequence[Float[np.ndarray, "F C"]],
    targets: Sequence[Shaped[np.ndarray, " F"]],
    groups: Sequence[str],
) -> ProbeScores:
    """Multinomial logistic regression from a signal to a target, each clip answered by a fit that saw no clip of its group.

    Args:
      signals: of each clip.
      targets: class of each frame, '' where there is none.
      groups: of each clip. Clips of one group are in one fold; clips of different groups are spread over the folds in order.

    Returns:
      Scores per clip; NaN for a clip without a frame that has a class, and where no other group is left to fit on.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    fold_of = np.array([numbers[group] % FOLDS for group in groups])
    picked = [np.flatnonzero(target != "")[::STRIDE] for target in targets]
    clip = np.repeat(np.arange(len(signals)), [len(rows) for rows in picked])
    x = np.concatenate([signal[rows] for signal, rows in zip(signals, picked, strict=True)])
    y = np.concatenate([target[rows] for target, rows in zip(targets, picked, strict=True)])
    said, commonest = np.empty_like(y), np.empty_like(y)
    answered = np.ones(len(y), bool)
    for fold in range(FOLDS):
        asked = fold_of[clip] == fold
        if not asked.any():
            continue
        if asked.all():
            answered[:] = False
            break
        names, counts = np.unique(y[~asked], return_counts=True)
        commonest[asked] = names[counts.argmax()]
        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(x[~asked], y[~asked])
        said[asked] = fitted.predict(x[asked])
    frames = np.bincount(clip, weights=answered, minlength=len(signals)).astype(int)
    with np.errstate(invalid="ignore"):
        shares = [np.bincount(clip, weights=answer == y, minlength=len(signals)) / frames for answer in (said, commonest)]
    return ProbeScores(*shares, frames)


def phoneme_frames(record: Record, times: Float[np.ndarray, " F"]) -> Shaped[np.ndarray, " F"]:
    """Symbol of the phoneme at each time, '' between phonemes."""
    symbols = np.full(len(times), "", dtype="<U16")
    for symbol, start, end in record["phonemes"]:
        symbols[(times >= start) & (times < end)] = symbol
    return symbols


def take_turns(names: Sequence[str]) -> list[str]:
    """Groups for `probe` that put the clips of every name in all folds: "0", "1", ... counted within each name."""
    seen: dict[str, int] = {}
    groups = []
    for name in names:
        groups.append(str(seen.get(name, 0) % FOLDS))
        seen[name] = seen.get(name, 0) + 1
    return groups
