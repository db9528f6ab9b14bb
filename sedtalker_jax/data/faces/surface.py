"""The mesh of a face data set: triangles, the topology's name and its vertex regions, from the files that come with the set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from sedtalker_jax.errors import UserError
from sedtalker_jax.face.mesh_files import LIP_REGIONS, UPPER_FACE_REGIONS, join_regions, read_regions
from sedtalker_jax.face.template import read_mesh, topology_name

REGION_FILES = ("FLAME_masks.pkl", "regions", "regions.npz")
"""Names of region files beside a data set: FLAME's masks, a folder of vertex lists (lve.txt, fdd.txt), named arrays."""


@dataclasses.dataclass(frozen=True)
class Surface:
    """Attributes:
    topology: name of the connectivity.
    faces: [M, 3] triangles.
    regions: name -> sorted vertex indices; all of the region file, and "lips" and "upper_face" as losses and scores name them.
    notes: where triangles and regions come from and how many vertices "lips" and "upper_face" have, for the manifest.
    """

    topology: str
    faces: np.ndarray
    regions: Mapping[str, np.ndarray]
    notes: Mapping[str, str]


def first_existing(candidates: Iterable[Path]) -> Path | None:
    """The first path that exists."""
    return next((path for path in candidates if path.exists()), None)


def load_surface(mesh: Path, regions: Path, num_vertices: int) -> Surface:
    """Triangles of a mesh file (.ply, .obj; its unit does not matter) and the regions of a region file.

    Raises:
      UserError: missing or damaged files, another number of vertices, no triangles, no lips or upper face.
    """
    vertices, faces = read_mesh(mesh)
    if len(vertices) != num_vertices:
        raise UserError(f"{mesh}: has {len(vertices)} vertices, the motion has {num_vertices}; give the mesh of this data set")
    if not len(faces):
        raise UserError(f"{mesh}: has no triangles; give a .ply or .obj with faces")
    named, notes = load_regions(regions, num_vertices)
    faces = np.asarray(faces).reshape(-1, 3).astype(np.int32)
    notes = {"triangles": mesh.name, **notes}
    return Surface(topology_name(num_vertices, len(faces), faces), faces, named, notes)


def load_regions(path: Path, num_vertices: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Regions of a file or folder (mesh_files.read_regions) with "lips" and "upper_face" among them, and notes on these two.

    Raises:
      UserError: it holds neither these nor the sets that stand for them (lve; fdd, or forehead with eye_region).
    """
    found = read_regions(path, num_vertices)
    named, notes = dict(found), {}
    for role, choices in (("lips", LIP_REGIONS), ("upper_face", UPPER_FACE_REGIONS)):
        choice = join_regions(found, choices)
        if choice is None:
            wanted = " or ".join("+".join(names) for names in choices)
            raise UserError(f"{path}: no region for {role} ({wanted}); it has {', '.join(sorted(found))}")
        named[role] = choice[1]
        notes[role] = f"{choice[0]} of {path.name}, {len(choice[1])} vertices"
    return {name: np.asarray(value, np.int32) for name, value in named.items()}, notes


def find_mesh(option: str, candidates: Iterable[Path], data_set: str) -> Path:
    """The mesh that gives the triangles: the user's, else the first candidate that exists.

    Raises:
      UserError: there is none.
    """
    tried = [Path(option)] if option else list(candidates)
    found = first_existing(tried)
    if found is None:
        names = ", ".join(str(path) for path in tried)
        raise UserError(f"no mesh with triangles ({names}); copy {data_set} there or give --option mesh=FILE")
    return found


def find_regions(option: str, folders: Iterable[Path]) -> Path:
    """The region file or folder: the user's, else the first of REGION_FILES in one of the folders.

    Raises:
      UserError: there is none.
    """
    folders = list(folders)
    tried = [Path(option)] if option else [folder / name for folder in folders for name in REGION_FILES]
    found = first_existing(tried)
    if found is None:
        places = option or " or ".join(str(folder) for folder in folders)
        raise UserError(
            f"no vertex regions in {places}: lips and upper face must be named, not guessed; copy FLAME_masks.pkl or a folder "
            "regions/ with lve.txt and fdd.txt there, or give --option regions=PATH"
        )
    return found
