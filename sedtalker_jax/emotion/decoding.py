"""From per-frame posteriors to one emotion per frame: raw, median, minimum duration, Viterbi, total variation.

All decoders take probabilities [T, K] (rows need not sum to one exactly) and return int64 [T] indices into the
labels. None leaves gaps: every frame has an emotion. Durations are in seconds, costs in nats.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

from sedtalker_jax.errors import UserError

# Posteriors that underflowed to zero would forbid a class for good; this floor makes one frame worth 14 nats at most.
_PROBABILITY_FLOOR = 1e-6

SHARPNESS = 1.25
"""Exponent that makes an activation from a posterior; the animator is trained with the same value."""


def sharpen(probabilities: Float[np.ndarray, "*T K"], sharpness: float = SHARPNESS) -> Float[np.ndarray, "*T K"]:
    """p_k^sharpness / sum_j p_j^sharpness: raises the likelier emotions and mutes the rest.

    A posterior is doubt, not a blend of emotions: 0.6 / 0.4 becomes 0.69 / 0.31 at sharpness 2, 0.84 / 0.16 at 4. 1 changes
    nothing, large values approach the argmax. It has no memory, so a tie stays a tie: `commit` resolves lasting ties over time.

    Raises:
      UserError: sharpness is not positive and finite.
    """
    if not (sharpness > 0 and np.isfinite(sharpness)):
        raise UserError(f"sharpness must be positive and finite, not {sharpness}")
    p = np.asarray(probabilities, np.float64)
    # Scaled by the largest first, so that powers of small numbers do not underflow together.
    powered = (p / np.maximum(p.max(axis=-1, keepdims=True), np.finfo(np.float64).tiny)) ** sharpness
    return powered / np.maximum(powered.sum(axis=-1, keepdims=True), np.finfo(np.float64).tiny)


def decode_raw(probabilities: Float[np.ndarray, "T K"]) -> Int[np.ndarray, " T"]:
    """The likeliest emotion of each frame on its own."""
    return np.argmax(_checked(probabilities), axis=1)


def decode_median(probabilities: Float[np.ndarray, "T K"], frame_rate: float, window: float = 0.3) -> Int[np.ndarray, " T"]:
    """The likeliest emotion after a median filter over time on each class's probability.

    Args:
      window: seconds, rounded to an odd number of frames (edges repeat the first and last frame).
    """
    p = _checked(probabilities)
    if window < 0:
        raise UserError(f"the median window must not be negative, not {window} s")
    frames = 2 * int(round(window * frame_rate / 2)) + 1
    return np.argmax(ndimage.median_filter(p, size=(frames, 1), mode="nearest"), axis=1)


def decode_viterbi(
    probabilities: Float[np.ndarray, "T K"], transition_cost: float | Float[np.ndarray, "K K"] = 6.0
) -> Int[np.ndarray, " T"]:
    """The path that maximises sum_t log p_t[y_t] - sum_t cost[y_{t-1}, y_t].

    Args:
      transition_cost: nats for any change (staying is free), or a matrix [K, K] from `learn_transition_cost`.

    Raises:
      UserError: a negative cost for changing, or a matrix of another size.
    """
    p = _checked(probabilities)
    cost = _cost_matrix(transition_cost, p.shape[1])
    score = np.log(np.maximum(p, _PROBABILITY_FLOOR))
    best = np.zeros(p.shape, np.int64)
    total = score[0].copy() if len(p) else np.zeros(p.shape[1])
    columns = np.arange(p.shape[1])
    for t in range(1, len(p)):
        candidates = total[:, None] - cost
        best[t] = np.argmax(candidates, axis=0)
        total = candidates[best[t], columns] + score[t]
    return _trace_back(best, int(np.argmax(total)))


def decode_minimum_duration(
    probabilities: Float[np.ndarray, "T K"],
    frame_rate: float,
    minimum: float = 0.25,
    transition_cost: float | Float[np.ndarray, "K K"] = 0.0,
) -> Int[np.ndarray, " T"]:
    """The likeliest path whose every segment lasts at least `minimum` seconds, first and last included.

    Exact (Viterbi on states that count how long an emotion has lasted), so short segments go to whichever neighbour
    explains them better, instead of being dropped. A recording shorter than `minimum` gets one emotion.

    Args:
      minimum: seconds, rounded up to whole frames.
      transition_cost: as in decode_viterbi, added on top.
    """
    p = _checked(probabilities)
    num_frames, num_labels = p.shape
    least = max(1, int(np.ceil(minimum * frame_rate - 1e-9)))
    if num_frames == 0:
        return np.zeros(0, np.int64)
    score = np.log(np.maximum(p, _PROBABILITY_FLOOR))
    if least >= num_frames:
        return np.full(num_frames, int(np.argmax(score.sum(axis=0))))
    cost = _cost_matrix(transition_cost, num_labels).copy()
    stay = np.diag(cost).copy()
    np.fill_diagonal(cost, np.inf)
    # State [c, k]: emotion k has lasted c + 1 frames; the last row stands for "long enough" and may stay or change.
    total = np.full((least, num_labels), -np.inf)
    total[0] = score[0]
    entered = np.zeros((num_frames, num_labels), np.int64)  # from which emotion k was entered at frame t
    stayed = np.zeros((num_frames, num_labels), bool)  # whether the last row was reached from itself
    columns = np.arange(num_labels)
    for t in range(1, num_frames):
        following = np.empty_like(total)
        candidates = total[-1][:, None] - cost
        entered[t] = np.argmax(candidates, axis=0)
        enter = candidates[entered[t], columns]
        settled = total[-1] - stay
        if least == 1:
            stayed[t] = settled >= enter
            following[0] = np.maximum(settled, enter)
        else:
            following[0] = enter
            following[1:] = total[:-1] - stay
            stayed[t] = settled >= following[-1]
            following[-1] = np.maximum(settled, following[-1])
        total = following + score[t]
    path = np.empty(num_frames, np.int64)
    label, t = int(np.argmax(total[-1])), num_frames - 1
    while t >= 0:
        path[t] = label
        if stayed[t, label]:
            t -= 1
            continue
        # The last row was reached by counting up: the frames since the entry belong to this emotion.
        path[max(0, t - least + 1) : t + 1] = label
        t -= least - 1
        if t <= 0:
            break
        label = int(entered[t, label])
        t -= 1
    return path


def decode_total_variation(probabilities: Float[np.ndarray, "T K"], weight: float = 2.0) -> Int[np.ndarray, " T"]:
    """The likeliest emotion after total-variation denoising of each class's probability curve (`total_variation`)."""
    return np.argmax(total_variation(probabilities, weight), axis=1)


