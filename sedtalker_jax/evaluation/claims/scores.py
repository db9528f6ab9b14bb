"""Scores of one arm under one seed, clip by clip: what jobs leave behind and comparisons are made of."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from sedtalker_jax.emotion.formats import replace_when_complete
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.claims.jobs import FINISHED


@dataclasses.dataclass(frozen=True, eq=False)
class ArmScores:
    """Attributes:
    family: the group of arms that are compared with one another, such as "animation".
    arm: name within the family, such as "predicted".
    seed: of training.
    clips: identifiers of the n scored clips.
    voices: the speaker of each clip; the bootstrap draws voices first, then their clips.
    measures: name (with its unit) -> one value per clip, NaN where a clip has none.
    weights: name of a measure -> weight per clip (labelled frames, seconds); measures without one weigh clips equally.
      The score of a set of clips is sum(weight * value) / sum(weight) over clips that have a value.
    """

    family: str
    arm: str
    seed: int
    clips: tuple[str, ...]
    voices: tuple[str, ...]
    measures: Mapping[str, Float[np.ndarray, " n"]]
    weights: Mapping[str, Float[np.ndarray, " n"]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name, values in [*self.measures.items(), *self.weights.items()]:
            if len(values) != len(self.clips):
                raise ValueError(f"{self.family}/{self.arm}: {len(values)} values of {name} for {len(self.clips)} clips")
        if len(self.voices) != len(self.clips) or len(set(self.clips)) != len(self.clips):
            raise ValueError(f"{self.family}/{self.arm}: clips must be distinct and have one voice each")

    def save(self, job_directory: str | os.PathLike) -> None:
        """Writes scores/<family>-<arm>.json into a job's directory; appears whole or not at all."""
        target = Path(job_directory) / "scores" / f"{self.family}-{self.arm}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        plain = {
            "family": self.family,
            "arm": self.arm,
            "seed": self.seed,
            "clips": list(self.clips),
            "voices": list(self.voices),
            "measures": {name: _listed(values) for name, values in self.measures.items()},
            "weights": {name: _listed(values) for name, values in self.weights.items()},
        }
        with replace_when_complete(target) as temporary:
            temporary.write_text(json.dumps(plain) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> ArmScores:
        """Reads a file that `save` wrote.

        Raises:
          UserError: it is damaged.
        """
        try:
            plain = json.loads(Path(path).read_text())
            arrays = [{n: np.array(v, np.float64) for n, v in plain[key].items()} for key in ("measures", "weights")]
            named = (plain[key] for key in ("family", "arm", "seed"))
            return cls(*named, tuple(plain["clips"]), tuple(plain["voices"]), *arrays)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a file of scores ({error}); delete it and run the claims again") from error


def _listed(values) -> list[float | None]:
    # JSON has no NaN.
    return [None if not np.isfinite(value) else float(value) for value in np.asarray(values, np.float64)]


def load_scores(directory: str | os.PathLike) -> dict[str, list[ArmScores]]:
    """Name of each finished job below a directory of claims -> what it scored, in a fixed order."""
    root, found = Path(directory), {}
    for path in sorted(root.glob("seed*/**/scores/*.json")):
        job = path.parents[1]
        if (job / FINISHED).exists():
            found.setdefault(str(job.relative_to(root)), []).append(ArmScores.load(path))
    return found
