"""Displacement fields of the rig's shapes on a given head: muscles as smooth bumps over the chart, jaw and lids as rotations.

All in millimetres. A field is a function of the chart's coordinates, so that it follows the feature it belongs to on every
head; rotations (jaw, lids, gaze) use the head's own positions, so that they fit its shape.
"""

from __future__ import annotations

import numpy as np

from sedtalker_jax.face import anatomy
from sedtalker_jax.face import shape as sculpt
from sedtalker_jax.face.chart import EYE_ROW, LIP_ROWS, MOUTH_ROW, PARTS, ROW_Y, chart
from sedtalker_jax.face.rig import INDEX, NUM_WEIGHTS
from sedtalker_jax.face.shape import JAW_HINGE, MOUTH_HALF_WIDTH, MOUTH_Y, bump, smoothstep

JAW_ANGLE = np.radians(16.5)  # jawOpen = 1
LOOK_ANGLES = {"Up": np.radians(22.0), "Down": np.radians(26.0), "In": np.radians(30.0), "Out": np.radians(30.0)}
_INNER_FOLLOW = (0.97, 0.88, 0.62, 0.3)  # how far each ring of the mouth's inner wall follows the lips


def _rotate_x(points: np.ndarray, centre: np.ndarray, angle: float) -> np.ndarray:
    """Points turned about the x axis through `centre`; positive turns forward (+z) downwards (-y)."""
    offset = points - centre
    cos, sin = np.cos(angle), np.sin(angle)
    return centre + np.stack(
        [offset[:, 0], cos * offset[:, 1] - sin * offset[:, 2], sin * offset[:, 1] + cos * offset[:, 2]], -1
    )


def _rotate_y(points: np.ndarray, centre: np.ndarray, angle: float) -> np.ndarray:
    """Points turned about the y axis through `centre`; positive turns forward (+z) to the subject's left (+x)."""
    offset = points - centre
    cos, sin = np.cos(angle), np.sin(angle)
    return centre + np.stack(
        [cos * offset[:, 0] + sin * offset[:, 2], offset[:, 1], -sin * offset[:, 0] + cos * offset[:, 2]], -1
    )


class _Fields:
    """Chart coordinates and masks shared by all shapes of one head."""

    def __init__(self, positions: np.ndarray):
        c = chart()
        self.chart = c
        self.positions = positions
        self.x, self.y = sculpt.grid_coordinates()
        self.skin = c.part == 0
        self.front = np.where(self.skin, smoothstep(positions[:, 2], 5.0, 35.0), 0.0)
        self.eyelid = c.part == PARTS.index("lid_rim")
        # 1 on what the jaw carries. The border runs along the slit of the mouth and widens from its corners to the ears.
        across = np.abs(self.x)
        out = np.clip((across - 0.72 * MOUTH_HALF_WIDTH) / 32.0, 0.0, 1.0)
        half = 0.6 + 30.0 * out
        centre = MOUTH_Y + 10.0 * out
        border = smoothstep(self.y, centre + half, centre - half)
        inside = across < 0.72 * MOUTH_HALF_WIDTH
        is_lower = c.lower | (c.row > MOUTH_ROW)
        border = np.where(inside & (c.row == MOUTH_ROW), np.where(c.lower, 1.0, 0.0), border)
        # On the slit beyond that, upper and lower edge meet smoothly at the corner.
        near_corner = (~inside) & (c.row == MOUTH_ROW) & (across < MOUTH_HALF_WIDTH + 0.6)
        t = np.clip((across - 0.72 * MOUTH_HALF_WIDTH) / (0.28 * MOUTH_HALF_WIDTH), 0.0, 1.0)
        edge = np.sqrt(np.maximum(1.0 - t * t, 0.0))
        border = np.where(near_corner, 0.5 + np.where(c.lower, 0.5, -0.5) * edge, border)
        row_y = np.array([*ROW_Y, 0.0])[np.clip(c.row, -1, len(ROW_Y) - 1)]
        neck = smoothstep(row_y, -158.0, -115.0)
        self.jaw = np.where(self.skin, border * np.where(c.row >= 0, neck, 1.0), 0.0)
        self.low = np.where(is_lower, 1.0, 0.0) * inside + np.where(inside, 0.0, border)
        self.up = 1.0 - self.low
        self.m = self.x / MOUTH_HALF_WIDTH
        # Distance from the slit in rows, for what happens within the red of the lips.
        self.lip_step = np.where(c.row >= 0, c.row - MOUTH_ROW, 0)
        self.red = np.where(
            self.skin & (np.abs(self.m) < 1.12), smoothstep(np.abs(self.lip_step), LIP_ROWS + 3.0, LIP_ROWS - 1.0), 0.0
        )

    def zeros(self) -> np.ndarray:
        return np.zeros((len(self.x), 3))

    def at(self, side: float, cx: float, cy: float, sx: float, sy: float) -> np.ndarray:
        """Bump round (side * cx, cy) on the front skin. side 0 with cx = 0 for the middle."""
        return bump(self.x, self.y, side * cx, cy, sx, sy) * self.front

    def half(self, side: float, width: float = 7.0) -> np.ndarray:
        """1 on one side of the face, 0 on the other, soft over `width` at the midline."""
        return smoothstep(self.x * side, -width, width)


