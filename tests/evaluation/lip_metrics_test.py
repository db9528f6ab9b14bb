import itertools

import numpy as np
import pytest

from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation import lip_metrics as lm


def test_lip_distance_of_points_and_of_sets():
    vertices = np.zeros((3, 4, 3))
    vertices[:, 0, 1], vertices[:, 1, 1] = [0.01, 0.02, 0.03], -0.01
    np.testing.assert_allclose(lm.lip_distance(vertices, 0, 1), [0.02, 0.03, 0.04])
    np.testing.assert_allclose(lm.lip_distance(vertices, np.array([0, 2]), 1), [0.015, 0.02, 0.025])
    assert lm.lip_distance_error(np.array([1.0, 2.0]), np.array([1.5, 1.0])) == pytest.approx(0.75)
    with pytest.raises(UserError, match="not among 4 vertices"):
        lm.lip_distance(vertices, 3546, 3504)


def test_bilabial_closures():
    fps = 30.0
    distance = np.full(60, 0.010)
    distance[10:12] = 0.002  # closed for the first p
    distance[30] = 0.004  # not closed enough for the m
    phonemes = [("a", 0.0, 0.3), ("p", 0.30, 0.40), ("a", 0.4, 0.95), ("m", 0.95, 1.05), ("a", 1.05, 1.5), ("b", 1.9, 1.95)]
    assert lm.bilabial_closures(distance, fps, phonemes) == (1, 3)
    # An offset between the lip points of a shut mouth is taken off before the share is.
    assert lm.bilabial_closures(distance + 0.003, fps, phonemes, closed_distance=0.003) == (1, 3)
    assert lm.bilabial_closures(distance, fps, phonemes, median_opening=0.02) == (2, 3)
    assert lm.bilabial_closures(distance, fps, [("m", 5.0, 5.1)]) == (0, 0)
    assert lm.bilabial_closures(distance, fps, [("s", 0.0, 1.0)]) == (0, 0)


def test_sounds_shorter_than_a_frame_are_looked_for_in_the_nearest():
    distance = np.full(30, 0.01)
    distance[15] = 0.0
    assert lm.bilabial_closures(distance, 30.0, [("a", 0, 1), ("b", 0.4950, 0.4995)]) == (1, 1)


def test_the_median_opening_ignores_pauses():
    distance = np.r_[np.full(80, 0.0005), np.full(20, 0.010)]
    distance[90] = 0.001
    phonemes = [("a", 80 / 30, 90 / 30 - 1e-6), ("p", 90 / 30 - 1e-6, 91 / 30 - 1e-6), ("a", 91 / 30 - 1e-6, 100 / 30)]
    assert lm.bilabial_closures(distance, 30.0, phonemes) == (1, 1)


@pytest.mark.parametrize("seed", range(5))
def test_warping_path_is_the_cheapest(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=4), rng.normal(size=5)

    def cheapest(i, j):
        here = abs(a[i] - b[j])
        if i == j == 0:
            return here
        steps = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        return here + min(cheapest(*step) for step in steps if min(step) >= 0)

    path = lm.warping_path(a, b)
    assert path[0] == (0, 0) and path[-1] == (3, 4)
    assert all((i2 - i1, j2 - j1) in {(1, 1), (1, 0), (0, 1)} for (i1, j1), (i2, j2) in itertools.pairwise(path))
    assert sum(abs(a[i] - b[j]) for i, j in path) == pytest.approx(cheapest(3, 4))


def test_misalignment_measures_a_delay():
    rng = np.random.default_rng(0)
    curve = np.convolve(rng.normal(size=260), np.hanning(15), mode="same")
    assert lm.mean_temporal_misalignment(curve[20:220], curve[20:220]) == 0.0
    small = lm.mean_temporal_misalignment(curve[18:218], curve[20:220])
    large = lm.mean_temporal_misalignment(curve[15:215], curve[20:220])
    assert small == pytest.approx(2.0, abs=0.5)
    assert large == pytest.approx(5.0, abs=1.0)
    assert np.isnan(lm.mean_temporal_misalignment(np.ones(200), curve[20:220]))


