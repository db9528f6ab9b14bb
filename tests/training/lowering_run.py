"""Lowers a validation program of two devices for TPU in a process of its own: prints the layout and its number of kernels."""

import os

os.environ |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}

import jax

from sedtalker_jax.training.parallel import Parallel, ParallelConfig, mesh_of
from tests.support import random_batch, random_params, tiny_model, tiny_objective


def main() -> None:
    model, batch = tiny_model(), random_batch(8)
    objective = tiny_objective(model)
    for mode, fsdp in (("pmap", 1), ("jit", 2)):
        parallel = Parallel(ParallelConfig(mode=mode, fsdp=fsdp, fsdp_min_size=256))
        params = random_params(model, batch)
        params = jax.device_put(params, parallel.state_shardings(params))
        with mesh_of(params):
            traced = jax.jit(objective.validation_sums).trace(params, batch)
            print(mode, traced.lower(lowering_platforms=("tpu",)).as_text().count("tpu_custom_call") > 0)


if __name__ == "__main__":
    main()
