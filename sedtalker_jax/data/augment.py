"""Changes of the recording, not of the voice's emotion: speed, room, noise, codec. Seeded, numpy and soxr only.

Each is applied with its own probability, in this order: speed (changes the time axis), room, noise, codec. Gain is the
pipeline's (PipelineConfig.gain_db), SpecAugment the model's (sedtalker_jax.speech.spec_augment).
"""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import scipy.fft
import scipy.signal
import soundfile
import soxr
from jaxtyping import Float

SAMPLE_RATE = 16_000

Waveform = Float[np.ndarray, "S"]


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Probabilities and ranges.

    Attributes:
      speed_probability, speed: factor on the rate of speech; pitch moves with it, as when a tape runs faster.
      room_probability: chance of reverberation.
      reverberation_s: range of the time in which it decays by 60 dB.
      direct_db: range of the direct sound's level over the reverberation's.
      noise_probability, snr_db: noise below the speech by this much.
      noise_colour: range of a in its power spectrum 1 / f^a: 0 white, 1 pink, 2 brown.
      codec_probability: chance of a lossy channel: half of them telephone (8 kHz, mu-law), half Ogg Vorbis.
      vorbis_compression: range of libsndfile's compression level, 1 = smallest file.
    """

    speed_probability: float = 0.3
    speed: tuple[float, float] = (0.9, 1.1)
    room_probability: float = 0.3
    reverberation_s: tuple[float, float] = (0.15, 0.6)
    direct_db: tuple[float, float] = (0.0, 15.0)
    noise_probability: float = 0.5
    snr_db: tuple[float, float] = (5.0, 30.0)
    noise_colour: tuple[float, float] = (0.0, 2.0)
    codec_probability: float = 0.15
    vorbis_compression: tuple[float, float] = (0.6, 1.0)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
            elif field.name.endswith("_probability") and not 0.0 <= value <= 1.0:
                raise ValueError(f"{field.name}={value} is no probability")


def draw_speed(config: AugmentConfig, rng: np.random.Generator) -> float:
    """The factor for one example: 1.0 or a draw from the range. It must be known before labels are laid out."""
    factor = rng.uniform(*config.speed)
    return float(factor) if rng.random() < config.speed_probability else 1.0


def change_speed(waveform: Waveform, factor: float) -> Waveform:
    """The waveform played `factor` times as fast: round(S / factor) samples; what was at t s is at t / factor s."""
    if factor == 1.0:
        return waveform
    length = round(len(waveform) / factor)
    faster = soxr.resample(waveform, SAMPLE_RATE, SAMPLE_RATE / factor, quality="MQ")
    return np.pad(faster, (0, max(0, length - len(faster))))[:length]


def distort(waveform: Waveform, config: AugmentConfig, rng: np.random.Generator) -> Waveform:
    """Room, noise and codec, each with its probability. Length and timing stay."""
    if rng.random() < config.room_probability:
        response = room_response(rng.uniform(*config.reverberation_s), rng.uniform(*config.direct_db), rng)
        waveform = reverberate(waveform, response)
    if rng.random() < config.noise_probability:
        waveform = add_noise(waveform, rng.uniform(*config.snr_db), rng.uniform(*config.noise_colour), rng)
    if rng.random() < config.codec_probability:
        if rng.random() < 0.5:
            waveform = telephone(waveform)
        else:
            waveform = vorbis(waveform, rng.uniform(*config.vorbis_compression))
    return waveform


def room_response(decay_s: float, direct_db: float, rng: np.random.Generator) -> Float[np.ndarray, "n"]:
    """Impulse response of a synthetic room: the direct sound, then white noise that decays exponentially.

    Args:
      decay_s: time in which the reverberation's energy falls by 60 dB.
      direct_db: energy of the direct sound over that of the reverberation.

    Returns:
      float32, of unit energy, so that a room changes no speaker's loudness on average; its first sample is the direct sound.
    """
    n = max(2, int(decay_s * SAMPLE_RATE))
    tail = rng.standard_normal(n, dtype=np.float32) * np.exp(-np.log(1e3) * np.arange(n, dtype=np.float32) / n)
    # The first reflections come after 2 ms.
    tail[: min(n // 2, SAMPLE_RATE // 500)] = 0.0
    tail *= 10.0 ** (-direct_db / 20.0) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return (tail / np.sqrt(np.sum(tail**2))).astype(np.float32)


def reverberate(waveform: Waveform, response: Float[np.ndarray, "n"]) -> Waveform:
    """Convolution, cut to the waveform's length."""
    return scipy.signal.oaconvolve(waveform, response)[: len(waveform)].astype(np.float32)


def add_noise(waveform: Waveform, snr_db: float, colour: float, rng: np.random.Generator) -> Waveform:
    """Adds Gaussian noise with power spectrum 1 / f^colour (flat below 50 Hz), `snr_db` below the waveform's mean power."""
    n = len(waveform)
    size = scipy.fft.next_fast_len(n, real=True)
    spectrum = scipy.fft.rfft(rng.standard_normal(size, dtype=np.float32))
    lowest = 50.0 * size / SAMPLE_RATE
    shape = np.maximum(np.arange(len(spectrum), dtype=np.float32), lowest) ** np.float32(-colour / 2)
    noise = scipy.fft.irfft(spectrum * shape, size)[:n]
    power = float(np.mean(np.square(noise))) + 1e-20
    wanted = float(np.mean(np.square(waveform))) * 10.0 ** (-snr_db / 10.0)
    return (waveform + noise * np.float32(np.sqrt(wanted / power))).astype(np.float32)


def telephone(waveform: Waveform) -> Waveform:
    """8 kHz and 8-bit mu-law, as on a telephone line. Samples beyond [-1, 1] clip."""
    narrow = soxr.resample(waveform, SAMPLE_RATE, SAMPLE_RATE // 2, quality="MQ")
    coded = _through_file(narrow, SAMPLE_RATE // 2, "WAV", "ULAW", None)
    wide = soxr.resample(coded, SAMPLE_RATE // 2, SAMPLE_RATE, quality="MQ")
    return np.pad(wide, (0, max(0, len(waveform) - len(wide))))[: len(waveform)]


def vorbis(waveform: Waveform, compression: float) -> Waveform:
    """Through Ogg Vorbis, which keeps time; `compression` from 0 (best) to 1 (smallest)."""
    return _through_file(waveform, SAMPLE_RATE, "OGG", "VORBIS", compression)[: len(waveform)]


def _through_file(waveform: Waveform, rate: int, container: str, subtype: str, compression: float | None) -> Waveform:
    buffer = io.BytesIO()
    soundfile.write(
        buffer, np.clip(waveform, -1.0, 1.0), rate, format=container, subtype=subtype, compression_level=compression
    )
    buffer.seek(0)
    return soundfile.read(buffer, dtype="float32")[0]
