"""Learned smoothing: constants pass, nothing is sharpened, padding and the future do not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sedtalker_jax.models.smoothing import TemporalSmoothing
from sedtalker_jax.precision import Precision
from tests.models.sedtalker_test import joint_batch, row, small_model
from tests.support import random_params

L, D = 17, 6


def layer(causal=False, seed=0):
    model = TemporalSmoothing(3, (0.4, 2.0), causal)
    x = jnp.asarray(np.random.default_rng(seed).normal(size=(1, L, D)), jnp.float32)
    params = model.init(jax.random.key(0), x, jnp.ones((1, L), bool))
    change = np.random.default_rng(1).normal(size=params["params"]["log_weight"].shape)
    return model, {"params": {"log_weight": jnp.asarray(change, jnp.float32)}}, params, x


@pytest.mark.parametrize("causal", [False, True])
def test_constants_pass_unchanged_and_no_peak_grows(causal):
    model, params, _, x = layer(causal)
    mask = jnp.ones((1, L), bool)
    np.testing.assert_allclose(model.apply(params, jnp.full_like(x, 2.5), mask), 2.5, rtol=1e-6)
    y = model.apply(params, x, mask)
    assert float(y.max()) < float(x.max()) and float(y.min()) > float(x.min())
    assert float(jnp.abs(jnp.diff(y, axis=1)).sum()) < float(jnp.abs(jnp.diff(x, axis=1)).sum())


def test_half_precision_rounds_once():
    model = TemporalSmoothing(12, (0.4, 8.0), precision=Precision("float32", "bfloat16"))
    x = jnp.asarray(np.random.default_rng(2).normal(-1.3, 0.5, size=(1, 60, D)), jnp.bfloat16)
    mask = jnp.ones((1, 60), bool)
    params = model.init(jax.random.key(0), x, mask)
    exact = TemporalSmoothing(12, (0.4, 8.0)).apply(params, x.astype(jnp.float32), mask)
    found = model.apply(params, x, mask)
    assert found.dtype == jnp.bfloat16
    assert jnp.all(found == exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("causal", [False, True])
def test_a_clip_alone_equals_the_clip_in_a_padded_batch(causal):
    model, params, _, x = layer(causal)
    alone = model.apply(params, x[:, :9], jnp.ones((1, 9), bool))
    padded = model.apply(params, x.at[:, 9:].set(jnp.nan), jnp.arange(L)[None] < 9)
    np.testing.assert_allclose(padded[:, :9], alone, rtol=1e-6)
    assert np.isfinite(np.asarray(padded)).all()


def test_causal_smoothing_does_not_see_the_future_and_the_other_does():
    mask = jnp.ones((1, L), bool)
    for causal in (True, False):
        model, params, _, x = layer(causal)
        change = jnp.abs(model.apply(params, x.at[:, 8].add(1.0), mask) - model.apply(params, x, mask)).max(axis=(0, 2))
        expected = np.zeros(L, bool)
        expected[8 if causal else 5 : 12] = True
        np.testing.assert_array_equal(np.asarray(change) > 1e-6, expected)


def test_it_starts_as_gaussians_from_quick_to_slow():
    model, _, fresh, x = layer()
    impulse = jnp.zeros_like(x).at[:, 8].set(1.0)
    response = np.asarray(model.apply(fresh, impulse, jnp.ones((1, L), bool)))[0]
    widths = np.sqrt((response * np.square(np.arange(L) - 8)[:, None]).sum(axis=0))
    assert (np.diff(widths) > 0).all() and widths[0] < 0.4 and 1.3 < widths[-1] < 2.0
    np.testing.assert_allclose(response, response[::-1], atol=1e-6)


def test_an_animator_that_smooths_still_ignores_padding():
    model = small_model(stacking=2, condition_reach=4, motion_reach=2)
    batch = joint_batch([16_000, 23_456, 32_000], padded=32_000)
    params = {"params": random_params(model, row(batch, 0))}
    run = jax.jit(model.apply)
    together = run(params, batch)["motion"]
    alone = run(params, row(batch, 1))["motion"]
    np.testing.assert_allclose(together[1, : alone.shape[1]], alone[0], atol=1e-5 * float(jnp.abs(together).max()))
