"""The rules file of a world, and the hash that names the world."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sedtalker_jax.data.world import frozen
from sedtalker_jax.errors import UserError

SPLITS = ("train", "valid", "test")
"""In this order everywhere; the index of a split is part of every clip's seed."""

_TABLES = (
    "subsets", "face_space", "sentences", "voices", "timeline", "labels", "expression", "distractors", "face",
)  # fmt: skip

_SYNTHESISER = "espeak-ng"  # of rules that name none


@dataclass(frozen=True)
class Rules:
    """A world's rules: `table` as read from the TOML file, `text` its exact bytes, `path` where it was."""

    table: dict[str, Any]
    text: str
    path: str

    def __getitem__(self, key: str) -> Any:
        return self.table[key]

    @property
    def seed(self) -> int:
        return int(self.table["seed"])

    @property
    def fps(self) -> float:
        return float(self.table["fps"])

    @property
    def synthesiser(self) -> str:
        """Name of the program that speaks, a key of frozen.SYNTHESISERS."""
        return str(self.table.get("synthesiser", _SYNTHESISER))

    @property
    def world_hash(self) -> str:
        """Sixteen hex digits that name the world: the rules' values (not their comments) and what the code makes of them.

        How many clips a subset has decides none of them, so the table `subsets` is left out: a manifest names its subset.
        """
        return self.hash_of_generation(frozen.generation(self.synthesiser))

    def hash_of_generation(self, generation: str) -> str:
        """The world's hash under a generation of the code (sedtalker_jax.data.world.frozen)."""
        deciding = {name: value for name, value in self.table.items() if name != "subsets"}
        digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
        digest.update(generation.encode())
        return digest.hexdigest()[:16]

    def generator(self, *key: int | str) -> np.random.Generator:
        """The random generator of a named purpose: a function of the world's seed and the key, of nothing else."""
        words = [self.seed]
        for part in key:
            data = part.encode() if isinstance(part, str) else int(part).to_bytes(8, "little")
            words.append(int.from_bytes(hashlib.sha256(data).digest()[:8], "little"))
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def load_rules(path: str | Path) -> Rules:
    """Reads and checks a rules file.

    Raises:
      UserError: when the file is missing, is no TOML, or lacks a table or a setting.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise UserError(f"cannot read the rules file {path}: {error.strerror}; configs/world_rules.toml is one") from error
    return parse_rules(text, str(path))


def parse_rules(text: str, path: str = "<rules>") -> Rules:
    """Rules from the text of a rules file; `path` names it in messages. Raises UserError as load_rules does."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is no valid TOML: {error}") from error
    missing = [name for name in ("name", "seed", "fps", *_TABLES) if name not in table]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; compare it with configs/world_rules.toml")
    from sedtalker_jax.emotion.labels import CANONICAL

    absent = [label for label in CANONICAL if label not in table["expression"]]
    if absent:
        raise UserError(f"{path} lacks [expression.{absent[0]}]; it must have a table for each of {', '.join(CANONICAL)}")
    for name, subset in table["subsets"].items():
        for key in ("clips", "voices", "heads"):
            if set(subset.get(key, {})) != set(SPLITS):
                raise UserError(f"{path}: [subsets.{name}] needs {key} = {{ train = .., valid = .., test = .. }}")
    rules = Rules(table, text, path)
    if rules.synthesiser not in frozen.SYNTHESISERS:
        known = ", ".join(frozen.SYNTHESISERS)
        raise UserError(f"{path}: there is no synthesiser {rules.synthesiser!r}; it may be {known}")
    return rules
