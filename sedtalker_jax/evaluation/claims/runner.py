"""Runs jobs, each in a process of its own, so that memory and crashes stay apart; restartable at any point.

A job is done when its finished.json is there, which is written last. Whatever ends a run, the same command goes on with what
is missing, and with the same seeds arrives at the same results: training resumes bit for bit, scoring starts again.
"""

from __future__ import annotations

import dataclasses
import fcntl
import fnmatch
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sedtalker_jax.emotion.formats import write_text
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.claims.jobs import FINISHED, Job, in_order

LOG = "log.txt"
SPENT, SPENT_EVERY_S = "seconds.txt", 5.0
"""File of the seconds that a job's attempts took so far, and how often it is written."""

COMPILED = "compiled"
"""Cache of compiled programs below the results: arms differ in data and weights more than in programs."""


def seed_of(name: str) -> int:
    """The seed in a job's name: 3 of "seed3/diarizer/ours"."""
    return int(name.split("/")[0].removeprefix("seed"))


def select(jobs: Sequence[Job], only: Sequence[str] = ()) -> list[Job]:
    """Jobs in the order in which they run: all of the first seed, then all of the next, each after what it requires.

    Args:
      only: parts of names between slashes ("diarization", "seed0", "diarizer/ours"; with * and ?); what these jobs require
        is selected too. Empty for all.

    Raises:
      UserError: a part that no job's name has.
    """
    by_seed = in_order(sorted(jobs, key=lambda job: seed_of(job.name)))
    if not only:
        return by_seed
    wanted = set()
    for part in only:
        found = {job.name for job in by_seed if fnmatch.fnmatchcase(f"/{job.name}/", f"*/{part}/*")}
        if not found:
            raise UserError(f"no job is called {part}: --list prints them")
        wanted |= found
    for job in reversed(by_seed):
        if job.name in wanted:
            wanted.update(job.requires)
    return [job for job in by_seed if job.name in wanted]


def finished(directory: Path, job: Job) -> dict[str, Any] | None:
    """What a finished job left: seconds, required jobs, inputs, commit, version of jax; None while it has not finished."""
    try:
        return json.loads((directory / job.name / FINISHED).read_text())
    except FileNotFoundError:
        return None


def perform(job: Job, directory: Path) -> None:
    """Does a job's work in this process and marks it as finished."""
    place = directory / job.name
    place.mkdir(parents=True, exist_ok=True)
    # The code that is at work was read before: a commit that is made meanwhile did not make the numbers.
    made_by = commit()
    with _counted(place / SPENT) as seconds:
        job.run(place)
    left = {
        "seconds": round(seconds(), 2),
        "requires": list(job.requires),
        "inputs": list(job.inputs),
        "commit": made_by,
        "jax": importlib.metadata.version("jax"),
    }
    write_text(place / FINISHED, json.dumps(left) + "\n")


@contextmanager
def _counted(path: Path) -> Iterator[Callable[[], float]]:
    """Counts seconds on top of those in a file, which it keeps up to date: a job that is killed loses few of them."""
    start = time.monotonic()
    try:
        before = float(path.read_text())
    except (OSError, ValueError):
        before = 0.0
    over = threading.Event()

    def seconds() -> float:
        return before + time.monotonic() - start

    def keep() -> None:
        while not over.wait(SPENT_EVERY_S):
            write_text(path, f"{seconds():.2f}\n")

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield seconds
    finally:
        over.set()
        keeper.join()
        write_text(path, f"{seconds():.2f}\n")


