"""What a run of the claims is made of. It is written once beside the results and can't be changed under them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from sedtalker_jax.data.records import read_manifest
from sedtalker_jax.errors import UserError

WORLD_COMMAND = "python -m sedtalker_jax.data.synthetic --rules configs/{rules} --subset claims --out {directory}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Attributes:
    directory: results; one directory per job.
    data: record directory of the world that arms are trained and scored on.
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

    def world_hash(self) -> str:
        """Hash of the world in `data`; empty for recorded corpora.

        Raises:
          UserError: no finished records there; the message says how to make them.
        """
        if not (Path(self.data) / "manifest.json").exists():
            command = WORLD_COMMAND.format(rules="world_rules.toml", directory=self.data)
            raise UserError(f"{self.data}: no such data set; make it with: {command}")
        return read_manifest(Path(self.data)).get("world_hash", "")

    def fingerprint(self) -> dict[str, Any]:
        """What results depend on, as JSON values: everything but where they lie and which seeds were run."""
        values = dataclasses.asdict(self)
        values.pop("directory")
        values.pop("seeds")
        return json.loads(json.dumps(values | {"world_hash": self.world_hash()}))
