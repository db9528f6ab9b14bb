"""What the encoder promises: padding changes nothing, randomness belongs to the example, frozen parts stay frozen."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sedtalker_jax.axes import FRAME_WINDOW, num_speech_frames
from sedtalker_jax.errors import UserError
from sedtalker_jax.randomness import example_keys
from sedtalker_jax.speech import SpeechEncoder, SpeechEncoderConfig
from sedtalker_jax.speech.attention import relative_position_buckets, toeplitz
from sedtalker_jax.speech.audio import MINIMUM_SAMPLES, normalise
from sedtalker_jax.speech.encoder import trainable_mask
from sedtalker_jax.speech.layers import _norm_over_channels, _norm_over_time
from sedtalker_jax.speech.positional_convolution import _direct, _spectral, positional_convolution
from sedtalker_jax.speech.spec_augment import span_masks
from tests.compile_effort import FULL
from tests.speech.support import VARIANTS, apply, encode, noise, small_config, small_params

LENGTHS = np.array([9_600, 6_403, 400, 100])


def relative_difference(a, b) -> float:
    return float(jnp.abs(a - b).max() / jnp.abs(b).max())


@pytest.mark.parametrize(("variant", "normalised"), [*((variant, True) for variant in VARIANTS), ("hubert-plain", False)])
def test_padding_changes_nothing(variant, normalised):
    config = small_config(variant, normalise_input=normalised)
    params = small_params(config)
    # Whatever stands in the padding, not only zeros.
    waveforms = noise(4, 9_600) + 0.3
    batch = apply(config, params, waveforms, LENGTHS)
    np.testing.assert_array_equal(batch.frame_mask.sum(1), [29, 19, 1, 0])
    alone = apply(config, params, waveforms[1:2, : LENGTHS[1]])
    assert relative_difference(batch.hidden_states[:, 1, :19], alone.hidden_states[:, 0]) < 1e-5
    assert relative_difference(batch.last_hidden_state[1, :19], alone.last_hidden_state[0]) < 1e-5
    assert not np.asarray(batch.hidden_states)[:, ~np.asarray(batch.frame_mask)].any()
    assert np.isfinite(batch.hidden_states).all()


@pytest.mark.parametrize("variant", ["wav2vec2-base", "wavlm-large"])
def test_gradients_ignore_the_padding(variant):
    config = small_config(variant)
    params = small_params(config)
    direction = noise(1, 19, 32, seed=1)

    def loss(params, waveforms, lengths):
        return jnp.sum(encode(config, params, waveforms, lengths).last_hidden_state[:1, :19] * direction)

    alone = jax.jit(jax.grad(loss))(params, noise(1, 6_403), np.array([6_403]))
    padded = np.concatenate([noise(1, 6_403), np.full((1, 3_000), 1e3, np.float32)], axis=1)
    batch = jax.jit(jax.grad(loss))(params, np.repeat(padded, 2, axis=0), np.array([6_403, 100]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(batch))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * (np.abs(b).max() + 0.1)), batch, alone)


def test_reference_padding_differs_for_group_norm_only():
    for variant, same in [("wav2vec2-base", False), ("wavlm-large", True)]:
        config = small_config(variant)
        waveforms = noise(2, 9_600) * (np.arange(9_600) < LENGTHS[:2, None])
        outputs = [
            apply(config, small_params(config), waveforms, LENGTHS[:2], padding=padding).hidden_states[:, 1, :19]
            for padding in ("masked", "reference")
        ]
        assert (relative_difference(*outputs) < 1e-5) == same


@pytest.mark.parametrize("variant", ["wav2vec2-base", "wavlm-large"])
def test_float64_agrees_with_float32(variant):
    config = small_config(variant)
    params = small_params(config)
    single = apply(config, params, noise(2, 6_400), np.array([6_400, 5_000]))
    with jax.enable_x64(True):
        doubled = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        options = dict(dtype=jnp.float64, param_dtype=jnp.float64)
        double = apply(config, doubled, np.float64(noise(2, 6_400)), np.array([6_400, 5_000]), **options)
        assert double.last_hidden_state.dtype == jnp.float64
        assert 0 < relative_difference(np.float64(single.hidden_states), double.hidden_states) < 3e-5


def test_bfloat16_stays_near_float32():
    config = small_config("wavlm-base")
    params = small_params(config)
    single = apply(config, params, noise(2, 6_400))
    half = apply(config, params, noise(2, 6_400), dtype=jnp.bfloat16)
    assert half.hidden_states.dtype == jnp.bfloat16
    difference = np.float32(half.last_hidden_state) - single.last_hidden_state
    assert np.linalg.norm(difference) < 0.1 * np.linalg.norm(single.last_hidden_state)


def test_input_normalisation_is_the_feature_extractors():
    config = small_config("wavlm-large", normalise_input=True)
    raw = 0.05 * noise(1, 6_400)[0] + 0.2
    inside = apply(config, small_params(config), raw[None])
    plain = dataclasses.replace(config, normalise_input=False)
    before = apply(plain, small_params(plain), normalise(raw)[None])
    assert relative_difference(inside.last_hidden_state, before.last_hidden_state) < 1e-5


RANDOM = dict(
    hidden_dropout=0.2,
    attention_dropout=0.2,
    activation_dropout=0.2,
    feat_proj_dropout=0.2,
    layerdrop=0.3,
    apply_spec_augment=True,
    mask_time_prob=0.3,
    mask_time_length=3,
    mask_feature_prob=0.2,
    mask_feature_length=4,
)


def test_randomness_belongs_to_the_example():
    config = small_config("wavlm-base", **RANDOM)
    params = small_params(config)
    seeds = jnp.arange(3, dtype=jnp.uint32)
    waveforms = noise(3, 6_400)
    batch = apply(config, params, waveforms, None, example_keys(seeds, 5)).last_hidden_state
    for row in range(3):
        alone = apply(config, params, waveforms[row : row + 1], None, example_keys(seeds[row : row + 1], 5)).last_hidden_state
        assert relative_difference(batch[row], alone[0]) < 1e-5
    other_step = apply(config, params, waveforms, None, example_keys(seeds, 6)).last_hidden_state
    assert relative_difference(batch, other_step) > 0.01
    deterministic = apply(config, params, waveforms).last_hidden_state
    assert relative_difference(batch, deterministic) > 0.01


def test_layerdrop_keeps_wavlms_first_layer(as_users_compile):
    waveforms = noise(4, 4_000)
    keys = example_keys(jnp.arange(4, dtype=jnp.uint32), 0)
    for variant, kept in [("wavlm-base", True), ("wav2vec2-base", False)]:
        config = small_config(variant, layerdrop=1.0, hidden_dropout=0.0, attention_dropout=0.0)
        states = apply(config, small_params(config), waveforms, None, keys).hidden_states
        assert bool(jnp.any(states[1] != states[0])) == kept
        np.testing.assert_array_equal(states[2], states[1])


def test_layerdrop_is_drawn_per_example_and_layer():
    config = small_config("wav2vec2-base", layerdrop=0.5, hidden_dropout=0.0, attention_dropout=0.0)
    keys = example_keys(jnp.arange(32, dtype=jnp.uint32), 0)
    states = apply(config, small_params(config), noise(32, 800), None, keys).hidden_states
    dropped = np.asarray(jnp.all(states[1:] == states[:-1], axis=(2, 3)))
    assert 0.3 < dropped.mean() < 0.7
    assert len(np.unique(dropped, axis=1).T) == 8  # Every pattern of three layers occurs.


def test_span_masks_cover_what_they_should():
    keys = example_keys(jnp.arange(200, dtype=jnp.uint32), 0)
    lengths = jnp.full(200, 300)
    masks = np.asarray(span_masks(keys, lengths, 400, 0.2, 10, 2))
    assert not masks[:, 300:].any()
    # 0.2 * 300 / 10 = 6 spans of 10, which may overlap.
    assert 50 < masks.sum(1).mean() < 60
    assert masks.sum(1).max() <= 70
    runs = np.diff(np.pad(masks.astype(int), ((0, 0), (1, 1))), axis=1)
    assert ((runs == 1).sum(1) >= 2).all()
    lengths_of_runs = np.concatenate([np.flatnonzero(row == -1) - np.flatnonzero(row == 1) for row in runs])
    assert lengths_of_runs.min() == 10
    # The padded size does not move the spans; a clip shorter than a span has none.
    np.testing.assert_array_equal(span_masks(keys, lengths, 350, 0.2, 10, 2), masks[:, :350])
    assert not np.asarray(span_masks(keys, jnp.full(200, 9), 400, 0.2, 10, 2)).any()


def test_spec_augment_replaces_frames_by_the_embedding():
    config = small_config(
        "wav2vec2-base", apply_spec_augment=True, mask_time_prob=0.9, hidden_dropout=0.0, attention_dropout=0.0
    )
    params = small_params(config)
    keys = example_keys(jnp.arange(2, dtype=jnp.uint32), 0)

    def loss(params, keys):
        return jnp.sum(encode(config, params, noise(2, 9_600), None, keys).last_hidden_state[..., 0])

    assert np.abs(jax.jit(jax.grad(loss))(params, keys)["masked_embedding"]).max() > 0
    assert np.abs(jax.jit(jax.grad(loss))(params, None)["masked_embedding"]).max() == 0


@pytest.mark.parametrize("variant", ["wavlm-base", "wavlm-large"])
@pytest.mark.parametrize("frozen", [dict(freeze_feature_extractor=True), dict(num_frozen_layers=2)])
def test_frozen_parts_get_no_gradient_and_the_rest_does(variant, frozen):
    config = small_config(variant, **frozen)
    params = small_params(config)

    def loss(params):
        output = encode(config, params, noise(1, 4_000))
        return jnp.sum(jnp.square(output.hidden_states[..., :5])) + jnp.sum(output.last_hidden_state[..., 0])

    gradients = jax.jit(jax.grad(loss))(params)
    trainable = trainable_mask(config, params)
    assert jax.tree.structure(gradients) == jax.tree.structure(trainable)
    for (path, gradient), trained in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(trainable), strict=True
    ):
        if "masked_embedding" not in str(path):
            # A key's bias shifts all scores of a query alike, which softmax does not see.
            assert bool(jnp.abs(gradient).max() > 0) == trained or "key" in str(path), path


def test_remat_changes_no_gradient():
    results = []
    for remat in ("none", "full"):
        config = small_config("wavlm-large", remat=remat)
        params = small_params(config)

        def loss(params, config=config):
            return jnp.sum(encode(config, params, noise(1, 4_000)).last_hidden_state ** 2)

        results.append(jax.jit(jax.grad(loss))(params))
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), results[0], other)


def test_compiled_size_does_not_grow_with_depth():
    def size(layers):
        config = small_config("wavlm-base", num_hidden_layers=layers)
        shapes = jax.eval_shape(SpeechEncoder(config).init, jax.random.key(0), jnp.zeros((1, 800)))["params"]
        return len(str(jax.make_jaxpr(lambda p: encode(config, p, noise(1, 800)).last_hidden_state)(shapes)))

    assert size(12) < 1.05 * size(2)


def test_last_state_only():
    config = small_config("wavlm-large")
    params = small_params(config)
    everything = apply(config, params, noise(1, 4_000))
    last = apply(config, params, noise(1, 4_000), hidden_states=False)
    assert last.hidden_states is None
    np.testing.assert_allclose(last.last_hidden_state, everything.last_hidden_state, atol=1e-6)


@pytest.mark.parametrize("inner", [2, 24])
@pytest.mark.parametrize("num_frames", [1, 5, 260])
def test_spectral_convolution_is_the_convolution(inner, num_frames):
    groups = 4
    x, kernel = noise(2, num_frames, groups * inner), noise(128, inner, groups * inner, seed=1) / np.sqrt(128 * inner)
    expected = _direct(x, kernel, groups)
    np.testing.assert_allclose(_spectral(x, kernel, groups), expected, atol=3e-5)
    np.testing.assert_allclose(positional_convolution(x, kernel, groups), expected, atol=3e-5)
    direction = noise(2, num_frames, groups * inner, seed=2)
    pulled = [
        jax.jit(jax.grad(lambda x, k, f=function: jnp.sum(f(x, k, groups) * direction), (0, 1)))(x, kernel)
        for function in (_direct, positional_convolution)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5 * np.abs(a).max() + 3e-5), *pulled)


def test_gradient_of_the_norm_over_channels_is_that_of_its_formula():
    def formula(x, scale, bias):
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5) * scale + bias

    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, direction = rng.standard_normal((2, 3, 300, 5))
        scale, bias = rng.standard_normal((2, 5))
        value, pull = jax.vjp(lambda *of: _norm_over_channels(*of, 1e-5), x, scale, bias)
        expected, expected_pull = jax.vjp(formula, x, scale, bias)
        np.testing.assert_allclose(value, expected, atol=1e-10, rtol=1e-10)
        for ours, theirs in zip(pull(direction), expected_pull(direction), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-9 * np.abs(theirs).max(), rtol=0)


def test_gradient_of_the_norm_over_time_is_that_of_its_formula():
    def formula(x, weights, scale, bias):
        mean = jnp.einsum("bt,btd->bd", weights, x)[:, None]
        variance = jnp.einsum("bt,btd->bd", weights, jnp.square(x - mean))[:, None]
        return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias

    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, direction = rng.standard_normal((2, 3, 300, 5))
        scale, bias = rng.standard_normal((2, 5))
        # A whole clip, a padded one, and one without any frame.
        weights = np.arange(300) < np.array([300, 170, 0])[:, None]
        weights = weights / np.maximum(weights.sum(1, keepdims=True), 1)
        value, pull = jax.vjp(lambda *of: _norm_over_time(of[0], weights, *of[1:]), x, scale, bias)
        expected, expected_pull = jax.vjp(lambda *of: formula(of[0], weights, *of[1:]), x, scale, bias)
        np.testing.assert_allclose(value, expected, atol=1e-10, rtol=1e-10)
        for ours, theirs in zip(pull(direction), expected_pull(direction), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-9 * np.abs(theirs).max(), rtol=0)


def test_relative_positions():
    T = 900
    bias = np.asarray(toeplitz(jnp.asarray(relative_position_buckets(T, 320, 800)[None], jnp.float32)))[0]
    query, key = 400, np.arange(T)
    away = np.abs(key - query)
    logarithmic = np.minimum(80 + np.floor(np.log(np.maximum(away, 80) / 80) / np.log(10) * 80 + 1e-6), 159)
    np.testing.assert_array_equal(bias[query], 160 * (key > query) + np.where(away < 80, away, logarithmic))
    assert bias[0, 899] == 319 and bias[899, 0] == 159 and bias[0, 778] == 319


def test_one_frame_is_what_audio_asks_for():
    config = SpeechEncoderConfig()
    assert MINIMUM_SAMPLES == FRAME_WINDOW
    for samples in (0, 399, 400, 719, 720, 16_000, 160_000):
        assert config.num_frames(samples) == num_speech_frames(samples)
    with pytest.raises(ValueError, match="too short"):
        apply(small_config("wav2vec2-base"), {}, noise(1, 399))


def test_frames_are_counted_as_convolution_after_convolution():
    odd = small_config("wav2vec2-base", conv_dim=(8, 8, 8), conv_kernel=(2, 7, 1), conv_stride=(3, 2, 4))
    samples = np.arange(3_000)
    for config in (SpeechEncoderConfig(), odd):
        frames = samples
        for i, (kernel, stride) in enumerate(zip(config.conv_kernel, config.conv_stride, strict=True)):
            frames = np.array([len(range(0, n - kernel + 1, stride)) for n in frames])
            np.testing.assert_array_equal(config.num_frames(samples, layers=i + 1), frames)
            assert config.num_frames(2_999, layers=i + 1) == frames[-1]


def test_counting_frames_costs_the_same_for_any_number_of_convolutions(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", FULL)
    # XLA copies the count into every fusion that reads a mask; one division per convolution made a clip alone (B = 1) compile
    # for a hundred seconds, most of them inside LLVM's loop vectoriser.
    config = SpeechEncoderConfig()

    def instructions(layers: int) -> int:
        def masked(x, lengths):
            mask = jnp.arange(49)[None, :] < config.num_frames(lengths, layers)[:, None]
            return jnp.where(mask[..., None], x, 0.0)

        compiled = jax.jit(masked).lower(np.ones((1, 49, 8), np.float32), np.full(1, 16_000, np.int32)).compile()
        return compiled.as_text().count(" = ")

    assert instructions(len(config.conv_kernel)) < 1.5 * instructions(1)


@pytest.mark.parametrize(
    "change",
    [dict(model_type="bert"), dict(hidden_size=33), dict(remat="some"), dict(conv_dim=(8,)), dict(num_frozen_layers=4)],
)
def test_wrong_configs_are_named(change):
    with pytest.raises(UserError, match=next(iter(change))):
        small_config("hubert-base", **change) if "model_type" not in change else SpeechEncoderConfig(**change)
