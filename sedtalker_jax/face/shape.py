"""Positions of the built-in head's vertices from identity parameters: a lofted head with features sculpted onto it.

The skin starts as a loft: planar loops whose front point, side point and back point follow the profile tables below (mean
adult proportions, in millimetres). Nose, lips, sockets, brow ridge, cheekbones and chin are added as smooth bumps at fixed
places of the chart, so that a vertex means the same on every head; identity parameters scale tables and bumps and warp the
result. The tables were written for this project.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from scipy.interpolate import PchipInterpolator

from sedtalker_jax.face.chart import (
    BROW_SHAPE,
    LIP_ROWS,
    MOUTH_CORNER,
    MOUTH_ROW,
    PARTS,
    ROW_Y,
    chart,
)

# front y, front z, squareness of the front, side y, half width, side z, back y, back z
_LOFT = np.array([
    [115.0, -8.0, 2.00, 115.0, 0.0, -8.0, 115.0, -8.0],
    [114.0, 18.0, 2.00, 113.6, 20.0, -8.0, 114.0, -30.0],
    [111.0, 33.0, 2.00, 109.0, 34.0, -8.0, 111.0, -46.0],
    [104.0, 51.0, 2.00, 97.5, 50.5, -9.0, 104.0, -64.0],
    [92.0, 69.0, 2.05, 77.0, 65.5, -9.0, 92.0, -80.0],
    [78.0, 81.0, 2.15, 53.0, 73.5, -8.0, 78.0, -90.0],
    [62.0, 88.5, 2.30, 32.0, 76.8, -6.0, 58.0, -96.0],
    [45.0, 92.5, 2.45, 20.0, 75.8, -4.0, 38.0, -99.0],
    [30.0, 94.0, 2.55, 12.5, 74.8, -3.0, 24.0, -99.0],
    [20.0, 94.5, 2.55, 8.0, 74.2, -2.0, 15.0, -98.0],
    [0.0, 89.0, 2.45, 0.0, 73.5, 0.0, 0.0, -95.0],
    [-20.0, 87.0, 2.35, -17.0, 71.0, 0.0, -17.0, -88.0],
    [-45.0, 89.0, 2.25, -33.0, 67.5, 0.0, -34.0, -79.0],
    [-68.0, 88.5, 2.15, -47.0, 63.5, 0.0, -50.0, -70.0],
    [-85.0, 87.0, 2.05, -57.0, 60.5, -1.0, -62.0, -64.0],
    [-100.0, 86.5, 2.00, -66.0, 57.5, -2.0, -74.0, -60.0],
    [-108.0, 84.0, 2.00, -71.0, 55.5, -4.0, -80.0, -59.0],
    [-113.0, 78.0, 2.00, -76.0, 53.5, -7.0, -84.0, -58.0],
    [-116.5, 68.0, 2.00, -81.0, 51.5, -10.0, -88.0, -58.0],
    [-119.0, 56.0, 2.00, -86.0, 50.5, -13.0, -93.0, -58.0],
    [-122.0, 45.0, 2.00, -93.0, 50.0, -15.0, -100.0, -58.0],
    [-128.0, 38.0, 2.00, -104.0, 50.0, -16.0, -110.0, -58.0],
    [-141.0, 37.0, 2.00, -124.0, 52.0, -16.0, -130.0, -59.0],
    [-158.0, 42.0, 2.00, -146.0, 62.0, -15.0, -150.0, -62.0],
])  # fmt: skip

MOUTH_Y, MOUTH_HALF_WIDTH = -68.5, 25.8
EYE_X, EYE_Z, EYEBALL_RADIUS = 31.5, 66.0, 13.2
JAW_HINGE = np.array([0.0, -14.0, 4.0])
LID_OPEN_UPPER, LID_OPEN_LOWER = 5.6, 4.6


@dataclass(frozen=True)
class Identity:
    """What makes a head this head and no other. Every number is in standard deviations, 0 is the mean head."""

    face_width: float = 0.0
    face_length: float = 0.0
    head_depth: float = 0.0
    cranium_height: float = 0.0
    forehead_slope: float = 0.0
    brow_ridge: float = 0.0
    brow_height: float = 0.0
    brow_thickness: float = 0.0
    brow_tilt: float = 0.0
    eye_distance: float = 0.0
    eye_size: float = 0.0
    eye_tilt: float = 0.0
    eye_depth: float = 0.0
    nose_length: float = 0.0
    nose_width: float = 0.0
    nose_height: float = 0.0
    nose_tip_up: float = 0.0
    nose_bridge: float = 0.0
    cheekbones: float = 0.0
    cheek_fullness: float = 0.0
    mouth_width: float = 0.0
    upper_lip: float = 0.0
    lower_lip: float = 0.0
    mouth_protrusion: float = 0.0
    jaw_width: float = 0.0
    chin_height: float = 0.0
    chin_protrusion: float = 0.0
    chin_width: float = 0.0
    neck_width: float = 0.0
    ear_size: float = 0.0
    ear_angle: float = 0.0
    hair_volume: float = 0.0
    asymmetry: float = 0.0

    @staticmethod
    def random(generator: np.random.Generator, spread: float = 1.0, limit: float = 2.2) -> Identity:
        """Independent normal draws times `spread`, clipped to +-limit."""
        draw = np.clip(generator.standard_normal(len(fields(Identity))), -limit, limit) * spread
        return Identity(*(float(value) for value in draw))


def bump(x: np.ndarray, y: np.ndarray, cx: float, cy: float, sx: float, sy: float) -> np.ndarray:
    """Gaussian bump exp(-((x-cx)/sx)^2 - ((y-cy)/sy)^2)."""
    return np.exp(-(((x - cx) / sx) ** 2) - ((y - cy) / sy) ** 2)


def smoothstep(x: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, a cubic between; `low` may be the greater, then it falls."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _smooth_max(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    return 0.5 * (a + b + np.sqrt((a - b) ** 2 + width * width))


@lru_cache(maxsize=1)
def _loft_tables() -> np.ndarray:
    """The profile tables at every row of the grid, [rows, 8]."""
    order = _LOFT[::-1]
    return PchipInterpolator(order[:, 0], order)(np.array(ROW_Y))


@lru_cache(maxsize=1)
def grid_coordinates() -> tuple[np.ndarray, np.ndarray]:
    """Chart coordinates (x, y) of every vertex in millimetres of the mean head, before lips and lids part: [V], [V].

    For skin they are the mean position seen from the front; features and expressions are functions of them. Vertices off the
    skin take the coordinates of the place they hang on.
    """
    c = chart()
    position = loft(Identity())
    x, y = position[:, 0].copy(), position[:, 1].copy()
    n_mouth = len(c.mouth_upper)
    for ring in c.blocks["mouth_rings"]:
        x[ring], y[ring] = x[c.mouth_loop], y[c.mouth_loop]
    x[c.blocks["throat"]], y[c.blocks["throat"]] = 0.0, y[c.mouth_loop[n_mouth // 2]]
    for k, side in enumerate(("left", "right")):
        rim = c.blocks[f"lid_rim_{side}"]
        x[rim], y[rim] = x[c.eye_loops[k]], y[c.eye_loops[k]]
        sign = 1.0 if side == "left" else -1.0
        x[c.blocks[f"eyeball_{side}"]], y[c.blocks[f"eyeball_{side}"]] = sign * EYE_X, 0.0
        ear = c.blocks[f"ear_{side}"]
        x[ear], y[ear] = sign * 73.5, 0.0
        bx, by = _brow_chart(sign)
        x[c.blocks[f"brow_{side}"]], y[c.blocks[f"brow_{side}"]] = bx, by
    for name in ("teeth_upper", "teeth_lower", "tongue"):
        x[c.blocks[name]], y[c.blocks[name]] = 0.0, MOUTH_Y
    return x, y


def _brow_chart(sign: float) -> tuple[np.ndarray, np.ndarray]:
    """Chart coordinates of a brow's vertices, [3, 15] each: an arch that tapers outwards."""
    s = np.linspace(0.0, 1.0, BROW_SHAPE[0])[None]
    across = np.linspace(1.0, -1.0, BROW_SHAPE[1])[:, None]
    half = 3.3 * (1.0 - 0.75 * s**1.6) * smoothstep(s, -0.12, 0.14)
    x = 12.5 + 40.0 * s - 2.0 * s * s
    y = 16.3 + 6.4 * np.sin(np.pi * np.clip(s * 0.92, 0, 1)) ** 0.9 * (0.35 + 0.75 * s) - 3.6 * s**3 + across * half
    return sign * x, y + 0.0 * x


