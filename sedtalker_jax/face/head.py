"""The built-in heads: a seed gives a face, its blendshapes, and its own way of speaking and feeling."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sedtalker_jax.face import anatomy, shape
from sedtalker_jax.face.blendshapes import build_shapes
from sedtalker_jax.face.chart import TOPOLOGY, chart
from sedtalker_jax.face.regions import head_landmarks, head_regions
from sedtalker_jax.face.rig import INDEX, NUM_WEIGHTS, WEIGHT_NAMES, with_correctives
from sedtalker_jax.face.template import FaceTemplate

MILLIMETRE = 1e-3


@dataclass(frozen=True)
class HeadSpec:
    """How heads are drawn.

    spread: standard deviation of the identity parameters; limit: where they are clipped, in standard deviations before the
    spread; shape_variation: standard deviation of the logarithm of each blendshape's size; asymmetry: the same for the
    difference of left and right; identity: fixed parameters by name (of shape.Identity) that replace drawn ones.
    """

    spread: float = 1.0
    limit: float = 2.0
    shape_variation: float = 0.10
    asymmetry: float = 0.05
    identity: Mapping[str, float] | None = None


@dataclass(frozen=True)
class ArticulationStyle:
    """A person's own way of speaking and feeling. Draws are by name, so that adding a viseme or an emotion moves no other.

    seed: what the draws come from (None: the average person); opening: metres that the middle of the lips parts per unit of
    each weight, [W], which forced closures solve for.
    """

    seed: int | None
    opening: np.ndarray

    def normal(self, name: str, size: int) -> np.ndarray:
        """Standard normal numbers that belong to `name`, clipped to +-2.5; zeros for the average person."""
        if self.seed is None:
            return np.zeros(size)
        generator = np.random.default_rng([self.seed & 0xFFFFFFFF, zlib.crc32(name.encode())])
        return np.clip(generator.standard_normal(size), -2.5, 2.5)


@dataclass(frozen=True)
class Head:
    """A head at rest with its rig. shapes: [W, V, 3] float32 metres of displacement per unit of weight."""

    seed: int
    identity: shape.Identity
    template: FaceTemplate
    weight_names: tuple[str, ...]
    shapes: np.ndarray

    @property
    def landmarks(self) -> Mapping[str, int]:
        return head_landmarks()

    @cached_property
    def style(self) -> ArticulationStyle:
        """This head's own articulation."""
        return ArticulationStyle(self.seed, _opening(self.shapes))

    def displacements(self, weights: np.ndarray) -> np.ndarray:
        """Displacements from rest of weights [F, W] -> [F, V, 3] float32 metres; correctives are taken as given.

        ARKit weights alone, [F, 52], get their correctives first.
        """
        weights = np.asarray(weights, np.float32)
        if weights.shape[-1] != NUM_WEIGHTS:
            weights = with_correctives(weights)
        flat = weights.reshape(-1, NUM_WEIGHTS) @ self.shapes.reshape(NUM_WEIGHTS, -1)
        return flat.reshape(*weights.shape[:-1], -1, 3)

    def vertices(self, weights: np.ndarray) -> np.ndarray:
        """Vertices of weights [F, W] -> [F, V, 3] float32 metres."""
        return self.template.vertices + self.displacements(weights)


def _opening(shapes: np.ndarray) -> np.ndarray:
    marks = head_landmarks()
    return (shapes[:, marks["upper_inner_lip"], 1] - shapes[:, marks["lower_inner_lip"], 1]).astype(np.float64)


def average_style() -> ArticulationStyle:
    """The style of nobody in particular, on the mean head."""
    return ArticulationStyle(None, _opening(build_shapes(anatomy.build_positions(shape.Identity())) * MILLIMETRE))


def make_head(seed: int, spec: HeadSpec | None = None, name: str | None = None) -> Head:
    """The head of a seed. Equal seeds and specs give equal heads; seed 0 with spread 0 is the mean head.

    Its blendshapes are scaled to its shape and differ a little in size and symmetry from those of other heads. Takes about
    20 ms.
    """
    spec = spec or HeadSpec()
    generator = np.random.default_rng([seed & 0xFFFFFFFF, zlib.crc32(b"identity")])
    identity = shape.Identity.random(generator, spec.spread, spec.limit)
    if spec.identity:
        identity = shape.Identity(**{**identity.__dict__, **{key: float(value) for key, value in spec.identity.items()}})
    positions = anatomy.build_positions(identity)
    shapes = build_shapes(positions)

    sizes = np.random.default_rng([seed & 0xFFFFFFFF, zlib.crc32(b"shapes")])
    log_size = spec.shape_variation * np.clip(sizes.standard_normal(NUM_WEIGHTS), -2.0, 2.0)
    for weight, index in INDEX.items():
        # Left and right share their size up to the asymmetry.
        if weight.endswith("Right") and f"{weight[:-5]}Left" in INDEX and weight not in ("mouthRight", "jawRight"):
            log_size[index] = log_size[INDEX[f"{weight[:-5]}Left"]] + spec.asymmetry * log_size[index] / max(
                spec.shape_variation, 1e-9
            )
    # Rotations fit the head as they are: a lid must meet the other one, lips must close.
    for weight in ("jawOpen", "mouthClose", "jawOpenArc"):
        log_size[INDEX[weight]] = 0.0
    for weight in WEIGHT_NAMES:
        if weight.startswith(("eyeBlink", "eyeLook")):
            log_size[INDEX[weight]] = 0.0
    shapes *= np.exp(log_size)[:, None, None]
    # Muscles of a wide mouth or a long face move it further.
    wide, long = 1.0 + 0.05 * identity.mouth_width, 1.0 + 0.03 * identity.face_length
    scale = np.array([wide, long, 1.0])
    for weight, index in INDEX.items():
        if weight.startswith(("mouth", "cheek", "nose", "smile", "pucker", "stretch")) and weight != "mouthClose":
            shapes[index] *= scale
    template = FaceTemplate(
        name or f"head-{seed}", TOPOLOGY, (positions * MILLIMETRE).astype(np.float32), chart().faces, head_regions()
    )
    return Head(seed, identity, template, WEIGHT_NAMES, (shapes * MILLIMETRE).astype(np.float32))
