"""The pure step: sums and weights, accumulation, padding, non-finite guard."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sedtalker_jax.training.state import TrainState
from sedtalker_jax.training.step import gradients, train_step
from tests.support import random_batch, tiny_model, tiny_objective


@pytest.fixture(scope="module")
def setup():
    model = tiny_model()
    batch = random_batch(4)
    params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    # The animator's output layer starts near zero; real gradients need real weights everywhere.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [x + 0.05 * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, leaves), batch, tiny_objective(model)


def assert_gradients_agree(found, expected, tolerance):
    """Per leaf, relative to its own norm; leaves whose true gradient is zero (a key's bias) are noise beside the whole."""
    whole = float(optax.global_norm(expected))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        error, scale = (float(jnp.linalg.norm(jnp.ravel(x))) for x in (a - b, b))
        assert error <= tolerance * (scale + 1e-2 * whole), (jax.tree_util.keystr(path), error, scale)


def test_accumulated_gradient_equals_the_whole_batch_with_unequal_masks(setup):
    params, batch, objective = setup
    whole, terms = jax.jit(functools.partial(gradients, objective=objective))(params, batch, 3)
    parts, part_terms = jax.jit(functools.partial(gradients, objective=objective, accumulation=2))(params, batch, 3)
    for name in terms:
        np.testing.assert_allclose(terms[name], part_terms[name], rtol=2e-5)
    assert_gradients_agree(parts, whole, 2e-5)


def test_gradient_ignores_what_lies_under_the_masks(setup):
    params, batch, objective = setup
    spoiled = jax.tree.map(np.copy, batch)
    for i, length in enumerate(batch["speech"]["lengths"]):
        spoiled["speech"]["waveform"][i, length:] = 7.0
        spoiled["face"]["motion"][i, batch["face"]["num_frames"][i] :] = 1e3
        spoiled["face"]["activation"][i, batch["face"]["num_frames"][i] :] = 1.0
    step = jax.jit(functools.partial(gradients, objective=objective))
    assert_gradients_agree(step(params, spoiled, 0)[0], step(params, batch, 0)[0], 1e-5)


def test_every_trained_parameter_has_a_gradient(setup):
    params, batch, objective = setup
    gradient, _ = jax.jit(functools.partial(gradients, objective=objective))(params, batch, 0)
    silent = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if not float(jnp.abs(leaf).max()) > 0 and "masked_spec_embed" not in jax.tree_util.keystr(path)
    ]
    assert not silent


def test_the_step_number_and_the_seed_move_the_randomness(setup):
    params, batch, objective = setup
    step = jax.jit(functools.partial(gradients, objective=objective))
    first, again, later = (step(params, batch, n)[1]["total"] for n in (0, 0, 1))
    assert float(first) == float(again)
    assert float(first) != float(later)


def test_a_gradient_that_is_not_finite_changes_nothing_but_the_counters(setup):
    params, batch, objective = setup
    optimizer = optax.adam(1e-3)
    state = TrainState.create(params, optimizer)
    step = jax.jit(functools.partial(train_step, objective=objective, optimizer=optimizer, clip_norm=1.0))
    poisoned = jax.tree.map(np.copy, batch)
    poisoned["face"]["motion"][0, 0, 0] = np.inf
    after, metrics = step(state, poisoned)
    assert int(after.step) == 1 and int(after.skipped_steps) == 1
    for a, b in zip(
        jax.tree.leaves((after.params, after.ema_params, after.opt_state)),
        jax.tree.leaves((state.params, state.ema_params, state.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    healthy, metrics = step(after, batch)
    assert int(healthy.skipped_steps) == 1 and np.isfinite(float(metrics["loss/total"]))


def test_loss_falls_on_one_batch(setup):
    params, batch, objective = setup
    optimizer = optax.adam(3e-3)
    state = TrainState.create(params, optimizer)
    step = jax.jit(functools.partial(train_step, objective=objective, optimizer=optimizer, clip_norm=1.0), donate_argnums=0)
    losses = []
    for _ in range(50):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss/total"]))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_gradient_norm_is_reported_before_clipping_and_the_update_is_clipped(setup):
    params, batch, objective = setup
    optimizer = optax.sgd(1.0)
    state = TrainState.create(params, optimizer)
    step = jax.jit(functools.partial(train_step, objective=objective, optimizer=optimizer, clip_norm=0.01))
    after, metrics = step(state, batch)
    moved = optax.global_norm(jax.tree.map(jnp.subtract, after.params, state.params))
    assert float(metrics["gradient_norm"]) > 0.01
    np.testing.assert_allclose(float(moved), 0.01, rtol=1e-3)
