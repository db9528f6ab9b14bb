"""Names of the rig's weights, and the correctives that depend on them nonlinearly.

The first 52 weights carry the names of Apple's ARKit blendshapes (ARFaceAnchor.BlendShapeLocation), in ARKit's order, so that
animation can go to any ARKit face. Left and right are the subject's. After them come correctives: shapes whose weights follow
from the others by products, which is how the rig bends where a plain sum of shapes would break (a jaw and a lid swing on
arcs; a smile with an open mouth lifts the lip further than the two apart).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sedtalker_jax.errors import UserError

ARKIT_NAMES: tuple[str, ...] = (
    "eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft", "eyeSquintLeft", "eyeWideLeft",
    "eyeBlinkRight", "eyeLookDownRight", "eyeLookInRight", "eyeLookOutRight", "eyeLookUpRight", "eyeSquintRight",
    "eyeWideRight", "jawForward", "jawLeft", "jawRight", "jawOpen",
    "mouthClose", "mouthFunnel", "mouthPucker", "mouthLeft", "mouthRight", "mouthSmileLeft", "mouthSmileRight",
    "mouthFrownLeft", "mouthFrownRight", "mouthDimpleLeft", "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight",
    "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthPressLeft", "mouthPressRight",
    "mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip

CORRECTIVE_NAMES: tuple[str, ...] = (
    "jawOpenArc",
    "eyeBlinkArcLeft",
    "eyeBlinkArcRight",
    "smileWithJaw",
    "puckerWithJaw",
    "stretchWithJaw",
    "browKnit",
    "cheekBulgeLeft",
    "cheekBulgeRight",
    "noseWrinkle",
    "chinBulge",
)

WEIGHT_NAMES: tuple[str, ...] = ARKIT_NAMES + CORRECTIVE_NAMES
"""All W weights of a rig, ARKit first."""

INDEX: Mapping[str, int] = {name: index for index, name in enumerate(WEIGHT_NAMES)}
NUM_ARKIT, NUM_WEIGHTS = len(ARKIT_NAMES), len(WEIGHT_NAMES)


def weight_indices(names: str) -> list[int]:
    """Indices of a weight name; a name without Left or Right that exists only in pairs means both ("mouthSmile").

    Raises:
      UserError: for an unknown name.
    """
    if names in INDEX:
        return [INDEX[names]]
    pair = [f"{names}Left", f"{names}Right"]
    if pair[0] in INDEX:
        return [INDEX[name] for name in pair]
    raise UserError(f"unknown blendshape '{names}'; use an ARKit name, with or without Left or Right")


def pose(weights: Mapping[str, float]) -> np.ndarray:
    """Weight vector [W] (correctives zero) from {name: weight}; see weight_indices for names that mean a pair.

    A pair's name sets both sides; a side given by its own name wins.
    """
    out = np.zeros(NUM_WEIGHTS)
    for name in sorted(weights, key=lambda n: n in INDEX):
        out[weight_indices(name)] = weights[name]
    return out


def with_correctives(weights: np.ndarray) -> np.ndarray:
    """Fills in the correctives: ARKit weights [..., 52] or all weights [..., W] -> [..., W], same floating type.

    Correctives already present are replaced: they are functions of the first 52.
    """
    weights = np.asarray(weights)
    if weights.shape[-1] not in (NUM_ARKIT, NUM_WEIGHTS):
        raise ValueError(f"expected {NUM_ARKIT} ARKit weights or all {NUM_WEIGHTS}, got {weights.shape[-1]}")
    out = np.zeros((*weights.shape[:-1], NUM_WEIGHTS), weights.dtype)
    out[..., :NUM_ARKIT] = weights[..., :NUM_ARKIT]

    def get(name: str) -> np.ndarray:
        return out[..., INDEX[name]]

    def both(name: str) -> np.ndarray:
        return 0.5 * (get(f"{name}Left") + get(f"{name}Right"))

    jaw, close = get("jawOpen"), get("mouthClose")
    # The arc is the deviation of the true rotation from its chord: greatest half way, none at the ends. Lips that are held
    # together ride less on it.
    values = {
        "jawOpenArc": 4.0 * jaw * (1.0 - jaw) * (1.0 - np.clip(close / np.maximum(jaw, 1e-3), 0.0, 1.0)),
        "eyeBlinkArcLeft": 4.0 * get("eyeBlinkLeft") * (1.0 - get("eyeBlinkLeft")),
        "eyeBlinkArcRight": 4.0 * get("eyeBlinkRight") * (1.0 - get("eyeBlinkRight")),
        "smileWithJaw": both("mouthSmile") * jaw,
        "puckerWithJaw": get("mouthPucker") * jaw,
        "stretchWithJaw": both("mouthStretch") * jaw,
        "browKnit": both("browDown") * get("browInnerUp"),
        "cheekBulgeLeft": get("mouthSmileLeft") * get("cheekSquintLeft"),
        "cheekBulgeRight": get("mouthSmileRight") * get("cheekSquintRight"),
        "noseWrinkle": get("noseSneerLeft") * get("noseSneerRight"),
        "chinBulge": get("mouthShrugLower") * both("mouthFrown"),
    }
    for name, value in values.items():
        out[..., INDEX[name]] = value
    return out
