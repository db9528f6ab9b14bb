"""Named blendshapes of a face, and the weights that explain its motion best: from vertices to what rigs and engines take."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from sedtalker_jax.errors import UserError
from sedtalker_jax.face.mesh_files import load_npz
from sedtalker_jax.face.rig import ARKIT_NAMES, NUM_ARKIT, WEIGHT_NAMES, with_correctives
from sedtalker_jax.face.template import FaceTemplate

RIDGE = 0.01
"""Pull of every weight to zero, as a share of a shape's size: of two explanations that fit alike, the smaller one is taken."""

CORRECTIVE_ROUNDS = 4
"""How often the correctives, which are products of the other weights, are taken out of the motion that those explain."""

SWEEPS = 200
"""Of coordinate descent; what is left after half as many is below 1e-6 on the world's heads and their expressions."""


@dataclasses.dataclass(frozen=True, eq=False)
class BlendshapeBasis:
    """What turns weights into vertices: mean [V, 3] + weights @ shapes [W, V, 3].

    Attributes:
      name: printed with every score made through it, because another basis would give another number.
      mean: the face whose weights are zero.
      shapes: displacements per unit of weight, in the unit of `mean`.
      shape_names: of the W shapes.
      complete: weights of ARKit's 52 shapes, which come first [F, 52] -> of all [F, W], where the others are functions of
        those; None where all are free.
    """

    name: str
    mean: Float[np.ndarray, "V 3"]
    shapes: Float[np.ndarray, "W V 3"]
    shape_names: tuple[str, ...]
    complete: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def num_free(self) -> int:
        """How many of the first shapes have weights of their own."""
        return len(self.shapes) if self.complete is None else NUM_ARKIT

    @classmethod
    def load(cls, path: str | os.PathLike) -> BlendshapeBasis:
        """Reads an .npz with `meanshape` and `blendshape` (EmoTalk.npz of UniTalker) or `mean` and `shapes`.

        `names` [W] are the shapes' names; without it 52 shapes are ARKit's in ARKit's order, and others are numbered.

        Raises:
          UserError: missing file, arrays that do not belong together or are not finite, or shapes that move nothing.
        """
        source = Path(path)
        arrays = load_npz(source)
        for mean_name, shapes_name in (("meanshape", "blendshape"), ("mean", "shapes")):
            if mean_name in arrays and shapes_name in arrays:
                try:
                    mean = np.asarray(arrays[mean_name], np.float64).reshape(-1, 3)
                    shapes = np.asarray(arrays[shapes_name], np.float64).reshape(-1, *mean.shape)
                except ValueError:
                    break
                if not (np.isfinite(mean).all() and np.isfinite(shapes).all() and shapes.any()):
                    raise UserError(f"{source}: '{mean_name}' and '{shapes_name}' must be finite, and not all shapes zero")
                return cls(source.name, mean, shapes, _names(source, arrays.get("names"), len(shapes)))
        found = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items()) or "nothing"
        wanted = "'mean' [V, 3] and 'shapes' [W, V, 3], or 'meanshape' and 'blendshape'"
        raise UserError(f"{source}: a basis needs {wanted}; it has {found}")

    @classmethod
    def known(cls, template: FaceTemplate) -> BlendshapeBasis | None:
        """The built-in rig, ARKit's 52 shapes and the correctives that follow from them, on a face of the built-in topology.

        None for any other face. Shapes have their usual size; a head of the built-in world moves by its own, which weights then
        make up for.
        """
        from sedtalker_jax.face.blendshapes import build_shapes
        from sedtalker_jax.face.chart import TOPOLOGY
        from sedtalker_jax.face.head import MILLIMETRE

        if template.topology != TOPOLOGY:
            return None
        rest = template.vertices.astype(np.float64)
        shapes = build_shapes(rest / MILLIMETRE) * MILLIMETRE
        return cls("built-in rig", rest, shapes, WEIGHT_NAMES, with_correctives)

    def on(self, template: FaceTemplate) -> BlendshapeBasis:
        """The same shapes on another face of the same vertices.

        Raises:
          UserError: the face has other vertices, or the shapes are not in metres, as the face is.
        """
        if template.vertices.shape != self.mean.shape:
            raise UserError(f"its shapes have {len(self.mean)} vertices, the face {len(template.vertices)}")
        sizes = [float(np.ptp(vertices[:, 1])) for vertices in (self.mean, template.vertices)]
        if not 0.2 < sizes[0] / sizes[1] < 5.0:
            raise UserError(
                f"its face is {sizes[0]:.3g} high and the one to animate {sizes[1]:.3g} m; shapes must be in metres"
            )
        return dataclasses.replace(self, mean=template.vertices.astype(np.float64))

    def posed(self, arkit: Float[np.ndarray, "F 52"]) -> Float[np.ndarray, "F V 3"]:
        """Vertices of ARKit's weights, in ARKit's order; shapes of other names stay at rest.

        Raises:
          UserError: none of the shapes has a name of ARKit's.
        """
        self.check_arkit()
        weights = np.zeros((len(arkit), len(self.shapes)))
        for column, name in enumerate(ARKIT_NAMES):
            if name in self.shape_names:
                weights[:, self.shape_names.index(name)] = arkit[:, column]
        if self.complete is not None:
            weights = self.complete(weights[:, : self.num_free])
        return self.mean + np.tensordot(weights, self.shapes, 1)

    def arkit_weights(self, weights: Float[np.ndarray, "F W"]) -> Float[np.ndarray, "F 52"]:
        """ARKit's weights in ARKit's order; of a shape that is not here, 0. Shapes of other names are left out.

        Raises:
          UserError: none of the shapes has a name of ARKit's.
        """
        self.check_arkit()
        found = np.zeros((len(weights), NUM_ARKIT))
        for column, name in enumerate(ARKIT_NAMES):
            if name in self.shape_names:
                found[:, column] = weights[:, self.shape_names.index(name)]
        return found

    def arkit_only(self) -> BlendshapeBasis:
        """The shapes that ARKit's weights move, without those that have a weight of their own under another name.

        Raises:
          UserError: none of the shapes has a name of ARKit's.
        """
        self.check_arkit()
        if self.complete is not None:
            return self
        kept = [index for index, name in enumerate(self.shape_names) if name in ARKIT_NAMES]
        names = tuple(self.shape_names[index] for index in kept)
        return dataclasses.replace(self, shapes=self.shapes[kept], shape_names=names)

    def check_arkit(self) -> None:
        """Finds out whether ARKit's weights mean anything here.

        Raises:
          UserError: none of the shapes has a name of ARKit's.
        """
        if not set(ARKIT_NAMES) & set(self.shape_names):
            raise UserError(f"{self.name}: none of its {len(self.shapes)} shapes has a name of ARKit's, such as jawOpen")

    def weights(
        self, displacements: Float[np.ndarray, "F V 3"], *, start: Float[np.ndarray, " W"] | None = None, sweeps: int = SWEEPS
    ) -> Float[np.ndarray, "F W"]:
        """Weights in [0, 1] that explain displacements from a neutral face best, in least squares over all vertices.

        Args:
          displacements: in the unit of the shapes.
          start: weights of a face like these, such as the frame before: then few sweeps are enough.
          sweeps: of coordinate descent.

        Raises:
          UserError: the shapes are of other vertices.
        """
        motion = np.asarray(displacements, np.float64)
        if motion.shape[1:] != self.shapes.shape[1:]:
            raise UserError(f"{self.name}: its shapes have {self.shapes.shape[1]} vertices, the face {motion.shape[1]}")
        motion, shapes = motion.reshape(len(motion), -1), self.shapes.reshape(len(self.shapes), -1)
        free, others = shapes[: self.num_free], shapes[self.num_free :]
        gram = free @ free.T
        gram[np.diag_indices_from(gram)] += RIDGE**2 * np.diag(gram).mean()
        projected, cross = motion @ free.T, others @ free.T
        begin = None if start is None else np.repeat(start[None, : self.num_free], len(motion), axis=0)
        if self.complete is None:
            return bounded_least_squares(gram, projected, start=begin, sweeps=sweeps)
        found = bounded_least_squares(gram, projected, sweeps=sweeps) if begin is None else begin
        for _ in range(CORRECTIVE_ROUNDS):
            explained = self.complete(found)[:, self.num_free :] @ cross
            found = bounded_least_squares(gram, projected - explained, start=found, sweeps=sweeps)
        return self.complete(found)

    def residual(self, displacements: Float[np.ndarray, "F V 3"], weights: Float[np.ndarray, "F W"] | None = None) -> float:
        """Root mean square over frames and vertices of what weights leave of displacements in metres, in millimetres.

        Without weights it is that of the displacements themselves.
        """
        left = displacements if weights is None else displacements - np.tensordot(weights, self.shapes, 1)
        return 1e3 * float(np.sqrt(np.square(left).sum(-1).mean()))