def _vector(dx, dy, dz) -> np.ndarray:
    return np.stack(np.broadcast_arrays(dx, dy, dz), -1)


def _jaw(f: _Fields, angle: float) -> np.ndarray:
    moved = _rotate_x(f.positions, JAW_HINGE, angle) - f.positions
    # The condyle slides forwards as the jaw opens.
    moved = moved + np.array([0.0, 0.0, 5.0]) * (angle / JAW_ANGLE)
    out = moved * f.jaw[:, None]
    # The corners of the mouth are drawn in a little, cheeks flatten.
    corner = bump(np.abs(f.x), f.y, MOUTH_HALF_WIDTH, MOUTH_Y - 2.0, 11.0, 14.0) * f.front
    out[:, 0] -= np.sign(f.x) * corner * 2.2 * angle / JAW_ANGLE
    out[:, 2] -= bump(np.abs(f.x), f.y, 42.0, -56.0, 15.0, 20.0) * f.front * 2.5 * angle / JAW_ANGLE
    for name in ("teeth_lower", "tongue"):
        block = f.chart.blocks[name].ravel()
        out[block] = moved[block]
    return out


def _follow(f: _Fields, out: np.ndarray, carries_jaw: bool = False) -> np.ndarray:
    """Lets what hangs on the skin follow it: inner wall of the mouth, rims of the lids, brows (in place)."""
    c = f.chart
    for ring, amount in zip(c.blocks["mouth_rings"], _INNER_FOLLOW, strict=True):
        out[ring] = amount * out[c.mouth_loop]
    out[c.blocks["throat"]] = 0.0
    for k, side in enumerate(("left", "right")):
        out[c.blocks[f"lid_rim_{side}"]] = 0.96 * out[c.eye_loops[k]]
    out[anatomy.brow_indices()] = anatomy.ride_on_skin(out)
    return out


def _lid(f: _Fields, k: int, upper_drop: float | np.ndarray, lower_rise: float | np.ndarray) -> np.ndarray:
    """Lids of eye k (0 left) moved by fractions of the opening, staying on the eyeball.

    upper_drop 1 and lower_rise 0 closes the eye; negative values open it wider.
    """
    c = f.chart
    sign = 1.0 if k == 0 else -1.0
    out = f.zeros()
    upper, lower = c.eye_upper[k], c.eye_lower[k]
    columns = c.column[upper]
    gap = f.positions[upper] - f.positions[lower]
    centre = sculpt_centre(f, k)
    radius = sculpt.EYEBALL_RADIUS + 1.25
    order = np.argsort(columns)
    opening = np.interp(c.column, columns[order], gap[order, 1], left=0.0, right=0.0)
    near = np.nonzero(f.skin & (f.x * sign > 4.0) & (np.abs(f.y) < 24.0) & (f.front > 0) & (opening > 0))[0]
    is_lower = (c.row[near] > EYE_ROW) | c.lower[near]
    distance = np.abs(f.y[near])
    reach = np.where(is_lower, np.exp(-((distance / 8.5) ** 2)), np.exp(-((distance / 9.5) ** 2)))
    dy = np.where(is_lower, lower_rise, -np.asarray(upper_drop)) * opening[near] * reach
    flat = f.positions[near] - centre

    def height(y: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(radius**2 - flat[:, 0] ** 2 - y**2, 4.0))

    dz = (height(flat[:, 1] + dy) - height(flat[:, 1])) * reach**0.5
    out[near] = _vector(0.0, dy, dz)
    return out


