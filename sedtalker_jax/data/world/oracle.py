"""The truth for what never happened: one clip's speech with another's expression, or with any edit schedule.

The world's faces are functions of phonemes and activation, so what a clip would have looked like under another emotion is
known exactly. The disentanglement and editing tests compare a model's answer with it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sedtalker_jax.data.records import FACE_SPACE, read_manifest
from sedtalker_jax.data.world.faces import FaceCast
from sedtalker_jax.data.world.rules import Rules, parse_rules
from sedtalker_jax.data.world.synthesiser import Phone
from sedtalker_jax.emotion.labels import ACTIVE, CANONICAL, NEUTRAL
from sedtalker_jax.emotion.schedule import EditSchedule
from sedtalker_jax.errors import UserError

Schedule = Callable[[np.ndarray], np.ndarray]
"""Times in seconds [F] -> activation [F, K - 1]."""


class FaceOracle:
    """Renders faces of a built world from its records.

    Args:
      rules, subset: of the world that the records come from.
      face_space: its face_space.npz, needed for coefficients only.
    """

    def __init__(self, rules: Rules, subset: str, face_space: str | Path | None = None) -> None:
        self.rules = rules
        self.faces = FaceCast(rules, subset)
        if face_space is not None:
            self.faces.load_space(face_space)

    @classmethod
    def from_directory(cls, directory: str | Path) -> FaceOracle:
        """The oracle of a record directory.

        Raises:
          UserError: when it is unfinished, is no world, or was made by other code or rules than these.
        """
        manifest = read_manifest(directory)
        if "rules" not in manifest:
            raise UserError(f"{directory} is not a built-in world: only there is the truth known for other emotions")
        rules = parse_rules(manifest["rules"], f"{directory}/manifest.json")
        if rules.world_hash != manifest["world_hash"]:
            raise UserError(
                f"{directory} holds world {manifest['world_hash']}, but this code makes {rules.world_hash} of its rules; "
                "build it again with python -m sedtalker_jax.data.synthetic --overwrite"
            )
        return cls(rules, manifest["subset"], Path(directory) / FACE_SPACE)

    def rig(self, speech: dict[str, Any], activation: np.ndarray, template: str | None = None) -> np.ndarray:
        """Rig weights [F, W] float32 of the record `speech` with another activation [F, K - 1], on its own head or another."""
        split, index = self.faces.find_head(template or speech["template"])
        phones = [
            Phone(symbol, start, end, stress, 0)
            for (symbol, start, end), stress in zip(speech["phonemes"], speech["prosody"]["stress"], strict=True)
        ]
        return self.faces.articulate(split, index, phones, np.asarray(activation, dtype=np.float64))

    def vertices(self, rig: np.ndarray, template: str) -> np.ndarray:
        """Vertices [F, V, 3] in metres of rig weights on a head, exact: not through the low-rank space."""
        split, index = self.faces.find_head(template)
        return self.faces.head(split, index).template.vertices + self.faces.displacements(split, index, rig)

    def coefficients(self, rig: np.ndarray, template: str) -> np.ndarray:
        """Coefficients [F, R] of rig weights on a head, as records store motion."""
        return self.faces.coefficients(*self.faces.find_head(template), rig)

    def render_pair(self, speech: dict[str, Any], expression: dict[str, Any]) -> np.ndarray:
        """Vertices [F, V, 3] of the swap: speech and head of one record, expression of another.

        The expression's activation is stretched to the speech's length, so both begin and end together.
        """
        return self.vertices(self.rig(speech, stretch(expression["activation"], len(speech["motion"]))), speech["template"])

    def render_schedule(self, speech: dict[str, Any], schedule: Schedule) -> np.ndarray:
        """Vertices [F, V, 3] of a record's speech under any activation over time, sampled at the animation frames f / fps."""
        times = np.arange(len(speech["motion"])) / float(speech["fps"])
        return self.vertices(self.rig(speech, schedule(times)), speech["template"])

    def render_edit(self, speech: dict[str, Any], edits: EditSchedule) -> np.ndarray:
        """Vertices [F, V, 3] of a record after an edit of its own expression (see `edited`)."""
        return self.render_schedule(speech, lambda times: edited(speech["activation"], edits, times))


def edited(activation: np.ndarray, edits: EditSchedule, times: np.ndarray) -> np.ndarray:
    """What an edit schedule means in the world: activation [F, K - 1] at times [F] in seconds -> [F, K - 1] in [0, 1].

    Each edit adds its alpha(t) to its target's activation and takes it from its source's, if it names one. More neutral is
    less of everything, by that share; from neutral is towards the target.

    Raises:
      UserError: an emotion that the world has not, or a time past the end.
    """
    edits = edits.check(CANONICAL, float(times[-1]))
    result = np.array(activation, dtype=np.float64)
    for edit in edits.edits:
        alpha = edit.alpha_at(times)
        if edit.target == NEUTRAL:
            result *= np.clip(1.0 - alpha, 0.0, None)[:, None]
        else:
            result[:, ACTIVE.index(edit.target)] += alpha
        if edit.source is not None and edit.source != NEUTRAL:
            result[:, ACTIVE.index(edit.source)] -= alpha
    return np.clip(result, 0.0, 1.0)


def stretch(activation: np.ndarray, num_frames: int) -> np.ndarray:
    """Activation [n, K - 1] resampled linearly to [num_frames, K - 1], ends on ends."""
    source = np.linspace(0.0, 1.0, len(activation))
    wanted = np.linspace(0.0, 1.0, num_frames)
    return np.stack([np.interp(wanted, source, column) for column in np.asarray(activation, dtype=np.float64).T], axis=1)
