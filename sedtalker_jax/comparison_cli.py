"""The compare command: faces of several systems on one recording, side by side, with the emotion that drove each."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.errors import UNREADABLE_ARRAYS, UserError, about
from sedtalker_jax.face.mesh_files import MESH_SUFFIXES
from sedtalker_jax.face.template import check_triangles, load_template
from sedtalker_jax.face.video import Panel, write_panels
from sedtalker_jax.outputs import check_distinct, check_output, check_size


def add_parser(commands) -> None:
    """Adds the command to an argparse collection of subcommands."""
    compare = commands.add_parser(
        "compare",
        help="faces of several systems side by side in one video",
        description="Renders motions of one recording side by side, each with its name above it and, where its emotion is "
        "known, the strength of every emotion over time and a bar of the leading one below.",
    )
    compare.add_argument(
        "systems",
        nargs="+",
        metavar="NAME=FILE",
        help=".npz that animate wrote, or .npy of vertices, [F, V, 3] or flat [F, 3V], with --template",
    )
    compare.add_argument("--out", required=True, metavar="FILE", help=".mp4")
    compare.add_argument("--audio", metavar="FILE", help="the recording, for the sound")
    compare.add_argument("--template", metavar="FILE", help="mesh (.ply or .obj) whose triangles .npy files have")
    compare.add_argument(
        "--track",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="emotion of a .npy system, or the true one, as diarize writes tracks; may be given several times",
    )
    compare.add_argument("--fps", type=float, default=30.0, help="of .npy files (default: %(default)s)")
    compare.add_argument("--size", type=int, default=400, help="pixels of each face (default: %(default)s)")
    compare.set_defaults(run=run)


def _named(entries: list[str], flag: str) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for entry in entries:
        name, separator, path = entry.partition("=")
        if not separator or not name or name in named:
            raise UserError(f"{flag} {entry}: give each a name of its own, as NAME=FILE")
        named[name] = Path(path)
    return named


def read_panel(name: str, path: Path, template: str | None, track: Path | None, fps: float) -> tuple[Panel, float]:
    """A system's panel and its frames per second.

    Args:
      name: the title.
      path: .npz of `vertices`, and maybe `faces`, `fps` and a track, as animate writes them; or .npy of vertices.
      template: mesh with the triangles of files that have none.
      track: emotion track, None = the .npz file's own.
      fps: of files that do not know theirs.

    Raises:
      UserError: missing or damaged file, another topology than the template's, an emotion that no face has.
    """
    try:
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            vertices, faces, known = _checked(stored, path), None, None
        else:
            with stored:
                vertices, faces, known = _checked(stored["vertices"], path), None, None
                fps = float(stored["fps"]) if "fps" in stored else fps
                if "faces" in stored:
                    faces = check_triangles(stored["faces"], vertices.shape[1], path)
                if "labels" in stored:
                    grid = float(stored["track_frame_rate"]), float(stored["track_start"])
                    with about(path):
                        labels = tuple(map(str, stored["labels"]))
                        known = EmotionTrack(labels, stored["probabilities"], stored["intensity"], *grid)
    except UNREADABLE_ARRAYS as error:
        raise UserError(f"{path}: neither vertices nor what animate wrote ({error}); give a .npy or .npz file") from error
    if not 0 < fps < math.inf:
        raise UserError(f"{path}: moves at {fps:g} frames per second; write it again")
    if faces is None:
        if template is None or Path(template).suffix.lower() not in MESH_SUFFIXES:
            raise UserError(f"{path}: holds vertices alone; name a mesh with their triangles by --template FACE.ply")
        mesh = load_template(template)
        if vertices.shape[1] != len(mesh.vertices):
            raise UserError(f"{path}: {vertices.shape[1]} vertices, but {template} has {len(mesh.vertices)}")
        faces = mesh.faces
    if track is not None:
        known = EmotionTrack.load(track, duration=len(vertices) / fps)
    if known is not None:
        with about(path if track is None else track):
            # What is drawn; it is refused where a label has no colour nor place on a face.
            known.activation()
    return Panel(vertices, faces, known, name), fps


def _checked(vertices: np.ndarray, path: Path) -> np.ndarray:
    if vertices.ndim == 2 and vertices.shape[1] % 3 == 0:
        vertices = vertices.reshape(len(vertices), -1, 3)
    if vertices.ndim != 3 or vertices.shape[-1] != 3 or not vertices.size or not np.isfinite(vertices).all():
        raise UserError(f"{path}: shape {list(vertices.shape)} is no finite motion of vertices [F, V, 3]")
    return vertices


def run(arguments: argparse.Namespace) -> None:
    """compare: motions to a video."""
    from sedtalker_jax.axes import SAMPLE_RATE
    from sedtalker_jax.speech import load_audio

    target, size = check_output(arguments.out, (".mp4",)), check_size(arguments.size)
    if not arguments.fps > 0:
        raise UserError(f"--fps {arguments.fps:g}: must be more than 0")
    systems, tracks = _named(arguments.systems, "compare"), _named(arguments.track, "--track")
    check_distinct([target], (*systems.values(), *tracks.values(), arguments.audio, arguments.template))
    strangers = sorted(set(tracks) - set(systems))
    if strangers:
        raise UserError(f"--track {strangers[0]}: no system of that name; there are {', '.join(systems)}")
    panels, rates = [], {}
    for name, path in systems.items():
        panel, rates[name] = read_panel(name, path, arguments.template, tracks.get(name), arguments.fps)
        panels.append(panel)
    if len(set(rates.values())) > 1:
        raise UserError(
            f"the systems move at {', '.join(f'{rate:g} ({name})' for name, rate in rates.items())} fps; make them one"
        )
    fps = next(iter(rates.values()))
    lengths = [len(panel.vertices) for panel in panels]
    if max(lengths) - min(lengths) > 1:
        raise UserError(f"the systems have {', '.join(map(str, lengths))} frames: not one recording, or another frame rate")
    waveform = None if arguments.audio is None else load_audio(arguments.audio, sample_rate=SAMPLE_RATE)
    write_panels(target, panels, fps, waveform, size=size)
    print(f"{target}: {' | '.join(systems)}, {min(lengths)} frames at {fps:g} fps")
