"""Whether two runs of the claims gave the same: every score of every clip, and the tables beside them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.claims.jobs import FINISHED

KINDS = ("scores", "tables")
"""Folders of a job whose files say what it found. Verdicts follow from the scores alone."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Attributes:
    jobs: names of the scoring jobs that both runs finished.
    files: number of their files in the first run and the second, each counted once.
    different: files, relative to a run's directory, that differ or that one run lacks.
    only_one: scoring jobs that only one of the runs finished.
    """

    jobs: tuple[str, ...]
    files: int
    different: tuple[str, ...]
    only_one: tuple[str, ...]

    def __str__(self) -> str:
        equal = self.files - len(self.different)
        text = f"{len(self.jobs)} scoring jobs finished in both, {equal} of their {self.files} files equal"
        if self.only_one:
            text += f"; {len(self.only_one)} finished in one only: {', '.join(self.only_one)}"
        return "\n".join([text, *(f"differs: {name}" for name in self.different)])


def compare(first: Path, second: Path) -> Comparison:
    """Compares the scores and tables of two runs, byte for byte.

    Raises:
      UserError: no scoring job was finished in both.
    """
    jobs = [_scoring_jobs(directory) for directory in (first, second)]
    both = sorted(jobs[0] & jobs[1])
    if not both:
        raise UserError(f"{first} and {second} have finished no job in common")
    names = sorted(set().union(*(_found(directory / job, job) for job in both for directory in (first, second))))
    different = [name for name in names if _content(first / name) != _content(second / name)]
    return Comparison(tuple(both), len(names), tuple(different), tuple(sorted(jobs[0] ^ jobs[1])))


def _scoring_jobs(directory: Path) -> set[str]:
    finished = (path.parent for path in directory.glob(f"seed*/**/{FINISHED}"))
    return {str(job.relative_to(directory)) for job in finished if any((job / kind).is_dir() for kind in KINDS)}


def _found(place: Path, job: str) -> set[str]:
    return {f"{job}/{kind}/{path.name}" for kind in KINDS for path in (place / kind).glob("*.json")}


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
