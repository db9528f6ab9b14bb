"""Acoustic features against what is known of the sound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sedtalker_jax.axes import SAMPLE_RATE, num_speech_frames
from sedtalker_jax.models.acoustics import AcousticsConfig, acoustic_features
from sedtalker_jax.randomness import example_keys

CONFIG = AcousticsConfig(voice_shift_mels=1.5, voice_shift_lags=4.0, mask_s=0.4)


def harmonic_tone(hz: float, seconds: float) -> np.ndarray:
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.1 * sum(np.sin(2 * np.pi * hz * k * time) / k for k in range(1, 6))).astype(np.float32)


def keys_of(*seeds: int):
    return example_keys(jnp.asarray(seeds, jnp.uint32), jnp.int32(3))


@pytest.mark.parametrize("training", (False, True))
def test_a_clip_has_the_same_features_alone_and_padded(training):
    rng = np.random.default_rng(0)
    clip = rng.normal(0, 0.1, 17_000).astype(np.float32)
    padded = np.zeros((2, 48_000), np.float32)
    padded[0, :17_000], padded[1] = clip, rng.normal(0, 0.1, 48_000)
    alone = acoustic_features(jnp.asarray(clip)[None], jnp.asarray([17_000]), CONFIG, keys_of(7) if training else None)
    among = acoustic_features(jnp.asarray(padded), jnp.asarray([17_000, 48_000]), CONFIG, keys_of(7, 8) if training else None)
    count = num_speech_frames(17_000)
    scale = np.abs(np.asarray(alone)).max()
    np.testing.assert_allclose(among[0, :count], alone[0], atol=1e-5 * scale)
    assert np.all(np.asarray(among[0, count:]) == 0)


def test_masks_begin_inside_the_clip():
    clips = jnp.asarray(np.random.default_rng(1).normal(0, 0.1, (64, 48_000)), jnp.float32)
    lengths = jnp.full(64, 16_000)
    config = AcousticsConfig(mask_s=0.4)
    features = np.asarray(acoustic_features(clips, lengths, config, keys_of(*range(64))))
    hidden = (features[:, : num_speech_frames(16_000)] == 0).all(axis=-1)
    # One mask in twenty holds no whole frame. Drawn over the padding too, masks would miss two clips in three.
    assert hidden.any(axis=1).mean() > 0.8
    assert hidden.sum(axis=1).max() <= 0.4 * 50 + 1


@pytest.mark.parametrize("hz", (90.0, 170.0, 320.0))
def test_salience_peaks_at_the_pitch(hz):
    clip = jnp.asarray(harmonic_tone(hz, 1.0))[None]
    config = AcousticsConfig()
    salience = acoustic_features(clip, jnp.asarray([clip.shape[1]]), config)[0, 10:-10, -config.num_lags :]
    heard = np.geomspace(config.pitch_low_hz, config.pitch_high_hz, config.num_lags)[np.asarray(salience).argmax(axis=-1)]
    # Half a place of the log-spaced candidates, or an octave below, where the period fits as well.
    step = (config.pitch_high_hz / config.pitch_low_hz) ** (0.5 / (config.num_lags - 1))
    octaves = np.round(np.log2(heard / hz))
    assert np.all(octaves <= 0)
    assert np.all(np.abs(np.log(heard / hz) - octaves * np.log(2.0)) < 2 * np.log(step))


def test_no_gradient_reaches_the_waveform():
    clip = jnp.asarray(harmonic_tone(150.0, 0.5))[None]
    gradient = jax.grad(lambda x: jnp.sum(acoustic_features(x, jnp.asarray([x.shape[1]]), CONFIG) ** 2))(clip)
    assert np.all(np.asarray(gradient) == 0)


def test_level_follows_loudness():
    quiet = jnp.asarray(harmonic_tone(150.0, 0.5))[None]
    config = AcousticsConfig()
    place = 2 * config.num_mels

    def level(x):
        return np.asarray(acoustic_features(x, jnp.asarray([x.shape[1]]), config))[0, 5:-5, place]

    # 20 dB are one unit.
    np.testing.assert_allclose(level(10 * quiet) - level(quiet), 1.0, atol=1e-3)
