"""One call from directories of files to a table, metrics.json and a page: what `evaluate.py --predictions` runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sedtalker_jax.errors import UNREADABLE_ARRAYS, UserError
from sedtalker_jax.evaluation import report
from sedtalker_jax.evaluation.face_files import animation_regions
from sedtalker_jax.evaluation.peers import PeerScores, find_motion_files, score_directories
from sedtalker_jax.evaluation.table import write_metrics_json
from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
from sedtalker_jax.face.mesh_files import MESH_SUFFIXES, read_templates


def evaluate_directories(
    predictions: Sequence[str],
    references: str | os.PathLike,
    regions: str | os.PathLike,
    out: str | os.PathLike | None = None,
    *,
    num_vertices: int | None = None,
    templates: str | os.PathLike | None = None,
    basis: str | os.PathLike | None = None,
    lip_points: tuple[int, int] | None = None,
    fps: float = 30.0,
    reference_fps: float | None = None,
    metres_per_unit: float = 1.0,
    num_resamples: int = 1_000,
) -> PeerScores:
    """Scores directories of motion against references and writes metrics.json, report.html and plots into `out`.

    Args:
      predictions: directories, or NAME=DIRECTORY; the first is the system under test. A directory's name is its system's name.
      references: directory of true motion.
      regions: region file or folder (mesh_files.read_regions): FLAME_masks.pkl, regions/, face_space.npz.
      out: directory for the results; None writes nothing.
      num_vertices: of the mesh; by default read from the templates or from the first reference's last axis.
      templates: templates.pkl, an .npz, a mesh or a folder of meshes (mesh_files.read_templates); without, no FDD.
      basis: .npz of blendshapes for files of weights (BlendshapeBasis.load).
      lip_points: upper and lower middle of the lips (face_files.animation_regions).
      fps, reference_fps, metres_per_unit, num_resamples: as in peers.score_directories.

    Raises:
      UserError: whatever is missing or does not fit, naming the file.
    """
    systems = _named(predictions)
    neutral = None if templates is None else read_templates(templates)
    if num_vertices is None:
        num_vertices = len(next(iter(neutral.values()))) if neutral else _count_vertices(references)
    shapes = None if basis is None else BlendshapeBasis.load(basis)
    chosen = animation_regions(regions, num_vertices, lip_points=lip_points)
    scores = score_directories(
        systems,
        references,
        chosen,
        fps=fps,
        reference_fps=reference_fps,
        templates=neutral,
        basis=shapes,
        metres_per_unit=metres_per_unit,
        num_resamples=num_resamples,
    )
    if out is not None:
        _write(scores, Path(out), systems, references, fps, neutral, templates, metres_per_unit)
    return scores


def _write(scores: PeerScores, out: Path, systems, references, fps, neutral, templates, metres_per_unit) -> None:
    info: dict[str, object] = {name: str(directory) for name, directory in systems.items()}
    info |= {"references": str(references), "fps": fps, "clips": len(scores.clips)}
    tables = {"animation": scores.table}
    if scores.differences is not None:
        tables["differences"] = scores.differences
    figures = {
        "error_over_time": report.error_over_time_figure(
            scores.error_curves_m2, fps, f"Largest lip error per frame: {scores.curve_clip}"
        )
    }
    if scores.lip_distance_m:
        title = f"Lip distance: {scores.curve_clip}"
        figures["lip_distance"] = report.lip_distance_figure(scores.lip_distance_m, fps, title=title)
    if neutral:
        vertices = next(iter(neutral.values())) * metres_per_unit
        figures["heat_map"] = report.heat_map_figure(vertices, scores.vertex_error_mm, _triangles(templates))
    write_metrics_json(out / "metrics.json", tables, info)
    for name, figure in figures.items():
        report.save_figure(figure, out / "plots" / f"{name}.png")
    report.write_report(out / "report.html", "Scores of files", list(tables.values()), figures, info)


def _named(predictions: Sequence[str]) -> dict[str, str]:
    systems: dict[str, str] = {}
    for entry in predictions:
        name, separator, directory = str(entry).partition("=")
        if not separator:
            name, directory = Path(entry).resolve().name, str(entry)
        if not name or name in systems or name == "truth":
            raise UserError(f"--predictions {entry}: give every system a name of its own, as NAME=DIRECTORY (not 'truth')")
        systems[name] = directory
    if not systems:
        raise UserError("no directory of predictions was given")
    return systems


def _count_vertices(references: str | os.PathLike) -> int:
    first = next(iter(find_motion_files(references).values()))[0]
    if first.is_dir():
        raise UserError(f"{references}: give the templates, or the number of vertices, for sequences of meshes")
    try:
        shape = np.load(first, mmap_mode="r", allow_pickle=False).shape
    except UNREADABLE_ARRAYS as error:
        raise UserError(f"{first}: not a .npy file of numbers ({error})") from error
    if len(shape) >= 3 and shape[-1] == 3:
        return shape[-2]
    if len(shape) < 2 or shape[-1] % 3:
        raise UserError(f"{first}: an array of shape {list(shape)} is no motion of vertices")
    return shape[-1] // 3


def _triangles(templates: str | os.PathLike | None) -> np.ndarray | None:
    # Only mesh files know their triangles; without them the heat map is drawn as dots.
    source = Path(templates) if templates is not None else None
    if source is None:
        return None
    meshes = [source] if source.is_file() else sorted(source.iterdir())
    for mesh in meshes:
        if mesh.suffix.lower() in MESH_SUFFIXES:
            from sedtalker_jax.face.template import load_template

            return np.asarray(load_template(mesh).faces)
    return None
