"""A low-rank space of face motion: vertices = template + coefficients . basis, with rows that are orthonormal in metres.

Since the rows are orthonormal in the Euclidean metric of all vertices, squared errors of coefficients are squared errors of
vertices (summed over the mesh, within the space). The motion's mean is not subtracted: zero coefficients are the neutral face.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sedtalker_jax.emotion.formats import replace_when_complete
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.template import FaceTemplate


@dataclass(frozen=True)
class FaceSpace:
    """The space of a data set's face motion.

    topology, faces [M, 3], basis [R, 3V] float32, templates [n, V, 3] with names, regions, fps, head_seeds (of built-in heads,
    may be empty), residual: root mean square vertex distance in metres that the basis leaves on the data it was fitted to (NaN
    when unknown).
    """

    topology: str
    faces: np.ndarray
    basis: np.ndarray
    template_names: tuple[str, ...]
    templates: np.ndarray
    regions: Mapping[str, np.ndarray] = field(default_factory=dict)
    fps: float = 30.0
    head_seeds: tuple[int, ...] = ()
    residual: float = float("nan")

    @property
    def rank(self) -> int:
        return len(self.basis)

    @property
    def num_vertices(self) -> int:
        return self.basis.shape[1] // 3

    def template(self, name: str) -> FaceTemplate:
        """The stored template of that name.

        Raises:
          UserError: when there is none; the message lists the names.
        """
        if name not in self.template_names:
            known = ", ".join(self.template_names[:8]) + (", ..." if len(self.template_names) > 8 else "")
            raise UserError(f"no template '{name}' in this face space; it has {known or 'none'}")
        vertices = self.templates[self.template_names.index(name)]
        return FaceTemplate(name, self.topology, vertices, self.faces, self.regions)

    def displacements(self, coefficients: np.ndarray) -> np.ndarray:
        """Coefficients [..., R] -> displacements [..., V, 3] in metres."""
        coefficients = np.asarray(coefficients, np.float32)
        return (coefficients @ self.basis).reshape(*coefficients.shape[:-1], self.num_vertices, 3)

    def vertices(self, template: FaceTemplate | np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """Vertices of a template in motion: template [V, 3], coefficients [F, R] -> [F, V, 3] float32 metres.

        Raises:
          UserError: when the template has another number of vertices or other triangles than the space.
        """
        if isinstance(template, FaceTemplate):
            from sedtalker_jax.face.template import check_topology

            check_topology(template, self.topology, self.num_vertices, self.faces)
            template = template.vertices
        if template.shape != (self.num_vertices, 3):
            raise UserError(f"the template has shape {list(template.shape)}, the face space needs [{self.num_vertices}, 3]")
        return template.astype(np.float32) + self.displacements(coefficients)

    def coefficients(self, displacements: np.ndarray) -> np.ndarray:
        """Least-squares coefficients of displacements from the template: [..., V, 3] -> [..., R] float32."""
        flat = np.asarray(displacements, np.float32).reshape(*displacements.shape[:-2], 3 * self.num_vertices)
        return flat @ self.basis.T

    @classmethod
    def fit(
        cls,
        displacements: np.ndarray,
        rank: int,
        *,
        topology: str,
        faces: np.ndarray,
        templates: Sequence[FaceTemplate] = (),
        regions: Mapping[str, np.ndarray] | None = None,
        fps: float = 30.0,
        head_seeds: Sequence[int] = (),
    ) -> FaceSpace:
        """Principal axes (uncentred) of displacements [n, V, 3] in metres; signs fixed so that the result is deterministic.

        They come from the Gram matrix of the samples, so that a fit costs n^2 V.

        Raises:
          UserError: when there are fewer samples than `rank`, or values that are not finite.
        """
        samples = np.asarray(displacements, np.float64).reshape(len(displacements), -1)
        if len(samples) < rank:
            raise UserError(f"a face space of rank {rank} needs at least as many samples, got {len(samples)}")
        if not np.isfinite(samples).all():
            raise UserError("cannot fit a face space: some displacements are not finite")
        gram = samples @ samples.T
        values, vectors = np.linalg.eigh(gram)
        order = np.argsort(values)[::-1][:rank]
        if values[order[-1]] <= 1e-12 * max(values[order[0]], 1e-30):
            raise UserError(f"the samples span fewer than {rank} dimensions; ask for a lower rank")
        axes = vectors[:, order].T @ samples
        # Rows are orthogonal up to rounding; QR makes them orthonormal to machine precision.
        q, r = np.linalg.qr(axes.T)
        basis = (q * np.sign(np.diag(r))).T
        peak = np.abs(basis).argmax(1)
        basis *= np.sign(basis[np.arange(rank), peak])[:, None]
        kept = samples - (samples @ basis.T) @ basis
        residual = float(np.sqrt((kept**2).sum() / (len(samples) * samples.shape[1] / 3)))
        stack = np.stack([t.vertices for t in templates]) if templates else np.zeros((0, samples.shape[1] // 3, 3), np.float32)
        if regions is None:
            regions = templates[0].regions if templates else {}
        return cls(
            topology, np.asarray(faces, np.int32), basis.astype(np.float32),
            tuple(t.name for t in templates), stack.astype(np.float32), dict(regions), float(fps),
            tuple(int(s) for s in head_seeds), residual,
        )  # fmt: skip

    def save(self, path: str | os.PathLike) -> None:
        """Writes the space as .npz, whole or not at all.

        Raises:
          UserError: when the place cannot be written.
        """
        regions: dict[str, Any] = {f"region_{name}": np.asarray(value, np.int32) for name, value in self.regions.items()}
        with replace_when_complete(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file, topology=np.array(self.topology), faces=self.faces, basis=self.basis,
                template_names=np.array(self.template_names, dtype=np.str_), templates=self.templates,
                fps=np.float64(self.fps), head_seeds=np.array(self.head_seeds, np.int64), residual=np.float64(self.residual),
                **regions,
            )  # fmt: skip

    @classmethod
    def load(cls, path: str | os.PathLike) -> FaceSpace:
        """Reads what save wrote.

        Raises:
          UserError: when the file is missing, damaged or not a face space.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"there is no face space at {path}; it is written together with a data set")
        try:
            with np.load(path, allow_pickle=False) as content:
                arrays = {key: content[key] for key in content.files}
            return cls(
                str(arrays["topology"]), arrays["faces"], arrays["basis"],
                tuple(str(name) for name in arrays["template_names"]), arrays["templates"],
                {key[7:]: value for key, value in arrays.items() if key.startswith("region_")},
                float(arrays["fps"]), tuple(int(s) for s in arrays["head_seeds"]), float(arrays.get("residual", np.nan)),
            )  # fmt: skip
        except KeyError as error:
            raise UserError(f"{path} is no face space: it lacks {error}") from None
        except Exception as error:
            raise UserError(f"cannot read the face space {path}: {' '.join(str(error).split())[:120]}") from None
