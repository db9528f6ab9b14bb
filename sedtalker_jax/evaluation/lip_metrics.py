"""Scores of the mouth's timing and reach: lip distance, closures at p b m, extrema, loudness, the speech envelope."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage, signal

from sedtalker_jax.errors import UserError

KAIST_LIP_POINTS = (3531, 3504)
"""The points that the published MTM score uses on the same mesh."""

BILABIALS = ("p", "b", "m")

LONGEST_ALIGNMENT = 1_000
"""Frames that are aligned at once in longer curves: half a minute, where a misalignment is a fraction of a second."""

CLOSURE_SHARE = 0.3
"""Lips count as closed below this share of the clip's median opening."""


def lip_distance(
    vertices_over_time: Float[np.ndarray, "F V 3"],
    upper_lip: int | Int[np.ndarray, " u"],
    lower_lip: int | Int[np.ndarray, " l"],
) -> Float[np.ndarray, " F"]:
    """Distance between the upper and the lower lip in every frame, in the unit of the vertices (metres).

    Args:
      upper_lip, lower_lip: one vertex each (FLAME_LIP_POINTS), or several whose mean stands for the lip.
    """
    positions = np.asarray(vertices_over_time)
    if positions.ndim != 3 or positions.shape[-1] != 3:
        raise UserError(f"vertex sequences must be [frames, vertices, 3], not {positions.shape}")
    middles = []
    for lip in (upper_lip, lower_lip):
        indices = np.atleast_1d(np.asarray(lip))
        if not len(indices) or indices.min() < 0 or indices.max() >= positions.shape[1]:
            raise UserError(f"lip points {indices.tolist()[:4]} are not among {positions.shape[1]} vertices")
        middles.append(positions[:, indices].mean(axis=1, dtype=np.float64))
    return np.linalg.norm(middles[0] - middles[1], axis=-1)


def lip_distance_error(prediction: Float[np.ndarray, " F"], target: Float[np.ndarray, " F"]) -> float:
    """Mean absolute difference of two lip-distance curves, in their unit."""
    guess, truth = _curves(prediction, target)
    return float(np.abs(guess - truth).mean())


def bilabial_closures(
    distance: Float[np.ndarray, " F"],
    fps: float,
    phonemes: Sequence[Sequence],
    *,
    closed_distance: float = 0.0,
    median_opening: float | None = None,
    share: float = CLOSURE_SHARE,
    bilabials: Sequence[str] = BILABIALS,
) -> tuple[int, int]:
    """How many of p, b, m see the lips closed: opening below `share` of the clip's median opening in some frame of the sound.

    Recall over a corpus is the sum of the first number over the sum of the second, so that a clip without bilabials adds
    nothing. Give the same numbers for the truth beside it: real speakers do not close for every one either.

    Args:
      distance: lip_distance of one clip, metres; frame f lies at f / fps s.
      phonemes: (symbol, start_s, end_s); only `bilabials` are looked at. A sound shorter than a frame is looked for in the
        frame nearest to its middle.
      closed_distance: distance between the two lip points when the mouth is shut, subtracted to give the opening.
      median_opening: metres; by default the median over the frames in which some phoneme is spoken (pauses, in which the
        mouth rests, would make "closed" easier or harder with the share of silence).

    Returns:
      (closed, bilabials). Sounds past the last frame are not counted.
    """
    opening = np.asarray(distance, np.float64) - closed_distance
    times = np.arange(len(opening)) / fps
    if median_opening is None:
        spoken = np.zeros(len(opening), bool)
        for _, start, end, *_ in phonemes:
            spoken |= (times >= start) & (times < end)
        median_opening = float(np.median(opening[spoken])) if spoken.any() else 0.0
    closed = total = 0
    for symbol, start, end, *_ in phonemes:
        if symbol not in bilabials:
            continue
        frames = np.flatnonzero((times >= start) & (times < end))
        if not len(frames):
            nearest = int(round((start + end) / 2 * fps))
            frames = np.array([nearest])
        if frames[0] >= len(opening):
            continue
        total += 1
        closed += bool(opening[frames[frames < len(opening)]].min() < share * median_opening)
    return closed, total


