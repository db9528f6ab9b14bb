"""Emotion embeddings given from outside, one vector per recording: what a diarizer reads instead of hearing the sound.

One .npz file: clip id -> float [C], the vector that another model, such as emotion2vec, gives of the whole recording, of one
size C for all. A linear map takes it to the diarizer's own embedding, so columns of about unit variance learn best. Whoever
brings an encoder writes its vectors this way and names the file in `PipelineConfig.embeddings`:

    records = every_record(["records/ravdess", "records/emovoca"])  # sedtalker_jax.data.mixing: all clips of all splits
    write_given_embeddings("emotion2vec.npz", {record["id"]: encoder(record["waveform"]) for record in records})

A vector belongs to a recording as a whole: nothing of it changes with time. numpy only: data workers read it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from sedtalker_jax.data.clip_arrays import clip_array, clip_arrays, write_clip_arrays
from sedtalker_jax.data.index import RecordIndex
from sedtalker_jax.errors import UNREADABLE_ARRAYS, UserError


def write_given_embeddings(path: str | os.PathLike, embeddings: Mapping[str, Float[np.ndarray, " C"]]) -> None:
    """Writes clip id -> embedding; appears whole or not at all.

    Raises:
      UserError: embeddings that `given_embedding` would refuse.
    """
    arrays = {clip: np.asarray(value, np.float32) for clip, value in embeddings.items()}
    size = _size(arrays, path)
    for clip, embedding in arrays.items():
        _check(embedding, size, f"{path}: the embedding of clip {clip}")
    write_clip_arrays(path, arrays)


def given_embedding_size(path: str | os.PathLike) -> int:
    """Size C of the embeddings in a file.

    Raises:
      UserError: no or no readable file, or an empty one.
    """
    return _size(clip_arrays(path, "embedding"), path)


def given_embedding(path: str | os.PathLike, clip: str) -> Float[np.ndarray, " C"]:
    """The embedding of a clip in a file of given embeddings, float32.

    Raises:
      UserError: no or no readable file, no embedding for this clip, or one that is no vector of finite numbers or of another
        size than the file's first one.
    """
    embedding = np.asarray(clip_array(path, clip, "embedding"))
    _check(embedding, given_embedding_size(path), f"{path}: the embedding of clip {clip}")
    return embedding.astype(np.float32)


def read_embedding(path: str | os.PathLike) -> Float[np.ndarray, " C"]:
    """The embedding of one recording from an .npy file, float32.

    Raises:
      UserError: no readable .npy file, or no vector of finite numbers in it.
    """
    try:
        embedding = np.load(path, allow_pickle=False)
    except UNREADABLE_ARRAYS as error:
        raise UserError(f"{path}: no .npy file of an embedding ({error}); write one vector with numpy.save") from error
    if not isinstance(embedding, np.ndarray):
        raise UserError(f"{path}: holds several arrays; an embedding is one vector, an .npy file that numpy.save writes")
    _check(embedding, embedding.size, f"{path}: the embedding")
    return embedding.astype(np.float32)


def checked_embedding(embedding: Float[np.ndarray, " C"] | None, size: int) -> Float[np.ndarray, " C"] | None:
    """An embedding as a model's diarizer reads it, float32; None where it hears the sound.

    Args:
      embedding: of one recording.
      size: of what the diarizer reads; 0 = it hears, or there is none.

    Raises:
      UserError: there is one and it reads none, or there is none, or one of another size, and it does.
    """
    if not size and embedding is not None:
        raise UserError("this checkpoint reads no embedding of a recording; leave out --embedding and pipeline.embeddings")
    if not size:
        return None
    if embedding is None:
        raise UserError(
            f"this checkpoint hears no emotion in the sound, it reads an embedding of {size} numbers for each recording: give "
            "--embedding FILE.npy (from Python given_embedding), or to evaluate.py --config.pipeline.embeddings=FILE.npz"
        )
    embedding = np.asarray(embedding)
    _check(embedding, size, "the recording's embedding")
    return embedding.astype(np.float32)


class RecordsWithEmbeddings(Sequence):
    """The records of a reader, each with its vector of a file under "given_embedding". Pickles to data workers.

    Args:
      reader: as RecordReader or MixedReader.
      path: of a file of given embeddings; a record whose clip it lacks is an error when it is read.
    """

    def __init__(self, reader: Any, path: str | os.PathLike) -> None:
        self._reader, self._path = reader, path

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._reader[index]
        return {**record, "given_embedding": given_embedding(self._path, record["id"])}

    def index(self) -> RecordIndex:
        """As RecordReader.index."""
        return self._reader.index()


def with_given_embeddings(records: Sequence, path: str | os.PathLike) -> Sequence:
    """The records, with their vectors if a file is named; "" leaves them as they are."""
    return RecordsWithEmbeddings(records, path) if path else records


def check_embeddings(path: str | os.PathLike, clips: Iterable[str]) -> None:
    """Finds out before training whether a file has what it needs.

    Raises:
      UserError: as `given_embedding`, for the first clip that lacks one.
    """
    for clip in clips:
        given_embedding(path, clip)


def _size(embeddings: Mapping[str, np.ndarray], path: str | os.PathLike) -> int:
    if not embeddings:
        raise UserError(f"{path}: holds no embedding; write clip id -> vector with write_given_embeddings")
    return next(iter(embeddings.values())).size


def _check(embedding: np.ndarray, size: int, what: str) -> None:
    if embedding.dtype.kind not in "fiu" or embedding.shape != (size,):
        raise UserError(f"{what} must be one vector of {size} numbers, not {embedding.dtype} {embedding.shape}")
    if not np.isfinite(embedding).all():
        raise UserError(f"{what} has numbers that are not finite")
