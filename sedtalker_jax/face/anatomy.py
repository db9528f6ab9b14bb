"""What hangs on the skin of the built-in head: mouth's inside, eyeballs, ears and brows; and the head put together."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from sedtalker_jax.face import shape
from sedtalker_jax.face.chart import (
    BROW_SHAPE,
    EAR_RINGS,
    EAR_SECTORS,
    EYEBALL_RINGS,
    EYEBALL_SECTORS,
    TEETH_SHAPE,
    TONGUE_SHAPE,
    chart,
)
from sedtalker_jax.face.shape import EYEBALL_RADIUS, Identity, smoothstep


def _mouth_inside(out: np.ndarray) -> None:
    c = chart()
    loop, n_upper = c.mouth_loop, len(c.mouth_upper)
    rim = out[loop]
    sign = np.ones(len(loop))
    sign[n_upper:] = -1.0
    corner = np.abs(rim[:, 0]) / np.abs(rim[0, 0])
    open_up = np.sqrt(np.maximum(1.0 - corner**2, 0.0))
    centre_y, front = rim[:, 1].mean(), rim[n_upper // 2, 2]
    for ring, back, lift, narrow in zip(
        c.blocks["mouth_rings"], (2.2, 5.0, 16.0, 34.0), (0.5, 3.4, 10.0, 12.0), (0.99, 0.98, 1.0, 0.8), strict=True
    ):
        out[ring, 0] = rim[:, 0] * narrow
        out[ring, 1] = rim[:, 1] + sign * lift * open_up
        out[ring, 2] = rim[:, 2] - back
    out[c.blocks["throat"]] = [[0.0, centre_y, front - 44.0]]
    u = np.linspace(-1.0, 1.0, TEETH_SHAPE[0])[None]
    v = np.linspace(0.0, 1.0, TEETH_SHAPE[1])[:, None]
    width = np.abs(rim[0, 0]) * 0.93
    arc = 1.0 - np.sqrt(np.maximum(1.0 - 0.93 * u * u, 0.0))
    for name, top, bottom, inset in (("teeth_upper", 9.0, -1.9, 8.2), ("teeth_lower", -1.9, -11.0, 11.2)):
        block = c.blocks[name]
        out[block, 0] = width * u + 0.0 * v
        out[block, 1] = centre_y + top + (bottom - top) * v + 1.2 * u * u
        out[block, 2] = front - inset - 24.0 * arc + 0.8 * np.sin(np.pi * v)
    a = np.linspace(0.0, 1.0, TONGUE_SHAPE[0])[:, None]  # back to tip, so that the upper side faces up
    b = np.linspace(-1.0, 1.0, TONGUE_SHAPE[1])[None]
    tip = np.sqrt(np.maximum(1.0 - np.maximum(a - 0.6, 0.0) ** 2 / 0.17, 0.02))
    out[c.blocks["tongue"], 0] = 15.0 * b * tip
    out[c.blocks["tongue"], 1] = centre_y - 8.5 + 3.0 * (1.0 - b * b) * tip - 3.0 * a**3 - 4.0 * np.abs(b) ** 3
    out[c.blocks["tongue"], 2] = front - 48.0 + 34.0 * a + 0.0 * b


def _eyeballs(out: np.ndarray, centres: np.ndarray) -> None:
    c = chart()
    theta = np.arange(EYEBALL_SECTORS) * 2.0 * np.pi / EYEBALL_SECTORS
    ring = EYEBALL_RINGS[:, None]
    unit = np.stack([np.sin(ring) * np.cos(theta), -np.sin(ring) * np.sin(theta), np.cos(ring) + 0.0 * theta], -1).reshape(
        -1, 3
    )
    unit = np.concatenate([[[0.0, 0.0, 1.0]], unit])
    # Strips run with the first chain above the second, hence clockwise sectors.
    unit = unit * np.array([-1.0, 1.0, 1.0])
    for name, centre in zip(("eyeball_left", "eyeball_right"), centres, strict=True):
        out[c.blocks[name]] = centre + EYEBALL_RADIUS * unit


def _ears(out: np.ndarray, p: Identity) -> None:
    c = chart()
    size = 1.0 + 0.07 * p.ear_size
    angle = np.radians(30.0 + 7.0 * p.ear_angle)
    theta = np.pi / 2 + np.arange(EAR_SECTORS) * 2.0 * np.pi / EAR_SECTORS  # from the top, forwards first
    rings = np.concatenate([[0.0], np.repeat(EAR_RINGS, EAR_SECTORS)])
    angles = np.concatenate([[0.0], np.tile(theta, len(EAR_RINGS))])
    up = np.sin(angles)
    forward = -np.cos(angles)
    # Outline: tall, broad above, a lobe below; the front edge is straighter.
    v = rings * up * 31.0
    u = rings * forward * (17.5 + 3.5 * up) * np.where(forward > 0, 0.72, 1.0)
    helix = np.exp(-(((rings - 0.93) / 0.09) ** 2)) * np.where(forward > 0.55, 0.4, 1.0)
    bowl = np.exp(-((rings / 0.45) ** 2)) * np.exp(-(((up * rings + 0.05) / 0.6) ** 2))
    anti = np.exp(-(((rings - 0.62) / 0.12) ** 2)) * smoothstep(-forward, -0.2, 0.6)
    out_of = 3.4 * helix - 5.0 * bowl + 2.0 * anti
    back = np.zeros_like(rings)
    back[1 + EAR_SECTORS * (len(EAR_RINGS) - 2) :] = np.repeat([4.0, 9.0], EAR_SECTORS)
    out_of = out_of - back
    skin_x = 72.5 * (1.0 + 0.035 * p.face_width)
    for name, sign in (("ear_left", 1.0), ("ear_right", -1.0)):
        # Hinged at the front edge, the back turned outwards.
        z = np.cos(angle) * (u - 12.0) + 12.0
        x = skin_x + np.sin(angle) * (12.0 - u) * 0.9 + out_of
        block = c.blocks[name]
        out[block, 0] = sign * (x - 2.0)
        out[block, 1] = (-10.0 + v) * size
        out[block, 2] = z - 6.0


@lru_cache(maxsize=1)
def _brow_weights() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each brow vertex lies on the skin: brow indices [b], skin triangles [b, 3], barycentric weights [b, 3].

    In chart coordinates of the front skin, so that brows ride on whatever the skin does.
    """
    c = chart()
    x, y = shape.grid_coordinates()
    front = shape.loft(Identity())[:, 2] > 30.0
    skin = (c.part == 0) & front & (y > 2.0) & (y < 45.0)
    triangles = c.faces[np.all(skin[c.faces], axis=1)]
    points = np.stack([x, y], -1)
    a, b, d = (points[triangles[:, k]] for k in range(3))
    indices = np.concatenate([c.blocks["brow_left"].ravel(), c.blocks["brow_right"].ravel()])
    q = points[indices][:, None]
    area = (b[:, 0] - a[:, 0]) * (d[:, 1] - a[:, 1]) - (d[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    w1 = ((q[..., 0] - a[:, 0]) * (d[:, 1] - a[:, 1]) - (d[:, 0] - a[:, 0]) * (q[..., 1] - a[:, 1])) / area
    w2 = ((b[:, 0] - a[:, 0]) * (q[..., 1] - a[:, 1]) - (q[..., 0] - a[:, 0]) * (b[:, 1] - a[:, 1])) / area
    weights = np.stack([1.0 - w1 - w2, w1, w2], -1)
    best = weights.min(-1).argmax(1)
    return indices, triangles[best], weights[np.arange(len(indices)), best]


def ride_on_skin(values: np.ndarray) -> np.ndarray:
    """Brow values interpolated from the skin below: values [..., V, 3] -> [..., b, 3]; in the order of brow_indices()."""
    _, triangles, weights = _brow_weights()
    return np.einsum("...bkx,bk->...bx", values[..., triangles, :], weights)


def brow_indices() -> np.ndarray:
    return _brow_weights()[0]


def build_positions(identity: Identity) -> np.ndarray:
    """Vertex positions of the head at rest (lips closed, eyes open), [V, 3] in millimetres."""
    c, p = chart(), identity
    x0, y0 = shape.grid_coordinates()
    out = shape.loft(p)
    skin = c.part == 0
    front = skin & (out[:, 2] > 5.0)
    fade = smoothstep(out[front, 2], 5.0, 30.0)
    out[front, 2] += shape.relief(x0[front], y0[front], p) * fade
    shape.place_lips(out, p)
    shape.lip_relief(out, p)
    shape.lids(out, x0, y0, p)
    hair = shape.scalp()
    normal = out - np.array([0.0, 20.0, -5.0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    out += normal * (hair * (6.5 + 1.6 * p.hair_volume))[:, None]
    _mouth_inside(out)
    out = shape.warp(out, x0, y0, p)
    centres = shape.eyeball_centres(p)
    _eyeballs(out, centres)
    _ears(out, p)
    for k, side in enumerate(("left", "right")):
        rim, loop = c.blocks[f"lid_rim_{side}"], c.eye_loops[k]
        outward = out[loop] - centres[k]
        out[rim] = out[loop] + np.stack([-0.04 * outward[:, 0], -0.12 * outward[:, 1], -2.6 + 0 * outward[:, 2]], -1)
    brow = brow_indices()
    on_skin = ride_on_skin(out)
    n_along, n_across = BROW_SHAPE
    flat = on_skin.reshape(2, n_across, n_along, 3)
    middle = flat[:, 1:2]
    flat = middle + (flat - middle) * np.array([1.0, 1.0 + 0.22 * p.brow_thickness, 1.0])
    lift = np.array([0.5, 1.7, 0.5])[None, :, None] * (1.0 - 0.5 * np.linspace(0, 1, n_along))[None, None]
    flat[..., 2] += lift
    flat[..., 0] += np.array([1.0, -1.0])[:, None, None] * 0.25 * lift
    out[brow] = flat.reshape(-1, 3)
    return out