def loft(identity: Identity) -> np.ndarray:
    """Skin without features, [V, 3] mm (zeros off the skin)."""
    c, p = chart(), identity
    table = _loft_tables().copy()
    y_front = table[:, 0].copy()
    jaw = smoothstep(y_front, -35.0, -100.0) * smoothstep(y_front, -150.0, -122.0)
    face = smoothstep(y_front, 40.0, 0.0) * smoothstep(y_front, -125.0, -90.0)
    neck = smoothstep(y_front, -112.0, -128.0)
    table[:, 4] *= (
        1.0
        + 0.035 * p.face_width
        + jaw * 0.055 * p.jaw_width
        + 0.03 * p.cheek_fullness * face
        + neck * (0.06 * p.neck_width + 0.02 * p.jaw_width)
    )
    # Towards the chin the loops narrow in front.
    taper = jaw * np.clip(0.13 - 0.035 * p.chin_width - 0.02 * p.jaw_width, 0.02, 0.25)
    crown = smoothstep(y_front, 25.0, 110.0)
    table[:, 1] += -crown * 3.0 * p.forehead_slope * smoothstep(y_front, 110.0, 70.0) * 1.6
    table[:, [1, 7]] *= 1.0 + 0.02 * p.head_depth
    table[:, 1] += neck * 1.5 * p.neck_width
    azimuth = c.azimuth
    sine, cosine = np.sin(azimuth), np.cos(azimuth)
    n = table[:, 2:3]
    front = cosine > -1e-9
    forward = np.where(front, np.maximum(1.0 - np.abs(sine)[None] ** n, 0.0) ** (1.0 / n), cosine[None])
    end_y = np.where(front[None], table[:, 0:1], table[:, 6:7])
    end_z = np.where(front[None], table[:, 1:2], table[:, 7:8])
    amount = np.abs(forward)
    grid_x = table[:, 4:5] * sine[None] * (1.0 - taper[:, None] * np.clip(cosine[None], 0.0, 1.0) ** 2)
    grid_y = table[:, 3:4] + (end_y - table[:, 3:4]) * amount
    grid_z = table[:, 5:6] + (end_z - table[:, 5:6]) * amount
    out = np.zeros((c.num_vertices, 3))
    out[c.grid] = np.stack([grid_x, grid_y, grid_z], -1)
    out[c.crown] = [0.0, 115.0, -8.0]
    for upper, lower in ((c.mouth_upper, c.mouth_lower), *zip(c.eye_upper, c.eye_lower, strict=True)):
        out[lower] = out[upper]
    return out


