"""Whose way of moving a face takes on: a training subject's by name, or one of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sedtalker_jax.emotion.formats import replace_when_complete
from sedtalker_jax.errors import UNREADABLE_ARRAYS, UserError
from sedtalker_jax.models.subject import UNKNOWN_SUBJECT

if TYPE_CHECKING:
    from sedtalker_jax.inference.pipeline import SEDTalker

Params = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Style:
    """How somebody moves whom training did not see; sedtalker_jax.inference.style_fit makes one from a short capture.

    Attributes:
      kernel, bias: [D, R], [R], added to the animator's last layer, which turns features of speech, emotion and template into
        motion: this face's own way of saying and showing the same.
      vector: [C], of the animator's condition width, in the unknown subject's place; None where the animator knows no subjects.
      model: style_digest of the model that it was fitted to; it means nothing to others.
    """

    kernel: Float[np.ndarray, "D R"]
    bias: Float[np.ndarray, " R"]
    vector: Float[np.ndarray, " C"] | None
    model: str

    def applied(self, params: Params) -> Params:
        """Parameters of a model whose unknown subject moves like this."""
        head = params["animator"]["head"]
        moved = {"kernel": head["kernel"] + jnp.asarray(self.kernel), "bias": head["bias"] + jnp.asarray(self.bias)}
        params = {**params, "animator": {**params["animator"], "head": moved}}
        return params if self.vector is None else with_subject_vector(params, self.vector)

    def save(self, path: str | os.PathLike) -> None:
        """Writes an .npz, whole or not at all.

        Raises:
          UserError: the place can't be written.
        """
        arrays = {} if self.vector is None else {"vector": self.vector}
        with replace_when_complete(path) as temporary, temporary.open("wb") as file:
            np.savez(file, kernel=self.kernel, bias=self.bias, model=np.array(self.model), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Style:
        """Reads what `save` wrote.

        Raises:
          UserError: missing, damaged, or another kind of file.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                kernel, bias = (np.asarray(stored[name], np.float32) for name in ("kernel", "bias"))
                vector = np.asarray(stored["vector"], np.float32) if "vector" in stored else None
                return cls(kernel, bias, vector, str(stored["model"]))
        except UNREADABLE_ARRAYS as error:
            raise UserError(f"{path}: no style ({error}); `python -m sedtalker_jax fit-style` makes one") from None


def style_digest(params: Params) -> str:
    """Tells models apart for which a style means different things."""
    animator = params["animator"]
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves([animator["head"], animator.get("subject")]):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def with_subject_vector(params: Params, vector: Float[jax.Array, " C"]) -> Params:
    """Parameters of a model whose unknown subject is a vector."""
    animator = params["animator"]
    table = jnp.asarray(animator["subject"]["embedding"])
    subject = {"embedding": table.at[UNKNOWN_SUBJECT].set(vector)}
    return {**params, "animator": {**animator, "subject": subject}}


def check_style(model: SEDTalker, style: Style) -> None:
    """Finds out whether a style is this model's.

    Raises:
      UserError: it was fitted to another one.
    """
    if model.codec is None or style.model != style_digest(model.params):
        raise UserError("the style was fitted to another checkpoint; fit it to this one")


def subject_row(model: SEDTalker, subject: str | None) -> int | None:
    """FaceCodec.subject_index of the training subject of a name; None of none.

    Raises:
      UserError: a name that training did not see, or a model that knows no subjects.
    """
    if subject is None:
        return None
    if not model.subjects:
        raise UserError("this checkpoint knows no subjects; train with model.animator.num_subjects > 0, or use fit-style")
    if subject not in model.subjects:
        raise UserError(f"subject {subject!r} is none of those that training saw: {', '.join(model.subjects)}")
    return model.codec.subject_index(subject)
