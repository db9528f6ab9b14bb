"""Blinks laid over a finished animation of a built-in head: they belong to no truth and no model, only to the picture."""

from __future__ import annotations

import numpy as np

from sedtalker_jax.face.blendshapes import build_shapes
from sedtalker_jax.face.chart import TOPOLOGY
from sedtalker_jax.face.regions import head_landmarks
from sedtalker_jax.face.rig import INDEX
from sedtalker_jax.face.template import FaceTemplate


def with_blinks(vertices: np.ndarray, template: FaceTemplate, lids: np.ndarray) -> np.ndarray:
    """Closes the eyes of an animation by lids [F] in [0, 1] (articulation.blinks): vertices [F, V, 3] metres -> [F, V, 3].

    The lids travel as far as they are apart in each frame, so that half-closed eyes close and no more. Faces of another
    topology come back unchanged: where their lids are is not known.
    """
    if template.topology != TOPOLOGY or not np.any(lids):
        return vertices
    shapes = build_shapes(template.vertices.astype(np.float64) * 1e3) * 1e-3
    marks, out = head_landmarks(), np.array(vertices, np.float32)
    frames = np.nonzero(lids)[0]
    amount = np.asarray(lids, np.float64)[frames]
    for side in ("Left", "Right"):
        upper, lower = marks[f"eye_upper_{side.lower()}"], marks[f"eye_lower_{side.lower()}"]
        rest = template.vertices[upper, 1] - template.vertices[lower, 1]
        apart = np.clip((vertices[frames, upper, 1] - vertices[frames, lower, 1]) / rest, 0.0, 1.5)
        shape, arc = shapes[INDEX[f"eyeBlink{side}"]], shapes[INDEX[f"eyeBlinkArc{side}"]]
        moved = np.nonzero((shape != 0).any(1))[0]
        along = (amount * apart)[:, None, None] * shape[moved] + (4 * amount * (1 - amount) * apart)[:, None, None] * arc[moved]
        out[np.ix_(frames, moved)] += along.astype(np.float32)
    return out
