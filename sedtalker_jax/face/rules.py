"""Every tunable number of the built-in faces: expressions, visemes, coarticulation, and how speech and emotion interact.

`DEFAULT_FACE_RULES` is a nested mapping of plain numbers, strings and lists, so that it can be written as a section of a TOML
file; `face_rules(overrides)` merges such a section into it. Weights are ARKit names; a name without Left or Right sets both.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from sedtalker_jax.errors import UserError

DEFAULT_FACE_RULES: dict[str, Any] = {
    # ARKit weights of each emotion at activation 1.
    "expressions": {
        "happy": {
            "mouthSmile": 0.92, "cheekSquint": 0.75, "eyeSquint": 0.40, "mouthDimple": 0.20, "mouthUpperUp": 0.22,
            "browOuterUp": 0.12, "jawOpen": 0.06,
        },
        "angry": {
            "browDown": 1.0, "eyeWide": 0.30, "eyeSquint": 0.45, "noseSneer": 0.30, "mouthPress": 0.75, "mouthFrown": 0.40,
            "jawForward": 0.30, "mouthRollUpper": 0.25, "mouthShrugLower": 0.25,
        },
        "sad": {
            "browInnerUp": 0.95, "browDown": 0.20, "mouthFrown": 0.85, "mouthShrugLower": 0.50, "eyeBlink": 0.24,
            "eyeLookDown": 0.30, "eyeSquint": 0.15, "mouthStretch": 0.10,
        },
        "fear": {
            "browInnerUp": 0.90, "browDown": 0.40, "browOuterUp": 0.30, "eyeWide": 1.0, "mouthStretch": 0.80,
            "mouthLowerDown": 0.42, "jawOpen": 0.10, "mouthFrown": 0.20,
        },
        "surprise": {
            "browInnerUp": 0.85, "browOuterUp": 1.0, "eyeWide": 0.85, "jawOpen": 0.42, "mouthFunnel": 0.18,
        },
        "disgust": {
            "noseSneer": 1.0, "mouthUpperUp": 0.65, "browDown": 0.45, "eyeSquint": 0.55, "cheekSquint": 0.40,
            "mouthFrown": 0.45, "mouthShrugLower": 0.35,
        },
        # Frustration: one-sided, lips pressed and pulled aside, eyes away.
        "upset": {
            "browDownLeft": 0.95, "browDownRight": 0.25, "browInnerUp": 0.25, "browOuterUpRight": 0.45, "mouthPress": 0.50,
            "mouthRollLower": 0.50, "mouthLeft": 1.0, "mouthDimpleLeft": 0.85, "mouthDimpleRight": 0.10, "mouthFrownLeft": 0.15,
            "mouthFrownRight": 0.45, "eyeSquintLeft": 0.50, "eyeSquintRight": 0.25, "eyeLookDown": 0.10, "eyeLookOutLeft": 0.60,
            "eyeLookInRight": 0.60, "cheekPuff": 0.30, "noseSneerLeft": 0.30,
        },
    },
    # Activation a drives weights as a ** exponent: small feelings show in the brows first, in the mouth later.
    "exponent": {"upper": 0.85, "lower": 1.15},
    # Targets of the visemes, and the dominance of their jaw, lips and tongue over neighbouring sounds.
    "visemes": {
        "rest": {"jawOpen": 0.0, "dominance": [0.9, 0.8, 0.8]},
        "PP": {"jawOpen": 0.10, "mouthPress": 0.22, "mouthRollLower": 0.16, "mouthRollUpper": 0.12,
               "dominance": [0.75, 1.0, 0.05]},
        "FF": {"jawOpen": 0.10, "mouthRollLower": 0.55, "mouthUpperUp": 0.28, "mouthShrugLower": 0.30,
               "dominance": [0.85, 1.1, 0.05]},
        "TH": {"jawOpen": 0.17, "mouthStretch": 0.10, "mouthLowerDown": 0.20, "tongueOut": 0.45, "dominance": [0.6, 0.3, 1.2]},
        "DD": {"jawOpen": 0.14, "mouthStretch": 0.12, "mouthLowerDown": 0.20, "mouthUpperUp": 0.06, "tongueOut": 0.10,
               "dominance": [0.6, 0.25, 1.0]},
        "SS": {"jawOpen": 0.06, "mouthStretch": 0.30, "mouthLowerDown": 0.34, "mouthUpperUp": 0.14, "jawForward": 0.12,
               "dominance": [1.3, 0.4, 0.8]},
        "SH": {"jawOpen": 0.08, "mouthFunnel": 0.62, "mouthPucker": 0.18, "mouthShrugUpper": 0.30, "jawForward": 0.12,
               "dominance": [1.2, 0.9, 0.6]},
        "KK": {"jawOpen": 0.19, "mouthLowerDown": 0.10, "dominance": [0.4, 0.12, 0.5]},
        "LL": {"jawOpen": 0.22, "mouthLowerDown": 0.16, "tongueOut": 0.20, "dominance": [0.5, 0.2, 1.0]},
        "RR": {"jawOpen": 0.14, "mouthFunnel": 0.36, "mouthPucker": 0.22, "dominance": [0.6, 0.65, 0.6]},
        "WW": {"jawOpen": 0.10, "mouthPucker": 0.92, "mouthFunnel": 0.22, "dominance": [0.6, 1.2, 0.2]},
        "IY": {"jawOpen": 0.14, "mouthStretch": 0.32, "mouthSmile": 0.26, "mouthLowerDown": 0.18, "dominance": [0.7, 0.6, 0.3]},
        "IH": {"jawOpen": 0.23, "mouthStretch": 0.20, "mouthSmile": 0.12, "mouthLowerDown": 0.14,
               "dominance": [0.6, 0.45, 0.3]},
        "EH": {"jawOpen": 0.38, "mouthStretch": 0.20, "mouthSmile": 0.08, "mouthLowerDown": 0.18, "mouthUpperUp": 0.06,
               "dominance": [0.8, 0.5, 0.3]},
        "AE": {"jawOpen": 0.56, "mouthStretch": 0.24, "mouthLowerDown": 0.18, "mouthUpperUp": 0.12,
               "dominance": [0.95, 0.55, 0.3]},
        "AA": {"jawOpen": 0.68, "mouthFunnel": 0.06, "mouthLowerDown": 0.10, "dominance": [1.0, 0.5, 0.3]},
        "AO": {"jawOpen": 0.52, "mouthFunnel": 0.52, "mouthPucker": 0.16, "dominance": [0.9, 0.85, 0.3]},
        "OW": {"jawOpen": 0.32, "mouthFunnel": 0.46, "mouthPucker": 0.52, "dominance": [0.8, 0.95, 0.3]},
        "UW": {"jawOpen": 0.12, "mouthPucker": 0.86, "mouthFunnel": 0.30, "dominance": [0.7, 1.1, 0.3]},
        "UU": {"jawOpen": 0.22, "mouthPucker": 0.48, "mouthFunnel": 0.28, "dominance": [0.6, 0.8, 0.3]},
        "UH": {"jawOpen": 0.34, "mouthLowerDown": 0.12, "mouthFunnel": 0.08, "dominance": [0.55, 0.3, 0.3]},
        "ER": {"jawOpen": 0.22, "mouthFunnel": 0.38, "mouthPucker": 0.20, "dominance": [0.7, 0.7, 0.4]},
        "HH": {"jawOpen": 0.30, "dominance": [0.08, 0.05, 0.1]},
    },
    "coarticulation": {
        # Dominance falls as exp(-rate * distance) from a sound's core, per second, before and after it.
        "rate_before": {"jaw": 17.0, "lips": 13.0, "tongue": 22.0},
        "rate_after": {"jaw": 19.0, "lips": 17.0, "tongue": 24.0},
        "core": 0.30,  # part of a sound's duration round its middle that counts as its core
        "rest_pull": 0.05,  # dominance of the neutral mouth, everywhere
        "stress_gain": 1.15,  # of targets and dominance under primary stress
        "unstressed_gain": 0.92,
        "jaw_frequency": 5.5,  # Hz, natural frequency of the jaw as a critically damped mass
        "lip_frequency": 10.0,
        "closure_attack": 0.055,  # seconds
        "closure_release": 0.050,
        "closure_jaw": 0.45,  # how much of the jaw's opening a closure takes back
        "contact_opening": 0.30,  # of the lips' opening that f and v leave, towards the teeth
    },
    # Speech under emotion, at activation 1: size and speed of the movements.
    "gain": {"angry": 1.38, "disgust": 0.74, "fear": 0.78, "happy": 1.18, "sad": 0.58, "surprise": 1.20, "upset": 0.66},
    "speed": {"angry": 1.30, "disgust": 0.95, "fear": 1.15, "happy": 1.08, "sad": 0.72, "surprise": 1.05, "upset": 0.95},
    "interplay": {
        # What is left of an expression's mouth while speaking: 1 - value * activity of speech.
        "speaking": {"mouthPress": 0.70, "mouthRollLower": 0.60, "mouthRollUpper": 0.60, "mouthPucker": 0.50, "cheekPuff": 0.80,
                     "mouthFrown": 0.30, "mouthShrugLower": 0.40, "mouthUpperUp": 0.15, "mouthStretch": 0.25,
                     "mouthSmile": 0.12, "mouthLowerDown": 0.30, "mouthLeft": 0.35, "mouthDimple": 0.25, "jawOpen": 0.45,
                     "mouthFunnel": 0.50},
        # ... while the lips are closed for p, b, m (and in part for f, v).
        "closing": {"mouthUpperUp": 0.85, "mouthLowerDown": 0.95, "mouthStretch": 0.60, "mouthFunnel": 0.90, "mouthSmile": 0.45,
                    "jawOpen": 0.90, "mouthFrown": 0.25, "mouthShrugLower": 0.20, "noseSneer": 0.30, "mouthLeft": 0.30},
        # ... while the lips are rounded.
        "rounding": {"mouthSmile": 0.90, "mouthStretch": 0.95, "mouthDimple": 0.90, "mouthUpperUp": 0.55, "mouthLeft": 0.60,
                     "mouthFrown": 0.50, "mouthPress": 0.60, "mouthLowerDown": 0.40},
        # ... while the jaw is open (multiplied by how open).
        "opening": {"mouthPress": 1.0, "mouthRollLower": 0.9, "mouthRollUpper": 0.9, "mouthShrugLower": 0.8, "mouthFrown": 0.55,
                    "mouthSmile": 0.35, "mouthDimple": 0.50, "mouthLeft": 0.60, "mouthStretch": 0.20, "jawForward": 0.5},
        "smile_against_rounding": 0.55,  # part of the rounding that a full smile takes away
        "stretch_against_rounding": 0.50,
        "frown_against_spreading": 0.60,
        "angry_bares_teeth": 0.50,  # mouthLowerDown per unit of jaw opening and anger
        "disgust_lifts_lip": 0.70,  # mouthUpperUp likewise
        "fear_stretches": 0.65,  # mouthStretch likewise
        "happy_opens": 0.45,  # mouthUpperUp and mouthLowerDown likewise
        "angry_presses_closure": 0.55,  # mouthPress in p, b, m
        "sad_slack": 0.30,  # part of the lips' own movement that sadness drops beyond `gain`
    },
    # Brows mark stressed syllables: raised, or knitted by as much as a frowning feeling asks.
    "emphasis": {"brows": 0.16, "width": 0.11, "arousal": 1.2},
    # How heads differ: standard deviations of the logarithm of each weight, and of the speed and size of their speech.
    "individual": {"viseme": 0.16, "expression": 0.20, "asymmetry": 0.10, "size": 0.10, "speed": 0.08},
    "blink": {"interval": 3.2, "minimum": 0.9, "closing": 0.075, "held": 0.035, "opening": 0.150},
}  # fmt: skip


def face_rules(overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The default rules with `overrides` merged in, section by section; lists and numbers replace.

    New emotions may be added under "expressions", "gain" and "speed", new visemes under "visemes".

    Raises:
      UserError: for a section or number that does not exist (so that a misspelt rule is not silently ignored).
    """
    merged = copy.deepcopy(DEFAULT_FACE_RULES)
    if overrides:
        _merge(merged, overrides, "face")
    return merged


_OPEN_SECTIONS = ("face.expressions", "face.visemes", "face.gain", "face.speed", "face.interplay.")


def _merge(into: dict[str, Any], overrides: Mapping[str, Any], where: str) -> None:
    for key, value in overrides.items():
        path = f"{where}.{key}"
        if key not in into and not path.startswith(_OPEN_SECTIONS):
            raise UserError(f"unknown rule '{path}'; the known ones there are {', '.join(sorted(into))}")
        if isinstance(into.get(key), dict):
            if not isinstance(value, Mapping):
                raise UserError(f"rule '{path}' must be a table, got {value!r}")
            # An expression or viseme is replaced whole: leftovers of the default would mix two poses.
            if where in ("face.expressions", "face.visemes"):
                kept = {"dominance": into[key]["dominance"]} if "dominance" in into[key] else {}
                into[key] = {**kept, **copy.deepcopy(dict(value))}
            else:
                _merge(into[key], value, path)
        else:
            into[key] = copy.deepcopy(value)
