"""The pure step: padding, randomness, non-finite guard, clipping. Accumulation is among the layouts of parallel_test."""

import functools

import jax
import numpy as np
import optax
import pytest

from sedtalker_jax.training.state import TrainState
from sedtalker_jax.training.step import gradients, train_step
from tests.support import random_batch, random_params, tiny_model, tiny_objective

LEARNING_RATE = 0.02


class Setup:
    """One model, one batch, and each program compiled once."""

    def __init__(self):
        model = tiny_model(scan="reference")
        self.batch = random_batch(4)
        self.params = random_params(model, self.batch)
        objective = tiny_objective(model)
        self.gradient = jax.jit(functools.partial(gradients, objective=objective))
        self.optimizer = optax.sgd(LEARNING_RATE, momentum=0.9)
        self.step = jax.jit(functools.partial(train_step, objective=objective, optimizer=self.optimizer, clip_norm=1.0))


@pytest.fixture(scope="module")
def setup():
    return Setup()


def assert_gradients_agree(found, expected, tolerance):
    """Per leaf, relative to its own norm; leaves whose true gradient is zero (a key's bias) are noise beside the whole."""
    found, expected = jax.device_get((found, expected))
    whole = np.linalg.norm([np.linalg.norm(leaf) for leaf in jax.tree.leaves(expected)])
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        error, scale = (np.linalg.norm(x) for x in (a - b, b))
        assert error <= tolerance * (scale + 1e-2 * whole), (jax.tree_util.keystr(path), error, scale)


def test_gradient_ignores_what_lies_under_the_masks(setup):
    batch = setup.batch
    spoiled = jax.tree.map(np.copy, batch)
    for i, length in enumerate(batch["speech"]["lengths"]):
        spoiled["speech"]["waveform"][i, length:] = 7.0
        spoiled["face"]["motion"][i, batch["face"]["num_frames"][i] :] = 1e3
        spoiled["face"]["activation"][i, batch["face"]["num_frames"][i] :] = 1.0
    clean, dirty = (setup.gradient(setup.params, value, 0)[0] for value in (batch, spoiled))
    assert_gradients_agree(dirty, clean, 1e-5)


def test_every_trained_parameter_has_a_gradient(setup):
    gradient, _ = jax.device_get(setup.gradient(setup.params, setup.batch, 0))
    silent = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        # SpecAugment is off in this encoder, so its mask embedding is not used.
        if not np.abs(leaf).max() > 0 and "masked_embedding" not in jax.tree_util.keystr(path)
    ]
    assert not silent


def test_the_step_number_and_the_seed_move_the_randomness(setup):
    reseeded = jax.tree.map(np.copy, setup.batch)
    reseeded["speech"]["seed"] += 1
    first, again, later = (float(setup.gradient(setup.params, setup.batch, n)[1]["total"]) for n in (0, 0, 1))
    other = float(setup.gradient(setup.params, reseeded, 0)[1]["total"])
    assert first == again and first != later and first != other


def test_a_gradient_that_is_not_finite_changes_nothing_but_the_counters(setup):
    state = TrainState.create(setup.params, setup.optimizer)
    poisoned = jax.tree.map(np.copy, setup.batch)
    poisoned["face"]["motion"][0, 0, 0] = np.inf
    after, _ = setup.step(state, poisoned)
    assert int(after.step) == 1 and int(after.skipped_steps) == 1
    kept = (state.params, state.ema_params, state.opt_state)
    for a, b in zip(jax.tree.leaves((after.params, after.ema_params, after.opt_state)), jax.tree.leaves(kept), strict=True):
        np.testing.assert_array_equal(a, b)
    healthy, metrics = setup.step(after, setup.batch)
    assert int(healthy.skipped_steps) == 1 and np.isfinite(float(metrics["loss/total"]))


def test_loss_falls_on_one_batch(setup):
    state = TrainState.create(setup.params, setup.optimizer)
    losses = []
    for _ in range(50):
        state, metrics = setup.step(state, setup.batch)
        losses.append(float(metrics["loss/total"]))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_gradient_norm_is_reported_before_clipping_and_the_update_is_clipped(setup):
    state = TrainState.create(setup.params, setup.optimizer)
    after, metrics = setup.step(state, setup.batch)
    moves = jax.tree.map(np.subtract, *jax.device_get((after.params, state.params)))
    moved = np.linalg.norm([np.linalg.norm(leaf) for leaf in jax.tree.leaves(moves)])
    assert float(metrics["gradient_norm"]) > 1.0
    np.testing.assert_allclose(moved, LEARNING_RATE, rtol=1e-3)
