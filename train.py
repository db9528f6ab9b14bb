"""Trains a model: python train.py --config=configs/demo.py --workdir=runs/demo [--config.any.field=value]

Resumes by itself when the workdir holds a checkpoint. On several hosts start it once per process; clusters that JAX knows
(TPU pods, Slurm, Open MPI, Kubernetes) need --distributed only, others also the coordinator's address.
"""

from __future__ import annotations

import pathlib
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from sedtalker_jax.config_flag import experiment_config
from sedtalker_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, such as configs/demo.py or configs/demo.py:smoke.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of checkpoints, metrics and events.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes of this job before anything else.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, where the cluster does not tell.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes, where the cluster does not tell.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, where the cluster does not tell.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    # Checkpoint managers report every option they have at level INFO; what matters here is printed by the loop itself.
    logging.set_verbosity(logging.WARNING)
    if _DISTRIBUTED.value or _COORDINATOR.value:
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    from sedtalker_jax.training.experiment import Experiment, RunPlan
    from sedtalker_jax.training.loop import train

    workdir = pathlib.Path(_WORKDIR.value)
    try:
        config = experiment_config(_CONFIG)
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            experiment = Experiment(config, workdir)
        except ValueError as error:
            # What a configured value must be stands in the message; nothing has run yet.
            raise UserError(f"config: {error}") from error
        if jax.process_index() == 0:
            (workdir / "config.json").write_text(config.to_json_best_effort(indent=2) + "\n")
            print(RunPlan.of(experiment), file=sys.stderr)
        train(experiment, str(workdir))
    except (UserError, NotADirectoryError, FileExistsError, PermissionError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main)
