"""What planning needs to know of every record without decoding its sound: length, speaker, label, loudness, where speech is.

`prepare` writes it beside the shards as {split}.index.npz; of a directory without one (the built-in world) it is read from
the records. The rows of several directories are put one after another, as data.mixing puts the records.
"""

from __future__ import annotations

import dataclasses
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sedtalker_jax.errors import UNREADABLE_ARRAYS, UserError

_TEXT = ("id", "corpus", "speaker", "session", "label", "sentence", "expression")
_NUMBERS = {
    "num_samples": np.int64,
    "start": np.int64,
    "stop": np.int64,
    "loudness_db": np.float64,
    "strength": np.float64,
    "sound": np.int64,
    "fps": np.float64,
}


@dataclasses.dataclass(frozen=True)
class RecordIndex:
    """Columns over the N records of a split, in their order.

    Attributes:
      id, corpus, speaker, session: [N] str.
      label: [N] str, the record's one emotion; '' where it has several (the built-in world) or none.
      num_samples: [N] int64.
      start, stop: [N] int64, samples of the first and after the last active sound; 0 and num_samples where not known.
      loudness_db: [N] float64, dBFS of the active frames; NaN where not known.
      sentence, expression: [N] str, what is said and what the face shows throughout; '' where not known or no face.
      strength: [N] float64, of the expression; NaN without one.
      sound: [N] int64, checksum of the audio: equal for clips over one recording (data.cross_fade).
      fps: [N] float64, animation frames per second; 0 without a face.
    """

    id: np.ndarray
    corpus: np.ndarray
    speaker: np.ndarray
    session: np.ndarray
    label: np.ndarray
    num_samples: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    loudness_db: np.ndarray
    sentence: np.ndarray
    expression: np.ndarray
    strength: np.ndarray
    sound: np.ndarray
    fps: np.ndarray

    def __len__(self) -> int:
        return len(self.num_samples)

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence]) -> RecordIndex:
        """From the rows that `index_row` gives."""
        names = [field.name for field in dataclasses.fields(cls)]
        columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
        kinds = {**dict.fromkeys(_TEXT, np.str_), **_NUMBERS}
        return cls(**{name: np.array(column, kinds[name]) for name, column in columns.items()})

    @classmethod
    def join(cls, parts: Sequence[RecordIndex]) -> RecordIndex:
        """The rows of several indices, one after another."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def nameable(self, labels: Sequence[str]) -> np.ndarray:
        """Which faces a model of these labels can be asked for, [N] bool: those of an expression that is unknown or a label.

        Where the labels lack it, all their strengths are zero, and the face would be taken for neutral.
        """
        return np.isin(self.expression, ["", *labels])

    def save(self, path: str | Path) -> None:
        """Writes an .npz file, whole or not at all."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        with temporary.open("wb") as file:
            np.savez_compressed(file, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path) -> RecordIndex:
        """Reads what `save` wrote.

        Raises:
          UserError: missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(**{field.name: stored[field.name] for field in dataclasses.fields(cls)})
        except UNREADABLE_ARRAYS as error:
            raise UserError(f"{path}: missing or damaged ({error}); build the directory again") from error


def index_name(split: str) -> str:
    """File name of a split's index."""
    return f"{split}.index.npz"


def index_row(record: Mapping[str, Any]) -> list:
    """The row of a record, column by column; JSON values."""
    num_samples = int(record["num_samples"])
    start, stop = record.get("speech_span", (0.0, num_samples / 16_000))
    labels = {segment[2] for segment in record["segments"]}
    label = labels.pop() if len(labels) == 1 else ""
    texts = [record["id"], record["corpus"], record["speaker"], record.get("session", ""), label]
    span = [max(0, round(start * 16_000)), min(num_samples, round(stop * 16_000))]
    face = [str(record.get("sentence", "")), record.get("expression", ""), record.get("strength", float("nan"))]
    sound = zlib.crc32(np.ascontiguousarray(record.get("audio", np.zeros(0, np.uint8))))
    return [*texts, num_samples, *span, record.get("loudness_db", float("nan")), *face, sound, float(record["fps"])]
