"""A moving mesh as a face at rest, shapes, and weights over time: what engines call morph targets, and Blender shape keys.

Named blendshapes, where the face has a rig, say what an animator can edit; `detail` shapes, the principal axes of what those
leave, keep the motion itself, so that lips that are shut stay shut.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from sedtalker_jax.axes import VertexSequence, VerticesArray
from sedtalker_jax.face.blendshape_basis import BlendshapeBasis

TOLERANCE = 1e-4
"""Metres by which no vertex may be off."""

DETAIL = "detail"
_FITTED_FRAMES = 600  # axes come from at most so many frames, evenly spread: their cost grows with the square


@dataclasses.dataclass(frozen=True, eq=False)
class MorphTargets:
    """rest [V, 3] metres, shapes [N, V, 3] float32 metres per unit, names of the N shapes, weights [F, N] float32 in [0, 1]."""

    rest: VerticesArray
    names: tuple[str, ...]
    shapes: Float[np.ndarray, "N V 3"]
    weights: Float[np.ndarray, "F N"]

    @classmethod
    def of(
        cls, vertices: VertexSequence, rest: VerticesArray, basis: BlendshapeBasis | None = None, tolerance: float = TOLERANCE
    ) -> MorphTargets:
        """Takes motion apart.

        Args:
          vertices: metres.
          rest: the face at rest, metres.
          basis: blendshapes in metres; without it all of the motion is detail.
          tolerance: metres by which no vertex of any frame is off in the end.

        Raises:
          UserError: the basis is of other vertices.
        """
        rest = np.asarray(rest, np.float32)
        motion = np.asarray(vertices, np.float32) - rest
        if basis is None:
            names, shapes = (), np.zeros((0, *rest.shape), np.float32)
            weights = np.zeros((len(motion), 0), np.float32)
        else:
            names, shapes = basis.shape_names, basis.shapes.astype(np.float32)
            weights = basis.weights(motion).astype(np.float32)
        left = motion.reshape(len(motion), -1) - weights @ shapes.reshape(len(shapes), rest.size)
        axes, amounts = _detail(left, tolerance)
        # A basis may come out of a file that was written here, detail and all.
        prefix = DETAIL
        while any(name.startswith(prefix) for name in names):
            prefix += "_"
        # Programs cut weights off below zero and above one: both ways along an axis are shapes of their own.
        ways = [
            (f"{prefix}{index + 1:02d}{way}", sign * axis, np.maximum(sign * amount, 0.0))
            for index, (axis, amount) in enumerate(zip(axes, amounts.T, strict=True))
            for way, sign in (("", 1.0), ("Reverse", -1.0))
            if (sign * amount).max() > 0
        ]
        return cls(
            rest,
            (*names, *(name for name, _, _ in ways)),
            np.concatenate([shapes, *(axis.reshape(1, *rest.shape) for _, axis, _ in ways)]).astype(np.float32),
            np.concatenate([weights, *(amount[:, None] for _, _, amount in ways)], axis=1).astype(np.float32),
        )

    def vertices(self) -> VertexSequence:
        """What the shapes make of the weights: [F, V, 3] float32 metres."""
        return self.rest + np.tensordot(self.weights, self.shapes, 1)


def _detail(left: Float[np.ndarray, "F c"], tolerance: float) -> tuple[Float[np.ndarray, "n c"], Float[np.ndarray, "F n"]]:
    """As few axes as leave no vertex off by more than `tolerance`, scaled so that weights lie in [-1, 1], and the weights."""

    def worst(offsets: np.ndarray) -> float:
        return float(np.sqrt(np.square(offsets).reshape(len(offsets), -1, 3).sum(-1).max(initial=0.0)))

    axes, amounts = np.zeros((0, left.shape[1]), np.float32), np.zeros((len(left), 0), np.float32)
    remaining = left
    while worst(remaining) > tolerance:
        # Axes of what is left: where the frames that were looked at do not span all others, a further round finds the rest.
        chosen = remaining[:: max(1, len(remaining) // _FITTED_FRAMES)]
        worst_frame = np.square(remaining).sum(1).argmax()
        chosen = np.concatenate([chosen, remaining[worst_frame][None]]).astype(np.float64)
        values, vectors = np.linalg.eigh(chosen @ chosen.T)
        order = np.argsort(values)[::-1]
        order = order[values[order] > 1e-9 * values[order[0]]]
        found = (vectors[:, order].T @ chosen / np.sqrt(values[order])[:, None]).astype(np.float32)
        low, high = 1, len(found)
        while low < high:  # the fewest that suffice, or all
            middle = (low + high) // 2
            if worst(remaining - (remaining @ found[:middle].T) @ found[:middle]) <= tolerance:
                high = middle
            else:
                low = middle + 1
        found = found[:low]
        weights = remaining @ found.T
        size = np.maximum(np.abs(weights).max(axis=0), np.finfo(np.float32).tiny)
        remaining = remaining - weights @ found
        axes, amounts = np.concatenate([axes, found * size[:, None]]), np.concatenate([amounts, weights / size], axis=1)
    return axes, amounts
