"""Measures of faces that several tests share."""

from __future__ import annotations

import numpy as np

from sedtalker_jax.face.chart import TOPOLOGY
from sedtalker_jax.face.lip_points import lip_points
from sedtalker_jax.face.space import FaceSpace


def lip_opening(vertices: np.ndarray) -> np.ndarray:
    """Distance between the inner lips' midpoints, vertices [..., V, 3] of the built-in topology -> [...], same unit."""
    upper, lower = lip_points(TOPOLOGY)
    return np.linalg.norm(vertices[..., upper, :] - vertices[..., lower, :], axis=-1)


def left_by(space: FaceSpace, displacements: np.ndarray) -> float:
    """Root mean square distance in metres between displacements [F, V, 3] and their projection onto a face space."""
    error = space.displacements(space.coefficients(displacements)) - displacements
    return float(np.sqrt((error.astype(np.float64) ** 2).sum(-1).mean()))
