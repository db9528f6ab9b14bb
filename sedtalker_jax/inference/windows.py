"""Long audio as overlapping windows, what is heard in one, and their results stitched together again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from sedtalker_jax import axes


@dataclasses.dataclass(frozen=True)
class Window:
    """Samples [start, stop) of a recording, some of which belong to its neighbours too."""

    start: int
    stop: int


def split(num_samples: int, window_s: float, overlap_s: float, fps: float) -> list[Window]:
    """Windows that cover a recording, each of at most `window_s` seconds, neighbours sharing `overlap_s`.

    A recording that fits into one window is one window. Starts lie where speech frames and, of an integer frame rate,
    animation frames coincide, so that the grids of all windows are parts of one grid. Of other rates they lie where the two
    come nearest, within a quarter of the overlap: at 29.97 frames per second a tenth of a frame is left.

    Args:
      num_samples: length of the recording at 16 kHz.
      window_s, overlap_s: seconds; the overlap must be less than half of the window.
      fps: animation frames per second.
    """
    window = int(window_s * axes.SAMPLE_RATE)
    if num_samples <= window:
        return [Window(0, num_samples)]
    unit = _grid_unit(fps)
    hop = max(unit, int((window_s - overlap_s) * axes.SAMPLE_RATE) // unit * unit)
    earlier = 0 if float(fps).is_integer() else int(overlap_s / 4 * axes.FRAME_RATE)
    starts = [0]
    while starts[-1] + window < num_samples:
        candidates = starts[-1] + hop - axes.FRAME_HOP * np.arange(min(earlier, hop // axes.FRAME_HOP - 1) + 1)
        starts.append(_nearest_to_frames(candidates, fps))
    return [Window(start, min(start + window, num_samples)) for start in starts]


def aligned_start(sample: int, fps: float) -> int:
    """The first sample from `sample` on at which speech frames and animation frames coincide.

    Where they don't within half a second, at 29 or 29.97 frames per second, it is where the two come nearest in that time.
    """
    unit, half = _grid_unit(fps), int(0.5 * axes.FRAME_RATE)
    exact = float(fps).is_integer() and unit <= half * axes.FRAME_HOP
    if not exact:
        unit = axes.FRAME_HOP
    first = -(-sample // unit) * unit
    later = 0 if exact or first == 0 else half
    return _nearest_to_frames(first + axes.FRAME_HOP * np.arange(later + 1), fps)


def _grid_unit(fps: float) -> int:
    """Samples after which speech frames and animation frames coincide again; the speech frames' own where they never do."""
    if not float(fps).is_integer():
        return axes.FRAME_HOP
    return axes.SAMPLE_RATE // math.gcd(int(fps), int(axes.FRAME_RATE))


def _nearest_to_frames(samples: Int[np.ndarray, " n"], fps: float) -> int:
    """Which of the samples is the nearest to an animation frame, the first of those that are."""
    frames = samples / axes.SAMPLE_RATE * fps
    return int(samples[np.abs(frames - np.round(frames)).argmin()])


def stitch(pieces: Sequence[Float[np.ndarray, "L *c"]], starts: Sequence[int], total: int) -> Float[np.ndarray, "total *c"]:
    """One sequence from overlapping pieces, cross-faded linearly where they overlap.

    Args:
      pieces: results of the windows, first axis time.
      starts: index of each piece's first frame in the whole.
      total: frames in the whole. Where rounding left the last ones without a piece, the last covered one is held.
    """
    if len(pieces) == 1:
        return np.asarray(pieces[0][:total])
    shape = (total, *pieces[0].shape[1:])
    result, weight = np.zeros(shape, np.float64), np.zeros((total,) + (1,) * (len(shape) - 1))
    for i, (piece, start) in enumerate(zip(pieces, starts, strict=True)):
        length = min(len(piece), total - start)
        ramp = np.ones(length)
        if i > 0:
            overlap = min(length, max(1, starts[i - 1] + len(pieces[i - 1]) - start))
            ramp[:overlap] *= (np.arange(overlap) + 1) / (overlap + 1)
        if i + 1 < len(pieces):
            overlap = min(length, max(1, start + length - starts[i + 1]))
            ramp[length - overlap :] *= (np.arange(overlap, 0, -1)) / (overlap + 1)
        ramp = ramp.reshape(-1, *weight.shape[1:])
        result[start : start + length] += np.asarray(piece[:length], np.float64) * ramp
        weight[start : start + length] += ramp
    covered = int(np.flatnonzero(weight)[-1]) + 1
    result[:covered] /= weight[:covered]
    result[covered:] = result[covered - 1]
    return result.astype(np.asarray(pieces[0]).dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class HeardWindow:
    """What the diarizer says of one window, frame by frame: logits [T, K], intensity [T], embedding e_t [T, C].

    content holds the animator's own features of the frames [T, D], where the window was heard to be animated.
    """

    window: Window
    logits: Float[np.ndarray, "T K"]
    intensity: Float[np.ndarray, " T"]
    embedding: Float[np.ndarray, "T C"]
    content: Float[np.ndarray, "T D"] | None = None

    @property
    def first_frame(self) -> int:
        """Index of the window's first speech frame in the recording."""
        return self.window.start // axes.FRAME_HOP
