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
    from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
    from sedtalker_jax.inference.pipeline import Animation

ANIMATION_SUFFIXES = (".mp4", ".npy", ".npz", ".glb", ".usd", ".usda", ".usdc", ".csv")
ANIMATION_HELP = (
    ".mp4 (video with sound), .npy (vertices [F, V, 3] in metres), .npz (vertices, faces, fps, emotion track), .glb (glTF) or "
    ".usd .usda .usdc (OpenUSD) with named blendshapes, .csv (ARKit weights as Live Link Face records them)"
)
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


def write_animation(
    path: str | os.PathLike,
    animation: Animation,
    waveform: WaveformArray,
    *,
    size: int = 512,
    basis: BlendshapeBasis | None = None,
) -> str:
    """Writes a moving face in the form that the suffix names; ANIMATION_HELP says which there are.

    Returns what a user should know of it in one line: how many frames, and of blendshapes how much of the motion they leave.

    Args:
      path: one of ANIMATION_SUFFIXES.
      animation: of the waveform.
      waveform: float [S] at 16 kHz.
      size: pixels of the video's face.
      basis: blendshapes of the face, for .csv, .glb and .usd; None takes the built-in rig where it fits, and else leaves those
        of .glb and .usd without names.

    Raises:
      UserError: rendering is not possible here, no blendshapes for a .csv, or the place can't be written.
    """
    target = pathlib.Path(path)
    suffix = target.suffix.lower()
    vertices, faces, fps = animation.vertices, animation.faces, animation.fps
    report = f"{target}: {len(vertices)} frames at {fps:g} fps, {len(waveform) / 16_000:.2f} s"
    if suffix == ".mp4":
        from sedtalker_jax.face.video import write_video

        write_video(target, vertices, faces, fps, waveform=waveform, track=animation.track, size=size)
    elif suffix == ".csv":
        from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
        from sedtalker_jax.face.live_link import write_live_link

        basis = basis or BlendshapeBasis.known(animation.template)
        if basis is None:
            raise UserError(f"{target}: blendshape weights need blendshapes of the face")
        # Shapes that the file has no place for must neither take part of the motion nor count as explaining it.
        basis = basis.arkit_only()
        motion = vertices - animation.template.vertices
        weights = basis.weights(motion)
        write_live_link(target, basis, weights, fps)
        report += f"; blendshapes leave {basis.residual(motion, weights):.2f} of {basis.residual(motion):.2f} mm of the motion"
    elif suffix in (".npy", ".npz"):
        _write_arrays(target, animation)
    else:
        from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
        from sedtalker_jax.face.gltf import write_gltf
        from sedtalker_jax.face.morph_targets import MorphTargets
        from sedtalker_jax.face.usd import write_usd

        basis = basis or BlendshapeBasis.known(animation.template)
        targets = MorphTargets.of(vertices, animation.template.vertices, basis)
        if suffix == ".glb":
            write_gltf(target, targets, faces, fps)
        else:
            write_usd(target, targets, faces, fps, animation.track)
        named = 0 if basis is None else len(basis.shape_names)
        report += f"; {named} named shapes and {len(targets.names) - named} of detail"
    return report


def _write_arrays(target: pathlib.Path, animation: Animation) -> None:
    import numpy as np

    from sedtalker_jax.emotion.formats import replace_when_complete

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