def total_variation(probabilities: Float[np.ndarray, "T K"], weight: float) -> Float[np.ndarray, "T K"]:
    """argmin_x 1/2 sum_t (x_t - p_t)^2 + weight sum_t |x_t - x_{t-1}|, exactly, for each class; rows then sum to one.

    The curves become piecewise constant: flicker goes, steps stay sharp (a moving average would smear them).

    Args:
      weight: in units of probability x frames; a step of height h survives when both sides last longer than weight / h frames.
    """
    p = _checked(probabilities)
    if weight < 0:
        raise UserError(f"the total-variation weight must not be negative, not {weight}")
    if len(p) == 0 or weight == 0:
        return p / p.sum(axis=1, keepdims=True) if len(p) else p
    smooth = np.stack([_total_variation_1d(column, weight) for column in p.T], axis=1)
    smooth = np.clip(smooth, 0.0, None)
    return smooth / np.maximum(smooth.sum(axis=1, keepdims=True), _PROBABILITY_FLOOR)


def commit(
    probabilities: Float[np.ndarray, "T K"],
    path: Int[np.ndarray, " T"],
    frame_rate: float,
    crossfade: float = 0.2,
) -> Float[np.ndarray, "T K"]:
    """Probabilities that follow a decoded path: one emotion at a time, cross-faded where it changes.

    Lasting doubt between two emotions then draws one of them, not half of each; a mixture exists only while a change is
    under way, for `crossfade` seconds around it (raised cosine).

    Args:
      probabilities: [T, K], used for its size only.
      path: [T], from a decoder.
      crossfade: seconds; 0 switches hard.
    """
    p = _checked(probabilities)
    if len(path) != len(p):
        raise UserError(f"a path of {len(path)} frames does not belong to {len(p)} frames of probabilities")
    if crossfade < 0:
        raise UserError(f"the cross-fade must not be negative, not {crossfade} s")
    one_hot = np.eye(p.shape[1])[path]
    half = int(round(crossfade * frame_rate / 2))
    if half == 0 or len(p) == 0:
        return one_hot
    kernel = 1.0 + np.cos(np.pi * np.arange(-half, half + 1) / (half + 1))
    return ndimage.convolve1d(one_hot, kernel / kernel.sum(), axis=0, mode="nearest")


def learn_transition_cost(
    label_sequences: Sequence[Int[np.ndarray, " T"]], num_labels: int, pseudo_count: float = 1.0
) -> Float[np.ndarray, "K K"]:
    """-log P(next = j | current = i) in nats, counted on labelled training frames.

    Args:
      label_sequences: one array of label indices per recording; negative = unlabelled, never counted.
      pseudo_count: added to every cell, so that an unseen change is costly but possible.
    """
    counts = np.full((num_labels, num_labels), float(pseudo_count))
    for sequence in label_sequences:
        frames = np.asarray(sequence)
        before, after = frames[:-1], frames[1:]
        known = (before >= 0) & (after >= 0)
        np.add.at(counts, (before[known], after[known]), 1.0)
    return -np.log(counts / counts.sum(axis=1, keepdims=True))


