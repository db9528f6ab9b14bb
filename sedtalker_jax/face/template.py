"""Face templates: a mesh at rest with named regions, read from and written to common mesh files.

Vertices are in metres, the face looks to +z with +y up. Files may hold a bare mesh (.ply, .obj), bare vertices (.npy, [V, 3])
or everything (.npz: vertices, faces, name, topology and region_<name> index arrays).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from sedtalker_jax.emotion.formats import replace_when_complete
from sedtalker_jax.errors import UserError

SUFFIXES = (".ply", ".obj", ".npy", ".npz")
# Vertex and triangle counts of well-known topologies, to say what a mesh probably is. Counts: facts of the published meshes.
KNOWN_COUNTS: Mapping[tuple[int, int], str] = MappingProxyType(
    {(5023, 9976): "flame", (23370, 46356): "biwi", (6172, 12134): "multiface"}
)


@dataclass(frozen=True)
class FaceTemplate:
    """A face at rest.

    name: what to call it; topology: name of the mesh connectivity, equal for templates whose vertices correspond;
    vertices: [V, 3] float32 metres; faces: [M, 3] int32 triangles; regions: name -> sorted vertex indices.
    """

    name: str
    topology: str
    vertices: np.ndarray
    faces: np.ndarray
    regions: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "vertices", np.ascontiguousarray(self.vertices, np.float32))
        object.__setattr__(self, "faces", np.ascontiguousarray(self.faces, np.int32).reshape(-1, 3))
        if self.vertices.ndim != 2 or self.vertices.shape[1] != 3:
            raise ValueError(f"vertices must be [V, 3], got {self.vertices.shape}")
        if len(self.faces) and (self.faces.min() < 0 or self.faces.max() >= len(self.vertices)):
            raise ValueError("faces point at vertices that do not exist")

    @property
    def num_vertices(self) -> int:
        return len(self.vertices)


def topology_name(num_vertices: int, num_faces: int, faces: np.ndarray) -> str:
    """Name of a mesh's topology: the built-in one, a known one, or `mesh-<vertices>`.

    Args:
      num_vertices, num_faces: counts; without faces (0) the number of vertices decides.
      faces: [num_faces, 3] triangles.
    """
    from sedtalker_jax.face.chart import TOPOLOGY, chart

    built_in = chart()
    if num_vertices == built_in.num_vertices and (num_faces == 0 or np.array_equal(faces, built_in.faces)):
        return TOPOLOGY
    known = KNOWN_COUNTS.get((num_vertices, num_faces))
    if known is None and num_faces == 0:
        known = next((name for (count, _), name in KNOWN_COUNTS.items() if count == num_vertices), None)
    return known or f"mesh-{num_vertices}"


def read_mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] and triangles [M, 3] of a .ply or .obj, in the file's vertex order and unit.

    Raises:
      UserError: missing, damaged or empty file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a .ply or .obj mesh")
    if path.suffix.lower() == ".obj":
        return _read_obj(path)
    try:
        import pyvista
        from vtkmodules.vtkIOPLY import vtkPLYReader
    except ImportError as error:
        raise UserError(f"cannot read {path}: reading .ply needs pyvista ({error}); install it or convert to .npy") from None
    try:
        reader = vtkPLYReader()
        # Whoever listens to the reader's complaints keeps them from standard error; ours is the one line below.
        for speaker in (reader, reader.GetExecutive()):
            for event in ("ErrorEvent", "WarningEvent"):
                speaker.AddObserver(event, lambda *_: None)
        reader.SetFileName(str(path))
        # Where faces have texture coordinates, vertices at seams would come twice, which breaks topology.
        reader.SetDuplicatePointsForFaceTexture(False)
        reader.Update()
        mesh = pyvista.wrap(reader.GetOutput())
    except Exception as error:
        raise UserError(f"cannot read {path} as a PLY mesh: {_one_line(error)}") from None
    if mesh.n_points == 0:
        raise UserError(f"{path} holds no vertices; it may be damaged or not a PLY mesh")
    return np.asarray(mesh.points), _fans(mesh.irregular_faces)


def _read_obj(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A Wavefront OBJ read by its own vertex order: mesh libraries split vertices at texture seams, which breaks topology."""
    vertices, polygons = [], []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        parts = line.split()
        try:
            if parts[:1] == ["v"]:
                vertices.append([float(value) for value in parts[1:4]])
            elif parts[:1] == ["f"]:
                corners = [int(part.split("/")[0]) for part in parts[1:]]
                polygons.append([corner - 1 if corner > 0 else len(vertices) + corner for corner in corners])
        except (ValueError, IndexError):
            raise UserError(f"{path}, line {number} is not valid OBJ: {line.strip()[:60]!r}") from None
    if not vertices or any(len(vertex) != 3 for vertex in vertices):
        raise UserError(f"{path} holds no vertices ('v x y z' lines); is it an OBJ mesh?")
    return np.array(vertices), _fans(polygons)


