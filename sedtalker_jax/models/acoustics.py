"""Acoustic features on the encoder's frame grid: log-mel spectrum, level and pitch salience, without parameters.

A large pretrained encoder has learned pitch and spectrum from thousands of hours. A small one trained from scratch can't in
minutes, so it may be joined by these. Everything is a matrix product on a power spectrum, in jit, on any device.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sedtalker_jax.axes import FRAME_HOP, FRAME_RATE, FRAME_WINDOW, SAMPLE_RATE, Lengths, Waveforms, num_speech_frames
from sedtalker_jax.randomness import ExampleKeys, fold
from sedtalker_jax.value_ranges import at_least

_MEL_FFT = 512
# 45 ms hold 2.7 periods at 60 Hz; window and longest lag (267 samples) fit the transform, so no lag wraps round.
_PITCH_WINDOW = 720
_PITCH_FFT = 1024


@dataclasses.dataclass(frozen=True)
class AcousticsConfig:
    """Attributes:
    num_mels: bands of the log-mel spectrum, 60 Hz to 7.6 kHz.
    num_lags: candidate periods of the pitch salience, log-spaced over [pitch_low_hz, pitch_high_hz].
    pitch_low_hz, pitch_high_hz: range of candidate fundamental frequencies.
    voice_shift_mels, voice_shift_lags: in training each clip's mel bands and pitch candidates are moved by up to this many
      places, which sounds like another vocal tract and another pitch: the cheapest way to hear more voices than there are.
    mask_s: in training a stretch of up to this many seconds, beginning anywhere in the clip, is silenced in its features.
    """

    num_mels: int = 40
    num_lags: int = 48
    pitch_low_hz: float = 60.0
    pitch_high_hz: float = 500.0
    voice_shift_mels: float = 0.0
    voice_shift_lags: float = 0.0
    mask_s: float = 0.0

    def __post_init__(self):
        at_least(self, 1, "num_mels", "num_lags")
        at_least(self, 0, "voice_shift_mels", "voice_shift_lags", "mask_s")

    @property
    def num_features(self) -> int:
        """Mel bands twice (as heard, and relative to the clip's mean), level twice, salience once."""
        return 2 * self.num_mels + 2 + self.num_lags


@functools.cache
def mel_matrix(num_mels: int, low_hz: float = 60.0, high_hz: float = 7_600.0) -> Float[np.ndarray, "bins mels"]:
    """Triangular filters, evenly spaced on the mel scale 2595 log10(1 + f / 700), of unit peak."""

    def to_mel(hz):
        return 2595.0 * np.log10(1.0 + hz / 700.0)

    bins = to_mel(np.fft.rfftfreq(_MEL_FFT, 1.0 / SAMPLE_RATE))
    edges = np.linspace(to_mel(low_hz), to_mel(high_hz), num_mels + 2)
    rising = (bins[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[None, 2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling))


@functools.cache
def lag_matrix(config: AcousticsConfig) -> Float[np.ndarray, "bins lags"]:
    """Maps a power spectrum to the autocorrelation at log-spaced, fractional lags, corrected for the window's own decay."""
    frequencies = np.geomspace(config.pitch_low_hz, config.pitch_high_hz, config.num_lags)
    lags = SAMPLE_RATE / frequencies
    bins = np.arange(_PITCH_FFT // 2 + 1)
    weight = np.where((bins == 0) | (bins == bins[-1]), 1.0, 2.0) / _PITCH_FFT
    # Pitch lives below about 1 kHz; formants and noise above it only blur the peaks.
    hz = bins * SAMPLE_RATE / _PITCH_FFT
    emphasis = 1.0 / (1.0 + (hz / 900.0) ** 4)
    matrix = (weight * emphasis)[:, None] * np.cos(2.0 * np.pi * bins[:, None] * lags[None, :] / _PITCH_FFT)
    window = np.hanning(_PITCH_WINDOW)
    decay = np.correlate(window, window, "full")[_PITCH_WINDOW - 1 :]
    return matrix / np.interp(lags, np.arange(_PITCH_WINDOW), decay / decay[0])


def _frames(waveforms: Waveforms, num_frames: int, width: int, transform: int) -> Float[Array, "B T transform"]:
    """Hann-windowed frames of `width` samples centred on the speech frames, with zeros up to the transform's length.

    Samples outside the clip count as zero. Frames are joined from whole hops: the indices of a gather would be constants of the
    program as large as a clip's frames. The window is zero where the transform hears more than the frame.
    """
    before = max(0, (width - FRAME_WINDOW) // 2)
    start = (FRAME_WINDOW - width) // 2 + before
    pieces = -(-transform // FRAME_HOP)
    needed = (num_frames - 1 + pieces) * FRAME_HOP
    after = max(0, needed + start - before - waveforms.shape[1])
    padded = jnp.pad(waveforms, ((0, 0), (before, after)))[:, start : start + needed]
    hops = padded.reshape(len(waveforms), num_frames - 1 + pieces, FRAME_HOP)
    joined = [hops[:, i : i + num_frames, : min(FRAME_HOP, transform - i * FRAME_HOP)] for i in range(pieces)]
    window = np.pad(np.hanning(width), (0, transform - width))
    return jnp.concatenate(joined, axis=-1) * jnp.asarray(window, waveforms.dtype)


def _shift(x: Float[Array, "B T c"], places: Float[Array, "B"]) -> Float[Array, "B T c"]:
    """Moves every row's channels by its own, fractional number of places; the edge channels repeat."""
    count = x.shape[-1]
    position = jnp.clip(jnp.arange(count, dtype=x.dtype)[None, :] + places[:, None], 0, count - 1)
    low = jnp.floor(position).astype(jnp.int32)
    fraction = (position - low)[:, None, :]
    below = jnp.take_along_axis(x, low[:, None, :], axis=-1)
    above = jnp.take_along_axis(x, jnp.minimum(low + 1, count - 1)[:, None, :], axis=-1)
    return below * (1 - fraction) + above * fraction


def _uniform(keys: ExampleKeys, tag: str, low: float, high: float, dtype) -> Float[Array, "B"]:
    return jax.vmap(lambda key: jax.random.uniform(key, (), dtype, low, high))(fold(keys, tag))


def acoustic_features(
    waveforms: Waveforms, lengths: Lengths, config: AcousticsConfig, keys: ExampleKeys | None = None
) -> Float[Array, "B T num_features"]:
    """Features of every speech frame; a clip gives the same alone and in a padded batch.

    Args:
      waveforms: [B, S] at 16 kHz.
      lengths: [B], valid samples of each row.
      config: sizes.
      keys: per example, for the training-time voice shift and mask; None = neither.

    Returns:
      [B, T, num_features], T = num_speech_frames(S): log-mel energies, the same relative to the clip's mean over valid frames,
      level in dB / 20 and relative to the clip's mean, and pitch salience (normalised autocorrelation, in [-1, 1]).
      Frames past a clip's length are zero. No gradient flows to the waveform.
    """
    T = num_speech_frames(waveforms.shape[1])
    dtype = waveforms.dtype
    inside = jnp.arange(waveforms.shape[1])[None, :] < lengths[:, None]
    waveforms = jax.lax.stop_gradient(jnp.where(inside, waveforms, 0.0))
    valid = (jnp.arange(T)[None, :] < num_speech_frames(lengths)[:, None]).astype(dtype)[..., None]

    short = _frames(waveforms, T, FRAME_WINDOW, _MEL_FFT)
    power = jnp.square(jnp.abs(jnp.fft.rfft(short))).astype(dtype)
    # Floor at about -100 dB of full scale, scaled to roughly unit range.
    mel = (jnp.log(power @ jnp.asarray(mel_matrix(config.num_mels), dtype) + 1e-5) + 3.0) / 4.0
    level = (jnp.log10(jnp.mean(jnp.square(short[..., :FRAME_WINDOW]), axis=-1, keepdims=True) + 1e-9) + 4.0) / 2.0

    long = _frames(waveforms, T, _PITCH_WINDOW, _PITCH_FFT)
    spectrum = jnp.square(jnp.abs(jnp.fft.rfft(long))).astype(dtype)
    matrix = lag_matrix(config)
    bins = np.arange(_PITCH_FFT // 2 + 1)
    hz = bins * SAMPLE_RATE / _PITCH_FFT
    zero_lag = np.where((bins == 0) | (bins == bins[-1]), 1.0, 2.0) / _PITCH_FFT / (1.0 + (hz / 900.0) ** 4)
    energy = spectrum @ jnp.asarray(zero_lag, dtype)
    salience = spectrum @ jnp.asarray(matrix, dtype) / (energy[..., None] + 1e-4)

    if keys is not None and config.voice_shift_mels:
        reach = config.voice_shift_mels
        mel = _shift(mel, _uniform(keys, "mels", -reach, reach, dtype))
    if keys is not None and config.voice_shift_lags:
        reach = config.voice_shift_lags
        salience = _shift(salience, _uniform(keys, "lags", -reach, reach, dtype))

    steps = jnp.maximum(valid.sum(axis=1, keepdims=True), 1.0)

    def centred(x):
        return x - jnp.sum(x * valid, axis=1, keepdims=True) / steps

    features = jnp.concatenate([mel, centred(mel), level, centred(level), salience], axis=-1) * valid
    if keys is not None and config.mask_s:
        seconds = jnp.arange(T, dtype=dtype)[None, :] / FRAME_RATE
        start = _uniform(keys, "mask start", 0.0, 1.0, dtype)[:, None] * steps[:, 0] / FRAME_RATE
        length = _uniform(keys, "mask length", 0.0, config.mask_s, dtype)[:, None]
        hidden = (seconds >= start) & (seconds < start + length)
        features = jnp.where(hidden[..., None], 0.0, features)
    return features
