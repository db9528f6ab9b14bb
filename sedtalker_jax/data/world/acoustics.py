"""What espeak cannot do: loudness, timbre, breath and tremor over time; then the room, the noise and the line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.signal
import soxr

from sedtalker_jax.data.world.clock import SAMPLE_RATE
from sedtalker_jax.data.world.rules import Rules

WINDOW = 512
HOP = 128
_CEPSTRUM_KEEP = 28  # below the pitch period of the highest voice (16 kHz / 400 Hz = 40 samples)
_TREMOR_DB_PER_ST, _ROUGH_DB_PER_ST = 4.0, 3.5
_FREQUENCIES = np.fft.rfftfreq(WINDOW, 1.0 / SAMPLE_RATE)


def resample(waveform: np.ndarray, sample_rate: int, vocal_tract: float) -> np.ndarray:
    """To 16 kHz with formants and pitch raised by the factor `vocal_tract`; [S] -> [S / vocal_tract x rates] float32."""
    return soxr.resample(waveform.astype(np.float32), sample_rate * vocal_tract, SAMPLE_RATE, quality="HQ")


@dataclass(frozen=True)
class Timbre:
    """Control curves at the centres of the frames of `shape_speech`, each [frames]. Units as in the rules file."""

    level_db: np.ndarray
    tilt_db: np.ndarray
    presence_db: np.ndarray
    body_db: np.ndarray
    smile: np.ndarray
    breath: np.ndarray


def num_frames(num_samples: int) -> int:
    """Frames of shape_speech for a waveform of that length; frame i is centred at sample i x HOP."""
    return num_samples // HOP + 1


def frame_times(num_samples: int) -> np.ndarray:
    """Centres of those frames in seconds."""
    return np.arange(num_frames(num_samples)) * HOP / SAMPLE_RATE


def _bump(centre_hz: float, octaves: float) -> np.ndarray:
    """A Gaussian over log frequency, 1 at its centre, [bins]."""
    return np.exp(-0.5 * (np.log2(np.maximum(_FREQUENCIES, 30.0) / centre_hz) / octaves) ** 2).astype(np.float32)


def shape_speech(waveform: np.ndarray, timbre: Timbre, rng: np.random.Generator) -> np.ndarray:
    """Short-time filter: [S] -> [S] float32.

    |X(t, f)| is multiplied by level, tilt, presence, body and the warp of its own envelope (cepstrally smoothed) by the ratio
    exp(smile); breath adds noise with that envelope, rising with frequency. Overlap-add of square-root Hann windows.
    """
    window = np.sqrt(scipy.signal.get_window("hann", WINDOW)).astype(np.float32)
    frames_count = num_frames(len(waveform))
    padded = np.zeros((frames_count - 1) * HOP + WINDOW, dtype=np.float32)
    padded[WINDOW // 2 : WINDOW // 2 + len(waveform)] = waveform[: len(padded) - WINDOW // 2]
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * window
    spectrum = scipy.fft.rfft(frames, axis=1)
    log_magnitude = np.log(np.abs(spectrum) + 1e-5)
    cepstrum = scipy.fft.irfft(log_magnitude, axis=1)
    cepstrum[:, _CEPSTRUM_KEEP:-_CEPSTRUM_KEEP] = 0.0
    envelope = scipy.fft.rfft(cepstrum, axis=1).real

    # Raising formants by r reads the envelope at f / r.
    bins = np.arange(len(_FREQUENCIES), dtype=np.float32)
    source = np.minimum(bins * np.exp(-timbre.smile[:, None]).astype(np.float32), bins[-1])
    below = np.minimum(source.astype(np.int64), len(bins) - 2)
    part = source - below
    warped = np.take_along_axis(envelope, below, 1) * (1.0 - part) + np.take_along_axis(envelope, below + 1, 1) * part

    octaves = np.log2(np.maximum(_FREQUENCIES, 125.0) / 500.0).astype(np.float32) / 3.0  # 0 at 500 Hz, 1 at 4 kHz
    presence, body = _bump(2800.0, 0.45), _bump(300.0, 0.5)
    decibels = timbre.level_db[:, None] + timbre.tilt_db[:, None] * np.clip(octaves, -0.67, 1.33)
    decibels = decibels + timbre.presence_db[:, None] * presence + timbre.body_db[:, None] * body
    colour = (decibels * (np.log(10.0) / 20.0)).astype(np.float32)
    gain = np.exp(np.clip(warped - envelope, -2.5, 2.5) + colour)

    noise = rng.standard_normal((2, *spectrum.shape), dtype=np.float32)
    rise = np.clip(_FREQUENCIES / 4000.0, 0.0, 1.0).astype(np.float32) ** 0.5
    strength = np.clip(timbre.breath, 0.0, 0.6).astype(np.float32)[:, None] * rise
    breath = (noise[0] + 1j * noise[1]) * (np.exp(warped + colour) * strength)
    shaped = spectrum * gain * (1.0 - 0.5 * strength) + breath

    output = scipy.fft.irfft(shaped, axis=1).astype(np.float32) * window
    result = np.zeros_like(padded)
    for offset in range(WINDOW // HOP):  # frames offset, offset + 4, ... do not overlap: one strided add each
        chosen = output[offset :: WINDOW // HOP]
        start = offset * HOP
        result[start : start + chosen.size] += chosen.reshape(-1)
    # Square-root Hann, applied twice, sums to WINDOW / (2 HOP).
    return result[WINDOW // 2 : WINDOW // 2 + len(waveform)] * (2.0 * HOP / WINDOW)


def wobble(waveform: np.ndarray, tremor: np.ndarray, rough: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tremor (st, 5-8 Hz) and roughness (st, random, up to 60 Hz), in pitch by a time warp and in loudness alike.

    tremor, rough: [frames of shape_speech]. Length is kept. Nothing is moved by more than about 3 ms.
    """
    count = len(waveform)
    control = frame_times(count)
    if float(np.max(np.abs(tremor))) < 1e-3 and float(np.max(np.abs(rough))) < 1e-3:
        return waveform
    rate = rng.uniform(5.0, 8.0)
    phase = 2.0 * np.pi * (rate * control + rng.uniform())
    quick = scipy.signal.lfilter([0.6], [1.0, -0.4], rng.standard_normal(len(control)))
    trembling, roughness = np.clip(tremor, 0.0, 1.5), np.clip(rough, 0.0, 1.5)
    semitones = trembling * np.sin(phase) + roughness * quick
    # A larynx that shakes in pitch shakes in loudness.
    decibels = _TREMOR_DB_PER_ST * trembling * np.sin(phase + 0.6) + _ROUGH_DB_PER_ST * roughness * quick
    speed = 2.0 ** (semitones / 12.0) - 1.0
    shift = np.cumsum(speed) * HOP
    shift -= scipy.ndimage.uniform_filter1d(shift, 63, mode="nearest")  # no drift: words stay where they are
    shift = np.clip(shift, -50.0, 50.0)
    position = np.arange(count) + np.interp(np.arange(count), control * SAMPLE_RATE, shift)
    position = np.clip(position, 1.0, count - 3.0)
    base = position.astype(np.int64)
    u = (position - base).astype(np.float32)
    a, b, c, d = waveform[base - 1], waveform[base], waveform[base + 1], waveform[base + 2]
    # Catmull-Rom: four points, flat enough up to 4 kHz, where voiced energy is.
    bent = b + 0.5 * u * (c - a + u * (2.0 * a - 5.0 * b + 4.0 * c - d + u * (3.0 * (b - c) + d - a)))
    gain = 10.0 ** (np.interp(np.arange(count), control * SAMPLE_RATE, decibels) / 20.0)
    return (bent * gain).astype(np.float32)