def sculpt_centre(f: _Fields, k: int) -> np.ndarray:
    """Centre of eyeball k from its vertices: the pole lies one radius in front of it."""
    pole = f.positions[f.chart.blocks["eyeball_left" if k == 0 else "eyeball_right"][0]]
    return pole - np.array([0.0, 0.0, sculpt.EYEBALL_RADIUS])


def _look(f: _Fields, k: int, direction: str) -> np.ndarray:
    c = f.chart
    block = c.blocks["eyeball_left" if k == 0 else "eyeball_right"]
    angle = LOOK_ANGLES[direction]
    centre = sculpt_centre(f, k)
    if direction in ("Up", "Down"):
        turned = _rotate_x(f.positions[block], centre, angle if direction == "Down" else -angle)
        out = _lid(f, k, 0.36, -0.16) if direction == "Down" else _lid(f, k, -0.20, 0.10)
    else:
        outward = 1.0 if k == 0 else -1.0
        turned = _rotate_y(f.positions[block], centre, angle * outward * (1.0 if direction == "Out" else -1.0))
        out = f.zeros()
    out[block] = turned - f.positions[block]
    return out


def _lips_toward_slit(f: _Fields, upper: float, lower: float, side: np.ndarray | float = 1.0) -> np.ndarray:
    """Displacement in y that thins the red of the lips by fractions, leaving the slit where it is."""
    line = np.interp(f.x, f.positions[f.chart.mouth_upper, 0], f.positions[f.chart.mouth_upper, 1])
    offset = f.positions[:, 1] - line
    limited = np.clip(offset, -11.0, 9.0)
    return -limited * f.red * np.where(offset > 0, upper, lower) * side


