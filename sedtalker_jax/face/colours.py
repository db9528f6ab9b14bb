"""Vertex colours of the built-in topology: skin, lips, brows, eyes, teeth, hair."""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np

from sedtalker_jax.face import shape
from sedtalker_jax.face.chart import EYEBALL_RINGS, EYEBALL_SECTORS, LIP_ROWS, MOUTH_CORNER, MOUTH_ROW, ROW_Y, chart
from sedtalker_jax.face.regions import head_regions

# sRGB. A seed picks one of each; the first of each is the default look.
SKIN = ((222, 172, 145), (236, 196, 172), (198, 144, 112), (160, 108, 80), (120, 78, 58), (241, 208, 190), (210, 160, 128))
HAIR = ((58, 40, 30), (28, 24, 24), (104, 70, 42), (150, 112, 66), (90, 50, 32), (120, 116, 112))
IRIS = ((86, 60, 40), (64, 92, 120), (82, 104, 72), (52, 38, 28), (110, 90, 56))


@lru_cache(maxsize=64)
def head_colours(seed: int | None = None) -> np.ndarray:
    """sRGB colour of every vertex of the built-in topology, uint8 [V, 3]; None gives the default look."""
    if seed is None:
        skin, hair, iris = (np.array(c[0], float) for c in (SKIN, HAIR, IRIS))
    else:
        generator = np.random.default_rng([seed & 0xFFFFFFFF, zlib.crc32(b"look")])
        skin, hair, iris = (np.array(c[int(generator.integers(len(c)))], float) for c in (SKIN, HAIR, IRIS))
        if skin.mean() < 130.0:  # dark skin comes with dark hair and eyes
            hair, iris = (
                np.array(HAIR[int(generator.integers(2))], float),
                np.array(IRIS[3 * int(generator.integers(2))], float),
            )
    c = chart()
    x, y = shape.grid_coordinates()
    ax = np.abs(x)
    regions = head_regions()
    out = np.tile(skin, (c.num_vertices, 1))

    def blend(weight: np.ndarray, colour: np.ndarray) -> None:
        out[:] = out + weight[:, None] * (np.asarray(colour, float) - out)

    front = (c.part == 0) & (shape.grid_coordinates_z() > 10.0)
    red = skin * np.array([0.98, 0.72, 0.70])
    blend(0.38 * shape.bump(ax, y, 40.0, -27.0, 17.0, 15.0) * front, red)  # cheeks
    blend(0.32 * shape.bump(x, y, 0.0, -37.0, 12.0, 8.0) * front, red)  # tip of the nose
    shadow = skin * 0.62
    blend(0.30 * shape.bump(ax, y, 29.0, 3.0, 17.0, 12.0) * front, shadow)  # sockets
    blend(0.85 * shape.bump(ax, y, 6.6, -44.6, 2.8, 1.9) * front, skin * 0.30)  # nostrils
    blend(0.30 * shape.bump(x, y, 0.0, -83.0, 15.0, 3.5) * front, shadow)  # under the lip

    # The jaw's shadow on the neck.
    under = (
        shape.smoothstep(y, -60.0, -100.0)
        * (c.row >= ROW_Y.index(-114.4))
        * shape.smoothstep(c.row, len(ROW_Y), ROW_Y.index(-121.2))
    )
    blend(0.55 * under * (c.part == 0), skin * 0.55)

    lips = np.zeros(c.num_vertices)
    step = np.abs(np.where(c.row >= 0, c.row - MOUTH_ROW, 99))
    column = np.abs(c.column)
    on_lips = (c.part == 0) & (step <= LIP_ROWS) & (column <= MOUTH_CORNER)
    lips[on_lips] = np.where(step[on_lips] < LIP_ROWS, 1.0, 0.55) * np.where(column[on_lips] == MOUTH_CORNER, 0.5, 1.0)
    blend(lips, skin * np.array([0.84, 0.58, 0.58]) + np.array([6.0, 0.0, 2.0]))
    slit = np.zeros(c.num_vertices)
    slit[c.mouth_loop] = 0.62 * np.clip(1.15 - np.abs(x[c.mouth_loop]) / 25.0, 0.0, 0.3) / 0.3
    blend(slit, skin * np.array([0.42, 0.22, 0.22]))

    inside = np.array([96.0, 34.0, 36.0])
    for k, ring in enumerate(c.blocks["mouth_rings"]):
        out[ring] = (skin * np.array([0.62, 0.30, 0.30]), inside, inside * 0.45, inside * 0.22)[k]
    out[c.blocks["throat"]] = inside * 0.15
    out[c.blocks["teeth_upper"].ravel()] = [216.0, 210.0, 196.0]
    out[c.blocks["teeth_lower"].ravel()] = [172.0, 163.0, 150.0]
    out[c.blocks["teeth_upper"][0]] = out[c.blocks["teeth_lower"][-1]] = [140.0, 70.0, 70.0]  # gums
    out[c.blocks["tongue"].ravel()] = [176.0, 84.0, 84.0]

    for k, side in enumerate(("left", "right")):
        upper = np.zeros(c.num_vertices)
        upper[c.eye_upper[k]] = 0.85
        upper[c.eye_lower[k][1:-1]] = 0.35
        blend(upper, hair * 0.55)  # lashes
        out[c.blocks[f"lid_rim_{side}"]] = skin * np.array([0.60, 0.40, 0.38])
        ball = c.blocks[f"eyeball_{side}"]
        colours = [np.array([12.0, 10.0, 10.0])]
        for ring, angle in enumerate(np.degrees(EYEBALL_RINGS)):
            if angle <= 11.0:
                tone = np.array([12.0, 10.0, 10.0])
            elif angle <= 20.0:
                tone = iris * (1.15 if ring == 2 else 0.9)
            elif angle <= 27.0:
                tone = iris
            elif angle <= 29.0:
                tone = iris * 0.55
            elif angle <= 56.0:
                tone = np.array([236.0, 232.0, 228.0])
            else:
                tone = np.array([216.0, 196.0, 190.0])
            colours += [tone] * EYEBALL_SECTORS
        out[ball] = np.array(colours)
    blend(shape.scalp(), hair)
    out[np.concatenate([c.blocks["brow_left"].ravel(), c.blocks["brow_right"].ravel()])] = hair * 0.62 + 6.0
    ears = regions["ears"]
    out[ears] = skin * np.array([0.97, 0.88, 0.86])
    result = np.clip(np.round(out), 0, 255).astype(np.uint8)
    result.setflags(write=False)
    return result


def linear_colours(colours: np.ndarray) -> np.ndarray:
    """sRGB uint8 [..., 3] -> linear light float32 in [0, 1] (IEC 61966-2-1), as exchange formats store it."""
    encoded = np.asarray(colours, np.float32) / 255.0
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4).astype(np.float32)
