"""How records hold real face motion: coefficients in the face space and, where these are not enough, what they leave.

    vertices = template + motion . basis + residual . 2^-17 m

Rounding to 2^-17 m moves a coordinate by at most 3.8 micrometres, a vertex by at most 6.6. Training reads the coefficients
only; `true_vertices` gives scores their truth.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from sedtalker_jax.errors import UserError
from sedtalker_jax.face.space import FaceSpace

TOLERANCE_M = 1e-5
"""Largest distance in metres between a stored vertex and the original: 0.01 mm."""

STEP_M = 2.0**-17
"""Metres per unit of the stored residual; a power of two, so that scaling rounds nothing."""

_ZLIB_LEVEL = 1  # a higher one costs several times the time and saves a few percent
_BLOCK_FRAMES = 256


class Frames(Protocol):
    """Vertices [F, V, 3] that can be read a part at a time: an array, or faces.corpus.Motion."""

    def __len__(self) -> int:
        """F."""
        ...

    def __getitem__(self, frames: slice, /) -> Float[np.ndarray, "n V 3"]:
        """Some frames."""
        ...


def encode_motion(space: FaceSpace, template: Float[np.ndarray, "V 3"], vertices: Frames) -> dict[str, Any]:
    """The record fields of a motion: `motion`, and `residual` with `residual_bits` where needed (see records.py).

    Coefficients are float16 if that is exact enough, else float32 if that is, else float16 with a residual. Frames are read
    in blocks, once or twice, so that memory does not grow with the clip's vertices.

    Args:
      space: of the record directory.
      template: the record's template, as the space stores it.
      vertices: the original, in metres.

    Raises:
      UserError: a vertex that is not finite, or 0.25 m from what the space can say: no face does that.
    """
    basis = space.basis.T.astype(np.float64)
    blocks = [slice(start, start + _BLOCK_FRAMES) for start in range(0, len(vertices), _BLOCK_FRAMES)]

    def displacements(block: slice) -> np.ndarray:
        return np.asarray(vertices[block], np.float64) - np.asarray(template, np.float64)

    exact = np.zeros((0, space.rank))
    distance = dict.fromkeys((np.float16, np.float32), 0.0)
    largest = 0.0
    for block in blocks:
        moved = displacements(block)
        if not np.isfinite(moved).all():
            raise UserError("holds vertices that are not finite")
        coefficients = moved.reshape(len(moved), -1) @ basis
        exact = np.concatenate([exact, coefficients])
        for dtype in distance:
            missing = moved - space.displacements(coefficients.astype(dtype))
            distance[dtype] = max(distance[dtype], float(np.linalg.norm(missing, axis=-1).max()))
            if dtype == np.float16:
                largest = max(largest, float(np.abs(missing).max()) / STEP_M)
    for dtype, found in distance.items():
        if found <= TOLERANCE_M:
            return {"motion": exact.astype(dtype)}
    if largest > np.iinfo(np.int16).max:
        raise UserError(f"a vertex lies {largest * STEP_M:.3g} m away from where it could be; are these metres, of this face?")
    bits = 8 if largest <= np.iinfo(np.int8).max else 16
    motion = exact.astype(np.float16)
    packer, packed = zlib.compressobj(_ZLIB_LEVEL), []
    for block in blocks:
        steps = np.rint((displacements(block) - space.displacements(motion[block])) / STEP_M)
        packed.append(packer.compress(steps.astype(f"<i{bits // 8}").tobytes()))
    return {"motion": motion, "residual": b"".join([*packed, packer.flush()]), "residual_bits": bits}


def true_displacements(record: Mapping[str, Any], space: FaceSpace) -> Float[np.ndarray, "F V 3"]:
    """Displacements of a record's true motion from its template, float32 metres, with its residual if it has one."""
    displacements = space.displacements(np.asarray(record["motion"], np.float32))
    if record.get("residual"):
        steps = np.frombuffer(zlib.decompress(record["residual"]), np.dtype(f"<i{record['residual_bits'] // 8}"))
        displacements = displacements + steps.reshape(displacements.shape) * np.float32(STEP_M)
    return displacements


def true_vertices(record: Mapping[str, Any], space: FaceSpace) -> Float[np.ndarray, "F V 3"]:
    """Vertices of a record's true motion, float32 metres: within 0.01 mm of the original of a prepared data set.

    Raises:
      UserError: the space does not hold the record's template.
    """
    return space.template(record["template"]).vertices + true_displacements(record, space)
