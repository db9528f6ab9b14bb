"""The one topology of the built-in heads: which vertices there are, how they join, and where they lie on the mean face.

The skin is a grid: rows are loops round the head (from the crown to the neck), columns run down from the crown. The mouth
and the two eyes are slits along a row: the vertices between the corners of a slit exist twice, once for its upper and once
for its lower edge. Inside the mouth follow an inner wall, teeth and a tongue; behind the lids a rim and the eyeballs. Brows
and ears are patches of their own. Everything here is the same for every head; `head.py` gives positions.

Lengths in this module are millimetres of the mean head: y = 0 is the line of the eyes, z = 0 the ear canals.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

TOPOLOGY = "sedtalker-head"

# Half of the columns, right from the middle of the face: x at the height of the eyes, where the half width is 73.5 mm ...
_COLUMN_X = (
    0.0,
    2.6,
    5.3,
    8.0,
    10.8,
    13.6,
    16.5,
    19.0,
    21.4,
    23.8,
    26.1,
    28.4,
    30.8,
    33.3,
    35.9,
    38.6,
    41.3,
    44.0,
    46.6,
    50.0,
    53.6,
    57.2,
    60.8,
    64.2,
    67.2,
    69.8,
    72.0,
    73.3,
)
_EYE_HALF_WIDTH = 73.5
# ... and round the back of the head by azimuth, in degrees.
_COLUMN_BACK = (102.0, 124.0, 151.0, 180.0)
MOUTH_CORNER, EYE_INNER, EYE_OUTER = 12, 6, 18  # columns, counted from the middle

# Height of each row on the midline; the crown is a vertex of its own.
ROW_Y = (
    113.6, 110.0, 104.5, 97.5, 89.5, 80.5, 70.5,
    61.0, 53.5, 46.5, 40.0, 34.5, 29.5,
    25.2, 21.6, 18.5, 15.8, 13.3, 11.0, 8.9, 6.9, 5.0, 3.3, 1.6,
    0.0,
    -1.6, -3.3, -5.1, -7.1, -9.4, -12.0, -14.8, -17.8, -20.9,
    -24.0, -27.1, -30.1, -33.0, -35.8, -38.5, -41.0, -43.3, -45.6,
    -48.2, -51.0, -53.8, -56.4, -58.7,
    -60.6, -62.6, -64.6, -66.5,
    -68.5,
    -70.6, -72.7, -74.8, -76.9,
    -79.1, -81.6, -84.6, -88.2, -92.2, -96.2, -100.2, -104.2, -108.0,
    -111.6, -114.4, -116.6, -118.6, -121.2, -126.0,
    -135.0, -145.0, -157.0,
)  # fmt: skip
EYE_ROW = ROW_Y.index(0.0)
MOUTH_ROW = ROW_Y.index(-68.5)
LIP_ROWS = 4  # rows of red lip above, and below, the slit

PARTS = (
    "skin",
    "lid_rim",
    "mouth_inner",
    "eyeball_left",
    "eyeball_right",
    "brow",
    "ear",
    "teeth_upper",
    "teeth_lower",
    "tongue",
)
EYEBALL_RINGS = np.radians([11.0, 12.0, 20.0, 27.0, 29.5, 40.0, 55.0, 75.0, 100.0])  # 11 = pupil's edge, 29.5 = iris's edge
EYEBALL_SECTORS = 16
BROW_SHAPE = (15, 3)  # vertices along and across a brow
EAR_RINGS = np.array([0.3, 0.52, 0.7, 0.82, 0.92, 1.0, 0.97, 0.86])  # the last two turn back to the head
EAR_SECTORS = 13
TEETH_SHAPE = (17, 3)
TONGUE_SHAPE = (9, 7)
MOUTH_RINGS = 4


@dataclass(frozen=True)
class Chart:
    """Indices and mean-face coordinates of the built-in topology.

    faces: triangles, [M, 3] int32, wound outwards. part: index into PARTS per vertex, [V]. column, row: place in the skin grid,
    -999 off it; columns count from the middle, positive to the subject's left. lower: True for what hangs on the lower lip's
    side of the mouth slit (only meaningful within the slit). grid [rows, columns] vertex indices (upper copies); mouth_loop
    and eye_loops: rims of the slits, upper edge from the subject's right to the left, then the lower edge back.
    """

    faces: np.ndarray
    part: np.ndarray
    row: np.ndarray
    column: np.ndarray
    lower: np.ndarray
    grid: np.ndarray
    crown: int
    azimuth: np.ndarray
    mouth_upper: np.ndarray
    mouth_lower: np.ndarray
    eye_upper: tuple[np.ndarray, np.ndarray]
    eye_lower: tuple[np.ndarray, np.ndarray]
    mouth_loop: np.ndarray
    eye_loops: tuple[np.ndarray, np.ndarray]
    blocks: dict[str, np.ndarray]

    @property
    def num_vertices(self) -> int:
        return len(self.part)


def column_azimuths() -> np.ndarray:
    """Azimuth of each column in radians, [C]: 0 in front, positive to the subject's left, the last is pi (back)."""
    half = np.concatenate([np.arcsin(np.array(_COLUMN_X) / _EYE_HALF_WIDTH), np.radians(_COLUMN_BACK)])
    return np.concatenate([-half[1:-1][::-1], half])


