"""Small encoders of every kind, for the tests of the speech package."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from sedtalker_jax.speech import SpeechEncoder, SpeechEncoderConfig

SMALL = dict(
    conv_dim=(16,) * 7,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    normalise_input=False,
    mask_time_prob=0.05,
)

VARIANTS = {
    "wav2vec2-base": dict(model_type="wav2vec2"),
    "wav2vec2-large-lv60": dict(model_type="wav2vec2", feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True),
    "hubert-base": dict(model_type="hubert"),
    "hubert-plain": dict(model_type="hubert", feat_proj_layer_norm=False),
    "wavlm-base": dict(model_type="wavlm", num_buckets=32, max_bucket_distance=60),
    "wavlm-large": dict(
        model_type="wavlm", feat_extract_norm="layer", do_stable_layer_norm=True, num_buckets=32, max_bucket_distance=60
    ),
}


def small_config(variant: str, **changes) -> SpeechEncoderConfig:
    return SpeechEncoderConfig(**(SMALL | VARIANTS[variant] | changes))


@functools.cache
def small_params(config: SpeechEncoderConfig, dtype=jnp.float32):
    """Parameters with every leaf perturbed, so that no scale stays one and no bias zero."""
    shapes = jax.eval_shape(SpeechEncoder(config).init, jax.random.key(0), jnp.zeros((1, 800)))["params"]
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        centre = 1.0 if any(word in name for word in ("scale", "gate_const")) else 0.0
        spread = 0.2 if centre or leaf.ndim < 2 else 1.5 / np.sqrt(np.prod(leaf.shape[-2:-1]) + 4)
        return jnp.asarray(centre + spread * rng.standard_normal(leaf.shape), dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def encode(config: SpeechEncoderConfig, params, waveforms, lengths=None, keys=None, hidden_states: bool = True, **options):
    """The encoder of a config, to be called inside a compiled function; options are SpeechEncoder's."""
    encoder = SpeechEncoder(config, **options)
    return encoder.apply({"params": params}, waveforms, lengths, keys, hidden_states)


@functools.cache
def _compiled(config: SpeechEncoderConfig, hidden_states: bool, options: tuple):
    return jax.jit(functools.partial(encode, config, hidden_states=hidden_states, **dict(options)))


def apply(config: SpeechEncoderConfig, params, waveforms, lengths=None, keys=None, hidden_states: bool = True, **options):
    """`encode`, compiled once per config."""
    return _compiled(config, hidden_states, tuple(options.items()))(params, waveforms, lengths, keys)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
