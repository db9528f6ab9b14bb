"""Between vertices and what the animator computes with: normalised motion coefficients and template codes."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from sedtalker_jax.axes import VertexSequence, VerticesArray
from sedtalker_jax.errors import UNREADABLE_ARRAYS, UserError
from sedtalker_jax.face.lip_points import lip_points
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.models.subject import UNKNOWN_SUBJECT

_STATISTICS = "face_statistics.npz"
_SPACE = "face_space.npz"

CLOSED_WITHIN_M = 0.001
"""Lips that are opened less than this beyond the template's count as shut. Of the built-in world's p, b, m nine tenths come
nearer than that, and of its other frames one in six."""


@dataclasses.dataclass(frozen=True)
class FaceCodec:
    """A face space with the statistics of the training motion.

    Attributes:
      space: vertex basis, templates, triangles and regions of one topology.
      motion_mean, motion_std: [R] of the training coefficients. All coefficients share one scale per coefficient, so an
        error in normalised units is still a vertex error through the Gram matrices.
      velocity_second_moment: [R, R] mean of outer products of frame-to-frame coefficient differences.
      second_moment: [R, R] mean of outer products of coefficients.
      template_mean: [3V] mean of the training templates.
      template_basis: [Q, 3V] their principal directions, scaled so that training codes have unit variance.
      subjects: whose faces training saw, where the animator learns how each of them moves; else none.
    """

    space: FaceSpace
    motion_mean: np.ndarray
    motion_std: np.ndarray
    second_moment: np.ndarray
    velocity_second_moment: np.ndarray
    template_mean: np.ndarray
    template_basis: np.ndarray
    subjects: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        space: FaceSpace,
        motions: list[Float[np.ndarray, "F R"]],
        template_names: list[str],
        code_size: int,
        subjects: Sequence[str] = (),
    ) -> FaceCodec:
        """Statistics of the training motion and the training templates.

        Args:
          space: the data set's face space.
          motions: coefficients of training clips.
          template_names: templates that training clips use.
          code_size: Q, at most the number of distinct templates minus one.
          subjects: see the class.
        """
        coefficients = np.concatenate(motions).astype(np.float64)
        differences = np.concatenate([np.diff(m.astype(np.float64), axis=0) for m in motions])
        names = sorted(set(template_names))
        index = {name: i for i, name in enumerate(space.template_names)}
        flat = np.stack([space.templates[index[name]].reshape(-1) for name in names]).astype(np.float64)
        mean = flat.mean(axis=0)
        size = min(code_size, max(1, len(names) - 1))
        _, singular, directions = np.linalg.svd(flat - mean, full_matrices=False)
        deviation = np.maximum(singular[:size] / np.sqrt(max(1, len(names) - 1)), 1e-9)
        basis = np.zeros((code_size, flat.shape[1]))
        basis[:size] = directions[:size] / deviation[:, None]
        std = np.maximum(coefficients.std(axis=0), 1e-3 * coefficients.std())
        return cls(
            space=space,
            motion_mean=coefficients.mean(axis=0).astype(np.float32),
            motion_std=std.astype(np.float32),
            second_moment=(coefficients.T @ coefficients / len(coefficients)).astype(np.float32),
            velocity_second_moment=(differences.T @ differences / len(differences)).astype(np.float32),
            template_mean=mean.astype(np.float32),
            template_basis=basis.astype(np.float32),
            subjects=tuple(subjects),
        )

    @property
    def rank(self) -> int:
        """R."""
        return self.motion_mean.shape[0]

    def normalise(self, coefficients: Float[np.ndarray, "F R"]) -> Float[np.ndarray, "F R"]:
        """Coefficients (metres) to the animator's units."""
        return (coefficients - self.motion_mean) / self.motion_std

    def vertices(self, template: VerticesArray, normalised: Float[np.ndarray, "F R"]) -> VertexSequence:
        """The animator's output on a template, in metres."""
        coefficients = np.asarray(normalised, np.float32) * self.motion_std + self.motion_mean
        return self.space.vertices(template, coefficients)

    def template_code(self, template: VerticesArray) -> Float[np.ndarray, "Q"]:
        """Code of a template: its coordinates among the training templates, in standard deviations, limited to +/- 3.

        The limit keeps a face unlike any in training from driving the network to where it never was.
        """
        flat = np.asarray(template, np.float32).reshape(-1)
        return np.clip(self.template_basis @ (flat - self.template_mean), -3.0, 3.0).astype(np.float32)

    def subject_index(self, *names: str) -> int:
        """Which of `subjects` the first known one of these names is, counted from 1; UNKNOWN_SUBJECT if training saw none."""
        return next((self.subjects.index(name) + 1 for name in names if name in self.subjects), UNKNOWN_SUBJECT)

    def gram(self, region: str | None) -> Float[np.ndarray, "R R"]:
        """[R, R] so that d^T G d is the squared vertex error over a region (None = all vertices), relative to the region's
        mean squared displacement in the training motion; d in normalised units."""
        raw, scaled = self._grams(region)
        return (scaled / max(float(np.sum(raw * self.second_moment)), 1e-12)).astype(np.float32)

    def gram_velocity(self, region: str | None) -> Float[np.ndarray, "R R"]:
        """As `gram`, relative to the mean squared frame-to-frame displacement."""
        raw, scaled = self._grams(region)
        return (scaled / max(float(np.sum(raw * self.velocity_second_moment)), 1e-12)).astype(np.float32)

    @property
    def lip_points(self) -> tuple[int, int] | None:
        """Vertices in the middle of the inner lips, upper and lower; None where the topology is not known."""
        return lip_points(self.space.topology)

    def lips_closed(self, template: VerticesArray, coefficients: Float[np.ndarray, "F R"]) -> Bool[np.ndarray, " F"]:
        """Where the lips are shut: opened by less than CLOSED_WITHIN_M beyond the template, whose mouth is.

        Nowhere, on a topology whose lip points are not known.

        Args:
          template: the face at rest.
          coefficients: motion in metres, not normalised.
        """
        if self.lip_points is None:
            return np.zeros(len(coefficients), bool)
        return self.lip_opening(template, coefficients) < CLOSED_WITHIN_M

    def lip_opening(self, template: VerticesArray, coefficients: Float[np.ndarray, "F R"]) -> Float[np.ndarray, " F"]:
        """How much further apart than in the template the inner lips are, in metres; of a topology whose lip points are known.

        Args:
          template: the face at rest, whose mouth is shut.
          coefficients: motion in metres, not normalised.
        """
        upper, lower = self.lip_points
        rest = np.asarray(template[upper] - template[lower], np.float64)
        gap = rest + coefficients.astype(np.float64) @ self._lip_gap()
        return np.linalg.norm(gap, axis=-1) - np.linalg.norm(rest)

    def without_lip_gap(self, change: Float[np.ndarray, "F R"]) -> Float[np.ndarray, "F R"]:
        """The nearest changes of normalised motion that leave the vector between the inner lips as it is.

        Nearest in units of the training motion's spread: what is taken away is how training faces shut their lips.
        """
        gap = self._lip_gap() * self.motion_std[:, None].astype(np.float64)
        return (change - change @ gap @ np.linalg.pinv(gap)).astype(change.dtype)

    def gram_lip_gap(self) -> Float[np.ndarray, "R R"]:
        """As `gram`, of the vector between the inner lips instead of vertices.

        Raises:
          UserError: the lip points of this topology are not known.
        """
        if self.lip_points is None:
            raise UserError(f"loss.lip_closure: no lip points are known for the topology {self.space.topology!r}; set it to 0")
        gap = self._lip_gap()
        raw = gap @ gap.T
        scaled = raw * self.motion_std[:, None] * self.motion_std[None, :]
        return (scaled / max(float(np.sum(raw * self.second_moment)), 1e-12)).astype(np.float32)

    def _lip_gap(self) -> Float[np.ndarray, "R 3"]:
        """What a coefficient adds to the vector from the lower inner lip to the upper one."""
        upper, lower = self.lip_points
        basis = self.space.basis.reshape(self.rank, -1, 3).astype(np.float64)
        return basis[:, upper] - basis[:, lower]

    def _grams(self, region: str | None) -> tuple[np.ndarray, np.ndarray]:
        rank = self.rank
        basis = self.space.basis.reshape(rank, -1, 3).astype(np.float64)
        if region is not None:
            basis = basis[:, self.space.regions[region]]
        flat = basis.reshape(rank, -1)
        raw = flat @ flat.T
        return raw, raw * self.motion_std[:, None] * self.motion_std[None, :]

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the two files that `load` reads, each whole or not at all."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.space.save(directory / _SPACE)
        arrays = {name: getattr(self, name) for name in self._array_names()}
        if self.subjects:
            arrays["subjects"] = np.array(self.subjects)
        temporary = directory / (_STATISTICS + ".tmp.npz")
        np.savez_compressed(temporary, **arrays)
        os.replace(temporary, directory / _STATISTICS)

    @classmethod
    def load(cls, directory: str | os.PathLike) -> FaceCodec:
        """Reads a codec.

        Raises:
          UserError: a file is missing or damaged.
        """
        path = pathlib.Path(directory) / _STATISTICS
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in cls._array_names()}
                subjects = tuple(stored["subjects"].tolist()) if "subjects" in stored else ()
        except FileNotFoundError as error:
            raise UserError(f"{path}: not found; it is written by train.py beside the checkpoints") from error
        except UNREADABLE_ARRAYS as error:
            raise UserError(f"{path}: damaged ({error}); copy it again from where the model was trained") from error
        return cls(space=FaceSpace.load(pathlib.Path(directory) / _SPACE), subjects=subjects, **arrays)

    @classmethod
    def _array_names(cls) -> list[str]:
        return [field.name for field in dataclasses.fields(cls) if field.name not in ("space", "subjects")]
