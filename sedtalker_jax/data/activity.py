"""Where a recording holds sound: for labels that leave out long silence, for joins, and for loudness."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int8

from sedtalker_jax.data.world.clock import FRAME_HOP, FRAME_WINDOW, SAMPLE_RATE, num_speech_frames

BELOW_LOUD_DB = 35.0
"""A frame is silent when it lies this far below the clip's loud frames (their 95th percentile)."""

FLOOR_DBFS = -70.0
"""A frame below this is silent in any clip."""

LONGEST_PAUSE_S = 0.5
"""A longer pause is silence and has no emotion; a shorter one inherits its neighbours' (the built-in world's rule)."""

MARGIN_S = 0.06
"""Kept before the first and after the last active frame, so that soft onsets and releases stay whole."""


def frame_levels(waveform: Float[np.ndarray, "S"]) -> Float[np.ndarray, "T"]:
    """RMS level of every speech frame in dBFS, at least -120."""
    T = num_speech_frames(len(waveform))
    # Sums of 80 samples are shared by the overlapping windows: 400 = 5 x 80 and 320 = 4 x 80.
    step = FRAME_WINDOW - FRAME_HOP
    blocks = waveform[: len(waveform) // step * step].reshape(-1, step)
    energy = np.einsum("ij,ij->i", blocks, blocks, dtype=np.float64)
    total = np.concatenate([[0.0], np.cumsum(energy)])
    first = np.arange(T) * (FRAME_HOP // step)
    power = (total[first + FRAME_WINDOW // step] - total[first]) / FRAME_WINDOW
    return 10.0 * np.log10(np.maximum(power, 1e-12))


def active_frames(levels: Float[np.ndarray, "T"]) -> Bool[np.ndarray, "T"]:
    """Frames that hold sound, relative to the loud frames of the same clip.

    In recordings whose background lies above the threshold (television) every frame is active.
    """
    if not len(levels):
        return np.zeros(0, bool)
    return levels > max(np.percentile(levels, 95) - BELOW_LOUD_DB, FLOOR_DBFS)


def long_silence(active: Bool[np.ndarray, "T"]) -> Bool[np.ndarray, "T"]:
    """Frames of runs of inactive frames that last longer than LONGEST_PAUSE_S."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], active, [True]])))
    silent = np.zeros(len(active), bool)
    for start, end in edges.reshape(-1, 2):
        if (end - start) * FRAME_HOP > LONGEST_PAUSE_S * SAMPLE_RATE:
            silent[start:end] = True
    return silent


def speech_span(active: Bool[np.ndarray, "T"], num_samples: int) -> tuple[float, float]:
    """Seconds from the first to the last active frame, with MARGIN_S on either side; the whole clip without any."""
    duration = num_samples / SAMPLE_RATE
    found = np.flatnonzero(active)
    if not len(found):
        return 0.0, duration
    start = found[0] * FRAME_HOP / SAMPLE_RATE - MARGIN_S
    end = (found[-1] * FRAME_HOP + FRAME_WINDOW) / SAMPLE_RATE + MARGIN_S
    return max(0.0, start), min(duration, end)


def loudness(levels: Float[np.ndarray, "T"], active: Bool[np.ndarray, "T"]) -> float:
    """RMS level over the active frames in dBFS; -120 without any."""
    if not active.any():
        return -120.0
    return float(10.0 * np.log10(np.mean(10.0 ** (levels[active] / 10.0))))


def segment_frames(segments: list, labels: tuple[str, ...], times: Float[np.ndarray, "T"]) -> Int8[np.ndarray, "T"]:
    """Label index of every frame whose centre lies in a segment [start, end); -1 elsewhere.

    Args:
      segments: (start_s, end_s, label), in order, not overlapping. A label outside `labels` gives -1.
      labels: what the indices point into.
      times: centres of the frames in seconds.
    """
    emotion = np.full(len(times), -1, np.int8)
    for start, end, label, *_ in segments:
        emotion[(times >= start) & (times < end)] = labels.index(label) if label in labels else -1
    return emotion
