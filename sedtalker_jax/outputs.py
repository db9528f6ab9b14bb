"""Files that the commands write: refused before any work is done, whole or not at all."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sedtalker_jax.axes import WaveformArray
from sedtalker_jax.errors import UserError

if TYPE_CHECKING:
    from sedtalker_jax.inference.pipeline import Animation

ANIMATION_SUFFIXES = (".mp4", ".npy", ".npz")
TRACK_SUFFIXES = (".rttm", ".json", ".csv", ".TextGrid", ".txt", ".npz")


def check_output(path: str | os.PathLike, suffixes: Sequence[str]) -> pathlib.Path:
    """Finds out before any work is done whether an output can be written.

    Raises:
      UserError: unknown suffix, missing or unwritable folder, or a folder stands where the file should go.
    """
    target = pathlib.Path(path)
    try:
        if target.is_dir():
            raise UserError(f"{target}: is a folder; name a file")
    except OSError as error:
        raise UserError(f"{target}: can't write there ({error.strerror}); choose another place") from error
    if target.suffix.lower() not in {suffix.lower() for suffix in suffixes}:
        raise UserError(
            f"{target}: unknown kind of output {target.suffix or '(no suffix)'!r}; use one of {', '.join(suffixes)}"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Asking the file system is the only reliable test: permission bits mean nothing to a superuser or on a read-only mount.
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".sedtalker-"):
            pass
    except OSError as error:
        raise UserError(f"{target}: can't write there ({error.strerror}); choose another place") from error
    return target


def check_distinct(outputs: Iterable[str | os.PathLike | None], inputs: Iterable[str | os.PathLike | None] = ()) -> None:
    """Finds out before any work is done whether a command would write a file twice, or over what it reads.

    Args:
      outputs, inputs: files, however they are spelt; None stands for a flag that is not given.

    Raises:
      UserError: it would.
    """
    known = {os.path.realpath(path): "reads" for path in inputs if path is not None}
    for path in outputs:
        if path is None:
            continue
        place = os.path.realpath(path)
        if place in known:
            raise UserError(f"{path}: the same command {known[place]} it; name another file to write")
        known[place] = "writes"


def check_size(size: int) -> int:
    """The --size of a picture or video, in pixels.

    Raises:
      UserError: it is too small to see or too large to make.
    """
    if not 64 <= size <= 4096:
        raise UserError(f"--size {size}: must lie between 64 and 4096 pixels")
    return size


def write_animation(path: str | os.PathLike, animation: Animation, waveform: WaveformArray, *, size: int = 512) -> None:
    """Writes a moving face: .mp4 with sound and the track drawn under it, .npy (vertices) or .npz (everything).

    Args:
      path: one of ANIMATION_SUFFIXES.
      animation: of the waveform.
      waveform: float [S] at 16 kHz.
      size: pixels of the video's face.

    Raises:
      UserError: rendering is not possible here, or the place can't be written.
    """
    import numpy as np

    from sedtalker_jax.emotion.formats import replace_when_complete

    target = pathlib.Path(path)
    if target.suffix.lower() == ".mp4":
        from sedtalker_jax.face.video import write_video

        moving = animation.vertices, animation.faces, animation.fps
        write_video(target, *moving, waveform=waveform, track=animation.track, size=size)
        return
    with replace_when_complete(target) as temporary, temporary.open("wb") as file:
        if target.suffix.lower() == ".npy":
            np.save(file, animation.vertices)
            return
        np.savez_compressed(
            file,
            vertices=animation.vertices,
            faces=animation.faces,
            fps=animation.fps,
            labels=np.array(animation.track.labels),
            probabilities=animation.track.probabilities,
            intensity=animation.track.intensity,
            track_frame_rate=animation.track.frame_rate,
            track_start=animation.track.start,
        )