def _fans(polygons: Iterable[Sequence[int]]) -> np.ndarray:
    """Polygons as triangles [M, 3] round a polygon's first corner: by the corners' order alone, so that faces whose vertices
    correspond have the same triangles.
    """
    triangles = [(corners[0], *pair) for corners in polygons for pair in zip(corners[1:-1], corners[2:], strict=True)]
    return np.array(triangles, np.int64).reshape(-1, 3)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def check_triangles(faces: np.ndarray, num_vertices: int, path: Path) -> np.ndarray:
    """Triangles that a file holds, as int32 [M, 3]; M is 0 of an empty array.

    Raises:
      UserError: another shape, or anything but numbers of vertices.
    """
    if not faces.size:
        return np.zeros((0, 3), np.int32)
    if faces.ndim != 2 or faces.shape[1] != 3 or not _are_indices(faces, num_vertices):
        raise UserError(
            f"{path}: its faces {faces.dtype} {list(faces.shape)} are no triangles of {num_vertices} vertices; "
            "give a mesh of those"
        )
    return faces.astype(np.int32)


def _are_indices(array: np.ndarray, count: int) -> bool:
    """Whether all are whole numbers, of whatever type, from 0 to count - 1."""
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        return not array.size
    return bool(((array >= 0) & (array < count) & (array == np.floor(array))).all())