def test_misalignment_of_long_recordings_needs_little_memory():
    rng = np.random.default_rng(4)
    curve = np.convolve(rng.normal(size=20_020), np.hanning(15), mode="same")
    long = lm.mean_temporal_misalignment(curve[17:20_017], curve[20:20_020])
    assert long == pytest.approx(lm.mean_temporal_misalignment(curve[17:1_517], curve[20:1_520]), abs=0.2)
    assert long == pytest.approx(3.0, abs=0.7)


def test_loudness_and_lips_correlate_within_identity_only():
    rng = np.random.default_rng(1)
    names = np.repeat(["a", "b", "c"], 20)
    offset = np.repeat([0.0, 5.0, 10.0], 20)
    speech, lips = rng.normal(size=60), rng.normal(size=60)
    # A difference between identities alone is no correlation; following loudness within them is.
    assert abs(lm.speech_lip_intensity_correlation(speech + offset, lips + offset, names)) < 0.3
    assert lm.speech_lip_intensity_correlation(speech + offset, 3 * speech - offset, names) == pytest.approx(1.0)
    assert np.isnan(lm.speech_lip_intensity_correlation([1.0, 2.0], [1.0, 1.0], ["a", "a"]))


def test_lip_movement_rms():
    vertices = np.zeros((3, 5, 3))
    vertices[1, :2, 1] = 0.003
    vertices[2, :2, 1] = 0.003 + 0.004
    assert lm.lip_movement_rms(vertices, np.array([0, 1])) == pytest.approx(np.sqrt((0.003**2 + 0.004**2) / 2))


def test_shuffled_envelopes_are_what_chance_gives():
    rng = np.random.default_rng(3)
    envelope = np.abs(np.convolve(rng.normal(size=400), np.hanning(9), mode="same"))
    following = np.r_[np.zeros(2), envelope[:-2]] + 0.2 * rng.normal(size=400) * envelope.std()
    unrelated = np.abs(np.convolve(rng.normal(size=400), np.hanning(9), mode="same"))
    chance = lm.shuffled_envelope_correlations(following, envelope)
    assert chance.shape == (100,) and lm.envelope_lag(following, envelope)[1] > chance.max() + 0.3
    assert lm.envelope_lag(unrelated, envelope)[1] < np.quantile(lm.shuffled_envelope_correlations(unrelated, envelope), 0.999)
    with pytest.raises(UserError, match="too few"):
        lm.shuffled_envelope_correlations(following[:50], envelope[:50])


def test_envelope_lag_finds_the_delay():
    rng = np.random.default_rng(2)
    fps, frames, delay = 30.0, 120, 4
    loudness = np.abs(np.convolve(rng.normal(size=frames), np.hanning(21), mode="same"))
    samples = np.arange(frames * 16_000 // 30) / 16_000
    waveform = np.interp(samples, np.arange(frames) / fps, loudness) * np.sin(2 * np.pi * 220 * samples)
    envelope = lm.speech_envelope(waveform, 16_000, fps, frames)
    assert np.corrcoef(envelope, loudness)[0, 1] > 0.98
    opening = np.r_[np.zeros(delay), envelope[:-delay]]
    lag, correlation = lm.envelope_lag(opening, envelope)
    assert lag == delay and correlation == pytest.approx(1.0)
    assert lm.envelope_lag(envelope, opening)[0] == -delay
    assert np.isnan(lm.envelope_lag(np.ones(50), np.ones(50))[1])
    assert lm.speech_envelope(np.zeros(16_000), 16_000, fps, 40).max() == 0.0  # also past the end of the sound


@pytest.mark.parametrize("frames", range(1, 35))
def test_envelope_lag_of_clips_shorter_than_the_lags(frames):
    opening = np.random.default_rng(frames).random(frames)
    lag, correlation = lm.envelope_lag(opening, opening, max_lag=15)
    assert lag == 0
    np.testing.assert_allclose(correlation, 1.0 if frames >= 3 else np.nan)