def commit() -> str:
    """Commit of the code, with "-dirty" after it where files differ from it; empty outside a repository and without git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )
    except OSError:
        return ""
    return described.stdout.strip()


def end_with_parent() -> None:
    """Ends this process and all that it started as soon as standard input closes: when the runner dies, even by kill -9.

    Two processes would work in one directory otherwise once the runner is started again. Started by hand from a script, a
    process leads no group, and nothing is watched.
    """
    if os.getpgrp() != os.getpid():
        return

    def watch():
        # Not through sys.stdin, whose lock a daemon thread would hold when the interpreter ends.
        while os.read(0, 1024):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


@dataclasses.dataclass
class _Running:
    job: Job
    process: subprocess.Popen
    start: float
    slot: int


@dataclasses.dataclass
class Outcome:
    """Attributes:
    failed: jobs that ended with an error.
    left_out: jobs that were not started, since one that they require failed or the budget was spent.
    """

    failed: list[str] = dataclasses.field(default_factory=list)
    left_out: list[str] = dataclasses.field(default_factory=list)


class Runner:
    """Runs the jobs of one directory of results.

    Args:
      directory: results; a job works in the directory of its name below it.
      jobs: in the order of `select`.
      command: starts one job's process; "--out DIRECTORY --job NAME" is appended. It calls `end_with_parent` and `perform`.
      workers: jobs at a time. Each has cores of its own: thread pools that share cores spend their time waiting for each other.
      say: takes the lines of progress.
    """

    def __init__(
        self,
        directory: Path,
        jobs: Sequence[Job],
        command: Sequence[str],
        workers: int = 1,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ):
        self.directory, self.jobs, self.command, self.workers, self.say = directory, list(jobs), command, workers, say
        self.running: list[_Running] = []
        self.done: dict[str, float] = {}

    def run(self, budget_s: float = float("inf")) -> Outcome:
        """Runs what has not finished; a failing job does not keep others from running that don't require it.

        Args:
          budget_s: no job is started that would probably not end within it.

        Raises:
          UserError: another run works on the directory.
        """
        deadline = time.monotonic() + budget_s
        outcome = Outcome()
        with self._lock():
            waiting = self._unfinished()
            try:
                while waiting or self.running:
                    self._reap(outcome)
                    blocked = [job for job in waiting if set(job.requires) & {*outcome.failed, *outcome.left_out}]
                    outcome.left_out += [job.name for job in blocked]
                    waiting = [job for job in waiting if job not in blocked]
                    ready = next((job for job in waiting if set(job.requires) <= set(self.done)), None)
                    if ready and len(self.running) < self.workers:
                        if time.monotonic() + self._pace() * ready.expected_s > deadline:
                            # Nothing after it is started either: an order that depends on the clock would be hard to explain.
                            self.say(
                                f"{ready.name} does not fit into what is left of the budget: the same command goes on with it"
                            )
                            outcome.left_out += [job.name for job in waiting]
                            waiting = []
                            continue
                        waiting.remove(ready)
                        self._start(ready, waiting)
                    else:
                        time.sleep(0.05)
            finally:
                self._stop()
        return outcome

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.directory.mkdir(parents=True, exist_ok=True)
        with open(self.directory / "lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"{self.directory}: another run is at work there; wait for it or choose another --out"
                ) from error
            yield

    def _unfinished(self) -> list[Job]:
        waiting: list[Job] = []
        for job in self.jobs:
            left = finished(self.directory, job)
            current = set(job.requires) <= set(self.done)
            # Whether other inputs have gone into it; what was finished before inputs were written down had these.
            if left and current and tuple(left.get("inputs", job.inputs)) == job.inputs:
                self.done[job.name] = left["seconds"]
                continue
            if left or not current:
                # What it was made of is made again, so nothing of it may be kept, least of all its checkpoints.
                self._clear(job)
            waiting.append(job)
        return waiting

    def _clear(self, job: Job) -> None:
        place = self.directory / job.name
        if not place.exists():
            return
        (place / FINISHED).unlink(missing_ok=True)
        others = [self.directory / other.name for other in self.jobs if other.name.startswith(f"{job.name}/")]
        for entry in place.iterdir():
            if not any(other.is_relative_to(entry) for other in others):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _start(self, job: Job, waiting: Sequence[Job]) -> None:
        place = self.directory / job.name
        place.mkdir(parents=True, exist_ok=True)
        slot = min(set(range(self.workers)) - {running.slot for running in self.running})
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str((self.directory / COMPILED).resolve())}
        with open(place / LOG, "a") as log:
            process = subprocess.Popen(
                [*self.command, "--out", str(self.directory), "--job", job.name],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        _give_cores(process.pid, slot, self.workers)
        self.running.append(_Running(job, process, time.monotonic(), slot))
        names = " and ".join(running.job.name for running in self.running)
        self.say(f"{len(self.done)} of {len(self.jobs)} jobs done, about {self._time_left(waiting)} left: {names}")

    def _reap(self, outcome: Outcome) -> None:
        for running in [running for running in self.running if running.process.poll() is not None]:
            self.running.remove(running)
            job, code = running.job, running.process.returncode
            left = finished(self.directory, job)
            if code == 0 and left:
                self.done[job.name] = left["seconds"]
            else:
                outcome.failed.append(job.name)
                log = self.directory / job.name / LOG
                ending = f"signal {-code}" if code < 0 else f"exit code {code}"
                self.say(f"failed: {job.name} ({ending}): {_reason(log)} (whole log: {log})")

    def _pace(self) -> float:
        """Seconds that jobs took for one expected second."""
        known = [job for job in self.jobs if job.name in self.done]
        expected = sum(job.expected_s for job in known)
        return sum(self.done[job.name] for job in known) / expected if expected else 1.0

    def _time_left(self, waiting: Sequence[Job]) -> str:
        pace, instant = self._pace(), time.monotonic()
        seconds = pace * sum(job.expected_s for job in waiting)
        seconds += sum(max(0.0, pace * running.job.expected_s - (instant - running.start)) for running in self.running)
        minutes = round(seconds / self.workers / 60)
        return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{max(minutes, 1)} min"

    def _stop(self) -> None:
        for running in self.running:
            if running.process.poll() is None:
                os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()
        self.running.clear()


def _give_cores(pid: int, slot: int, workers: int) -> None:
    """Gives a process the slot's even share of this process's cores; all of them where there are fewer cores than workers."""
    if not hasattr(os, "sched_setaffinity"):  # such as on macOS
        return
    cores = sorted(os.sched_getaffinity(0))
    share = cores[slot * len(cores) // workers : (slot + 1) * len(cores) // workers]
    if len(cores) >= workers:
        os.sched_setaffinity(pid, share)


def _reason(log: Path) -> str:
    """The line of a log that names an error, or its last one."""
    lines = [line.strip() for line in log.read_text(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(error:|[\w.]+(Error|Exception)\b)", line)]
    return (errors or lines or ["it said nothing"])[-1]