def mean_temporal_misalignment(
    prediction: Float[np.ndarray, " F"], target: Float[np.ndarray, " G"], sigma: float = 2.0
) -> float:
    """MTM: mean shift, in frames, between matched extrema of two lip-distance curves (Chae-Yeon et al., CVPR 2025).

    Both curves are smoothed (Gaussian, `sigma` frames) and aligned by dynamic time warping of their first differences. Where
    the path joins two maxima or two minima, and the predicted one lies between the neighbours of the true one, the shift
    counts. Divide by the fps for seconds; both curves must have the same fps. Alignment takes memory with the square of the
    length, so curves beyond 2 x LONGEST_ALIGNMENT frames are aligned in stretches of LONGEST_ALIGNMENT.

    Returns:
      NaN when nothing matches (a face that does not move its mouth).
    """
    guess = ndimage.gaussian_filter1d(np.asarray(prediction, np.float64), sigma)
    truth = ndimage.gaussian_filter1d(np.asarray(target, np.float64), sigma)
    longest = max(len(guess), len(truth))
    stretch = longest if longest <= 2 * LONGEST_ALIGNMENT else LONGEST_ALIGNMENT
    shifts: list[int] = []
    for start in range(0, longest, max(stretch, 1)):
        shifts += _extrema_shifts(guess[start : start + stretch], truth[start : start + stretch])
    return float(np.mean(shifts)) if shifts else float("nan")


def _extrema_shifts(guess: np.ndarray, truth: np.ndarray) -> list[int]:
    if len(guess) < 3 or len(truth) < 3:
        return []
    kinds_truth, kinds_guess = _extrema(truth), _extrema(guess)
    ordered = sorted(kinds_truth)
    place = {frame: position for position, frame in enumerate(ordered)}
    shifts = []
    for i, j in warping_path(np.diff(truth, prepend=truth[0]), np.diff(guess, prepend=guess[0])):
        if i in kinds_truth and kinds_truth[i] == kinds_guess.get(j):
            before = ordered[place[i] - 1] if place[i] else 0
            after = ordered[place[i] + 1] if place[i] + 1 < len(ordered) else len(truth) - 1
            if before <= j <= after:
                shifts.append(abs(i - j))
    return shifts


def warping_path(first: Float[np.ndarray, " F"], second: Float[np.ndarray, " G"]) -> list[tuple[int, int]]:
    """Dynamic time warping: index pairs, rising, that minimise sum |first_i - second_j| with steps (1,1), (1,0), (0,1)."""
    cost = np.abs(np.asarray(first, np.float64)[:, None] - np.asarray(second, np.float64)[None, :])
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    # Cells of one anti-diagonal depend on the two before only, so each is one vector operation.
    for diagonal in range(2, rows + columns + 1):
        i = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        j = diagonal - i
        best = np.minimum(np.minimum(total[i - 1, j], total[i, j - 1]), total[i - 1, j - 1])
        total[i, j] = cost[i - 1, j - 1] + best
    path = []
    i, j = rows, columns
    while i > 0 and j > 0:
        path.append((i - 1, j - 1))
        step = int(np.argmin((total[i - 1, j - 1], total[i - 1, j], total[i, j - 1])))
        i, j = (i - 1, j - 1) if step == 0 else (i - 1, j) if step == 1 else (i, j - 1)
    return path[::-1]


def lip_movement_rms(vertices_over_time: Float[np.ndarray, "F V 3"], lip_vertices: Int[np.ndarray, " v"]) -> float:
    """Root mean square over frames of the mean lip displacement per frame, in metres per frame: the clip's lip intensity."""
    lips = np.asarray(vertices_over_time)[:, np.asarray(lip_vertices)].astype(np.float64)
    if len(lips) < 2:
        raise UserError("lip movement needs at least two frames")
    return float(np.sqrt(np.square(np.linalg.norm(np.diff(lips, axis=0), axis=-1).mean(axis=1)).mean()))


