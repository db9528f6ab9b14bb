"""Reads what describes a face in other people's projects: templates, regions, masks; without executing pickled code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.animation_evaluation import AnimationRegions
from sedtalker_jax.evaluation.animation_metrics import read_vertex_list
from sedtalker_jax.evaluation.lip_metrics import FLAME_LIP_POINTS

MESH_SUFFIXES = (".ply", ".obj")

FLAME_NUM_VERTICES = 5_023


def read_templates(path: str | os.PathLike) -> dict[str, Float[np.ndarray, "V 3"]]:
    """Subject -> neutral vertices, from templates.pkl (VOCASET, BIWI), an .npz of arrays, or a folder of meshes.

    The pickle is read without executing anything from it: only numpy arrays, strings and containers are let through.

    Raises:
      UserError: missing file, a pickle that asks for other code, arrays that are no vertices.
    """
    source = Path(path)
    if source.is_dir():
        found = {mesh.stem: mesh_vertices(mesh) for mesh in sorted(source.iterdir()) if mesh.suffix.lower() in MESH_SUFFIXES}
        if not found:
            raise UserError(f"{source}: holds no .ply or .obj template")
        return found
    if source.suffix == ".npz":
        arrays: Mapping[str, object] = load_npz(source)
    elif source.suffix in (".pkl", ".pickle"):
        arrays = _load_pickled_arrays(source)
    else:
        return {source.stem: mesh_vertices(source)}
    try:
        return {str(name): np.asarray(value, np.float64).reshape(-1, 3) for name, value in arrays.items()}
    except (ValueError, TypeError) as error:
        raise UserError(f"{source}: its arrays are not vertices [V, 3] ({error})") from error


def read_regions(path: str | os.PathLike, num_vertices: int) -> dict[str, Int[np.ndarray, " v"]]:
    """Region name -> vertex indices, from FLAME_masks.pkl, an .npz (face_space.npz's `region_<name>` too), or a folder of
    vertex lists (`regions/lve.txt`, `fdd.txt`), whose names are those of its files.

    Raises:
      UserError: missing or malformed files, indices outside the mesh.
    """
    source = Path(path)
    if source.is_dir():
        lists = sorted(file for file in source.iterdir() if file.suffix in (".txt", ".npy"))
        if not lists:
            raise UserError(f"{source}: holds no vertex lists (.txt or .npy)")
        return {file.stem: read_vertex_list(file, num_vertices) for file in lists}
    if source.suffix in (".pkl", ".pickle"):
        arrays: Mapping[str, object] = _load_pickled_arrays(source)
    elif source.suffix == ".npz":
        arrays = load_npz(source)
        if any(name.startswith("region_") for name in arrays):
            arrays = {name.removeprefix("region_"): value for name, value in arrays.items() if name.startswith("region_")}
    else:
        return {source.stem: read_vertex_list(source, num_vertices)}
    regions = {}
    for name, value in arrays.items():
        indices = np.unique(np.asarray(value).ravel())
        if not len(indices):
            continue
        if not np.issubdtype(indices.dtype, np.integer) or indices[0] < 0 or indices[-1] >= num_vertices:
            raise UserError(f"{source}: region {name} is no list of vertices of a mesh of {num_vertices}")
        regions[str(name)] = indices.astype(np.int64)
    if not regions:
        raise UserError(f"{source}: holds no regions")
    return regions


def animation_regions(
    path: str | os.PathLike,
    num_vertices: int,
    *,
    lips: Sequence[str] | None = None,
    emotional: Sequence[str] | None = None,
    upper_face: Sequence[str] | None = None,
    lip_points: tuple[int, int] | None = None,
) -> AnimationRegions:
    """Vertex sets for scores from a region file, chosen by name; what is left out goes by the names in common use.

    lips: `lips`, else `lve`. emotional: `eye_region` with `forehead`. upper_face: `upper_face`, else `fdd`, else `forehead`
    with `eye_region`. A file called `vocaset_lve.txt` counts as `lve`. Only the lips are needed. The names and counts stand in
    the note under the table.

    Args:
      lip_points: upper and lower middle of the lips; by default the file's `upper_lip_middle` and `lower_lip_middle`, else
        FLAME_LIP_POINTS on FLAME's 5,023 vertices, else no lip distance is measured.

    Raises:
      UserError: a named region is missing, or there are no lips.
    """
    regions = read_regions(path, num_vertices)

    def union(wanted: Sequence[str] | None, usual: Sequence[Sequence[str]]) -> tuple[str, np.ndarray] | None:
        choices = [wanted] if wanted is not None else usual
        for names in choices:
            found = [name for name in (_region_name(name, regions) for name in names) if name is not None]
            if len(found) == len(names):
                return "+".join(found), np.unique(np.concatenate([regions[name] for name in found]))
        if wanted is not None:
            raise UserError(f"{path}: no region {', '.join(wanted)}; it has {', '.join(sorted(regions))}")
        return None

    lip_choice = union(lips, [("lips",), ("lve",)])
    if lip_choice is None:
        raise UserError(f"{path}: no region 'lips' or 'lve'; name one of {', '.join(sorted(regions))}")
    found = {
        "lips": lip_choice,
        "emotional": union(emotional, [("eye_region", "forehead")]),
        "upper_face": union(upper_face, [("upper_face",), ("fdd",), ("forehead", "eye_region")]),
    }
    upper, lower = regions.get("upper_lip_middle"), regions.get("lower_lip_middle")
    if lip_points is None and upper is None and num_vertices == FLAME_NUM_VERTICES:
        lip_points = FLAME_LIP_POINTS
    if lip_points is not None:
        upper, lower = (np.array([point], np.int64) for point in lip_points)
    used = ", ".join(f"{role} = {choice[0]}" for role, choice in found.items() if choice is not None)
    sets = {role: None if choice is None else choice[1] for role, choice in found.items()}
    name = f"{Path(path).name} ({used})"
    return AnimationRegions(name, lip_choice[1], sets["emotional"], sets["upper_face"], upper, lower, num_vertices)


def _region_name(wanted: str, regions: Mapping[str, object]) -> str | None:
    if wanted in regions:
        return wanted
    ending = [name for name in regions if name.endswith(f"_{wanted}")]
    # Two candidates (left_eye_region and right_eye_region) are no answer.
    return ending[0] if len(ending) == 1 else None


def mesh_vertices(path: Path) -> Float[np.ndarray, "V 3"]:
    """Vertices of one .ply, .obj or .npy file."""
    # Imported here: the mesh reader brings a graphics library that scores of arrays do not need.
    from sedtalker_jax.face.template import load_template

    return np.asarray(load_template(path).vertices, np.float64)


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file."""
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; check the path") from error
    except (OSError, ValueError, AttributeError, EOFError) as error:
        raise UserError(f"{path}: not an .npz file of arrays ({error})") from error


_ALLOWED_GLOBALS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}


class _ArrayUnpickler(pickle.Unpickler):
    """A pickle can call anything; this one lets through what numpy arrays are made of, and nothing else."""

    def find_class(self, module, name):
        if (module, name) not in _ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not an array")
        return super().find_class(module, name)


def _load_pickled_arrays(path: Path) -> Mapping[str, object]:
    try:
        with path.open("rb") as stream:
            # latin1 reads the Python 2 pickles in which VOCASET and BIWI were published.
            content = _ArrayUnpickler(stream, encoding="latin1").load()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; check the path") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(f"{path}: not a pickle of arrays ({error})") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: a dictionary of subject -> vertices is expected")
    return content
