"""Losses of the animator's motion, exact in vertices though computed in coefficients.

For an error d of normalised coefficients, the sum of squared vertex errors over a region is d^T G d with
G = diag(std) B B^T diag(std), B the basis rows restricted to the region. Differences in time and the vector between the two
lips are linear in the coefficients too, so every term here is such a quadratic form over some of the frames.

Nobody recorded how a face with an edited emotion should move, so rows of that kind count for nothing, with one exception: lips
meet for p, b and m whatever the face feels, so lip_closure judges them too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.models.track_source import EDITED_TRACK

MOTION_TERMS: Mapping[str, tuple[str, int]] = {
    "vertices": ("face", 0),
    "lips": ("lips", 0),
    "upper_face": ("upper_face", 0),
    "velocity": ("lips", 1),
    "upper_face_velocity": ("upper_face", 1),
    "acceleration": ("lips", 2),
    "upper_face_acceleration": ("upper_face", 2),
    "lip_closure": ("lip_gap", 0),
}
"""Loss term -> what it is a squared error of: a region (face: all vertices; lip_gap: the vector between the inner lips), and
how often it is differenced in time."""


@dataclasses.dataclass(frozen=True)
class FaceLossConstants:
    """Gram matrices of the terms.

    Attributes:
      gram: loss term -> [R, R] in normalised coefficients. Terms of positions are in units of the region's mean squared
        displacement over the training set, so that a still face has an error of about 1; terms of differences, first or second,
        in units of its mean squared frame-to-frame difference.
    """

    gram: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, codec: FaceCodec, terms: Collection[str]) -> FaceLossConstants:
        """The constants of the MOTION_TERMS among `terms`.

        Raises:
          UserError: the topology has no lip points, which lip_closure is about.
        """
        gram = {}
        for name, (region, order) in MOTION_TERMS.items():
            if name not in terms:
                continue
            if region == "lip_gap":
                gram[name] = codec.gram_lip_gap()
            else:
                gram[name] = (codec.gram_velocity if order else codec.gram)(None if region == "face" else region)
        return cls(gram)


def _frames(part: Mapping[str, Any], name: str, length: int) -> jax.Array:
    """[B, length - order] whether a difference counts: all of its frames are real, and the lips shut for lip_closure."""
    valid = jnp.arange(length)[None, :] < part["num_frames"][:, None]
    if name == "lip_closure":
        valid &= part["lips_closed"][:, :length]
    elif "track_source" in part:
        valid &= (part["track_source"] != EDITED_TRACK)[:, None]
    return valid[:, MOTION_TERMS[name][1] :]


def motion_weights(part: Mapping[str, Any], constants: FaceLossConstants) -> dict[str, jax.Array]:
    """Denominators: how many frames, or differences of frames, each term is a sum over.

    Args:
      part: the face part of a batch; without track_source no emotion in it is edited.
      constants: of the terms in use.
    """
    length = part["motion"].shape[1]
    return {name: jnp.sum(_frames(part, name, length)).astype(jnp.float32) for name in constants.gram}


def motion_sums(part: Mapping[str, Any], motion: jax.Array, constants: FaceLossConstants) -> dict[str, jax.Array]:
    """Numerators of the terms.

    Args:
      part: the face part of a batch.
      motion: [B, F, R] what the model gives.
      constants: of the terms in use.
    """
    valid = jnp.arange(motion.shape[1])[None, :] < part["num_frames"][:, None]
    # Chosen, not multiplied: what lies under the mask may be anything.
    error = jnp.where(valid[..., None], motion - part["motion"], 0.0)
    sums = {}
    for name, gram in constants.gram.items():
        difference = jnp.diff(error, n=MOTION_TERMS[name][1], axis=1)
        squared = jnp.einsum("bfr,rq,bfq->bf", difference, jnp.asarray(gram, error.dtype), difference)
        sums[name] = jnp.sum(jnp.where(_frames(part, name, error.shape[1]), squared, 0.0))
    return sums
