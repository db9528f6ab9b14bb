"""The benchmark's FLOP formula against XLA's own count."""

from __future__ import annotations

import jax
import pytest

from sedtalker_jax.speech.benchmark import forward_flops
from tests.speech.support import encode, noise, small_config, small_params


def test_flop_formula_agrees_with_the_compiler():
    # A scan's body is counted once by the compiler, so one layer; wide enough that products dominate elementwise work.
    config = small_config(
        "wav2vec2-base",
        num_hidden_layers=1,
        feat_extract_activation="relu",
        hidden_act="relu",
        conv_dim=(96,) * 7,
        hidden_size=192,
        intermediate_size=768,
        # Above 16 channels per group the convolution is direct and counted as such.
        num_conv_pos_embeddings=32,
    )
    params = small_params(config)
    compiled = jax.jit(lambda p, x: encode(config, p, x).last_hidden_state).lower(params, noise(1, 32_000)).compile()
    assert compiled.cost_analysis()["flops"] == pytest.approx(forward_flops(config, 32_000), rel=0.1)
