"""Frozen parameters: no gradient, moments or average, and joined with the trained ones wherever the model is run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sedtalker_jax.training.checkpoint import CheckpointConfig, Checkpointer, load_params
from sedtalker_jax.training.state import TrainState, combine, partition
from sedtalker_jax.training.step import train_step

PARAMS = {"encoder": {"low": jnp.arange(3.0), "high": jnp.ones(3)}, "head": {"kernel": jnp.ones(3)}}
TRAINABLE = {"encoder": {"low": False, "high": True}, "head": {"kernel": True}}


class Quadratic:
    scales = {"fit": 1.0}

    def weights(self, batch):
        return {"fit": jnp.float32(len(batch["speech"]["x"]))}

    def sums(self, params, batch, step):
        value = batch["speech"]["x"] @ (params["encoder"]["low"] * params["encoder"]["high"] + params["head"]["kernel"])
        return {"fit": jnp.sum(jnp.square(value - 1.0))}


def test_what_is_split_joins_to_the_same_tree():
    trained, frozen = partition(PARAMS, TRAINABLE)
    assert set(trained["encoder"]) == {"high"} and set(frozen) == {"encoder"}
    jax.tree.map(np.testing.assert_array_equal, combine(trained, frozen), PARAMS)


def test_frozen_parameters_stay_have_no_moments_and_are_used():
    optimizer = optax.adamw(0.1, weight_decay=0.1)
    state = TrainState.create(PARAMS, optimizer, TRAINABLE)
    sizes = [x.size for x in jax.tree.leaves(state.opt_state) if getattr(x, "ndim", 0)]
    assert sum(sizes) == 2 * 6  # two moments of the six trained numbers
    batch = {"speech": {"x": jax.random.normal(jax.random.key(0), (4, 3))}}
    step = functools.partial(train_step, objective=Quadratic(), optimizer=optimizer)
    after, metrics = step(state, batch)
    np.testing.assert_array_equal(after.frozen["encoder"]["low"], PARAMS["encoder"]["low"])
    assert "low" not in after.ema_params["encoder"]
    # The frozen factor of `high` is 0 for its first number: no gradient there, one everywhere else.
    everything = TrainState.create(PARAMS, optax.sgd(1.0))
    moved, other = train_step(everything, batch, objective=Quadratic(), optimizer=optax.sgd(1.0))
    assert float(other["loss/fit"]) == float(metrics["loss/fit"])
    assert np.all(np.asarray(moved.params["encoder"]["low"]) != np.asarray(PARAMS["encoder"]["low"]))


def test_a_checkpoint_gives_back_the_whole_tree(tmp_path):
    state = TrainState.create(PARAMS, optax.adam(0.1), TRAINABLE)
    with Checkpointer(tmp_path, CheckpointConfig(every_steps=1), last_step=1) as checkpointer:
        checkpointer.save(1, state, next_batch=1, meta={})
    jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path), PARAMS)
