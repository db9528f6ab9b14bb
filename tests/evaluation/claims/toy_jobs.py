"""Jobs that take no time, run by the real runner: python -m tests.evaluation.claims.toy_jobs --out DIR [--only A,B] ..."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.claims.jobs import Job
from sedtalker_jax.evaluation.claims.runner import Runner, end_with_parent, perform, select
from sedtalker_jax.evaluation.claims.scores import ArmScores

STEPS = 6


def train(place: Path) -> None:
    """Counts to STEPS and keeps its place, as training does with checkpoints."""
    state = place / "state"
    reached = int(state.read_text()) if state.exists() else 0
    for step in range(reached, STEPS):
        time.sleep(0.02)
        state.write_text(str(step + 1))
        with open(place.parents[1] / "order.txt", "a") as order:
            order.write(f"{place.relative_to(place.parents[1])} {step + 1}\n")


def score(place: Path) -> None:
    seed = int(place.parent.name.removeprefix("seed"))
    for arm in ("ours", "other"):
        steps = int((place.parent / "train" / arm / "state").read_text())
        values = np.random.default_rng(seed).normal(size=6) + steps + (arm == "other")
        ArmScores("toy", arm, seed, tuple("abcdef"), tuple("xxyyzz"), {"error": values}).save(place)


def fail(place: Path) -> None:
    raise UserError(f"{place}: always fails")


def toy_jobs(num_seeds: int = 2) -> list[Job]:
    jobs = []
    for seed in range(num_seeds):
        arms = tuple(f"seed{seed}/train/{arm}" for arm in ("ours", "other"))
        jobs.append(Job(f"seed{seed}/score", score, arms, 0.1))
        jobs += [Job(arm, train, (), 0.2) for arm in arms]
        jobs.append(Job(f"seed{seed}/broken", fail, (), 0.1))
        jobs.append(Job(f"seed{seed}/needs-broken", score, (f"seed{seed}/broken",), 0.1))
    return jobs


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--job")
    parser.add_argument("--only", default="")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--budget-s", type=float, default=float("inf"))
    arguments = parser.parse_args()
    jobs = toy_jobs()
    if arguments.job:
        end_with_parent()
        perform(next(job for job in jobs if job.name == arguments.job), arguments.out)
        return 0
    chosen = select(jobs, tuple(filter(None, arguments.only.split(","))))
    command = (sys.executable, "-m", "tests.evaluation.claims.toy_jobs")
    return len(Runner(arguments.out, chosen, command, arguments.workers).run(arguments.budget_s).failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
