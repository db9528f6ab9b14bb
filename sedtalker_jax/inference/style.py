"""Whose way of moving a face takes on: a training subject's by name, or one of its own, in the place of a subject's vector."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from sedtalker_jax.emotion.formats import replace_when_complete
from sedtalker_jax.errors import UNREADABLE_ARRAYS, UserError

if TYPE_CHECKING:
    from sedtalker_jax.inference.pipeline import SEDTalker


@dataclasses.dataclass(frozen=True, eq=False)
class Style:
    """How somebody moves whom training did not see; sedtalker_jax.inference.style_fit makes one from a short capture.

    Attributes:
      vector: [C], of the animator's condition width.
      model: style_digest of the model that it was fitted to; it means nothing to others.
    """

    vector: Float[np.ndarray, " C"]
    model: str

    def save(self, path: str | os.PathLike) -> None:
        """Writes an .npz, whole or not at all.

        Raises:
          UserError: the place can't be written.
        """
        with replace_when_complete(path) as temporary, temporary.open("wb") as file:
            np.savez(file, vector=self.vector, model=np.array(self.model))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Style:
        """Reads what `save` wrote.

        Raises:
          UserError: missing, damaged, or another kind of file.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(np.asarray(stored["vector"], np.float32), str(stored["model"]))
        except UNREADABLE_ARRAYS as error:
            raise UserError(f"{path}: no style ({error}); `python -m sedtalker_jax fit-style` makes one") from None


def style_digest(params: Any) -> str:
    """Tells models apart whose subjects' vectors mean different things."""
    table = np.asarray(params["animator"]["subject"]["embedding"])
    return hashlib.sha256(table.tobytes()).hexdigest()[:16]


def check_knows_subjects(model: SEDTalker) -> None:
    """Finds out whether a model has ways of moving to choose from.

    Raises:
      UserError: it has none.
    """
    if not model.subjects:
        raise UserError("this checkpoint knows no subjects, nor styles; train with model.animator.num_subjects > 0")


def subject_row(model: SEDTalker, subject: str | Style | None) -> int | Float[np.ndarray, " C"] | None:
    """What the animator takes for a subject that a user gave.

    Raises:
      UserError: a name that training did not see, a style of another model, or a model that knows no subjects.
    """
    if subject is None:
        return None
    check_knows_subjects(model)
    if isinstance(subject, Style):
        if subject.model != style_digest(model.params):
            raise UserError("the style was fitted to another checkpoint; fit it to this one")
        return subject.vector
    if subject not in model.subjects:
        raise UserError(f"subject {subject!r} is none of those that training saw: {', '.join(model.subjects)}")
    return model.codec.subject_index(subject)
