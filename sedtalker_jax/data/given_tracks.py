"""Emotion conditions given from outside, clip by clip: what drives a face in training and scoring instead of its record's own.

One .npz file: clip id -> float16 [F, K - 1], the strength in [0, 1] of every non-neutral emotion (columns in the order of
sedtalker_jax.emotion.labels.ACTIVE) at the clip's animation frames f / fps. Whoever brings another diarizer writes its
activations this way and names the file in `PipelineConfig.tracks`:

    activation = EmotionTrack.load("clip-7.rttm").at_times(np.arange(F) / fps).activation
    write_given_tracks("tracks.npz", {"clip-7": activation, ...})

numpy only: data workers read it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from sedtalker_jax.data.clip_arrays import clip_array, write_clip_arrays
from sedtalker_jax.emotion.labels import ACTIVE
from sedtalker_jax.errors import UserError


def write_given_tracks(path: str | os.PathLike, activations: Mapping[str, Float[np.ndarray, "F K-1"]]) -> None:
    """Writes clip id -> activation; appears whole or not at all.

    Raises:
      UserError: an activation that `given_track` would refuse.
    """
    for clip, activation in activations.items():
        _check(np.asarray(activation), clip, path)
    write_clip_arrays(path, {clip: np.asarray(value, np.float16) for clip, value in activations.items()})


def given_track(path: str | os.PathLike, record: Mapping[str, Any], num_frames: int) -> Float[np.ndarray, "F K-1"]:
    """The activation of a record in a file of given tracks, float32.

    Args:
      path: the file.
      record: its `id` is looked up.
      num_frames: animation frames of the record; more in the file are cut off.

    Raises:
      UserError: no or no readable file, no track for this clip, or one that is too short, has other columns than ACTIVE, or
        values outside [0, 1].
    """
    clip = record["id"]
    activation = clip_array(path, clip, "track")
    _check(activation, clip, path)
    if len(activation) < num_frames:
        raise UserError(
            f"{path}: the track of clip {clip} has {len(activation)} frames and the clip {num_frames}; "
            "a track has one row for every animation frame f / fps"
        )
    return activation[:num_frames].astype(np.float32)


def check_tracks(path: str | os.PathLike, clips: Iterable[str]) -> None:
    """Finds out before training whether a file has what it needs, but for the length of the tracks.

    Raises:
      UserError: as `given_track`, for the first clip that lacks one.
    """
    for clip in clips:
        given_track(path, {"id": clip}, 0)


def _check(activation: np.ndarray, clip: str, path: str | os.PathLike) -> None:
    if activation.ndim != 2 or activation.shape[1] != len(ACTIVE):
        raise UserError(
            f"{path}: the track of clip {clip} must be [F, {len(ACTIVE)}] ({', '.join(ACTIVE)}), not {activation.shape}"
        )
    if not (np.isfinite(activation).all() and activation.min(initial=0) >= 0 and activation.max(initial=0) <= 1):
        raise UserError(f"{path}: the track of clip {clip} has strengths outside [0, 1]")
