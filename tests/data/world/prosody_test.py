import numpy as np
import pytest

from sedtalker_jax.data.world.prosody import (
    STATISTICS,
    normalise_by_voice,
    prosody_statistics,
    prosody_track,
    sliding_statistics,
)

RATE = 16_000


def buzz(f0, seconds=2.0, level=0.1, harmonics=20):
    """A voice-like pulse train of constant or moving f0 [S] Hz, syllables at 4 Hz."""
    times = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(f0, times.shape)) / RATE
    wave = sum(np.sin(k * phase) / k for k in range(1, harmonics))
    return (level * wave * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * times))).astype(np.float32)


def named(values):
    return dict(zip(STATISTICS, values, strict=True))


def test_pitch_of_a_tone_is_found():
    low, high = (named(prosody_statistics(buzz(f), 0.1, 1.9)) for f in (110.0, 220.0))
    assert abs(low["f0_mean_st"] - 12 * np.log2(1.1)) < 0.3
    assert abs(high["f0_mean_st"] - low["f0_mean_st"] - 12.0) < 0.3
    assert low["f0_std_st"] < 0.5


def test_slope_of_a_rising_tone():
    times = np.arange(2 * RATE) / RATE
    rising = named(prosody_statistics(buzz(120.0 * 2 ** (times * 4 / 12)), 0.1, 1.9))  # 4 st per second
    assert abs(rising["f0_slope"] - 4.0) < 0.6


def test_level_rate_and_tilt():
    soft, loud = (named(prosody_statistics(buzz(150.0, level=level), 0.0, 2.0)) for level in (0.05, 0.1))
    assert abs(loud["energy_mean_db"] - soft["energy_mean_db"] - 6.02) < 0.2
    assert abs(loud["rate"] - 4.0) < 1.1
    dull = named(prosody_statistics(buzz(150.0, harmonics=6), 0.0, 2.0))
    assert dull["tilt_db"] < loud["tilt_db"] - 10


@pytest.mark.parametrize("waveform", [np.zeros(16_000), np.zeros(100), np.random.default_rng(0).normal(0, 0.1, 16_000)])
def test_no_voice_gives_finite_numbers(waveform):
    assert np.isfinite(prosody_statistics(waveform.astype(np.float32), 0.0, 1.0)).all()


def test_stereo_is_refused():
    with pytest.raises(ValueError, match="mono"):
        prosody_track(np.zeros((100, 2)))


def test_sliding_windows_equal_single_ones():
    wave = buzz(130.0)
    centres = np.array([0.5, 1.0, 1.5])
    sliding = sliding_statistics(wave, centres, 0.8)
    for row, centre in zip(sliding, centres, strict=True):
        np.testing.assert_allclose(row, prosody_statistics(wave, centre - 0.4, centre + 0.4))


def test_normalising_removes_each_voice():
    rng = np.random.default_rng(1)
    voices = np.repeat(["a", "b"], 50)
    statistics = rng.normal(size=(100, 7)) * np.where(voices == "a", 1, 5)[:, None] + np.where(voices == "a", 0, 9)[:, None]
    result = normalise_by_voice(statistics, voices)
    for voice in "ab":
        np.testing.assert_allclose(result[voices == voice].mean(axis=0), 0.0, atol=1e-6)
        np.testing.assert_allclose(result[voices == voice].std(axis=0), 1.0, atol=1e-4)
