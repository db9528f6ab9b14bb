"""Validates the tiny model on four devices and on one, in a process of its own: prints mode, rows per device, largest error."""

import os

from tests.compile_effort import QUICK

# Double precision: the order of sums must be the only difference between layouts.
os.environ |= {
    "XLA_FLAGS": f"{QUICK} --xla_force_host_platform_device_count=4",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
}

import types

import jax
import numpy as np
import optax

from sedtalker_jax.training.experiment import Experiment
from sedtalker_jax.training.parallel import Parallel, ParallelConfig
from sedtalker_jax.training.state import TrainState
from tests.support import random_batch, random_params, tiny_model, tiny_objective


def main() -> None:
    model, batch = tiny_model(dtype="float64", scan="reference"), random_batch(8, dtype=np.float64)
    objective = tiny_objective(model)
    params = random_params(model, batch, dtype=np.float64)
    program = jax.jit(lambda params, batch: (objective.validation_sums(params, batch), objective.weights(batch)))
    rows = []

    def watched(params, batch):
        leaves = jax.tree.leaves(batch)
        rows.append({x.addressable_shards[0].data.shape[0] if isinstance(x, jax.Array) else x.shape[0] for x in leaves})
        return program(params, batch)

    experiment = types.SimpleNamespace(_valid_batches=[batch, batch], _validation_sums=watched)
    state = TrainState.create(params, optax.sgd(0.1))
    expected = Experiment.validate(experiment, state)
    for mode, fsdp in (("pmap", 1), ("jit", 2)):
        parallel = Parallel(ParallelConfig(mode=mode, fsdp=fsdp, fsdp_min_size=256))
        rows.clear()
        found = Experiment.validate(experiment, jax.device_put(state, parallel.state_shardings(state)))
        assert found.keys() == expected.keys()
        error = max(abs(found[name] - value) / abs(value) for name, value in expected.items())
        print(mode, *set.union(*rows), error < 1e-9)


if __name__ == "__main__":
    main()
