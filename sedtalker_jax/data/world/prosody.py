"""Seven prosody statistics of a stretch of speech: the classical baseline, and the ideal observer's input.

    f0_mean_st    mean of log F0, semitones re 100 Hz          energy_mean_db   mean level of the speaking frames, dB
    f0_std_st     its standard deviation                       energy_std_db    its standard deviation
    f0_slope      its trend, semitones per second              rate             peaks of the envelope per second
                                                               tilt_db          level at 1.5-5 kHz against 0.15-1 kHz, dB

F0 is pyworld's DIO (Morise 2009) with octave errors cut by distance from the median.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.signal

from sedtalker_jax.data.world.clock import SAMPLE_RATE

STATISTICS = ("f0_mean_st", "f0_std_st", "f0_slope", "energy_mean_db", "energy_std_db", "rate", "tilt_db")
HOP_S = 0.01
_WINDOW = 512


@dataclass(frozen=True)
class ProsodyTrack:
    """Frame features at 100 Hz, each [n]: semitones (NaN unvoiced), level_db, low_db, high_db, speaking, envelope peaks."""

    semitones: np.ndarray
    level_db: np.ndarray
    low_db: np.ndarray
    high_db: np.ndarray
    speaking: np.ndarray
    peaks: np.ndarray

    def statistics(self, start_s: float, end_s: float) -> np.ndarray:
        """The seven statistics of [start_s, end_s), [7] float64. Silence and unvoiced stretches give finite values."""
        first = int(np.clip(round(start_s / HOP_S), 0, max(0, len(self.level_db) - 2)))
        last = int(np.clip(round(end_s / HOP_S), first + 2, len(self.level_db)))
        window = slice(first, last)
        semitones = self.semitones[window]
        voiced = np.flatnonzero(~np.isnan(semitones))
        f0_mean = f0_std = f0_slope = 0.0
        if len(voiced) >= 3:
            values = semitones[voiced]
            f0_mean, f0_std = float(values.mean()), float(values.std())
            times = voiced * HOP_S
            times = times - times.mean()
            f0_slope = float((times @ (values - f0_mean)) / max(times @ times, 1e-3))
        speaking = self.speaking[window]
        if not speaking.any():
            speaking = np.ones_like(speaking)
        level = self.level_db[window][speaking]
        seconds = max(0.1, speaking.sum() * HOP_S)
        tilt = self.high_db[window][speaking].mean() - self.low_db[window][speaking].mean()
        rate = self.peaks[window].sum() / seconds
        return np.array([f0_mean, f0_std, f0_slope, level.mean(), level.std(), rate, tilt])


def prosody_track(waveform: np.ndarray) -> ProsodyTrack:
    """Frame features of a 16 kHz mono waveform [S]; about 100 times faster than real time.

    Raises:
      ValueError: when the waveform is not one-dimensional.
    """
    import pyworld

    if waveform.ndim != 1:
        raise ValueError(f"a mono waveform [S] is needed, not shape {waveform.shape}")
    samples = np.ascontiguousarray(waveform, dtype=np.float64)
    count = max(2, int(len(samples) / SAMPLE_RATE / HOP_S))
    # A little noise keeps digital silence out of DIO's normalisation; it is seeded, so the result repeats.
    dither = np.random.default_rng(0).standard_normal(len(samples)) * 1e-5
    f0 = np.zeros(count)
    if len(samples) > _WINDOW:
        found, _ = pyworld.dio(samples + dither, SAMPLE_RATE, f0_floor=60.0, f0_ceil=560.0, frame_period=1000 * HOP_S, speed=2)
        f0[: min(count, len(found))] = found[:count]
    semitones = np.full(count, np.nan)
    voiced = f0 > 0
    if voiced.any():
        semitones[voiced] = 12.0 * np.log2(f0[voiced] / 100.0)
        semitones[np.abs(semitones - np.nanmedian(semitones)) > 11.0] = np.nan

    hop = int(SAMPLE_RATE * HOP_S)
    padded = np.pad(samples, (_WINDOW // 2, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::hop][:count]
    power = np.abs(scipy.fft.rfft(frames * scipy.signal.get_window("hann", _WINDOW), axis=1)) ** 2
    frequencies = np.fft.rfftfreq(_WINDOW, 1.0 / SAMPLE_RATE)

    def band(low: float, high: float) -> np.ndarray:
        inside = (frequencies >= low) & (frequencies < high)
        return 10.0 * np.log10(power[:, inside].mean(axis=1) + 1e-9)

    level, low, high = band(60.0, 7600.0), band(150.0, 1000.0), band(1500.0, 5000.0)
    # Speaking: within 30 dB of the loud frames, so that the measure follows the recording's gain.
    speaking = level > np.percentile(level, 95) - 30.0
    smooth = scipy.ndimage.gaussian_filter1d(band(300.0, 3500.0), 2.5)
    found, _ = scipy.signal.find_peaks(smooth, prominence=2.0, height=float(np.percentile(smooth, 95)) - 25.0)
    peaks = np.zeros(count)
    peaks[found] = 1.0
    return ProsodyTrack(semitones, level, low, high, speaking, peaks)


def prosody_statistics(waveform: np.ndarray, start_s: float, end_s: float) -> np.ndarray:
    """The seven statistics (STATISTICS) of [start_s, end_s) of a 16 kHz waveform [S], [7] float64.

    For many windows of one waveform, make its prosody_track once and ask that.
    """
    return prosody_track(waveform).statistics(start_s, end_s)


def sliding_statistics(waveform: np.ndarray, centres_s: np.ndarray, window_s: float = 1.0) -> np.ndarray:
    """Statistics of a window round each centre, [len(centres_s), 7]: the baseline's input for frame labels."""
    track = prosody_track(waveform)
    return np.stack([track.statistics(c - 0.5 * window_s, c + 0.5 * window_s) for c in np.asarray(centres_s)])


def normalise_by_voice(statistics: np.ndarray, voices: np.ndarray) -> np.ndarray:
    """Each voice's statistics [n, 7] minus their mean, over their standard deviation; voices [n] names."""
    result = np.empty_like(statistics)
    for voice in np.unique(voices):
        own = voices == voice
        result[own] = (statistics[own] - statistics[own].mean(axis=0)) / (statistics[own].std(axis=0) + 1e-6)
    return result