DECODERS: tuple[str, ...] = ("raw", "median", "minimum_duration", "viterbi", "total_variation")
"""Names that `decode` takes."""


def decode(
    probabilities: Float[np.ndarray, "T K"], frame_rate: float, method: str = "viterbi", **options
) -> Int[np.ndarray, " T"]:
    """Runs the named decoder; `options` are that decoder's own (window, minimum, transition_cost, weight).

    Raises:
      UserError: unknown method or option, malformed probabilities.
    """
    decoders: dict[str, Callable[..., np.ndarray]] = {
        "raw": lambda: decode_raw(probabilities),
        "median": lambda **o: decode_median(probabilities, frame_rate, **o),
        "minimum_duration": lambda **o: decode_minimum_duration(probabilities, frame_rate, **o),
        "viterbi": lambda **o: decode_viterbi(probabilities, **o),
        "total_variation": lambda **o: decode_total_variation(probabilities, **o),
    }
    if method not in decoders:
        raise UserError(f"unknown decoder '{method}'; use one of {', '.join(DECODERS)}")
    try:
        return decoders[method](**options)
    except TypeError as error:
        raise UserError(f"decoder '{method}' does not take {', '.join(options)}: {error}") from error


def _checked(probabilities) -> np.ndarray:
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or p.shape[1] == 0:
        raise UserError(f"probabilities must have the shape [frames, emotions], not {list(p.shape)}")
    if not np.all(np.isfinite(p)) or p.min(initial=0.0) < 0:
        raise UserError("probabilities must be finite and not negative")
    return p


def _cost_matrix(transition_cost, num_labels: int) -> np.ndarray:
    cost = np.asarray(transition_cost, np.float64)
    if cost.ndim == 0:
        cost = cost * (1.0 - np.eye(num_labels))
    if cost.shape != (num_labels, num_labels) or not np.all(np.isfinite(cost)) or cost.min() < 0:
        raise UserError(f"the transition cost must be a number >= 0 or {num_labels} x {num_labels} of them")
    return cost


def _trace_back(best: np.ndarray, last: int) -> np.ndarray:
    path = np.empty(len(best), np.int64)
    for t in range(len(best) - 1, -1, -1):
        path[t] = last
        last = int(best[t, last])
    return path


def _total_variation_1d(signal: np.ndarray, weight: float) -> np.ndarray:
    """Exact 1D total-variation denoising by dynamic programming (Johnson, J. Comput. Graph. Stat. 22, 2013).

    The derivative of the cost-to-come is a rising piecewise-linear function of x_t; it is kept as knots (place, change of
    slope, change of offset). Each step adds x - y_t and clips the function to [-weight, weight]; the places where it meets
    the bounds are all that the way back needs. Every knot is made and removed once: linear time.
    """
    n = len(signal)
    low, high = np.empty(n), np.empty(n)
    knots: deque[tuple[float, float, float]] = deque()
    # slope and offset of the function left of the first knot, and right of the last one.
    left_slope, left_offset = 1.0, -float(signal[0])
    right_slope, right_offset = 1.0, -float(signal[0])
    for t in range(n - 1):
        # Where does the function rise through -weight? Walk in from the left.
        while knots and left_slope * knots[0][0] + left_offset <= -weight:
            _, slope, offset = knots.popleft()
            left_slope += slope
            left_offset += offset
        low[t] = (-weight - left_offset) / left_slope
        while knots and right_slope * knots[-1][0] + right_offset >= weight:
            _, slope, offset = knots.pop()
            right_slope -= slope
            right_offset -= offset
        high[t] = (weight - right_offset) / right_slope
        # Outside [low, high] the clipped function is constant, and the next frame adds x - y.
        knots.appendleft((low[t], left_slope, left_offset + weight))
        knots.append((high[t], -right_slope, weight - right_offset))
        target = float(signal[t + 1])
        left_slope, left_offset = 1.0, -weight - target
        right_slope, right_offset = 1.0, weight - target
    while knots and left_slope * knots[0][0] + left_offset <= 0:
        _, slope, offset = knots.popleft()
        left_slope += slope
        left_offset += offset
    result = np.empty(n)
    result[-1] = -left_offset / left_slope
    for t in range(n - 2, -1, -1):
        result[t] = min(max(result[t + 1], low[t]), high[t])
    return result