def _mouth_shapes(f: _Fields, out: np.ndarray) -> None:
    lips = bump(f.x, f.y, 0.0, MOUTH_Y, 30.0, 17.0) * f.front
    inner = np.maximum(1.0 - np.clip(np.abs(f.m), 0, 1) ** 2, 0.0)
    rim = np.where(f.skin, smoothstep(np.abs(f.lip_step), 9.0, 0.0), 0.0) * f.front  # 1 at the slit, 0 nine rows away
    up, low = f.up * rim, f.low * rim

    out[INDEX["mouthFunnel"]] = _vector(
        -f.x * 0.30 * lips, 4.4 * up * inner - 5.0 * low * inner, 6.5 * lips * (0.35 + 0.65 * inner)
    )
    out[INDEX["mouthPucker"]] = _vector(-f.x * 0.44 * lips, -0.06 * (f.y - MOUTH_Y) * lips, 8.5 * lips * (0.25 + 0.75 * inner))
    thin_upper, thin_lower = _lips_toward_slit(f, 0.62, 0.0), _lips_toward_slit(f, 0.0, 0.62)
    out[INDEX["mouthRollUpper"]] = _vector(0.0, thin_upper, -4.0 * f.red * f.up * inner**0.5)
    out[INDEX["mouthRollLower"]] = _vector(0.0, thin_lower, -4.4 * f.red * f.low * inner**0.5)
    chin = bump(f.x, f.y, 0.0, -96.0, 21.0, 17.0) * f.front
    centre = bump(f.x, f.y, 0.0, MOUTH_Y, 19.0, 13.0) * f.front
    out[INDEX["mouthShrugLower"]] = _vector(
        0.0, 4.5 * chin + 3.4 * centre * (1.0 - 0.25 * f.up), 2.2 * centre * f.low + 1.6 * chin
    )
    out[INDEX["mouthShrugUpper"]] = _vector(0.0, 2.6 * centre * f.up, 2.4 * centre * f.up)
    puff = bump(np.abs(f.x), f.y, 40.0, -58.0, 18.0, 18.0) * f.front
    out[INDEX["cheekPuff"]] = _vector(np.sign(f.x) * 7.0 * puff, 0.0, 7.0 * puff + 2.5 * lips)
    for side, sign in (("Left", 1.0), ("Right", -1.0)):
        half = f.half(sign)
        corner = f.at(sign, 26.0, MOUTH_Y, 14.0, 12.0)
        wide = f.at(sign, 22.0, MOUTH_Y, 20.0, 16.0) * f.half(sign, 12.0)
        cheek = f.at(sign, 38.0, -38.0, 17.0, 15.0)
        fold = f.at(sign, 33.0, -56.0, 6.0, 13.0)
        curve = np.clip(np.abs(f.m), 0.0, 1.15) ** 1.8 * half * smoothstep(np.abs(f.x), 52.0, 25.0)
        curve = curve * np.exp(-(((f.y - MOUTH_Y) / 15.0) ** 2)) * f.front
        smile = _vector(sign * 8.0 * wide, 8.4 * curve - 0.6 * wide * (1.0 - curve), -3.6 * corner)
        smile += _vector(sign * 1.5 * cheek, 5.0 * cheek, 3.6 * cheek) + _vector(0.0, 0.0, -1.6 * fold)
        smile[:, 1] += _lips_toward_slit(f, 0.20, 0.10, half)
        out[INDEX[f"mouthSmile{side}"]] = smile
        below = f.at(sign, 28.0, -80.0, 13.0, 13.0)
        out[INDEX[f"mouthFrown{side}"]] = _vector(
            sign * (1.0 * corner + 1.0 * below), -7.2 * corner - 2.5 * below, -1.2 * corner + 1.4 * below
        )
        out[INDEX[f"mouthDimple{side}"]] = _vector(sign * 4.0 * corner, 0.8 * corner, -4.2 * corner)
        stretch = _vector(sign * 8.5 * wide, -3.0 * corner, -3.6 * corner)
        stretch += _vector(sign * 2.0 * below, -2.5 * below, 0.0)
        stretch[:, 1] += _lips_toward_slit(f, 0.22, 0.22, half)
        out[INDEX[f"mouthStretch{side}"]] = stretch
        press = _vector(0.0, _lips_toward_slit(f, 0.45, 0.45, half), -2.2 * f.red * half)
        out[INDEX[f"mouthPress{side}"]] = press + _vector(sign * 1.5 * corner, -0.6 * corner, 0.0)
        lift = bump(f.x, f.y, sign * 11.0, -62.0, 14.0, 17.0) * f.front * half
        drop = bump(f.x, f.y, sign * 11.0, -74.0, 14.0, 16.0) * f.front * half
        out[INDEX[f"mouthUpperUp{side}"]] = _vector(0.0, 6.6 * lift * f.up + 2.0 * cheek, 1.2 * lift * f.up + 1.2 * cheek)
        out[INDEX[f"mouthLowerDown{side}"]] = _vector(0.0, -6.4 * drop * f.low, 1.0 * drop * f.low)
        out[INDEX[f"mouth{side}"]] = _vector(sign * 8.0 * bump(f.x, f.y, sign * 6.0, MOUTH_Y, 32.0, 20.0) * f.front,
                                             1.5 * corner, -2.0 * corner)  # fmt: skip


