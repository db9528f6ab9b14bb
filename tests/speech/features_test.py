"""Layer mixtures, resampling to animation frames, and long recordings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sedtalker_jax.axes import num_animation_frames, num_speech_frames, speech_frame_times
from sedtalker_jax.speech import SpeechEncoder, WeightedLayerSum, encode_long, resample_align_corners, resample_to_fps
from sedtalker_jax.speech.long_audio import context_error
from tests.speech.support import apply, noise, small_config, small_params


def test_weighted_sum_starts_as_the_mean_and_follows_its_weights():
    states = noise(4, 2, 5, 3)
    layers = WeightedLayerSum()
    params = layers.init(jax.random.key(0), states)
    np.testing.assert_allclose(layers.apply(params, states), states.mean(0), atol=1e-6)
    np.testing.assert_allclose(layers.apply(params, tuple(states)), states.mean(0), atol=1e-6)
    chosen = {"params": {"logits": jnp.array([0.0, 0.0, 50.0, 0.0])}}
    np.testing.assert_allclose(layers.apply(chosen, states), states[2], atol=1e-6)


def test_normed_layers_count_by_weight_not_by_scale():
    states = noise(2, 1, 5, 64)
    layers = WeightedLayerSum(norm_layers=True)
    params = layers.init(jax.random.key(0), states)
    scaled = states * np.array([1.0, 1000.0], np.float32)[:, None, None, None]
    np.testing.assert_allclose(layers.apply(params, scaled), layers.apply(params, states), atol=1e-4)


@pytest.mark.parametrize("fps", [25.0, 30.0, 60.0, 29.97])
def test_a_signal_linear_in_time_is_read_at_absolute_time(fps):
    # The feature is its own time, so the resampled feature must be f / fps wherever speech frames surround it.
    T = num_speech_frames(32_000)
    times = speech_frame_times(T).astype(np.float32)
    F = num_animation_frames(32_000, fps)
    resampled = resample_to_fps(times[None, :, None], np.ones((1, T), bool), fps, F)[0, :, 0]
    expected = np.clip(np.arange(F) / fps, times[0], times[-1])
    np.testing.assert_allclose(resampled, expected, atol=1e-5)


def test_resampling_knows_each_clips_rate_and_end():
    features = noise(2, 60, 4)
    mask = np.arange(60)[None] < np.array([60, 33])[:, None]
    both = resample_to_fps(np.where(mask[..., None], features, 1e6), mask, np.array([25.0, 30.0]), 40)
    first = resample_to_fps(features[:1], mask[:1], 25.0, 40)
    second = resample_to_fps(features[1:, :33], mask[1:, :33], 30.0, 40)
    np.testing.assert_allclose(both, np.concatenate([first, second]), atol=1e-6)
    np.testing.assert_allclose(both[1, -1], features[1, 32], atol=1e-6)
    assert not np.asarray(resample_to_fps(features, np.zeros((2, 60), bool), 30.0, 5)).any()


def test_a_longer_clip_does_not_move_its_frames():
    features = noise(1, 80, 4)
    whole = resample_to_fps(features, np.ones((1, 80), bool), 30.0, 40)
    cut = resample_to_fps(features[:, :60], np.ones((1, 60), bool), 30.0, 30)
    np.testing.assert_allclose(whole[:, :30], cut, atol=1e-6)


def test_align_corners_meets_both_ends_and_is_torchs():
    features = noise(2, 50, 4)
    mask = np.arange(50)[None] < np.array([50, 31])[:, None]
    resampled = resample_align_corners(features, mask, np.array([40, 25]), 40)
    np.testing.assert_allclose(resampled[0, -1], features[0, 49], atol=1e-6)
    np.testing.assert_allclose(resampled[1, 24], features[1, 30], atol=1e-6)
    np.testing.assert_allclose(resampled[:, 0], features[:, 0], atol=1e-6)
    expected = [np.interp(np.linspace(0, 49, 40), np.arange(50), features[0, :, channel]) for channel in range(4)]
    np.testing.assert_allclose(resampled[0], np.stack(expected, -1), atol=2e-5)


def windows_of(config, waveform, **options):
    return list(encode_long(SpeechEncoder(config), small_params(config), waveform, **options))


@pytest.mark.parametrize("samples", [400, 30_000, 80_123, 96_400])
def test_every_frame_of_a_long_recording_comes_once(samples):
    config = small_config("wavlm-large", normalise_input=True)
    windows = windows_of(config, noise(samples), window_s=1.0, context_s=0.5)
    position = 0
    for window in windows:
        assert window.start_frame == position
        position += len(window.last_hidden_state)
    assert position == num_speech_frames(samples)


def test_a_short_recording_is_encoded_whole():
    config = small_config("wav2vec2-base", normalise_input=True)
    waveform = 0.1 * noise(30_000) + 0.05
    (window,) = windows_of(config, waveform, window_s=2.0, context_s=1.0, return_hidden_states=True)
    whole = apply(config, small_params(config), waveform[None])
    np.testing.assert_allclose(window.hidden_states, whole.hidden_states[:, 0], atol=1e-5 * np.abs(whole.hidden_states).max())


def test_without_attention_the_context_makes_windows_exact():
    # No layers: all that reaches beyond a frame are the convolutions, and 0.5 s of context covers them.
    config = small_config("wavlm-large", num_hidden_layers=0)
    errors = context_error(SpeechEncoder(config), small_params(config), noise(40_000), 0.5, (0.0, 0.5))
    assert errors[0.5] < 1e-5 < errors[0.0]


def test_more_context_is_nearer_to_the_whole():
    config = small_config("wavlm-large", normalise_input=True)
    errors = context_error(SpeechEncoder(config), small_params(config), noise(48_000), 0.5, (0.0, 1.0))
    assert errors[1.0] < errors[0.0]


@pytest.mark.parametrize("options", [dict(window_s=0.0), dict(window_s=1.0, context_s=-1.0)])
def test_impossible_windows_are_refused(options):
    with pytest.raises(ValueError, match="no frames"):
        windows_of(small_config("wavlm-large"), noise(16_000), **options)
