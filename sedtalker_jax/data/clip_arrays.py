"""Files that people bring: one .npz of arrays by clip id, named by a field of config.pipeline.

numpy only: data workers read them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sedtalker_jax.emotion.formats import replace_when_complete
from sedtalker_jax.errors import UNREADABLE_ARRAYS, UserError


def write_clip_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes clip id -> array; appears whole or not at all."""
    with replace_when_complete(Path(path)) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def clip_array(path: str | os.PathLike, clip: str, kind: str) -> np.ndarray:
    """The array of one clip.

    Args:
      path: the file.
      clip: id of a record.
      kind: what the arrays are, "track" or "embedding", for messages.

    Raises:
      UserError: as `clip_arrays`, or nothing for this clip.
    """
    arrays = clip_arrays(path, kind)
    if clip not in arrays:
        known = next(iter(arrays), "none")
        raise UserError(
            f"{path}: no {kind} for clip {clip} ({len(arrays)} others, such as {known}); add it, or choose other data"
        )
    return arrays[clip]


def clip_arrays(path: str | os.PathLike, kind: str) -> Mapping[str, np.ndarray]:
    """All arrays of a file by clip id. Read once; a file that was written again is read again.

    Raises:
      UserError: no or no readable file.
    """
    try:
        changed = os.stat(path).st_mtime_ns
    except OSError as error:
        raise UserError(
            f"{path}: {kind}s can't be read ({error.strerror}); name a file in pipeline.{kind}s or leave it empty"
        ) from error
    try:
        return _load(str(path), changed)
    except UNREADABLE_ARRAYS as error:
        raise UserError(f"{path}: no .npz file of {kind}s ({error}); write it with write_given_{kind}s") from error


@functools.lru_cache(maxsize=4)
def _load(path: str, changed: int) -> Mapping[str, np.ndarray]:
    del changed  # a part of the key only
    with np.load(path, allow_pickle=False) as stored:
        return {clip: stored[clip] for clip in stored.files}