def _brow_and_eye_shapes(f: _Fields, out: np.ndarray) -> None:
    ax = np.abs(f.x)
    lid_free = 1.0 - 0.75 * bump(ax, f.y, 31.0, 0.0, 19.0, 8.5)  # the lids follow the brows only a little
    inner_up = bump(ax, f.y, 12.0, 19.0, 12.0, 15.0) * f.front * lid_free
    middle = bump(f.x, f.y, 0.0, 38.0, 26.0, 17.0) * f.front
    out[INDEX["browInnerUp"]] = _vector(
        -np.sign(f.x) * 1.2 * inner_up, 8.6 * inner_up + 2.5 * middle * lid_free, 1.0 * inner_up + 1.0 * middle
    )
    for k, (side, sign) in enumerate((("Left", 1.0), ("Right", -1.0))):
        half = f.half(sign, 9.0)
        down = (0.95 * f.at(sign, 17.0, 18.0, 14.0, 13.0) + 0.55 * f.at(sign, 38.0, 19.0, 14.0, 12.0)) * half * lid_free
        knit = f.at(sign, 13.0, 17.0, 11.0, 11.0) * half
        root = bump(f.x, f.y, 0.0, 12.0, 7.0, 8.0) * f.front * half
        out[INDEX[f"browDown{side}"]] = _vector(-sign * 3.2 * knit, -6.8 * down - 1.2 * root, 1.6 * knit + 1.2 * root)
        outer = np.maximum(f.at(sign, 36.0, 20.0, 17.0, 15.0), f.at(sign, 46.0, 18.0, 17.0, 15.0)) * lid_free
        out[INDEX[f"browOuterUp{side}"]] = _vector(0.0, 8.4 * outer, 0.8 * outer)
        out[INDEX[f"eyeBlink{side}"]] = _lid(f, k, 0.80, 0.20) + _vector(0.0, -0.8 * f.at(sign, 31.0, 11.0, 15.0, 5.0), 0.0)
        half_way = _lid(f, k, 0.40, 0.10) + _vector(0.0, -0.4 * f.at(sign, 31.0, 11.0, 15.0, 5.0), 0.0)
        out[INDEX[f"eyeBlinkArc{side}"]] = half_way - 0.5 * out[INDEX[f"eyeBlink{side}"]]
        pouch = f.at(sign, 33.0, -13.0, 16.0, 7.0)
        out[INDEX[f"eyeSquint{side}"]] = _lid(f, k, 0.14, 0.26) + _vector(0.0, 1.6 * pouch, 1.2 * pouch)
        out[INDEX[f"eyeWide{side}"]] = _lid(f, k, -0.34, -0.10)
        cheek = f.at(sign, 40.0, -22.0, 18.0, 13.0)
        out[INDEX[f"cheekSquint{side}"]] = _lid(f, k, 0.0, 0.20) + _vector(0.0, 4.6 * cheek + 1.2 * pouch, 2.6 * cheek)
        wing = f.at(sign, 13.0, -38.0, 8.0, 9.0) * half
        flank = f.at(sign, 9.0, -16.0, 8.0, 15.0) * half
        lip = f.at(sign, 13.0, -58.0, 12.0, 12.0) * f.up * half
        brow = f.at(sign, 14.0, 17.0, 12.0, 10.0) * half * lid_free
        sneer = _vector(
            sign * 1.2 * wing, 4.2 * wing + 2.6 * flank + 3.0 * lip - 2.6 * brow, 1.4 * wing + 1.8 * flank + 0.8 * lip
        )
        out[INDEX[f"noseSneer{side}"]] = sneer + _vector(
            0.0, 2.6 * f.at(sign, 27.0, -32.0, 13.0, 15.0), 1.8 * f.at(sign, 25.0, -30.0, 11.0, 14.0)
        )
        for direction in ("Up", "Down", "In", "Out"):
            out[INDEX[f"eyeLook{direction}{side}"]] = _look(f, k, direction)
        out[INDEX[f"cheekBulge{side}"]] = _vector(0.0, 1.4 * cheek, 2.4 * f.at(sign, 38.0, -28.0, 14.0, 11.0))


