"""FLAME: shape, expression and pose parameters to vertices (Li et al., "Learning a model of facial shape and expression from
4D scans", SIGGRAPH Asia 2017). The model file is licensed and stays in a directory that the user names.

    rest   = template + shape blend shapes + expression blend shapes
    joints = regressor . rest
    posed  = rest + pose blend shapes of (R_j - I), j = neck, jaw, eyes
    vertex = sum_j weight_j G_j posed      (linear blend skinning; G_j turns about joint j, along the chain of its parents)
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from sedtalker_jax.errors import UserError
from sedtalker_jax.face.array_pickle import load_pickled_arrays
from sedtalker_jax.face.mesh_files import load_npz

MODEL_FILES = ("generic_model.pkl", "generic_model.npz", "flame2023.pkl", "flame2023.npz", "flame.pkl", "flame.npz")
"""File names under which FLAME 2017, 2019, 2020 and 2023 are published or kept, in the order in which they are looked for."""

NUM_SHAPE, NUM_EXPRESSION = 300, 100
"""Components of a full model: the first 300 columns of `shapedirs` are identity, the last 100 expression."""

ROOT, NECK, JAW, LEFT_EYE, RIGHT_EYE = range(5)
NUM_JOINTS = 5

_FRAMES_AT_ONCE = 64  # bounds the memory of skinning to 64 x V x 12 numbers


@dataclasses.dataclass(frozen=True)
class Flame:
    """A FLAME model.

    Attributes:
      template: [V, 3] mean face in metres.
      faces: [M, 3] triangles.
      shape_directions: [V, 3, 300] identity blend shapes.
      expression_directions: [V, 3, 100] expression blend shapes.
      pose_directions: [V, 3, 36] blend shapes of the entries of R_j - I, joint by joint without the root.
      joint_regressor: [5, V].
      parents: [5] parent of each joint, -1 for the root.
      weights: [V, 5] skinning weights.
    """

    template: np.ndarray
    faces: np.ndarray
    shape_directions: np.ndarray
    expression_directions: np.ndarray
    pose_directions: np.ndarray
    joint_regressor: np.ndarray
    parents: np.ndarray
    weights: np.ndarray

    @classmethod
    def load(cls, path: str | os.PathLike) -> Flame:
        """Reads a model file (.pkl without executing it, or .npz), or the one in a directory or its FLAME* folders.

        Raises:
          UserError: no model there, a damaged one, or one with other sizes.
        """
        source = find_model(Path(path))
        arrays = load_npz(source) if source.suffix == ".npz" else load_pickled_arrays(source, "a FLAME model")
        try:
            directions = np.asarray(arrays["shapedirs"], np.float64)
            V = len(np.asarray(arrays["v_template"]))
            model = cls(
                template=np.asarray(arrays["v_template"], np.float64),
                faces=np.asarray(arrays["f"]).astype(np.int32),
                shape_directions=directions[..., :NUM_SHAPE],
                expression_directions=directions[..., NUM_SHAPE : NUM_SHAPE + NUM_EXPRESSION],
                pose_directions=np.asarray(arrays["posedirs"], np.float64),
                joint_regressor=np.asarray(arrays["J_regressor"], np.float64),
                parents=_parents(np.asarray(arrays["kintree_table"])),
                weights=np.asarray(arrays["weights"], np.float64),
            )
        except KeyError as error:
            raise UserError(f"{source}: no FLAME model, it lacks {error}; --option flame= names FLAME's directory") from None
        except (TypeError, ValueError, IndexError) as error:
            raise UserError(f"{source}: damaged FLAME model ({error}); download it again from flame.is.tue.mpg.de") from None
        wanted = {
            "template": (V, 3),
            "shape_directions": (V, 3, NUM_SHAPE),
            "expression_directions": (V, 3, NUM_EXPRESSION),
            "pose_directions": (V, 3, 9 * (NUM_JOINTS - 1)),
            "joint_regressor": (NUM_JOINTS, V),
            "parents": (NUM_JOINTS,),
            "weights": (V, NUM_JOINTS),
        }
        for name, shape in wanted.items():
            if getattr(model, name).shape != shape:
                found = list(getattr(model, name).shape)
                raise UserError(f"{source}: FLAME's {name} has shape {found}, not {list(shape)}; use the full model of FLAME")
        return model

    def neutral(self, shape: Float[np.ndarray, " n"]) -> Float[np.ndarray, "V 3"]:
        """The face at rest of an identity: up to 300 shape parameters -> [V, 3] metres."""
        shape = np.asarray(shape, np.float64)
        return self.template + self.shape_directions[..., : len(shape)] @ shape

    def vertices(
        self,
        shape: Float[np.ndarray, " n"],
        expression: Float[np.ndarray, "F e"],
        jaw: Float[np.ndarray, "F 3"],
        neck: Float[np.ndarray, "F 3"] | None = None,
        eyes: Float[np.ndarray, "F 6"] | None = None,
        root: Float[np.ndarray, "F 3"] | None = None,
    ) -> Float[np.ndarray, "F V 3"]:
        """Vertices of one identity in motion.

        Args:
          shape: up to 300 identity parameters.
          expression: up to 100 expression parameters per frame.
          jaw, neck, root: rotations of these joints as axis times angle in radians; left out: none.
          eyes: the left eye's and the right eye's.

        Returns:
          [F, V, 3] float32 in metres, without translation.
        """
        expression = np.asarray(expression, np.float64)
        F = len(expression)
        pose = np.zeros((F, NUM_JOINTS, 3))
        pose[:, JAW] = jaw
        if neck is not None:
            pose[:, NECK] = neck
        if root is not None:
            pose[:, ROOT] = root
        if eyes is not None:
            pose[:, LEFT_EYE:] = np.asarray(eyes).reshape(F, 2, 3)
        neutral = self.neutral(shape)
        out = np.empty((F, len(self.template), 3), np.float32)
        for start in range(0, F, _FRAMES_AT_ONCE):
            rows = slice(start, start + _FRAMES_AT_ONCE)
            out[rows] = self._pose(neutral, expression[rows], pose[rows])
        return out

    def _pose(self, neutral: np.ndarray, expression: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """One block of frames: expression [f, e], pose [f, 5, 3] -> [f, V, 3]."""
        f, V = len(expression), len(neutral)
        directions = self.expression_directions[..., : expression.shape[1]].reshape(3 * V, -1)
        rest = neutral + (expression @ directions.T).reshape(f, V, 3)
        joints = np.einsum("jv,fvc->fjc", self.joint_regressor, rest, optimize=True)
        rotations = Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix().reshape(f, NUM_JOINTS, 3, 3)
        features = (rotations[:, 1:] - np.eye(3)).reshape(f, -1)
        posed = rest + (features @ self.pose_directions.reshape(3 * V, -1).T).reshape(f, V, 3)

        turn, shift = np.empty_like(rotations), np.empty_like(joints)
        for joint, parent in enumerate(self.parents):
            if parent < 0:
                turn[:, joint], shift[:, joint] = rotations[:, joint], joints[:, joint]
            else:
                offset = joints[:, joint] - joints[:, parent]
                turn[:, joint] = turn[:, parent] @ rotations[:, joint]
                shift[:, joint] = shift[:, parent] + np.einsum("fab,fb->fa", turn[:, parent], offset)
        # A vertex is given in the rest pose: each joint's turn is about where that joint rests.
        shift -= np.einsum("fjab,fjb->fja", turn, joints)
        turns = (self.weights @ turn.reshape(f, NUM_JOINTS, 9)).reshape(f, V, 3, 3)
        return np.einsum("fvab,fvb->fva", turns, posed) + self.weights @ shift


def _parents(table: np.ndarray) -> np.ndarray:
    parents = table[0].astype(np.int64)  # the root's entry is a huge unsigned number
    parents[0] = -1
    if (parents[1:] < 0).any() or (parents[1:] >= np.arange(1, len(parents))).any():
        raise ValueError("a joint stands before its parent in kintree_table")
    return parents


def find_model(path: Path) -> Path:
    """The model file that `path` names: itself, or the one in that directory or in its FLAME* folders.

    Raises:
      UserError: there is none.
    """
    if path.is_file():
        return path
    folders = [path, *sorted(folder for folder in path.glob("[Ff][Ll][Aa][Mm][Ee]*") if folder.is_dir())]
    for folder in folders:
        for name in MODEL_FILES:
            if (folder / name).is_file():
                return folder / name
    raise UserError(
        f"{path}: no FLAME model ({', '.join(MODEL_FILES[:3])} ...); FLAME is licensed: download it from "
        "flame.is.tue.mpg.de and give its directory as --option flame=DIR"
    )
