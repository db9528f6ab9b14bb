"""Blendshape weights as the .csv of Epic's Live Link Face: one row a frame, ARKit's 52 weights and nine angles.

Unreal, MetaHuman and add-ons of Blender, Maya and Unity take it. Columns go by their names; those of the angles of head and
eyes are zero, since nothing here turns the head, and eyes turn by weights.
"""

from __future__ import annotations

import csv
import os

import numpy as np
from jaxtyping import Float

from sedtalker_jax.emotion.formats import replace_when_complete
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
from sedtalker_jax.face.rig import ARKIT_NAMES

# The app has right before left where ARKit's documentation has left before right.
_PLACES = {"jawLeft": "jawRight", "jawRight": "jawLeft", "mouthLeft": "mouthRight", "mouthRight": "mouthLeft"}
ORDER = tuple(_PLACES.get(name, name) for name in ARKIT_NAMES)
ANGLES = tuple(f"{part}{angle}" for part in ("Head", "LeftEye", "RightEye") for angle in ("Yaw", "Pitch", "Roll"))


def check_arkit(basis: BlendshapeBasis) -> None:
    """Finds out whether a basis has shapes that a Live Link .csv can carry.

    Raises:
      UserError: none of its shapes has a name of ARKit's.
    """
    if not set(ARKIT_NAMES) & set(basis.shape_names):
        raise UserError(f"{basis.name}: none of its {len(basis.shape_names)} shapes has a name of ARKit's, such as jawOpen")


def write_live_link(path: str | os.PathLike, basis: BlendshapeBasis, weights: Float[np.ndarray, "F W"], fps: float) -> None:
    """Writes weights, whole or not at all. A shape of ARKit's that the basis lacks is 0; shapes that ARKit lacks are left out.

    Args:
      basis: whose weights they are.
      weights: 0 to 1.
      fps: frames per second; the time code counts frames of the nearest whole rate.

    Raises:
      UserError: no shape with a name of ARKit's, or the place can't be written.
    """
    check_arkit(basis)
    column = {name: index for index, name in enumerate(basis.shape_names)}
    with replace_when_complete(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["Timecode", "BlendShapeCount", *(name[0].upper() + name[1:] for name in ORDER), *ANGLES])
        for frame, row in enumerate(weights):
            values = [f"{row[column[name]]:.5f}" if name in column else "0" for name in ORDER]
            rows.writerow([_time_code(frame, fps), len(ORDER) + len(ANGLES), *values, *["0"] * len(ANGLES)])


def _time_code(frame: int, fps: float) -> str:
    """HH:MM:SS:FF.mmm, where FF counts frames of the nearest whole rate."""
    rate = max(1, round(fps))
    seconds, part = divmod(frame / fps, 1.0)
    thousandths = min(round(part * rate * 1000), rate * 1000 - 1)
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}:{thousandths // 1000:02d}.{thousandths % 1000:03d}"