def _strip(a: np.ndarray, b: np.ndarray, closed: bool) -> list[tuple[int, int, int]]:
    """Triangles between two equally long vertex chains; seen with `a` above `b` and running right, they face the viewer."""
    count = len(a) if closed else len(a) - 1
    triangles = []
    for k in range(count):
        n = (k + 1) % len(a)
        triangles += [(a[k], b[k], a[n]), (a[n], b[k], b[n])]
    return triangles


def _turned(triangles: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    return [(c, b, a) for a, b, c in triangles]


@lru_cache(maxsize=1)
def chart() -> Chart:
    """The chart (built once per process)."""
    azimuth = column_azimuths()
    columns, rows = len(azimuth), len(ROW_Y)
    middle = columns // 2 - 1
    number = np.arange(columns) - middle
    grid = np.arange(rows * columns).reshape(rows, columns)
    row: list[int] = np.repeat(np.arange(rows), columns).tolist()
    column: list[int] = np.tile(number, rows).tolist()
    part = [0] * (rows * columns)
    lower = [False] * (rows * columns)
    blocks: dict[str, np.ndarray] = {}

    def add(count: int, part_name: str, is_lower: bool = False, where: tuple = ()) -> np.ndarray:
        start = len(part)
        part.extend([PARTS.index(part_name)] * count)
        lower.extend([is_lower] * count)
        at_row, at_column = where if where else ([-999] * count, [-999] * count)
        row.extend(at_row)
        column.extend(at_column)
        return np.arange(start, start + count)

    crown = int(add(1, "skin")[0])

    # The lower edge of each slit: copies of the inner vertices; the corners are shared.
    below = grid.copy()  # what the quads under a row use as their upper edge

    def slit(at_row: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        inner = np.arange(first + 1, last)
        copies = add(len(inner), "skin", True, ([at_row] * len(inner), inner.tolist()))
        below[at_row, inner + middle] = copies
        upper = grid[at_row, np.arange(first, last + 1) + middle]
        return upper, np.concatenate([upper[:1], copies, upper[-1:]])

    mouth_upper, mouth_lower = slit(MOUTH_ROW, -MOUTH_CORNER, MOUTH_CORNER)
    left_upper, left_lower = slit(EYE_ROW, EYE_INNER, EYE_OUTER)
    right_upper, right_lower = slit(EYE_ROW, -EYE_OUTER, -EYE_INNER)

    triangles: list[tuple[int, int, int]] = []
    for r in range(rows - 1):
        for c in range(columns):
            n = (c + 1) % columns
            a, b = below[r, c], below[r, n]
            d, e = grid[r + 1, c], grid[r + 1, n]
            # The diagonal is mirrored at the midline so that the mesh is symmetric.
            if 0 <= number[c] < number[-1]:
                triangles += [(a, d, b), (b, d, e)]
            else:
                triangles += [(a, d, e), (a, e, b)]
    triangles += [(crown, grid[0, c], grid[0, (c + 1) % columns]) for c in range(columns)]

    def loop(upper: np.ndarray, lower_edge: np.ndarray) -> np.ndarray:
        return np.concatenate([upper, lower_edge[1:-1][::-1]])

    mouth_loop = loop(mouth_upper, mouth_lower)
    eye_loops = (loop(left_upper, left_lower), loop(right_upper, right_lower))

    for name, rim in zip(("lid_rim_left", "lid_rim_right"), eye_loops, strict=True):
        ring = add(len(rim), "lid_rim")
        blocks[name] = ring
        triangles += _strip(rim, ring, closed=True)

    lower_start = len(mouth_upper)
    previous = mouth_loop
    rings = []
    for _ in range(MOUTH_RINGS):
        ring = add(len(mouth_loop), "mouth_inner")
        for vertex in ring[lower_start:]:
            lower[vertex] = True
        triangles += _strip(previous, ring, closed=True)
        rings.append(ring)
        previous = ring
    throat = int(add(1, "mouth_inner")[0])
    triangles += [(previous[k], throat, previous[(k + 1) % len(previous)]) for k in range(len(previous))]
    blocks["mouth_rings"] = np.stack(rings)
    blocks["throat"] = np.array([throat])

    for name in ("eyeball_left", "eyeball_right"):
        centre = int(add(1, name)[0])
        rings_e = [add(EYEBALL_SECTORS, name) for _ in EYEBALL_RINGS]
        triangles += [(centre, rings_e[0][k], rings_e[0][(k + 1) % EYEBALL_SECTORS]) for k in range(EYEBALL_SECTORS)]
        for inside, outside in zip(rings_e[:-1], rings_e[1:], strict=True):
            triangles += _strip(inside, outside, closed=True)
        blocks[name] = np.concatenate([[centre], *rings_e])

    for side in ("left", "right"):
        brow = add(BROW_SHAPE[0] * BROW_SHAPE[1], "brow").reshape(BROW_SHAPE[1], BROW_SHAPE[0])
        for k in range(BROW_SHAPE[1] - 1):
            strip = _strip(brow[k], brow[k + 1], closed=False)  # chains run away from the nose
            triangles += strip if side == "left" else _turned(strip)
        blocks[f"brow_{side}"] = brow

    for side in ("left", "right"):
        centre = int(add(1, "ear")[0])
        rings_a = [add(EAR_SECTORS, "ear") for _ in EAR_RINGS]
        ear = [(centre, rings_a[0][k], rings_a[0][(k + 1) % EAR_SECTORS]) for k in range(EAR_SECTORS)]
        for inside, outside in zip(rings_a[:-1], rings_a[1:], strict=True):
            ear += _strip(inside, outside, closed=True)
        triangles += ear if side == "left" else _turned(ear)
        blocks[f"ear_{side}"] = np.concatenate([[centre], *rings_a])

    for name in ("teeth_upper", "teeth_lower"):
        block = add(TEETH_SHAPE[0] * TEETH_SHAPE[1], name, name == "teeth_lower").reshape(TEETH_SHAPE[1], TEETH_SHAPE[0])
        for k in range(TEETH_SHAPE[1] - 1):
            triangles += _strip(block[k], block[k + 1], closed=False)
        blocks[name] = block
    tongue = add(TONGUE_SHAPE[0] * TONGUE_SHAPE[1], "tongue", True).reshape(TONGUE_SHAPE)
    for k in range(TONGUE_SHAPE[0] - 1):
        triangles += _strip(tongue[k], tongue[k + 1], closed=False)
    blocks["tongue"] = tongue

    return Chart(
        faces=np.array(triangles, np.int32), part=np.array(part), row=np.array(row), column=np.array(column),
        lower=np.array(lower), grid=grid, crown=crown, azimuth=azimuth, mouth_upper=mouth_upper, mouth_lower=mouth_lower,
        eye_upper=(left_upper, right_upper), eye_lower=(left_lower, right_lower), mouth_loop=mouth_loop, eye_loops=eye_loops,
        blocks=blocks,
    )  # fmt: skip
