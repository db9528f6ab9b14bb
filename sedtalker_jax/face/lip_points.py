"""The two points between which a mouth opens, where a topology is known."""

from __future__ import annotations

from sedtalker_jax.face.chart import TOPOLOGY
from sedtalker_jax.face.regions import head_landmarks

FLAME_LIP_POINTS = (3546, 3504)
"""Middle of the upper and the lower lip on FLAME's 5,023 vertices, as CodeTalker's authors give them (CodeTalker#55)."""


def lip_points(topology: str) -> tuple[int, int] | None:
    """Vertices in the middle of the inner lips, upper and lower; None where the topology is not known.

    Single points, because the mean of a whole lip sees a smile as an opening.
    """
    if topology == TOPOLOGY:
        marks = head_landmarks()
        return int(marks["upper_inner_lip"]), int(marks["lower_inner_lip"])
    if topology == "flame":
        return FLAME_LIP_POINTS
    return None