def lid_profile(across: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Heights of the open upper and lower lid edge (fractions of their maxima) at `across` in [0, 1], nose to temple."""
    s = np.clip(across, 0.0, 1.0)
    upper = np.clip(4.0 * s * (1.0 - s), 0, 1) ** 0.62 * (1.06 - 0.14 * s)
    lower = np.clip(4.0 * s * (1.0 - s), 0, 1) ** 0.75 * (0.84 + 0.22 * s)
    return upper, lower


def lip_border(across: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Heights in mm of the upper and lower lip's red border above and below the slit, at x / half mouth width in [-1, 1]."""
    a = np.clip(np.abs(across), 0.0, 1.0)
    arch = (1.0 - a * a) ** 0.8
    bow = 1.0 - 0.13 * np.exp(-((a / 0.10) ** 2)) + 0.05 * np.exp(-(((a - 0.22) / 0.14) ** 2))
    return 7.6 * arch * bow, 9.2 * (1.0 - a * a) ** 0.72


def place_lips(out: np.ndarray, p: Identity) -> None:
    """Moves the rows round the mouth so that the red border of the lips follows a row (in place)."""
    c = chart()
    x0, _ = grid_coordinates_raw()
    rows = np.array(ROW_Y)
    first, last, reach = MOUTH_ROW - 12, MOUTH_ROW + 14, 20
    middle = c.grid.shape[1] // 2 - 1
    index = c.grid[first : last + 1, middle - reach : middle + reach + 1]
    r, x = c.row[index], x0[index]
    corner_x = np.abs(x0[c.mouth_upper[0]])
    across = np.abs(x) / corner_x
    top, bottom = lip_border(across)
    # Towards the corner the rows may not fall together; beyond it they spread to their usual distance again.
    top = np.maximum(top * (1.0 + 0.16 * p.upper_lip), 1.6)
    bottom = np.maximum(bottom * (1.0 + 0.16 * p.lower_lip), 1.8)
    usual_top = rows[MOUTH_ROW - LIP_ROWS] - rows[MOUTH_ROW]
    usual_bottom = rows[MOUTH_ROW] - rows[MOUTH_ROW + LIP_ROWS]
    spread = smoothstep(across, 1.0, 1.75)
    top = top + (usual_top - top) * spread
    bottom = bottom + (usual_bottom - bottom) * spread
    # The line between the lips: lowest in the middle of the upper lip's tubercle, slightly lower again at the corners.
    line = -0.7 * np.exp(-((across / 0.16) ** 2)) + 0.5 * np.exp(-(((across - 0.45) / 0.3) ** 2)) - 0.9 * across**3
    line = line * (1.0 - spread)
    above = r < MOUTH_ROW
    step = np.abs(r - MOUTH_ROW)
    border = np.where(above, top - usual_top, usual_bottom - bottom)
    outside = np.where(above, smoothstep(step, 12.0, LIP_ROWS), smoothstep(step, 14.0, LIP_ROWS))
    shift = np.where(step <= LIP_ROWS, border * step / LIP_ROWS + line, (border + line) * outside)
    before = out[index]
    moved = before[..., 1] + shift
    # The surface stays where it is while the rows slide over it.
    for k in range(index.shape[1]):
        out[index[:, k], 2] = np.interp(moved[:, k], before[::-1, k, 1], before[::-1, k, 2])
    out[index, 1] = moved
    fade = smoothstep(step, 14.0, 3.0) * smoothstep(across, 2.3, 1.0)
    out[index, 0] += x * 0.07 * p.mouth_width * fade
    out[c.mouth_lower] = out[c.mouth_upper]


@lru_cache(maxsize=1)
def grid_coordinates_raw() -> tuple[np.ndarray, np.ndarray]:
    """x and y of the mean loft at the skin's vertices (see grid_coordinates for the others)."""
    position = loft(Identity())
    return position[:, 0], position[:, 1]


def relief(x: np.ndarray, y: np.ndarray, p: Identity) -> np.ndarray:
    """Height in z (mm) that nose, sockets, ridges, cheeks, philtrum and chin add at chart coordinates x, y."""
    a = np.abs(x)
    height = 1.0 + 0.10 * p.nose_height
    bridge = 1.0 + 0.16 * p.nose_bridge
    wide = 1.0 + 0.12 * p.nose_width
    # Nose: a ridge from the root to the tip, a ball at the tip, wings; cut off underneath.
    along = smoothstep(y, 9.0, -37.0)
    ridge = (4.2 * bridge * bump(y, y, 0.0, 0.0, 11.0, 1e9) + 22.5 * along**1.12) * height
    foot = 6.6 + 4.6 * along
    cut = 1.0 / (1.0 + np.exp(-(y + 43.6 + 1.2 * np.clip(1 - a / 8.0, 0, 1)) / 1.05))
    nose = ridge * np.exp(-((a / (foot * (0.55 + 0.45 * wide))) ** 2.2)) * cut
    nose += 3.4 * height * bump(x, y, 0.0, -37.5, 7.2 * wide, 5.6) * cut
    nose += 10.5 * wide * bump(a, y, 12.2 * wide, -39.6, 5.0, 5.6) * cut
    nose += 3.0 * bump(x, y, 0.0, -42.0, 3.4, 4.0)  # columella
    nose -= 1.6 * bump(a, y, 17.6 * wide, -39.0, 3.2, 6.0)  # crease beside the wing
    nose -= 2.6 * bump(a, y, 6.4 * wide, -44.2, 3.0, 2.0)  # nostrils
    # Sockets, brow ridge and root of the nose.
    depth = 9.6 + 1.1 * p.eye_depth
    rest = -depth * bump(a, y, 29.0, 0.5, 15.0, 10.5) - 3.2 * bump(a, y, 15.0, 1.0, 7.0, 10.0)
    rest += (2.6 + 1.2 * p.brow_ridge) * bump(a, y, 24.0, 17.0, 19.0, 6.0)
    rest += (0.8 + 0.8 * p.brow_ridge) * bump(x, y, 0.0, 18.0, 9.0, 8.0)
    rest += -1.0 * bump(a, y, 54.0, 22.0, 10.0, 16.0)  # temples
    # Cheeks: bone, apple, hollow, fold from the nose to the mouth's corner.
    rest += (3.4 + 1.4 * p.cheekbones) * bump(a, y, 45.0, -20.0, 15.0, 12.0)
    rest += (2.2 + 0.8 * p.cheek_fullness) * bump(a, y, 31.0, -30.0, 14.0, 14.0)
    rest += (-3.0 + 1.8 * p.cheek_fullness - 0.6 * p.cheekbones) * bump(a, y, 46.0, -58.0, 14.0, 17.0)
    rest += -1.1 * bump(a - 22.0 + 0.28 * (y + 50.0), y, 0.0, -52.0, 3.6, 13.0)
    # The mouth's mound, philtrum, the groove under the lip and the chin.
    rest += (4.6 + 1.6 * p.mouth_protrusion) * bump(x, y, 0.0, -66.0, 24.0, 19.0)
    rest += -1.3 * bump(x, y, 0.0, -54.0, 2.6, 6.0) + 0.7 * bump(a, y, 4.8, -55.0, 2.4, 6.0)
    rest += -3.8 * bump(x, y, 0.0, -83.0, 19.0, 5.0)
    rest += (4.6 + 1.9 * p.chin_protrusion) * bump(x, y, 0.0, -99.0, 15.0 + 1.5 * p.chin_width, 11.0)
    rest += -1.2 * bump(a, y, 29.0, -73.0, 5.0, 8.0)
    return nose + rest


def lip_relief(out: np.ndarray, p: Identity) -> None:
    """Rounds the red of the lips (in place)."""
    c = chart()
    corner = np.abs(out[c.mouth_upper[0], 0])
    step = c.row - MOUTH_ROW
    lips = np.nonzero((np.abs(step) <= LIP_ROWS + 2) & (np.abs(c.column) <= MOUTH_CORNER + 1))[0]
    across = np.clip(np.abs(out[lips, 0]) / corner, 0.0, 1.0)
    q = np.abs(step[lips]) / LIP_ROWS
    envelope = (1.0 - across**2.2) ** 0.7
    upper = 4.0 * (1.0 + 0.12 * p.upper_lip) * (np.exp(-(((q - 0.42) / 0.42) ** 2)))
    lower = 5.0 * (1.0 + 0.12 * p.lower_lip) * (np.exp(-(((q - 0.45) / 0.42) ** 2)))
    out[lips, 2] += envelope * np.where((step[lips] > 0) | c.lower[lips], lower, upper)
    # Both edges of the slit lie on one line: lips at rest are closed.
    out[c.mouth_lower] = out[c.mouth_upper]
    out[lips, 2] -= 1.2 * (q < 0.01) * envelope + 0.7 * np.exp(-(((across - 1.0) / 0.10) ** 2)) * np.exp(-(q * q))


def lids(out: np.ndarray, x0: np.ndarray, y0: np.ndarray, p: Identity) -> None:
    """Opens the eyes' slits and lays the lids on the eyeballs (in place)."""
    c = chart()
    size = 1.0 + 0.07 * p.eye_size
    skin = c.part == 0
    for k, sign in enumerate((1.0, -1.0)):
        inner, outer = np.abs(x0[c.eye_upper[k][[0, -1]] if sign > 0 else c.eye_upper[k][[-1, 0]]])
        near = np.nonzero(skin & (x0 * sign > 6.0) & (x0 * sign < 62.0) & (np.abs(y0) < 26.0) & (out[:, 2] > 20.0))[0]
        x, y = x0[near] * sign, y0[near]
        s = (x - inner) / (outer - inner)
        top, bottom = lid_profile(s)
        is_lower = (y < -1e-6) | c.lower[near]
        shift = np.where(is_lower, -LID_OPEN_LOWER * bottom, LID_OPEN_UPPER * top) * size
        shift = shift * np.exp(-((np.maximum(np.abs(y), 0.0) / 9.0) ** 1.6))
        tilt = (
            (s - 0.42)
            * (2.6 + 1.3 * p.eye_tilt)
            * np.exp(-((y / 14.0) ** 2))
            * smoothstep(s, -0.9, 0.1)
            * smoothstep(s, 1.8, 1.0)
        )
        out[near, 1] += shift + tilt
        centre = np.array([sign * EYE_X, 0.4, EYE_Z])
        offset = out[near, :2] - centre[:2]
        flat = np.hypot(offset[:, 0], offset[:, 1])
        radius = EYEBALL_RADIUS + 1.15
        ball = (
            centre[2]
            + np.sqrt(np.maximum(radius**2 - np.minimum(flat, radius) ** 2, 0.0))
            - 9.0 * np.maximum(flat - radius * 0.97, 0)
        )
        out[near, 2] = _smooth_max(out[near, 2], ball, 2.2)
        # The fold of the upper lid.
        out[near, 2] -= (
            1.1
            * np.exp(-(((y - 6.6 * np.clip(top, 0.3, 1)) / 1.7) ** 2))
            * (~is_lower)
            * smoothstep(s, -0.1, 0.15)
            * smoothstep(s, 1.15, 0.9)
        )


HAIRLINE_ROW, SIDEBURN_COLUMN = ROW_Y.index(61.0) + 1, 25


@lru_cache(maxsize=1)
def scalp() -> np.ndarray:
    """Hair per vertex, [V] in [0, 1], zero off the skin: above a row in front, behind a column at the sides, down to the nape.

    Along rows and columns, so that the hairline is as smooth as the grid.
    """
    c = chart()
    position = loft(Identity())
    y, z = position[:, 1], position[:, 2]
    column = np.abs(c.column)
    above = np.where(c.row <= HAIRLINE_ROW, 1.0, np.where(c.row == HAIRLINE_ROW + 1, 0.35, 0.0))
    burn = np.where(column >= SIDEBURN_COLUMN + 1, 1.0, np.where(column == SIDEBURN_COLUMN, 0.6, 0.0)) * smoothstep(
        y, -22.0, -10.0
    )
    behind = smoothstep(z, -10.0, -20.0) * smoothstep(y, -78.0, -62.0)
    mask = np.maximum(np.maximum(above, burn * (column < 900)), behind)
    mask[c.part != 0] = 0.0
    mask[c.crown] = 1.0
    return mask


def eyeball_centres(identity: Identity) -> np.ndarray:
    """Centres of the left and right eyeball, [2, 3] mm."""
    return warp(np.array([[EYE_X, 0.4, EYE_Z], [-EYE_X, 0.4, EYE_Z]]), np.array([EYE_X, -EYE_X]), np.zeros(2), identity)


def warp(points: np.ndarray, x0: np.ndarray, y0: np.ndarray, p: Identity) -> np.ndarray:
    """Identity as a smooth warp of space; x0, y0 are chart coordinates, so that features keep their vertices."""
    out = points.copy()
    side = np.sign(x0)
    eyes = np.exp(-(((y0 - 2.0) / 26.0) ** 2)) * smoothstep(np.abs(x0), 2.0, 22.0) * smoothstep(np.abs(x0), 70.0, 48.0)
    out[:, 0] += side * eyes * 1.6 * p.eye_distance
    nose_end = smoothstep(y0, 4.0, -38.0) * smoothstep(y0, -68.0, -44.0) * smoothstep(np.abs(x0), 34.0, 8.0)
    out[:, 1] -= nose_end * 2.0 * p.nose_length
    tip = bump(x0, y0, 0.0, -38.0, 11.0, 8.0)
    out[:, 1] += tip * 1.6 * p.nose_tip_up
    brows = np.exp(-(((y0 - 18.0) / 10.0) ** 2)) * smoothstep(np.abs(x0), 66.0, 44.0)
    out[:, 1] += brows * (1.5 * p.brow_height + p.brow_tilt * 0.06 * (np.abs(x0) - 28.0))
    chin = smoothstep(y0, -76.0, -104.0)
    out[:, 1] -= chin * 2.6 * p.chin_height
    below = np.minimum(out[:, 1], 0.0)
    out[:, 1] += below * 0.032 * p.face_length
    out[:, 1] += np.maximum(out[:, 1] - 20.0, 0.0) * 0.035 * p.cranium_height
    out[:, 0] += p.asymmetry * (0.5 * np.sin(y0 / 23.0) + 0.010 * np.clip(-y0, 0, 110))
    out[:, 1] += p.asymmetry * 0.008 * x0 * smoothstep(y0, 60.0, 20.0) * smoothstep(y0, -115.0, -90.0)
    return out


def part_mask(*names: str) -> np.ndarray:
    """Boolean mask [V] of the vertices of the named parts (see chart.PARTS)."""
    return np.isin(chart().part, [PARTS.index(name) for name in names])


@lru_cache(maxsize=1)
def grid_coordinates_z() -> np.ndarray:
    """z of the mean loft in millimetres, [V]; zero off the skin."""
    return loft(Identity())[:, 2]
