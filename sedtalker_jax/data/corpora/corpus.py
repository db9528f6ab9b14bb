"""What a data set's reader is: it lists clips, says what it leaves out and why, and turns one clip into a record.

Speech corpora and face data sets share it; sedtalker_jax.data.prepare drives it and holds the contract in full.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sedtalker_jax.errors import UserError

SPLITS = ("train", "valid", "test")


class LeftOutError(UserError):
    """A clip that can't be used, found when it was read: grouped by `reason` in the manifest, with its own `detail`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclasses.dataclass(frozen=True)
class Licence:
    """Attributes:
    name: SPDX name or the owner's words.
    commercial: whether commercial use is allowed; False where sources contradict each other.
    source: where it says so.
    note: conditions and contradictions, for the manifest.
    """

    name: str
    commercial: bool
    source: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Clip:
    """One recording as the listing knows it, before its sound is read. Pickled to workers: keep it small.

    Attributes:
      id: unique in the data set, made of official names; the order of records follows it.
      path: of its sound (or its main file), relative to the root.
      split: "train", "valid" or "test".
      speaker: unique in the data set; no speaker is in two splits.
      fields: plain values that become record fields (sentence, sex, language, label ...; see sedtalker_jax.data.records).
    """

    id: str
    path: str
    split: str
    speaker: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A clip left out. `reason` groups (one of a few fixed phrases), `detail` is this clip's own."""

    id: str
    reason: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Listing:
    """Attributes:
    clips: all clips to read.
    skipped: clips that are there and are left out before any sound is read.
    manifest: what the reader adds to the manifest (counts of an official split, missing files ...); JSON values.
    """

    clips: Sequence[Clip]
    skipped: Sequence[Skipped] = ()
    manifest: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Choices:
    """What the user chose for a listing.

    Attributes:
      fold: which of the corpus's `folds` partitions; 0 is the default split.
      options: value of every entry of the corpus's `options`, as text.
    """

    fold: int = 0
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Corpus(abc.ABC):
    """A reader. Its module holds one as CORPUS; it has no state of its own, so workers make theirs by importing.

    Attributes:
      name: key in sedtalker_jax.data.prepare.READERS.
      licence: of the data.
      folds: number of partitions that --fold can choose from.
      options: name -> (default, what it means): corpus-specific choices (--option NAME=VALUE).
      speaker_disjoint: whether the splits must not share speakers. False only where the official protocol shares them
        (BIWI's test A); the manifest then names the speakers that cross.
      fit_files: names of the files that `fit` writes; empty for readers without a fit.
    """

    name: str
    licence: Licence
    folds: int = 1
    options: Mapping[str, tuple[str, str]] = MappingProxyType({})
    speaker_disjoint: bool = True
    fit_files: tuple[str, ...] = ()

    @abc.abstractmethod
    def list_clips(self, root: Path, choices: Choices) -> Listing:
        """Every clip of the official layout under `root`, without reading sound or meshes.

        Raises:
          UserError: `root` is not this corpus; the message says which files were expected and what was found.
        """

    @abc.abstractmethod
    def make_record(self, clip: Clip, root: Path, out: Path) -> dict[str, Any]:
        """The record of a clip (sedtalker_jax.data.records). Runs in worker processes.

        Args:
          clip: one of the listing.
          root: the corpus.
          out: the record directory; the files of `fit` lie there.

        Raises:
          UserError: the clip is damaged or unusable; it is left out, counted, and named with this message in the manifest
            (LeftOutError: under a reason of its own).
        """

    def fit(self, clips: Sequence[Clip], root: Path, out: Path, workers: int, progress: bool) -> None:
        """Writes `fit_files` into `out` from the training clips, each under a temporary name and then renamed.

        Called once, before any record is made, unless all files are there.
        """
        raise NotImplementedError(f"{self.name} names fit_files but has no fit")

    def manifest(self, out: Path) -> Mapping[str, Any]:
        """What is known only after the build, such as fps, rank and topology of the face space."""
        return {}
