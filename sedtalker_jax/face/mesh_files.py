"""Reads what describes a face in other projects: templates, regions, vertex lists; pickled code is never executed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from sedtalker_jax.errors import UNREADABLE_ARRAYS, UserError
from sedtalker_jax.face.array_pickle import load_pickled_arrays

MESH_SUFFIXES = (".ply", ".obj")

LIP_REGIONS = (("lips",), ("lve",))
"""Names of lip sets in use, as lists of regions to join, the first that a file has (FLAME_masks.pkl, regions/lve.txt)."""

EMOTIONAL_REGIONS = (("eye_region", "forehead"),)
"""As LIP_REGIONS: the set over which EVE is taken."""

UPPER_FACE_REGIONS = (("upper_face",), ("fdd",), ("forehead", "eye_region"))
"""As LIP_REGIONS: the set over which FDD is taken."""


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
        arrays = load_pickled_arrays(source, "a dictionary of subject -> vertices")
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
        arrays: Mapping[str, object] = load_pickled_arrays(source, "a dictionary of region -> vertices")
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


def region_name(wanted: str, regions: Mapping[str, object]) -> str | None:
    """The name in `regions` that stands for `wanted`: itself, or the only one that ends in `_<wanted>` (vocaset_lve)."""
    if wanted in regions:
        return wanted
    ending = [name for name in regions if name.endswith(f"_{wanted}")]
    # Two candidates (left_eye_region and right_eye_region) are no answer.
    return ending[0] if len(ending) == 1 else None


def join_regions(
    regions: Mapping[str, Int[np.ndarray, " v"]], choices: tuple[tuple[str, ...], ...]
) -> tuple[str, Int[np.ndarray, " v"]] | None:
    """The first of `choices` (such as UPPER_FACE_REGIONS) that `regions` has, as ("eye_region+forehead", sorted vertices)."""
    for names in choices:
        found = [name for name in (region_name(name, regions) for name in names) if name is not None]
        if len(found) == len(names):
            return "+".join(found), np.unique(np.concatenate([regions[name] for name in found]))
    return None


def read_vertex_list(path: str | Path, num_vertices: int | None = None) -> Int[np.ndarray, " v"]:
    """Reads vertex indices from a text file (separated by commas, spaces or lines, as in `regions/lve.txt`) or a .npy file.

    Args:
      num_vertices: of the mesh; indices are checked against it when given.

    Returns:
      Sorted unique int64 indices (some published masks list vertices twice).

    Raises:
      UserError: missing file, anything but whole numbers, an index outside the mesh.
    """
    source = Path(path)
    try:
        if source.suffix == ".npy":
            values = np.load(source, allow_pickle=False).ravel()
        else:
            values = np.array([int(word) for word in source.read_text().replace(",", " ").split()], np.int64)
    except FileNotFoundError as error:
        raise UserError(f"{source}: no such file; give a list of vertex indices") from error
    except (*UNREADABLE_ARRAYS, OverflowError) as error:
        raise UserError(f"{source}: not a list of vertex indices ({error})") from error
    if not len(values) or not np.issubdtype(values.dtype, np.integer):
        raise UserError(f"{source}: holds no whole-number vertex indices")
    vertices = np.unique(values.astype(np.int64))
    if vertices[0] < 0 or (num_vertices is not None and vertices[-1] >= num_vertices):
        raise UserError(f"{source}: index {vertices[[0, -1]].tolist()} lies outside a mesh of {num_vertices} vertices")
    return vertices


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
    except UNREADABLE_ARRAYS as error:
        raise UserError(f"{path}: not an .npz file of arrays ({error})") from error