def build_shapes(positions: np.ndarray) -> np.ndarray:
    """Displacements of all rig shapes for a head at rest. positions: [V, 3] mm -> [W, V, 3] mm."""
    f = _Fields(positions)
    c = f.chart
    out = np.zeros((NUM_WEIGHTS, len(positions), 3))
    jaw = _jaw(f, JAW_ANGLE)
    out[INDEX["jawOpen"]] = jaw
    out[INDEX["jawOpenArc"]] = _jaw(f, 0.5 * JAW_ANGLE) - 0.5 * jaw
    rigid = f.jaw.copy()
    for name in ("teeth_lower", "tongue"):
        rigid[c.blocks[name].ravel()] = 1.0
    out[INDEX["jawForward"]] = rigid[:, None] * np.array([0.0, -0.6, 7.0])
    out[INDEX["jawLeft"]] = rigid[:, None] * np.array([8.0, 0.0, 0.0])
    out[INDEX["jawRight"]] = rigid[:, None] * np.array([-8.0, 0.0, 0.0])
    # jawForward and the sideways shifts would tear the lips apart: both lips share the jaw's motion at the slit.
    shared = bump(f.x, f.y, 0.0, MOUTH_Y, 26.0, 9.0) * f.front
    for name, direction in (("jawForward", [0.0, 0.0, 7.0]), ("jawLeft", [8.0, 0.0, 0.0]), ("jawRight", [-8.0, 0.0, 0.0])):
        blend = shared[:, None] * 0.8
        skin = f.skin[:, None]
        out[INDEX[name]] = np.where(skin, out[INDEX[name]] * (1 - blend) + blend * 0.65 * np.array(direction), out[INDEX[name]])

    _mouth_shapes(f, out)
    _brow_and_eye_shapes(f, out)

    # mouthClose = jawOpen brings the lips together again, column by column.
    order = np.argsort(c.column[c.mouth_upper])
    columns = c.column[c.mouth_upper][order]
    gap = (jaw[c.mouth_upper] - jaw[c.mouth_lower])[order]
    apart = np.stack([np.interp(c.column, columns, gap[:, k], left=0.0, right=0.0) for k in range(3)], -1)
    fade = np.where(
        f.skin, np.where(f.lip_step < 0, smoothstep(-f.lip_step, 11.0, 0.0), smoothstep(f.lip_step, 16.0, 0.0)), 0.0
    )
    is_lower = c.lower | (c.row > MOUTH_ROW)
    out[INDEX["mouthClose"]] = apart * (fade * np.where(is_lower, 0.68, -0.32))[:, None]

    inner = np.maximum(1.0 - np.clip(np.abs(f.m), 0, 1) ** 2, 0.0) * f.front
    rim = np.where(f.skin, smoothstep(np.abs(f.lip_step), 9.0, 0.0), 0.0)
    out[INDEX["smileWithJaw"]] = _vector(0.0, rim * inner * (2.6 * f.up + 2.0 * f.low), -2.0 * rim * inner)
    lips = bump(f.x, f.y, 0.0, MOUTH_Y - 6.0, 30.0, 20.0) * f.front
    out[INDEX["puckerWithJaw"]] = _vector(-f.x * 0.22 * lips, rim * inner * (-2.0 * f.up + 3.0 * f.low), 2.0 * lips)
    out[INDEX["stretchWithJaw"]] = _vector(0.16 * f.x * lips, rim * inner * (0.6 * f.up - 1.6 * f.low), -1.4 * rim * inner)
    knit = bump(np.abs(f.x), f.y, 10.0, 20.0, 9.0, 11.0) * f.front
    out[INDEX["browKnit"]] = _vector(-np.sign(f.x) * 1.8 * knit, 2.2 * knit, 1.4 * knit)
    root = bump(f.x, f.y, 0.0, 4.0, 12.0, 8.0) * f.front
    out[INDEX["noseWrinkle"]] = _vector(0.0, -1.0 * root, 1.6 * root)
    chin = bump(f.x, f.y, 0.0, -97.0, 15.0, 9.0) * f.front
    out[INDEX["chinBulge"]] = _vector(0.0, 1.2 * chin, 2.2 * chin)
    tongue = c.blocks["tongue"]
    along = np.linspace(0.0, 1.0, tongue.shape[0])[:, None]
    tip = along + 0.0 * tongue
    out[INDEX["tongueOut"], tongue] = _vector(0.0, 11.0 * tip**0.6 - 1.0 * tip**3, 24.0 * tip)

    for w in range(NUM_WEIGHTS):
        _follow(f, out[w])
    return out