def bounded_least_squares(
    gram: Float[np.ndarray, "n n"],
    projected: Float[np.ndarray, "F n"],
    upper: float = 1.0,
    *,
    start: Float[np.ndarray, "F n"] | None = None,
    sweeps: int = SWEEPS,
) -> Float[np.ndarray, "F n"]:
    """argmin over 0 <= w <= upper of w G w / 2 - w b, for every row b of `projected`: coordinate descent over all rows at once.

    evaluation.expression_coefficients solves the same row by row, by an active set; for many rows of few shapes this is faster.
    """
    weights = np.zeros_like(projected) if start is None else start.copy()
    for _ in range(sweeps):
        for k in range(len(gram)):
            weights[:, k] = np.clip(weights[:, k] + (projected[:, k] - weights @ gram[k]) / gram[k, k], 0.0, upper)
    return weights


def _names(source: Path, given: np.ndarray | None, count: int) -> tuple[str, ...]:
    if given is None:
        return ARKIT_NAMES if count == NUM_ARKIT else tuple(f"shape{index:03d}" for index in range(count))
    names = tuple(str(name) for name in np.ravel(given))
    if len(names) != count or len(set(names)) != count:
        raise UserError(f"{source}: 'names' must name its {count} shapes, each once; it has {len(set(names))} names")
    return names
