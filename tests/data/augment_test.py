"""Augmentation changes the recording and neither its labels' times nor, on average, a speaker's loudness."""

import numpy as np
import pytest
import scipy.signal

from sedtalker_jax.data import augment
from sedtalker_jax.data.augment import AugmentConfig

RATE = 16_000


def speech(seconds=2.0, seed=0):
    """Band-limited noise under syllables."""
    rng = np.random.default_rng(seed)
    n = int(seconds * RATE)
    band = scipy.signal.sosfilt(scipy.signal.butter(2, [300, 3000], "bandpass", fs=RATE, output="sos"), rng.normal(size=n))
    return (0.2 * band * (0.6 - 0.4 * np.cos(2 * np.pi * 4 * np.arange(n) / RATE))).astype(np.float32)


def lag(a, b):
    return int(np.argmax(scipy.signal.correlate(a, b, "full", "fft"))) - (len(b) - 1)


@pytest.mark.parametrize(
    "change",
    [
        augment.telephone,
        lambda x: augment.vorbis(x, 0.9),
        lambda x: augment.add_noise(x, 10.0, 1.0, np.random.default_rng(0)),
        lambda x: augment.reverberate(x, augment.room_response(0.4, 5.0, np.random.default_rng(0))),
    ],
    ids=["telephone", "vorbis", "noise", "room"],
)
def test_time_length_and_type_stay(change):
    for seconds in (2.0, 0.31):
        dry = speech(seconds)
        wet = change(dry)
        assert wet.shape == dry.shape and wet.dtype == np.float32 and np.isfinite(wet).all()
        assert lag(wet, dry) == 0
        assert not np.array_equal(wet, dry)
        assert np.corrcoef(wet, dry)[0, 1] > 0.5


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
@pytest.mark.parametrize("colour", [0.0, 2.0])
def test_noise_has_the_level_and_colour_asked_for(snr_db, colour):
    dry = speech(8.0)
    noise = augment.add_noise(dry, snr_db, colour, np.random.default_rng(1)) - dry
    assert 10 * np.log10(np.mean(dry**2) / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.05)
    frequency, power = scipy.signal.welch(noise, RATE, nperseg=2048)
    band = (frequency > 100) & (frequency < 6000)
    slope = np.polyfit(np.log10(frequency[band]), np.log10(power[band]), 1)[0]
    assert slope == pytest.approx(-colour, abs=0.1)


def test_a_room_decays_by_60_db_in_its_time_and_has_unit_energy():
    responses = np.stack([augment.room_response(0.4, 3.0, np.random.default_rng(i)) for i in range(200)])
    np.testing.assert_allclose((responses**2).sum(axis=1), 1.0, rtol=1e-4)
    direct = responses[:, 0] ** 2
    np.testing.assert_allclose(10 * np.log10(direct / (1 - direct)), 3.0, atol=0.01)
    envelope = np.sqrt((responses[:, 100:] ** 2).mean(axis=0))
    time = np.arange(100, 100 + len(envelope)) / RATE
    slope = np.polyfit(time, 20 * np.log10(envelope), 1)[0]
    assert slope * 0.4 == pytest.approx(-60.0, abs=1.0)


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_speed_moves_every_moment_by_its_factor(factor):
    dry = np.zeros(2 * RATE, np.float32)
    dry[RATE : RATE + 100] = np.hanning(100)
    fast = augment.change_speed(dry, factor)
    assert len(fast) == round(len(dry) / factor)
    assert abs(int(np.argmax(fast)) - (RATE + 50) / factor) < 3


def test_draws_belong_to_the_generator_and_follow_the_probabilities():
    dry = speech(0.5)
    config = AugmentConfig()
    one, again = (augment.distort(dry, config, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    never = AugmentConfig(speed_probability=0, room_probability=0, noise_probability=0, codec_probability=0)
    rng = np.random.default_rng(0)
    assert augment.distort(dry, never, rng) is dry and augment.draw_speed(never, rng) == 1.0
    factors = np.array([augment.draw_speed(config, rng) for _ in range(2000)])
    assert np.mean(factors != 1.0) == pytest.approx(0.3, abs=0.04)
    assert factors.min() >= 0.9 and factors.max() <= 1.1
