"""The axis legend and the array aliases: the one place where letters get their meaning.

    B  batch                      S  audio samples (16 kHz)
    T  speech frames (50 Hz)      F  animation frames (fps of the data set)
    L  any sequence               D  model width
    E  inner width of Mamba       N  state size
    H  heads                      K  emotions
    V  vertices                   R  rank of the vertex basis
    W  rig weights (blendshapes)  M  mesh triangles

Time is in seconds and positions are in metres unless a name says otherwise. Speech frame t covers the samples
[320 t, 320 t + 400) and is centred at (320 t + 200) / 16000 s; animation frame f lies at f / fps s.
Einsum strings use the same letters in lower case.
"""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt32

SAMPLE_RATE = 16_000
"""Hz. Every waveform inside the package has this rate; audio.load_audio resamples."""

FRAME_HOP = 320
"""Samples between speech frames: the product of the encoder family's strides."""

FRAME_WINDOW = 400
"""Samples that one speech frame sees: the encoder family's receptive field."""

FRAME_RATE = SAMPLE_RATE / FRAME_HOP
"""Speech frames per second: 50."""

Waveforms = Float[jax.Array, "B S"]
Lengths = Int[jax.Array, "B"]
Seeds = UInt32[jax.Array, "B"]
SpeechFeatures = Float[jax.Array, "B T D"]
SpeechMask = Bool[jax.Array, "B T"]
FaceFeatures = Float[jax.Array, "B F D"]
FaceMask = Bool[jax.Array, "B F"]
EmotionLogits = Float[jax.Array, "B T K"]
Motion = Float[jax.Array, "B F R"]

WaveformArray = Float[np.ndarray, "S"]
VerticesArray = Float[np.ndarray, "V 3"]
VertexSequence = Float[np.ndarray, "F V 3"]
TrianglesArray = Int[np.ndarray, "M 3"]


def num_speech_frames(num_samples):
    """Number of speech frames of a waveform of `num_samples` samples (an int or an array of ints).

    The length formula of the convolution stack (kernels 10,3,3,3,3,2,2, strides 5,2,2,2,2,2,2), which equals
    floor((S - 400) / 320) + 1 for S >= 400 and 0 below. It is never duration / 0.02: one second has 49 frames.
    """
    # Works on ints, numpy and traced arrays alike; max without importing an array module.
    frames = (num_samples - FRAME_WINDOW) // FRAME_HOP + 1
    return frames * (frames > 0)


def speech_frame_times(num_frames: int) -> Float[np.ndarray, "T"]:
    """Centre of each speech frame in seconds: (320 t + 200) / 16000."""
    return (FRAME_HOP * np.arange(num_frames) + FRAME_WINDOW / 2) / SAMPLE_RATE


def num_animation_frames(num_samples: int, fps: float) -> int:
    """Number of animation frames of a waveform: duration x fps, rounded to the nearest, at least 1."""
    return max(1, int(round(num_samples / SAMPLE_RATE * fps)))
