"""What a run of the claims is made of. It is written once beside the results and can't be changed under them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from sedtalker_jax.data.records import MANIFEST, read_manifest
from sedtalker_jax.emotion.formats import write_text
from sedtalker_jax.errors import UserError

SETTINGS = "settings.json"
"""Written into the directory of results before the first job starts."""

WORLD_COMMAND = "python -m sedtalker_jax.data.synthetic --rules configs/{rules} --subset claims --out {directory}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Attributes:
    directory: results; one directory per job.
    data: record directory of the world that arms are trained and scored on, or of recorded corpora, joined by commas.
    other_data: record directory of another world, for what carries over; "" leaves that out.
    seeds: of initialisation, order of batches and training noise; the same seed means the same for every arm.
    diarizer_steps, animator_steps, joint_steps: training steps of an arm of each kind.
    smoke: a few steps of tiny models on a few clips: tries the machinery out, its numbers mean nothing.
    """

    directory: Path
    data: str = "runs/world-claims"
    other_data: str = "runs/world-b-claims"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    diarizer_steps: int = 600
    animator_steps: int = 600
    joint_steps: int = 800
    smoke: bool = False

    @property
    def variant(self) -> str:
        """Suffix of a config's name: ":smoke" or nothing."""
        return "smoke" if self.smoke else ""

    @property
    def record_directories(self) -> tuple[str, ...]:
        """The directories that `data` names."""
        return tuple(self.data.split(","))

    def world_hash(self) -> str:
        """Hash of the world in `data`; empty for recorded corpora.

        Raises:
          UserError: no finished records there; the message says how to make them.
        """
        return _world_hash(self.data, "world_rules.toml")

    def other_world_hash(self) -> str:
        """Hash of the world in `other_data`; empty without one.

        Raises:
          UserError: as `world_hash`.
        """
        return _world_hash(self.other_data, "world_b_rules.toml") if self.other_data else ""

    def fingerprint(self) -> dict[str, Any]:
        """What results depend on, as JSON values: everything but where they lie and which seeds were run."""
        values = dataclasses.asdict(self)
        values.pop("directory")
        values.pop("seeds")
        return values | {"world_hash": self.world_hash(), "other_world_hash": self.other_world_hash()}

    def store(self) -> None:
        """Writes settings.json into the directory, or agrees with the one there. Another world may be added later.

        Raises:
          UserError: the directory holds results of other settings, or there are no records.
        """
        mine, path = self.fingerprint(), self.directory / SETTINGS
        if path.exists():
            there = _stored(path)
            if not there["other_data"]:
                there |= {name: mine[name] for name in ("other_data", "other_world_hash")}
            differing = [f"{name} {there.get(name)!r}, not {mine[name]!r}" for name in mine if there.get(name) != mine[name]]
            if differing:
                raise UserError(f"{self.directory} holds results of {'; '.join(differing)}: choose another --out")
        write_text(path, json.dumps(mine, indent=1) + "\n")

    @classmethod
    def load(cls, directory: str | Path, seeds: tuple[int, ...]) -> Settings:
        """What `store` wrote into a directory of results.

        Raises:
          UserError: nothing was written there, or it is damaged.
        """
        stored = _stored(Path(directory) / SETTINGS)
        own = {field.name for field in dataclasses.fields(cls)} - {"directory", "seeds"}
        return cls(Path(directory), seeds=seeds, **{name: stored[name] for name in own})


def _world_hash(directories: str, rules: str) -> str:
    hashes = []
    for directory in directories.split(","):
        if not (Path(directory) / MANIFEST).exists():
            command = WORLD_COMMAND.format(rules=rules, directory=directory)
            raise UserError(f"{directory}: no such data set; make it with: {command}")
        hashes.append(read_manifest(directory).get("world_hash", ""))
    return ",".join(filter(None, hashes))


def _stored(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read ({error}); choose another --out") from error
