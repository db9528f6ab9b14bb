"""The time grids of the package, for code that must not import jax (the numbers are those of sedtalker_jax.axes)."""

from __future__ import annotations

import numpy as np

SAMPLE_RATE = 16_000
FRAME_HOP = 320
FRAME_WINDOW = 400


def num_speech_frames(num_samples: int) -> int:
    """Number T of speech frames (50 Hz) of a waveform of `num_samples` samples: floor((S - 400) / 320) + 1, or 0."""
    return max(0, (num_samples - FRAME_WINDOW) // FRAME_HOP + 1)


def speech_frame_times(num_frames: int) -> np.ndarray:
    """Centres of the speech frames in seconds, [T] float64."""
    return (FRAME_HOP * np.arange(num_frames) + FRAME_WINDOW / 2) / SAMPLE_RATE


def num_animation_frames(num_samples: int, fps: float) -> int:
    """Number F of animation frames: duration x fps to the nearest, at least 1."""
    return max(1, int(round(num_samples / SAMPLE_RATE * fps)))
