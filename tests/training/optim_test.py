"""Which parameters weight decay reaches."""

import functools

import jax
import pytest
from flax.traverse_util import flatten_dict

from configs import editemotalk, sedtalker
from sedtalker_jax.speech.encoder import STACKED_LAYERS
from sedtalker_jax.training.full_size import full_size_step
from sedtalker_jax.training.optim import OptimConfig, decayed, make_optimizer


@functools.cache
def full_size_leaves(config: str):
    _, _, create = full_size_step({"sedtalker": sedtalker, "editemotalk": editemotalk}[config].get_config("paper"))
    params = jax.eval_shape(create).params
    return flatten_dict(params), flatten_dict(jax.tree_util.tree_map_with_path(decayed, params))


@pytest.mark.parametrize("config", ("sedtalker", "editemotalk"))
def test_decay_reaches_matrices_alone(config):
    leaves, marks = full_size_leaves(config)
    spared = {path for path, mark in marks.items() if not mark}
    for path, leaf in leaves.items():
        axes = leaf.ndim - (not STACKED_LAYERS.isdisjoint(path))
        if path[-1].startswith(("bias", "conv_bias", "gate_bias", "gate_const", "scale", "log_A", "skip", "step_bias")):
            assert path in spared, path
        if path[-1].startswith(("kernel", "conv_weight", "embedding", "router")):
            assert (path not in spared) == (axes >= 2), path
    kernels = [path for path in leaves if path[-1] == "kernel"]
    # Both stacks of a pretrained encoder are there, so the test sees what it is about.
    assert any(not STACKED_LAYERS.isdisjoint(path) for path in spared)
    assert any(not STACKED_LAYERS.isdisjoint(path) for path in kernels)


def test_a_step_without_gradient_shrinks_kernels_of_stacked_layers_and_leaves_their_biases():
    params = {"layers": {"query": {"kernel": jax.numpy.ones((3, 2, 2)), "bias": jax.numpy.ones((3, 2))}}}
    optimizer = make_optimizer(OptimConfig(learning_rate=0.1, warmup_steps=1, weight_decay=0.5), num_steps=4)
    state = optimizer.init(params)
    nothing = jax.tree.map(jax.numpy.zeros_like, params)
    for _ in range(2):
        updates, state = optimizer.update(nothing, state, params)
    assert jax.numpy.all(updates["layers"]["query"]["kernel"] < 0)
    assert jax.numpy.all(updates["layers"]["query"]["bias"] == 0)
