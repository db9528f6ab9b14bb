"""Several record directories as one: their records one after another, their manifests added up, one corpus held out."""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sedtalker_jax.data.building import add_up
from sedtalker_jax.data.index import RecordIndex
from sedtalker_jax.data.records import RecordReader, read_manifest
from sedtalker_jax.errors import UserError


def spread(total: int, count: int | None) -> np.ndarray:
    """Which of `total` records stand for all: `count` of them (None: all), evenly spread, sorted, [n] int.

    Corpora, and in them speakers, follow one another, so the first ones would stand for one corpus.
    """
    return np.unique(np.linspace(0, total - 1, total if count is None else min(count, total)).round().astype(int))


def spread_records(reader: Sequence[Mapping[str, Any]], count: int | None) -> list[Mapping[str, Any]]:
    """The records of a reader that `spread` chooses."""
    return [reader[int(row)] for row in spread(len(reader), count)]


class MixedReader(Sequence):
    """The records of one split of several directories, as RecordReader gives them; directories that lack it add nothing.

    Args:
      directories: finished record directories.
      split: "train", "valid" or "test"; None = all of them, each directory's one after another.
      decode_audio: whether records also hold waveform [S] float32.

    Raises:
      UserError: a directory is unfinished, or no directory has records of the split.
    """

    def __init__(self, directories: Sequence[str | Path], split: str | None, decode_audio: bool = True) -> None:
        manifests = [read_manifest(directory) for directory in directories]
        self.manifest = merge_manifests(manifests)
        places = [(place, name) for place, manifest in zip(directories, manifests, strict=True) for name in manifest["splits"]]
        self.readers = [RecordReader(place, name, decode_audio) for place, name in places if split in (None, name)]
        self.readers = [reader for reader in self.readers if len(reader)]
        if not self.readers:
            raise UserError(f"no records{f' of split {split!r}' if split else ''} in {', '.join(map(str, directories))}")
        self._ends: list[int] = []
        for reader in self.readers:
            self._ends.append(len(reader) + (self._ends[-1] if self._ends else 0))

    def __len__(self) -> int:
        return self._ends[-1]

    def _place(self, index: int) -> tuple[RecordReader, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = bisect.bisect_right(self._ends, index)
        return self.readers[which], index - (self._ends[which - 1] if which else 0)

    def read_bytes(self, index: int) -> bytes:
        """The stored bytes of record `index`."""
        reader, inner = self._place(index)
        return reader.read_bytes(inner)

    def __getitem__(self, index: int) -> dict[str, Any]:
        reader, inner = self._place(int(index))
        return reader[inner]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (record for reader in self.readers for record in reader)

    def index(self) -> RecordIndex:
        """As RecordReader.index, over all."""
        return RecordIndex.join([reader.index() for reader in self.readers])


def open_records(
    directories: str | Path | Sequence[str | Path], split: str, decode_audio: bool = True
) -> RecordReader | MixedReader:
    """A reader of one directory, or of several as one.

    Raises:
      UserError: as RecordReader and MixedReader.
    """
    if isinstance(directories, str | Path):
        return RecordReader(directories, split, decode_audio)
    if len(directories) == 1:
        return RecordReader(directories[0], split, decode_audio)
    return MixedReader(directories, split, decode_audio)


def merge_manifests(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What training reads of a manifest, added up over directories: hours, records and frames per label of each split.

    `corpora` lists the corpora; where two directories hold the same speaker's name in different corpora, it is counted under
    corpus/speaker.
    """
    merged: dict[str, Any] = {"corpora": [_name(manifest) for manifest in manifests], "splits": {}}
    for manifest in manifests:
        for split, content in manifest["splits"].items():
            own = {key: content[key] for key in ("records", "hours", "frames") if key in content}
            own["speakers"] = [f"{_name(manifest)}/{speaker}" for speaker in content.get("speakers", ())]
            add_up(merged["splits"].setdefault(split, {}), own)
    return merged


def hold_out(directories: Sequence[str | Path], corpus: str) -> tuple[list[str], list[str]]:
    """Leave-one-corpus-out: (directories to train and validate on, directories to test on).

    Args:
      directories: finished record directories of several corpora.
      corpus: the one that no parameter, threshold or statistic may have seen; all its splits are then a test set.

    Raises:
      UserError: no directory holds that corpus, or nothing is left to train on.
    """
    names = {str(directory): _name(read_manifest(directory)) for directory in directories}
    held = [directory for directory, name in names.items() if name == corpus]
    rest = [directory for directory, name in names.items() if name != corpus]
    if not held:
        raise UserError(f"no directory holds {corpus!r} to leave out; there are {', '.join(sorted(set(names.values())))}")
    if not rest:
        raise UserError(f"without {corpus!r} there is nothing to train on; give more directories")
    return rest, held


_CHOICES = ("corpus", "fold", "options", "licence_filter", "limit", "listing", "world", "world_hash", "subset", "size")
"""Keys of a manifest that say which clips a record directory holds, and in which splits."""


def record_name(directory: str | Path) -> str:
    """What people call a record directory's content: the corpus, or the built-in world and its subset, "world-a-demo"."""
    manifest = read_manifest(directory)
    return str(manifest.get("corpus") or "-".join(str(manifest[key]) for key in ("world", "subset") if manifest.get(key)))


def record_identity(directory: str | Path) -> str:
    """Name and digest of what was built from what: "ravdess 3f0c...".

    Two directories have equal identities when the same clips went into the same splits, wherever they lie and whoever built
    them; the bytes of the shards may differ between versions of an audio codec.
    """
    manifest = read_manifest(directory)
    choices = {key: manifest[key] for key in _CHOICES if key in manifest}
    digest = hashlib.sha256(json.dumps(choices, sort_keys=True).encode()).hexdigest()
    return f"{record_name(directory)} {digest[:16]}"


def every_record(directories: Sequence[str | Path]) -> MixedReader:
    """The records of all splits of record directories, decoded when they are read: a corpus that was held out whole.

    Raises:
      UserError: a directory is unfinished, or none has records.
    """
    return MixedReader(directories, None)


def num_records(directories: Sequence[str | Path], split: str) -> int:
    """How many records of a split directories have; a corpus need not have every split (ZED is one to test on).

    Raises:
      UserError: a directory is unfinished.
    """
    splits = (read_manifest(directory)["splits"].get(split, {}) for directory in directories)
    return sum(shard["records"] for own in splits for shard in own.get("shards", ()))


def _name(manifest: Mapping[str, Any]) -> str:
    return str(manifest.get("corpus") or manifest.get("world", ""))
