"""Speaker-disjoint partitions into train, valid and test: by name, the same on every machine, nothing drawn at random."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

Groups = Sequence[Sequence[str]]


def hashed_share(name: str) -> float:
    """A number in [0, 1) that belongs to a name: the first 52 bits of its SHA-256."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:13], 16) / 16**13


def hashed_groups(names: Sequence[str], number: int) -> list[list[str]]:
    """`number` groups of nearly equal size, each name's place given by its hash among all of them."""
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return [order[i::number] for i in range(number)]


def split_of(groups: Groups, fold: int, *, test: int = 1, valid: int = 1) -> dict[str, str]:
    """Speaker -> split for one fold of leave-groups-out.

    Fold k tests groups k test ... k test + test - 1 and validates on the `valid` groups after them, counted round; the
    others train. With two groups there is none left to validate on: the second one trains.
    """
    number = len(groups)
    if number < 2 or test + valid > number:
        raise ValueError(f"{number} groups cannot give {test} for test and {valid} for validation")
    role = ["train"] * number
    for i in range(test):
        role[(fold * test + i) % number] = "test"
    if number > 2:
        for i in range(valid):
            role[(fold * test + test + i) % number] = "valid"
    return {speaker: role[i] for i, group in enumerate(groups) for speaker in group}
