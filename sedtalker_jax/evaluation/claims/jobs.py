"""Jobs: pieces of work with a directory each, done once, in the order of what they need."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

FINISHED = "finished.json"
"""Written last into a job's directory: the job need not run again."""


@dataclasses.dataclass(frozen=True)
class Job:
    """Attributes:
    name: its directory below the claims' directory, such as "seed0/diarizer/ours". Begins with "seed<number>/".
    run: does the work inside the given directory. Called again after an interruption, with whatever it had left there.
    requires: names of the jobs whose directories it reads.
    expected_s: seconds on two cores, for the time left.
    inputs: what else decides about its results and can be given later than the first run; with others it is done again.
    """

    name: str
    run: Callable[[Path], None]
    requires: tuple[str, ...] = ()
    expected_s: float = 60.0
    inputs: tuple[str, ...] = ()


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """Jobs after everything they require; otherwise in the given order.

    Raises:
      ValueError: a name occurs twice, a required job is missing, or jobs require one another.
    """
    by_name = {job.name: job for job in jobs}
    if len(by_name) != len(jobs):
        raise ValueError("two jobs have one name")
    ordered: dict[str, Job] = {}
    visiting: set[str] = set()

    def visit(name: str, wanted_by: str) -> None:
        if name in ordered:
            return
        if name not in by_name:
            raise ValueError(f"job {wanted_by} requires {name}, which does not exist")
        if name in visiting:
            raise ValueError(f"job {name} requires itself")
        visiting.add(name)
        for required in by_name[name].requires:
            visit(required, name)
        ordered[name] = by_name[name]

    for job in jobs:
        visit(job.name, job.name)
    return list(ordered.values())


def train_arm(config: ConfigDict, workdir: Path) -> None:
    """Trains a config in a job's directory; goes on from its newest checkpoint, bit for bit, after an interruption."""
    from sedtalker_jax.training.experiment import Experiment
    from sedtalker_jax.training.loop import train

    workdir.mkdir(parents=True, exist_ok=True)
    train(Experiment(config, workdir), str(workdir))
