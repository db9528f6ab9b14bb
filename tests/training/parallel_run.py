"""Takes SGD steps on the tiny model under one device layout; run as a program, since device counts are fixed at start.

    python -m tests.training.parallel_run OUT.npz --mode pmap --devices 4 [--process 0 --processes 2 --port 12345]

Writes the unclipped gradient of step 1 and the parameters before and after five steps, from process 0.
"""

from __future__ import annotations

import argparse
import functools
import os

from tests.compile_effort import QUICK

parser = argparse.ArgumentParser()
parser.add_argument("out")
parser.add_argument("--mode", default="pmap")
parser.add_argument("--fsdp", type=int, default=1)
parser.add_argument("--accumulation", type=int, default=1)
parser.add_argument("--devices", type=int, default=1)
parser.add_argument("--process", type=int, default=0)
parser.add_argument("--processes", type=int, default=1)
parser.add_argument("--port", type=int, default=0)
arguments = parser.parse_args()
# Each layout compiles its own programs and runs them six times.
os.environ["XLA_FLAGS"] = f"{QUICK} --xla_force_host_platform_device_count={arguments.devices}"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402

# Double precision: a sum over the batch in another order must be the only difference between layouts, and it must be
# small enough to tell from a real one.
jax.config.update("jax_enable_x64", True)
if arguments.processes > 1:
    jax.distributed.initialize(f"localhost:{arguments.port}", arguments.processes, arguments.process)

import numpy as np  # noqa: E402
import optax  # noqa: E402

from sedtalker_jax.training.parallel import Parallel, ParallelConfig  # noqa: E402
from sedtalker_jax.training.state import TrainState  # noqa: E402
from sedtalker_jax.training.step import gradients, train_step  # noqa: E402
from tests.support import random_batch, random_params, tiny_model, tiny_objective  # noqa: E402


def main() -> None:
    model = tiny_model(dtype="float64")
    batch = random_batch(8, dtype=np.float64)
    objective = tiny_objective(model)
    optimizer = optax.sgd(0.005)
    parallel = Parallel(ParallelConfig(mode=arguments.mode, fsdp=arguments.fsdp, fsdp_min_size=256))

    params = random_params(model, batch, dtype=np.float64)

    def create() -> TrainState:
        return TrainState.create(params, optimizer)

    state = parallel.create_state(create)
    abstract = jax.eval_shape(create)

    def differentiate(state, batch, axis_name):
        gradient, terms = gradients(
            state.params,
            batch,
            state.step,
            objective=objective,
            accumulation=arguments.accumulation,
            axis_name=axis_name,
        )
        return state.replace(params=gradient), terms

    local = jax.tree.map(lambda x: x[arguments.process :: arguments.processes], batch)
    placed = parallel.place_batch(local)
    step1, _ = parallel.wrap_step(differentiate, abstract, donate=False)(state, placed)
    step = parallel.wrap_step(
        functools.partial(train_step, objective=objective, optimizer=optimizer, accumulation=arguments.accumulation),
        abstract,
        donate=False,
    )
    before = state.params
    for _ in range(5):
        state, _ = step(state, placed)
    trees = dict(gradient=step1.params, before=before, after=state.params)
    arrays = {}
    for name, tree in trees.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not leaf.is_fully_addressable:
                from jax.experimental import multihost_utils

                whole = (
                    multihost_utils.process_allgather(leaf, tiled=True)
                    if not leaf.is_fully_replicated
                    else leaf.addressable_data(0)
                )
            else:
                whole = leaf
            arrays[name + jax.tree_util.keystr(path)] = np.asarray(whole)
    if arguments.process == 0:
        np.savez(arguments.out, **arrays)


if __name__ == "__main__":
    main()
