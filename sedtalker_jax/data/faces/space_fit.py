"""Fits a face space to a stream of frames in bounded memory.

The leading right singular vectors of all frames so far are kept, joined with the next frames and decomposed again
(incremental SVD; Levy and Lindenbaum, "Sequential Karhunen-Loeve basis extraction", IEEE TIP 2000). Not scikit-learn's
IncrementalPCA, because that one centres: here zero coefficients are the template.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from sedtalker_jax.data.cross_fade import REGIONS, region_masks
from sedtalker_jax.data.faces.surface import Surface
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.face.template import FaceTemplate

NEGLIGIBLE_RMS_M = 1e-6
"""Root mean square vertex distance that a basis may leave before more axes stop being worth it: a micrometre."""

_KEPT_PER_RANK = 2  # axes carried along beyond the rank, so that what is cut off early can still grow
_BATCH_ROWS = 256
_PARTS_EVERY = 12  # every how many frames a region's part of the motion is a sample too


class MotionSketch:
    """Principal axes (uncentred) of rows that come in batches; memory is that of (axes + batch) x columns doubles."""

    def __init__(self, num_columns: int, num_axes: int) -> None:
        self._num_axes = num_axes
        self._axes = np.zeros((0, num_columns))  # scaled by their singular values
        self.rows = 0
        self.energy = 0.0

    def add(self, rows: Float[np.ndarray, "n columns"]) -> None:
        """Takes in rows.

        Raises:
          UserError: values that are not finite.
        """
        rows = np.asarray(rows, np.float64)
        if not np.isfinite(rows).all():
            raise UserError("cannot fit a face space: some vertices are not finite")
        self.rows += len(rows)
        self.energy += float((rows**2).sum())
        joined = np.concatenate([self._axes, rows])
        # The Gram matrix is small; squaring costs precision only for axes 1e-8 times the largest.
        values, vectors = np.linalg.eigh(joined @ joined.T)
        keep = [i for i in np.argsort(values)[::-1][: self._num_axes] if values[i] > 1e-14 * values[-1] and values[i] > 0]
        self._axes = vectors[:, keep].T @ joined

    def basis(self, rank: int, negligible_energy: float) -> tuple[Float[np.ndarray, "R columns"], float]:
        """Orthonormal axes, and the sum of squares that they leave of all rows.

        As few as leave at most `negligible_energy`, at most `rank`. Signs are fixed, so that the result is deterministic.

        Raises:
          UserError: all rows are zero.
        """
        singular = (self._axes**2).sum(1)
        if not len(singular):
            raise UserError("cannot fit a face space: no vertex moves in the training clips")
        left = self.energy - np.cumsum(singular)
        enough = np.nonzero(left <= negligible_energy)[0]
        size = min(rank, len(singular), int(enough[0]) + 1 if len(enough) else rank)
        # Rows are orthogonal up to rounding; QR makes them orthonormal to machine precision.
        q, r = np.linalg.qr(self._axes[:size].T)
        basis = (q * np.sign(np.diag(r))).T
        peak = np.abs(basis).argmax(1)
        basis *= np.sign(basis[np.arange(size), peak])[:, None]
        return basis, max(0.0, float(left[size - 1]))


def fit_space(
    displacements: Iterable[Float[np.ndarray, "n V 3"]],
    max_rank: int,
    *,
    surface: Surface,
    templates: Sequence[FaceTemplate],
    fps: float,
) -> FaceSpace:
    """A face space from displacements in batches of any size; the result depends on their order only through rounding.

    Where the surface names upper face and lips, the parts of some frames in each region are samples too.

    Args:
      displacements: from the template, metres; read once.
      max_rank: the rank is smaller where fewer axes leave a micrometre.
      surface, templates, fps: of the space.

    Raises:
      UserError: no motion, or values that are not finite.
    """
    V = templates[0].num_vertices
    sketch = MotionSketch(3 * V, _KEPT_PER_RANK * max_rank)
    # Regions fade apart in data.cross_fade, so the basis must also hold what one region does alone.
    named = all(name in surface.regions for name in REGIONS[:-1])
    masks = np.repeat(region_masks(V, surface.faces, surface.regions), 3, axis=0).T if named else np.zeros((0, 3 * V))
    for batch in _regroup(displacements, 3 * V):
        sketch.add(batch)
        for r, mask in enumerate(masks):
            sketch.add(batch[r::_PARTS_EVERY] * mask)
    basis, left = sketch.basis(max_rank, NEGLIGIBLE_RMS_M**2 * sketch.rows * V)
    return FaceSpace(
        topology=surface.topology,
        faces=surface.faces,
        basis=basis.astype(np.float32),
        template_names=tuple(template.name for template in templates),
        templates=np.stack([template.vertices for template in templates]).astype(np.float32),
        regions=dict(surface.regions),
        fps=float(fps),
        residual=float(np.sqrt(left / (sketch.rows * V))),
    )


def _regroup(batches: Iterable[np.ndarray], num_columns: int) -> Iterable[np.ndarray]:
    """Rows in batches of _BATCH_ROWS, whatever they came in."""
    waiting: list[np.ndarray] = []
    count = 0
    for batch in batches:
        rows = np.asarray(batch, np.float64).reshape(-1, num_columns)
        while count + len(rows) >= _BATCH_ROWS:
            missing = _BATCH_ROWS - count
            yield np.concatenate([*waiting, rows[:missing]])
            waiting, count, rows = [], 0, rows[missing:]
        waiting.append(rows)
        count += len(rows)
    if count:
        yield np.concatenate(waiting)
