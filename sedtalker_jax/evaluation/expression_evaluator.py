"""Which emotion a face shows, judged by nothing that any model was trained with.

Features are ARKit blendshape coefficients of brows, lids, cheeks and nose, solved from the upper face alone; the mouth is
masked, so that speech can't tell. The classifier learns them on true motion of the validation split's heads, in expressions
rendered for this purpose: other heads, other clips, other features and another kind of model than any loss has.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sedtalker_jax.data.world.oracle import FaceOracle, edited
from sedtalker_jax.emotion import Edit, EditSchedule
from sedtalker_jax.emotion.labels import ACTIVE, CANONICAL, NEUTRAL
from sedtalker_jax.face.rig import ARKIT_NAMES

MOUTHLESS = tuple(
    name for name in ARKIT_NAMES if name.startswith(("brow", "eyeWide", "eyeSquint", "eyeBlink", "cheek", "nose"))
)
"""Blendshapes whose coefficients are solved for."""

RIDGE = 1e-3
"""Share of the shapes' mean square that is added to the solve's diagonal."""

STRENGTHS = (0.3, 1.0)
"""Range of the strengths of the expressions that the classifier learns."""

FRAMES_PER_CLIP = 30

MIN_TRUE_CHANGE = 0.1
"""Change of the true activation, summed over emotions, as a share of the edit's strength, below which it counts as none."""


class UpperFace:
    """Blendshape coefficients of motions on a world's heads.

    Args:
      oracle: of the world, with its face space.
    """

    def __init__(self, oracle: FaceOracle):
        space = oracle.faces.space
        assert space is not None, "FaceOracle.from_directory loads it"
        self.oracle = oracle
        self._vertices = np.asarray(space.regions["upper_face"])
        basis = space.basis.reshape(space.rank, space.num_vertices, 3)
        self._basis = basis[:, self._vertices].reshape(space.rank, -1).astype(np.float64)

    def coefficients(self, motion: Float[np.ndarray, "F R"], template: str) -> Float[np.ndarray, "F w"]:
        """Coefficients of MOUTHLESS that explain a motion (metres, in the world's face space) best in the upper face."""
        return np.asarray(motion, np.float64) @ self._solve(template)

    @functools.cache  # noqa: B019  one solver lives as long as its job
    def _solve(self, template: str) -> Float[np.ndarray, "R w"]:
        head = self.oracle.faces.head(*self.oracle.faces.find_head(template))
        indices = [ARKIT_NAMES.index(name) for name in MOUTHLESS]
        shapes = head.shapes[indices][:, self._vertices].reshape(len(indices), -1).astype(np.float64)
        gram = shapes @ shapes.T
        gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
        return np.linalg.solve(gram, shapes @ self._basis.T).T


@dataclasses.dataclass(frozen=True)
class ExpressionEvaluator:
    """A fitted classifier of expressions."""

    upper_face: UpperFace
    classifier: Pipeline

    @classmethod
    def fit(cls, oracle: FaceOracle, records: Sequence[Mapping[str, Any]], seed: int) -> ExpressionEvaluator:
        """Learns every emotion on every record's speech and head, at a strength of its own.

        Args:
          oracle: of the world that the records come from.
          records: of the validation split.
          seed: of the strengths.
        """
        upper_face, rng = UpperFace(oracle), np.random.default_rng([seed, 17])
        rows, names = [], []
        for record in records:
            for name in CANONICAL:
                activation = np.zeros(record["activation"].shape, np.float32)
                if name != NEUTRAL:
                    activation[:, ACTIVE.index(name)] = rng.uniform(*STRENGTHS)
                motion = oracle.coefficients(oracle.rig(dict(record), activation), record["template"])
                chosen = np.unique(np.linspace(0, len(motion) - 1, FRAMES_PER_CLIP).astype(int))
                rows.append(upper_face.coefficients(motion[chosen], record["template"]))
                names += [name] * len(chosen)
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=300))
        return cls(upper_face, classifier.fit(np.concatenate(rows), names))

    def name(self, motion: Float[np.ndarray, "F R"], template: str) -> str:
        """The emotion that a whole clip shows: that of the largest mean log-probability over its frames."""
        logs = self.classifier.predict_log_proba(self.upper_face.coefficients(motion, template))
        return str(self.classifier.classes_[logs.mean(axis=0).argmax()])


def edited_truth(
    oracle: FaceOracle, record: Mapping[str, Any], target: str, source: str | None, strength: float
) -> Float[np.ndarray, "F R"]:
    """Coefficients in metres of a record's face under a full edit: `strength` more of the target, less of the source."""
    activation = _edited_activation(record, target, source, strength)
    return oracle.coefficients(oracle.rig(dict(record), activation), record["template"])


def moves_true_face(record: Mapping[str, Any], target: str, source: str | None, strength: float) -> bool:
    """Whether a full edit changes the truth by enough for a change to be measured against it.

    A face can show another emotion than its voice has: nothing of the one that the edit takes away, and the one that it adds
    fully already. A share of next to nothing would be noise, however large.
    """
    change = np.abs(_edited_activation(record, target, source, strength) - record["activation"])
    return bool(change.sum(axis=1).mean() >= MIN_TRUE_CHANGE * strength)


def _edited_activation(record, target: str, source: str | None, strength: float) -> Float[np.ndarray, "F K-1"]:
    schedule = EditSchedule((Edit(target, strength, source),))
    times = np.arange(len(record["activation"])) / float(record["fps"])
    return edited(record["activation"], schedule, times)
