"""Trains a model: python train.py --config=configs/demo.py --workdir=runs/demo [--config.any.field=value]

Resumes by itself when the workdir holds a checkpoint. On several hosts start it once per process; clusters that JAX knows
(TPU pods, Slurm, Open MPI, Kubernetes) need --distributed only, others also the coordinator's address.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

import jax
from absl import flags, logging
from ml_collections import config_flags

from sedtalker_jax.config_flag import experiment_config, run
from sedtalker_jax.errors import UserError, from_config

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, such as configs/demo.py or configs/demo.py:smoke.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of checkpoints, metrics and events.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes of this job before anything else.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, where the cluster does not tell.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes, where the cluster does not tell.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, where the cluster does not tell.")
flags.mark_flags_as_required(["config", "workdir"])


def main(_: Sequence[str]) -> None:
    # Checkpoint managers report every option they have at level INFO; what matters here is printed by the loop itself.
    logging.set_verbosity(logging.WARNING)
    workdir = pathlib.Path(_WORKDIR.value)
    try:
        _join_processes()
        from sedtalker_jax.training.experiment import Experiment, RunPlan
        from sedtalker_jax.training.loop import train
        from sedtalker_jax.training.parallel import keep_compiled

        config = experiment_config(_CONFIG)
        workdir.mkdir(parents=True, exist_ok=True)
        keep_compiled(workdir / "compiled")
        with from_config():
            experiment = Experiment(config, workdir)
        if jax.process_index() == 0:
            print(RunPlan.of(experiment), file=sys.stderr)
        train(experiment, str(workdir))
    except (UserError, NotADirectoryError, FileExistsError, PermissionError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _join_processes() -> None:
    """Before anything else asks for devices. Raises UserError where JAX finds no cluster, or not all of it is named."""
    given = [_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value]
    if not _DISTRIBUTED.value and all(value is None for value in given):
        return
    try:
        jax.distributed.initialize(*given)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the processes can't be joined ({reason}); where JAX does not know the cluster give --coordinator=HOST:PORT, "
            "--num_processes and --process_id"
        ) from error


if __name__ == "__main__":
    run(main)
