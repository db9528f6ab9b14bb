"""Named regions and landmarks of the built-in topology, as vertex indices."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

import numpy as np

from sedtalker_jax.face import anatomy, shape
from sedtalker_jax.face.chart import LIP_ROWS, MOUTH_CORNER, MOUTH_ROW, ROW_Y, chart


@lru_cache(maxsize=1)
def head_regions() -> Mapping[str, np.ndarray]:
    """Region name -> sorted int32 vertex indices.

    lips (the red), upper_lip, lower_lip, mouth (lips and the skin round them), mouth_inner (walls, teeth, tongue), eyes (lids'
    edges), eye_region (lids and sockets), eyeballs, brows (hair and the skin below), forehead, upper_face (forehead, brows and
    eye region, as metrics use it: no eyeballs), nose, cheeks, jaw (chin and jaw line), neck, scalp, ears.
    """
    c = chart()
    x, y = shape.grid_coordinates()
    mean = anatomy.build_positions(shape.Identity())
    ax, row, column = np.abs(x), c.row, np.abs(c.column)
    skin = c.part == 0
    front = skin & (mean[:, 2] > 18.0)

    step = np.where(row >= 0, row - MOUTH_ROW, 99)
    on_slit = np.isin(np.arange(c.num_vertices), c.mouth_loop)
    red = skin & (np.abs(step) <= LIP_ROWS) & (column < MOUTH_CORNER) | on_slit
    lower_lip = red & (c.lower | (step > 0))
    upper_lip = red & ~lower_lip
    regions: dict[str, np.ndarray] = {"lips": red, "upper_lip": upper_lip, "lower_lip": lower_lip}
    taken = red.copy()

    def take(name: str, mask: np.ndarray) -> None:
        regions[name] = mask & ~taken
        np.logical_or(taken, mask, out=taken)

    take("eyeballs", shape.part_mask("eyeball_left", "eyeball_right"))
    take("mouth_inner", shape.part_mask("mouth_inner", "teeth_upper", "teeth_lower", "tongue"))
    take("ears", shape.part_mask("ear"))
    take("neck", skin & (row >= np.searchsorted(-np.array(ROW_Y), 117.0)))
    take("scalp", skin & ((shape.scalp() > 0.5) | (mean[:, 2] <= 5.0)))
    rim = shape.part_mask("lid_rim")
    eye_ellipse = ((ax - 31.5) / 17.5) ** 2 + (y / 5.5) ** 2
    take("eyes", rim | (front & (eye_ellipse < 1.0)))
    brow_band = shape.bump(ax, y, 30.0, 18.5, 24.0, 7.0) > 0.42
    take("brows", shape.part_mask("brow") | (front & brow_band))
    take("around_eyes", front & (((ax - 31.0) / 24.0) ** 2 + ((y - 1.0) / 17.0) ** 2 < 1.0))
    take("forehead", front & (y > 8.0))
    nose_half = 7.0 + 13.0 * shape.smoothstep(y, 0.0, -36.0)
    take("nose", front & (ax < nose_half) & (y < 8.0) & (y > -48.5))
    take("around_mouth", front & ((x / 38.0) ** 2 + ((y + 67.0) / 20.0) ** 2 < 1.0))
    take("jaw", skin & (y < -78.0 + 0.42 * np.maximum(ax - 20.0, 0.0)))
    take("cheeks", skin)
    regions["mouth"] = regions["lips"] | regions["around_mouth"]
    regions["eye_region"] = regions["eyes"] | regions["around_eyes"]
    regions["upper_face"] = regions["forehead"] | regions["brows"] | regions["eye_region"]
    regions["face"] = regions["upper_face"] | regions["mouth"] | regions["nose"] | regions["cheeks"] | regions["jaw"]
    indices = {name: np.nonzero(mask)[0].astype(np.int32) for name, mask in regions.items()}
    return MappingProxyType(indices)


@lru_cache(maxsize=1)
def head_landmarks() -> Mapping[str, int]:
    """Landmark name -> vertex index. The distance of upper_inner_lip and lower_inner_lip is the opening of the lips."""
    c = chart()
    middle = len(c.mouth_upper) // 2
    mean = anatomy.build_positions(shape.Identity())
    x, y = shape.grid_coordinates()
    centre = np.nonzero((c.part == 0) & (np.abs(x) < 0.1) & (mean[:, 2] > 0) & ~c.lower)[0]

    def on_midline(height: float) -> int:
        return int(centre[np.abs(y[centre] - height).argmin()])

    nose = centre[(y[centre] < -20) & (y[centre] > -48)]
    return MappingProxyType({
        "upper_inner_lip": int(c.mouth_upper[middle]),
        "lower_inner_lip": int(c.mouth_lower[middle]),
        "mouth_corner_left": int(c.mouth_upper[-1]),
        "mouth_corner_right": int(c.mouth_upper[0]),
        "nose_tip": int(nose[mean[nose, 2].argmax()]),
        "nasion": on_midline(5.0),
        "glabella": on_midline(20.0),
        "chin": on_midline(-108.0),
        "eye_upper_left": int(c.eye_upper[0][len(c.eye_upper[0]) // 2]),
        "eye_lower_left": int(c.eye_lower[0][len(c.eye_lower[0]) // 2]),
        "eye_upper_right": int(c.eye_upper[1][len(c.eye_upper[1]) // 2]),
        "eye_lower_right": int(c.eye_lower[1][len(c.eye_lower[1]) // 2]),
    })  # fmt: skip
