"""Scores of moving faces of the built-in world from coefficients alone: no vertex is computed outside the scored regions.

What a face expresses is measured as its expression coefficients: the strengths in [0, 1] of the head's own seven full
expressions that explain the displacement of the upper face best (bounded least squares, frame by frame). The upper face it is
because speech hardly moves it; on true motion these coefficients are the world's activation to 0.018 on average.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sedtalker_jax.data.world.oracle import FaceOracle
from sedtalker_jax.emotion.labels import ACTIVE
from sedtalker_jax.evaluation import animation_metrics as metrics
from sedtalker_jax.evaluation import lip_metrics
from sedtalker_jax.face.articulation import expression_weights
from sedtalker_jax.face.blendshape_basis import bounded_least_squares
from sedtalker_jax.face.lip_points import lip_points

REGIONS: Mapping[str, tuple[str, ...]] = {
    "lips": ("lips",),
    "emotional": ("eye_region", "forehead"),
    "expression": ("upper_face",),
}
"""Vertex sets of the scores, as unions of the topology's regions."""

TRANSITION_WINDOW_S = 0.5
"""Jerk is compared within this distance of a change of emotion."""


class FaceScores:
    """Scores coefficient sequences [F, R] in metres, as records and models of one face space hold them.

    Args:
      directory: of the built-in world.

    Raises:
      UserError: it is none.
    """

    def __init__(self, directory: str | Path):
        self.oracle = FaceOracle.from_directory(directory)
        space = self.oracle.faces.space
        assert space is not None
        basis = space.basis.reshape(space.rank, space.num_vertices, 3).astype(np.float64)
        self.space, self.fps = space, space.fps
        self._vertices = {
            name: np.unique(np.concatenate([space.regions[part] for part in parts])) for name, parts in REGIONS.items()
        }
        self._basis = {name: basis[:, vertices] for name, vertices in self._vertices.items()}
        points = lip_points(space.topology)
        assert points is not None, "the built-in topology's lip points are known"
        self._lip_points, self._lip_basis = np.array(points), basis[:, points]

    def displacements(self, coefficients: Float[np.ndarray, "F R"], region: str) -> Float[np.ndarray, "F v 3"]:
        """Displacements of a region of REGIONS from rest, in metres."""
        return np.tensordot(np.asarray(coefficients, np.float64), self._basis[region], 1)

    def expression(self, coefficients: Float[np.ndarray, "F R"], template: str) -> Float[np.ndarray, "F K-1"]:
        """Expression coefficients of a motion on a head; see the module."""
        shapes, gram = self._expressions(template)
        moved = self.displacements(coefficients, "expression").reshape(len(coefficients), -1)
        return bounded_least_squares(gram, moved @ shapes.T)

    def expression_error(self, guess, truth, template: str) -> float:
        """Mean absolute difference of the expression coefficients of two motions on one head."""
        return metrics.expression_coefficient_error(self.expression(guess, template), self.expression(truth, template))

    def lip_error_mm(self, guess: Float[np.ndarray, "F R"], truth: Float[np.ndarray, "F R"]) -> float:
        """metrics.lip_vertex_error_rooted_mm."""
        everywhere = np.arange(len(self._vertices["lips"]))
        pair = (self.displacements(motion, "lips") for motion in (guess, truth))
        return metrics.lip_vertex_error_rooted_mm(*pair, everywhere)

    def lip_distance(self, coefficients: Float[np.ndarray, "F R"], template: str) -> Float[np.ndarray, " F"]:
        """Distance of the inner lips, in metres."""
        rest = self.space.template(template).vertices[self._lip_points].astype(np.float64)
        moved = rest + np.tensordot(np.asarray(coefficients, np.float64), self._lip_basis, 1)
        return lip_metrics.lip_distance(moved, np.array([0]), np.array([1]))

    def lip_distance_error_mm(self, guess, truth, template: str) -> float:
        """Mean absolute error of the distance of the inner lips, in mm."""
        pair = (self.lip_distance(motion, template) for motion in (guess, truth))
        return lip_metrics.lip_distance_error(*pair) * metrics.MILLIMETRES

    def moving_emotion(
        self, guess: Float[np.ndarray, "F R"], truth: Float[np.ndarray, "F R"], template: str, transitions: Sequence[float]
    ) -> dict[str, float]:
        """What the claims about emotion that changes are scored on.

        Args:
          guess, truth: motions.
          template: the head.
          transitions: seconds of the changes of emotion.

        Returns:
          expression_coefficient_error, emotional_vertex_error_mm2, transition_jerk_ratio, and true_transition_jerk (m/s^3),
          the weight with which ratios of clips are averaged: the pooled ratio is that of the mean jerks.
        """
        moved, wanted = (self.displacements(motion, "emotional") for motion in (guess, truth))
        everywhere = np.arange(moved.shape[1])
        jerk = metrics.transition_jerk_m_per_s3(wanted, self.fps, transitions, TRANSITION_WINDOW_S)
        return {
            "expression_coefficient_error": self.expression_error(guess, truth, template),
            "emotional_vertex_error_mm2": metrics.emotional_vertex_error(moved, wanted, everywhere) * metrics.MILLIMETRES**2,
            "transition_jerk_ratio": metrics.transition_jerk_ratio(
                moved, wanted, self.fps, transitions, TRANSITION_WINDOW_S, everywhere
            ),
            "true_transition_jerk": jerk,
        }

    @functools.cache  # noqa: B019  one scorer lives as long as its job
    def _expressions(self, template: str) -> tuple[Float[np.ndarray, "K-1 v3"], Float[np.ndarray, "K-1 K-1"]]:
        head = self.oracle.faces.head(*self.oracle.faces.find_head(template))
        weights = expression_weights(np.eye(len(ACTIVE)), head.style, self.oracle.faces.face_rules)
        shapes = head.displacements(weights)[:, self._vertices["expression"]].reshape(len(ACTIVE), -1).astype(np.float64)
        return shapes, shapes @ shapes.T


def emotion_changes(record: Mapping[str, Any]) -> list[float]:
    """Seconds at which the emotion of a record's voice changes."""
    pairs = zip(record["segments"], record["segments"][1:], strict=False)
    return [after[0] for before, after in pairs if before[2] != after[2]]