def speech_lip_intensity_correlation(
    speech_rms: Float[np.ndarray, " clips"], lip_rms: Float[np.ndarray, " clips"], identities: Sequence[str]
) -> float:
    """SLCC: Pearson correlation over clips of loudness and lip movement, each z-scored within the identity.

    Louder speech should move the lips more (Chae-Yeon et al., CVPR 2025). Identities with one clip or without spread on
    either side are left out.

    Args:
      speech_rms: root mean square of each clip's waveform.
      lip_rms: lip_movement_rms of each clip.

    Returns:
      NaN when fewer than three clips remain.
    """
    speech, lips, names = np.asarray(speech_rms, np.float64), np.asarray(lip_rms, np.float64), np.asarray(identities)
    if not len(speech) == len(lips) == len(names):
        raise UserError("loudness, lip movement and identity must be given once per clip")
    scaled: list[np.ndarray] = []
    for name in np.unique(names):
        own = names == name
        if own.sum() > 1 and np.ptp(speech[own]) > 0 and np.ptp(lips[own]) > 0:
            scaled.append(np.stack([_standardised(speech[own]), _standardised(lips[own])]))
    if sum(part.shape[1] for part in scaled) < 3:
        return float("nan")
    both = np.concatenate(scaled, axis=1)
    return float(np.corrcoef(both)[0, 1])


def speech_envelope(
    waveform: Float[np.ndarray, " S"], sample_rate: float, fps: float, num_frames: int
) -> Float[np.ndarray, " F"]:
    """Root mean square of the waveform around each animation frame (windows of two frames, centred at f / fps)."""
    power = np.square(np.asarray(waveform, np.float64))
    cumulative = np.r_[0.0, np.cumsum(power)]
    centres = np.arange(num_frames) / fps
    first = np.clip(np.round((centres - 1 / fps) * sample_rate).astype(np.int64), 0, len(power))
    last = np.clip(np.round((centres + 1 / fps) * sample_rate).astype(np.int64), 0, len(power))
    # Differences of a running sum may leave a tiny negative rest in silence.
    energy = np.maximum(cumulative[last] - cumulative[first], 0.0)
    return np.sqrt(energy / np.maximum(last - first, 1))


def envelope_lag(opening: Float[np.ndarray, " F"], envelope: Float[np.ndarray, " F"], max_lag: int = 15) -> tuple[int, float]:
    """Lag, in frames, at which mouth opening follows the speech envelope best, and Pearson's correlation there.

    Args:
      opening: jaw or lip opening per frame.
      envelope: speech_envelope at the same frames.
      max_lag: lags from -max_lag to max_lag that leave three frames are tried; positive: the mouth comes after the sound.

    Returns:
      (lag, correlation); correlation NaN when either curve is constant or shorter than three frames.
    """
    mouth, sound = _curves(opening, envelope)
    best = (0, float("nan"))
    longest = min(max_lag, len(mouth) - 3)
    for lag in sorted(range(-longest, longest + 1), key=abs):
        a = mouth[max(0, lag) : len(mouth) + min(0, lag)]
        b = sound[max(0, -lag) : len(sound) + min(0, -lag)]
        if np.ptp(a) == 0 or np.ptp(b) == 0:
            continue
        value = float(np.corrcoef(a, b)[0, 1])
        # At equal correlation the smaller lag stays.
        if np.isnan(best[1]) or value > best[1] + 1e-12:
            best = (lag, value)
    return best


def shuffled_envelope_correlations(
    opening: Float[np.ndarray, " F"],
    envelope: Float[np.ndarray, " F"],
    max_lag: int = 15,
    num_shuffles: int = 100,
    seed: int = 0,
) -> Float[np.ndarray, " num_shuffles"]:
    """What envelope_lag finds by chance: its correlation with the envelope turned round by a random time.

    Turning keeps the rhythm of speech and breaks its hold on the mouth, so this is a harder yardstick than shuffled frames.

    Raises:
      UserError: fewer than 4 max_lag frames, where every turn is near the true one.
    """
    mouth, sound = _curves(opening, envelope)
    if len(sound) < 4 * max_lag:
        raise UserError(f"{len(sound)} frames are too few to tell lags of {max_lag} frames from chance")
    rng = np.random.default_rng(seed)
    # At least twice the largest lag away from the true alignment, in both directions.
    shifts = rng.integers(2 * max_lag, len(sound) - 2 * max_lag + 1, num_shuffles)
    return np.array([envelope_lag(mouth, np.roll(sound, shift), max_lag)[1] for shift in shifts])


def _standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std(ddof=1)


def _extrema(curve: np.ndarray) -> dict[int, str]:
    kinds = {int(frame): "max" for frame in signal.find_peaks(curve)[0]}
    kinds.update({int(frame): "min" for frame in signal.find_peaks(-curve)[0]})
    return kinds


def _curves(first, second) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise UserError(f"two curves of one length are needed: {a.shape} against {b.shape}")
    return a, b