def load_template(path: str | os.PathLike, name: str | None = None) -> FaceTemplate:
    """Reads a template from .ply, .obj, .npy ([V, 3]) or .npz.

    A mesh with the built-in topology gets its regions; one without triangles takes the built-in ones when the count fits.

    Raises:
      UserError: when the file is missing, of another kind, damaged, not [V, 3], not finite, or in another unit than metres.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"template {path} does not exist")
    if path.is_dir():
        raise UserError(f"template {path} is a directory; give a {', '.join(SUFFIXES)} file")
    suffix = path.suffix.lower()
    regions: dict[str, np.ndarray] = {}
    stored_name, topology = None, None
    if suffix in (".ply", ".obj"):
        vertices, faces = read_mesh(path)
    elif suffix == ".npy":
        try:
            vertices, faces = np.load(path, allow_pickle=False), np.zeros((0, 3), np.int32)
        except Exception as error:
            raise UserError(f"cannot read {path} as a NumPy file: {_one_line(error)}") from None
    elif suffix == ".npz":
        # Here, since the built-in world's generating processes import this module and read no files.
        from sedtalker_jax.face.mesh_files import load_npz

        content = load_npz(path)
        if "vertices" not in content:
            raise UserError(f"{path} has no array 'vertices'; it holds {', '.join(content) or 'nothing'}")
        vertices, faces = content["vertices"], content.get("faces", np.zeros((0, 3), np.int32))
        regions = {key[7:]: value for key, value in content.items() if key.startswith("region_")}
        stored_name = str(content["name"]) if "name" in content else None
        topology = str(content["topology"]) if "topology" in content else None
    else:
        raise UserError(f"template {path} has the unknown suffix '{path.suffix}'; use one of {', '.join(SUFFIXES)}")
    vertices = np.asarray(vertices)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or len(vertices) == 0 or not np.issubdtype(vertices.dtype, np.number):
        raise UserError(f"{path} must hold vertices of shape [V, 3], got {vertices.dtype} {list(vertices.shape)}")
    if not np.isfinite(vertices).all():
        raise UserError(f"{path} holds vertices that are not finite")
    height = float(np.ptp(vertices[:, 1]))
    if height > 10.0 or height < 0.01:
        raise UserError(
            f"the face in {path} is {height:.4g} high; vertices must be in metres with y up (a head has about 0.25)"
        )
    faces = check_triangles(faces, len(vertices), path)
    for key, indices in regions.items():
        if not _are_indices(indices, len(vertices)):
            raise UserError(f"{path} is damaged: its region '{key}' must be numbers of vertices that exist")
    regions = {key: value.astype(np.int32) for key, value in regions.items()}
    topology = topology or topology_name(len(vertices), len(faces), faces)
    from sedtalker_jax.face.chart import TOPOLOGY, chart

    if topology == TOPOLOGY:
        from sedtalker_jax.face.regions import head_regions

        if len(vertices) != chart().num_vertices:
            raise UserError(f"{path} says topology '{TOPOLOGY}' but has {len(vertices)} vertices, not {chart().num_vertices}")
        faces = chart().faces
        regions = {**head_regions(), **regions}
    return FaceTemplate(name or stored_name or path.stem, topology, vertices, faces, regions)


def save_template(path: str | os.PathLike, template: FaceTemplate) -> None:
    """Writes a template to .ply, .obj, .npy (vertices only) or .npz (everything), whole or not at all.

    Raises:
      UserError: for an unknown suffix, or a place that cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"cannot write template {path}: unknown suffix '{path.suffix}', use one of {', '.join(SUFFIXES)}")
    with replace_when_complete(path) as temporary, open(temporary, "wb") as file:
        if suffix == ".npy":
            np.save(file, template.vertices)
        elif suffix == ".npz":
            arrays: dict[str, Any] = {f"region_{key}": np.asarray(value) for key, value in template.regions.items()}
            np.savez(
                file, vertices=template.vertices, faces=template.faces, name=np.array(template.name),
                topology=np.array(template.topology), **arrays,
            )  # fmt: skip
        elif suffix == ".obj":
            lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in template.vertices]
            lines += [f"f {a} {b} {c}" for a, b, c in template.faces + 1]
            file.write(("\n".join(lines) + "\n").encode())
        else:
            file.write(_ply_bytes(template))


def _ply_bytes(template: FaceTemplate) -> bytes:
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {template.num_vertices}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(template.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    corners = np.empty(len(template.faces), dtype=[("n", "u1"), ("v", "<i4", 3)])
    corners["n"], corners["v"] = 3, template.faces
    return header.encode() + template.vertices.astype("<f4").tobytes() + corners.tobytes()


def mismatch(template: FaceTemplate, topology: str, num_vertices: int, faces: np.ndarray | None = None) -> str | None:
    """Why `template` cannot be animated by a model of another topology, in one line; None when it can."""
    if template.num_vertices != num_vertices:
        return (
            f"template '{template.name}' has {template.num_vertices} vertices (topology '{template.topology}'), but the model "
            f"animates topology '{topology}' with {num_vertices}; use a template of that topology or train on this one"
        )
    if faces is not None and len(template.faces) and not np.array_equal(template.faces, faces):
        return (
            f"template '{template.name}' has {num_vertices} vertices like topology '{topology}', but its triangles join them "
            "differently; its vertices must be in the model's order"
        )
    return None


def check_topology(template: FaceTemplate, topology: str, num_vertices: int, faces: np.ndarray | None = None) -> None:
    """Raises UserError with the reason when `template` does not fit a model's topology (see mismatch)."""
    reason = mismatch(template, topology, num_vertices, faces)
    if reason is not None:
        raise UserError(reason)