def _decibel_ratio(decibels: float) -> float:
    return float(10.0 ** (decibels / 20.0))


def _rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)) + 1e-12))


def channel(rules: Rules, waveform: np.ndarray, babble: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Room, noise, gain and line of one recording: [S] -> [S] float32 within (-1, 1).

    babble: [n] many voices at once, from which a piece is cut. The draws come before any signal work, so each clip uses
    the same number of them.
    """
    table = rules["distractors"]
    chance = rng.random(4)
    pick = rng.random(6)
    result = waveform.astype(np.float32)

    def between(limits: list[float], u: float) -> float:
        return limits[0] + (limits[1] - limits[0]) * u

    if chance[0] < table["reverberation_probability"]:
        decay_s = between(table["reverberation_s"], pick[0])
        length = int(decay_s * SAMPLE_RATE)
        times = np.arange(length) / SAMPLE_RATE
        tail = rng.standard_normal(length).astype(np.float32) * np.exp(-6.9 * times / decay_s).astype(np.float32)
        tail[: int(0.004 * SAMPLE_RATE)] = 0.0
        wet = scipy.signal.fftconvolve(result, tail)[: len(result)].astype(np.float32)
        level = _decibel_ratio(between(table["reverberation_wet_db"], pick[1]))
        result = result + wet * (level * _rms(result) / _rms(wet))
    if chance[1] < table["noise_probability"]:
        snr_db = between(table["noise_snr_db"], pick[2])
        if chance[2] < table["babble_probability"]:
            start = int(pick[3] * max(1, len(babble) - len(result)))
            noise = np.resize(babble[start : start + len(result)], len(result))
        else:
            colour = 0.97 * pick[3]  # from white to nearly brown
            noise = scipy.signal.lfilter([1.0], [1.0, -colour], rng.standard_normal(len(result))).astype(np.float32)
        result = result + noise * (_decibel_ratio(-snr_db) * _rms(result) / _rms(noise))
    if chance[3] < table["codec_probability"]:
        low, high = table["codec_band_hz"][int(pick[4] * len(table["codec_band_hz"]))]
        sections = scipy.signal.butter(4, [low, high], "bandpass", fs=SAMPLE_RATE, output="sos")
        result = scipy.signal.sosfilt(sections, result).astype(np.float32)
        bits = int(round(between(table["codec_bits"], pick[4])))
        # mu-law companding, as telephone codecs do, at the peak of the clip.
        peak = float(np.max(np.abs(result))) + 1e-9
        companded = np.sign(result) * np.log1p(255.0 * np.abs(result) / peak) / np.log(256.0)
        companded = np.round(companded * 2 ** (bits - 1)) / 2 ** (bits - 1)
        result = (np.sign(companded) * np.expm1(np.abs(companded) * np.log(256.0)) / 255.0 * peak).astype(np.float32)
    result = result * _decibel_ratio(between(table["gain_db"], pick[5]))
    peak = float(np.max(np.abs(result)))
    return result * (0.98 / peak) if peak > 0.98 else result
