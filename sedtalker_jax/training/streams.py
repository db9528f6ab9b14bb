"""Where a run's batches come from: one stream of clips with voice and face together, or one of each kind side by side."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from sedtalker_jax.data.cross_fade import same_recording
from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.data.given_embeddings import with_given_embeddings
from sedtalker_jax.data.mixing import hold_out, num_records, open_records, spread
from sedtalker_jax.data.pipeline import Batch, PipelineConfig, TrainBatches, iterate, make_example, pad_batch
from sedtalker_jax.errors import UserError

PARTS = {"directory": ("speech", "face"), "speech": ("speech",), "face": ("face",)}
"""What the record directories under a name of config.data feed: parts of a batch. Of `directory`, both parts of one row."""

HALVES = {"speech": "diarizer", "face": "animator"}
"""Which half of a model learns from a part of a batch."""


@dataclasses.dataclass(frozen=True)
class Stream:
    """Record directories and how their clips become the rows of a batch.

    Attributes:
      parts: "speech", "face", or both.
      directories: finished record directories.
      pipeline: sizes.
    """

    parts: tuple[str, ...]
    directories: tuple[str, ...]
    pipeline: PipelineConfig

    def train_batches(self, codec: FaceCodec | None, labels: Sequence[str], start: int, stop: int) -> Iterator[Batch]:
        """This process's rows of the training batches start ... stop - 1."""
        batches = TrainBatches(
            self._open("train"),
            codec if "face" in self.parts else None,
            labels,
            self.pipeline,
            start=start,
            stop=stop,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        iterator = iterate(batches, self.pipeline)
        with contextlib.closing(iterator) if hasattr(iterator, "close") else contextlib.nullcontext():
            for batch in iterator:
                yield self._take(batch)

    def valid_batches(self, codec: FaceCodec | None, labels: Sequence[str], num_clips: int) -> list[Batch]:
        """Clips spread evenly over the validation split, whose corpora and speakers follow one another; no randomness.

        Faces whose expression the labels lack are left out, as in training. Rows that only fill up a batch weigh nothing.
        There are none where the directories have no validation split.
        """
        if not num_records(self.directories, "valid"):
            return []
        reader = self._open("valid")
        rng = np.random.default_rng(0)
        codec = codec if "face" in self.parts else None
        clips = np.arange(len(reader))
        if codec is not None:
            clips = np.flatnonzero(reader.index().nameable(labels))
        chosen = clips[spread(len(clips), num_clips)]
        examples = [make_example(reader[int(i)], codec, labels, self.pipeline, rng, training=False) for i in chosen]
        size = self.pipeline.batch_size
        batches = []
        for start in range(0, len(examples), size):
            rows = examples[start : start + size]
            batch = pad_batch(rows + [rows[0]] * (size - len(rows)), self.pipeline.max_seconds, codec)
            batches.append(self._take(_without_rows_after(batch, len(rows))))
        return batches

    def _open(self, split: str) -> Sequence:
        return with_given_embeddings(open_records(self.directories, split), self.pipeline.embeddings)

    def fading_clips(self, labels: Sequence[str]) -> tuple[int, int] | None:
        """(training faces with several expressions of their recording, all training faces); None where nothing is to fade.

        Both are of the faces that the labels can name.
        """
        if "face" not in self.parts or self.pipeline.cross_fade is None:
            return None
        index = open_records(self.directories, "train", decode_audio=False).index()
        wanted = index.nameable(labels)
        return sum(len(rows) for rows in same_recording(index, wanted)), int(wanted.sum())

    def _take(self, batch: Batch) -> Batch:
        """The parts that this stream feeds. A face without a speech part brings its own sound."""
        if self.parts == ("face",):
            names = ("waveform", "lengths", "given_embedding")
            return {"face": {**batch["face"], **{name: batch["speech"][name] for name in names if name in batch["speech"]}}}
        return {part: batch[part] for part in self.parts}


def streams_of(data: ConfigDict, pipeline: ConfigDict, halves: Sequence[str] | None = None) -> tuple[Stream, ...]:
    """The streams that config.data names under `directory` (voice and face of the same clips) or `speech` and `face`.

    The corpus that config.data.held_out names is left out of `speech`: leave-one-corpus-out.

    Args:
      data, pipeline: parts of an experiment's config.
      halves: of the model to train, from HALVES: each must be fed, and of `directory` a half alone takes its own part. None,
        for scoring, takes what is named.

    Raises:
      ValueError: none is named, or `directory` together with another.
      UserError: no directory of `speech` holds the corpus to leave out, or none is left; tracks without faces to drive;
        records for a half that the model lacks, or none for one that it has.
    """
    named = {name: _paths(data.get(name)) for name in PARTS}
    if data.get("held_out"):
        named["speech"] = tuple(hold_out(named["speech"], data.held_out)[0])
    named = {name: paths for name, paths in named.items() if paths}
    if not named or ("directory" in named and len(named) > 1):
        raise ValueError(f"config.data names {sorted(named) or 'no records'}; expected directory, or speech, face, or both")
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in pipeline.to_dict().items()}
    sizes = PipelineConfig(**plain)
    if sizes.tracks and not {"directory", "face"} & set(named):
        raise UserError(f"pipeline.tracks drives faces, and config.data names none; leave out {sizes.tracks}")
    # Joined utterances have no face, a voice does not fade into another emotion, and nobody gave the track of a fade.
    voices, faces = dataclasses.replace(sizes, cross_fade=None), dataclasses.replace(sizes, joins=None)
    faces = dataclasses.replace(faces, cross_fade=None) if sizes.tracks else faces
    parts = {name: PARTS[name] if halves is None else _parts_for(name, halves) for name in named}
    for part, half in HALVES.items():
        if halves is not None and half in halves and not any(part in own for own in parts.values()):
            kind, other = ("voices", "animator") if part == "speech" else ("faces", "diarizer")
            raise UserError(
                f"config.data names no {kind}, from which model.{half} learns; give data.{part}, "
                f"or a config without {half} (configs/{other}.py)"
            )
    return tuple(Stream(parts[name], paths, voices if "face" not in parts[name] else faces) for name, paths in named.items())


def _parts_for(name: str, halves: Sequence[str]) -> tuple[str, ...]:
    """What a model of these halves takes from the records under a name of config.data. Raises UserError if nothing."""
    parts = tuple(part for part in PARTS[name] if HALVES[part] in halves)
    if not parts:
        raise UserError(f"config.data.{name}: the model has no {HALVES[name]} to learn from it; leave it empty")
    return parts


def held_out_directories(data: ConfigDict) -> tuple[str, ...]:
    """The directories of the corpus that config.data.held_out names; none without one. All of their splits are a test set.

    Raises:
      UserError: as `streams_of`.
    """
    return tuple(hold_out(_paths(data.get("speech")), data.held_out)[1]) if data.get("held_out") else ()


def _paths(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if not value:
        return ()
    return tuple(path for path in value.split(",") if path) if isinstance(value, str) else tuple(value)


def _without_rows_after(batch: Batch, count: int) -> Batch:
    """Gives the rows that only fill up a batch zero weight."""
    keep = np.arange(len(batch["speech"]["seed"])) < count
    speech = dict(batch["speech"])
    for name in {"emotion", "level"} & set(speech):
        speech[name] = np.where(keep[:, None], speech[name], -1)
    for name in ("intensity_mask", "boundary_mask"):
        speech[name] = speech[name] * keep[:, None]
    if "face" not in batch:
        return {"speech": speech}
    face = dict(batch["face"])
    face["num_frames"] = face["num_frames"] * keep
    return {"speech": speech, "face": face}
