import numpy as np
import pytest

from sedtalker_jax.data import activity
from sedtalker_jax.data.world.clock import num_speech_frames, speech_frame_times

RATE = 16_000


def noise(seconds, amplitude=0.1, seed=0):
    return (amplitude * np.random.default_rng(seed).normal(size=int(seconds * RATE))).astype(np.float32)


def test_levels_are_the_rms_of_each_frames_window():
    waveform = noise(0.7)
    levels = activity.frame_levels(waveform)
    assert len(levels) == num_speech_frames(len(waveform))
    for t in (0, 7, len(levels) - 1):
        window = waveform[320 * t : 320 * t + 400].astype(np.float64)
        assert levels[t] == pytest.approx(10 * np.log10(np.mean(window**2)), abs=1e-6)
    assert len(activity.frame_levels(waveform[:399])) == 0


def test_only_silence_longer_than_half_a_second_is_silence():
    quiet = np.zeros(int(0.4 * RATE), np.float32)
    long = np.zeros(int(0.8 * RATE), np.float32)
    waveform = np.concatenate([noise(0.5), quiet, noise(0.5, seed=1), long, noise(0.5, seed=2)])
    active = activity.active_frames(activity.frame_levels(waveform))
    silent = activity.long_silence(active)
    times = speech_frame_times(len(active))
    assert not silent[times < 1.38].any()
    assert silent[(times > 1.43) & (times < 2.17)].all()
    assert not silent[times > 2.22].any()


def test_span_and_loudness_ignore_the_silence_around():
    waveform = np.concatenate([np.zeros(RATE, np.float32), noise(1.0), np.zeros(RATE, np.float32)])
    levels = activity.frame_levels(waveform)
    active = activity.active_frames(levels)
    start, end = activity.speech_span(active, len(waveform))
    assert start == pytest.approx(1.0 - activity.MARGIN_S, abs=0.03) and end == pytest.approx(2.0 + activity.MARGIN_S, abs=0.03)
    assert activity.loudness(levels, active) == pytest.approx(-20.0, abs=0.5)
    assert activity.loudness(levels, np.zeros_like(active)) == -120.0
    assert activity.speech_span(np.zeros_like(active), len(waveform)) == (0.0, 3.0)


def test_what_is_silent_is_relative_to_the_clip():
    loud_background = noise(1.0) + noise(1.0, 0.01, seed=3)
    assert activity.active_frames(activity.frame_levels(loud_background)).all()
    assert not activity.active_frames(np.full(5, -90.0)).any(), "digital silence is never active"
    assert len(activity.active_frames(np.zeros(0))) == 0


def test_frames_take_the_label_at_their_centre():
    times = speech_frame_times(50)
    emotion = activity.segment_frames([(0.0, times[10], "a"), (times[10], 0.5, "b"), (0.5, 0.6, "other")], ("a", "b"), times)
    assert (emotion[:10] == 0).all() and emotion[10] == 1
    assert (emotion[times >= 0.5] == -1).all()
