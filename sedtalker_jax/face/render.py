"""Pictures of faces: off-screen rendering with VTK (through pyvista). Works for any mesh; the built-in one comes in colour."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

from sedtalker_jax.errors import UserError
from sedtalker_jax.face.chart import chart

PLAIN = (214, 170, 145)
ROUGHNESS = 0.6  # of skin, in files for other programs
BACKGROUND = (244, 244, 246)
SUPERSAMPLING = 1.5

# Lights: direction towards the light as seen from the camera (x right, y up, z to the camera) and strength, linear.
LIGHTS = (((-0.55, 0.62, 0.80), 0.72), ((0.85, 0.10, 0.60), 0.24), ((0.0, 0.75, -0.80), 0.16))
SKY, GROUND = 0.20, 0.07  # ambient light from above and from below
WRAP = (0.26, 0.12, 0.09)  # how far red, green and blue reach round into the shade: skin scatters red furthest
SHINE, SHINE_POWER = 0.13, 24.0


def _pyvista():
    try:
        import pyvista
        from vtkmodules.vtkCommonCore import vtkLogger
    except ImportError as error:
        raise UserError(
            f"rendering needs pyvista ({error}); install requirements.txt, or write vertices (.npy) instead"
        ) from None
    # Without a display VTK tries X11 first and warns about it before it takes EGL: the warning says nothing to act on.
    if not os.environ.get("DISPLAY"):
        vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_ERROR)
    return pyvista


class VertexNormals:
    """Area-weighted vertex normals of a fixed mesh."""

    def __init__(self, faces: np.ndarray, num_vertices: int):
        self.faces = np.asarray(faces, np.int64)
        count = len(self.faces)
        self.gather = csr_matrix(
            (np.ones(3 * count, np.float32), (self.faces.ravel(), np.repeat(np.arange(count), 3))), shape=(num_vertices, count)
        )

    def __call__(self, vertices: np.ndarray) -> np.ndarray:
        """vertices [V, 3] -> unit normals [V, 3] float32."""
        a, b, c = vertices[self.faces[:, 0]], vertices[self.faces[:, 1]], vertices[self.faces[:, 2]]
        u, v = b - a, c - a
        cross = np.empty_like(u)
        cross[:, 0] = u[:, 1] * v[:, 2] - u[:, 2] * v[:, 1]
        cross[:, 1] = u[:, 2] * v[:, 0] - u[:, 0] * v[:, 2]
        cross[:, 2] = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
        out = np.asarray(self.gather @ cross)
        return out / np.maximum(np.sqrt((out**2).sum(1, keepdims=True)), 1e-20)


class VertexLight:
    """Light computed at the vertices. Face meshes are dense enough, and without a GPU it is much cheaper than at the pixels."""

    def __init__(self, colours: np.ndarray, yaw: float, pitch: float):
        self.base = (np.asarray(colours, np.float32) / 255.0) ** 2.2
        # Dark places shine little: the inside of the mouth, and hair.
        self.gloss = np.clip(3.0 * self.base.mean(1, keepdims=True), 0.08, 1.0)
        turned = np.stack([_turn(np.array(place) / np.linalg.norm(place), yaw, pitch) for place, _ in LIGHTS])
        self.directions = turned.astype(np.float32)
        view = _turn(np.array([0.0, 0.0, 1.0]), yaw, pitch)
        half = turned[:2] + view
        self.half = (half / np.linalg.norm(half, axis=1, keepdims=True)).astype(np.float32)

    def __call__(self, normals: np.ndarray) -> np.ndarray:
        """Unit normals [V, 3] -> sRGB uint8 [V, 3]."""
        facing = normals @ self.directions.T
        ambient = 0.5 * (SKY + GROUND) + 0.5 * (SKY - GROUND) * normals[:, 1]
        light = np.repeat(ambient[:, None], 3, 1)
        for k, (_, strength) in enumerate(LIGHTS):
            for channel, wrap in enumerate(WRAP):
                light[:, channel] += strength * np.maximum((facing[:, k] + wrap) / (1.0 + wrap), 0.0)
        shine = SHINE * (np.maximum(normals @ self.half.T, 0.0) ** SHINE_POWER).sum(1, keepdims=True)
        out = np.minimum(1.10 * self.base * light + 0.35 * self.gloss * shine, 1.0)
        return (255.0 * out ** (1.0 / 2.2) + 0.5).astype(np.uint8)


class FaceRenderer:
    """An off-screen view of one mesh whose vertices move.

    faces: [M, 3]; vertices: a first pose [V, 3] in metres, which the camera frames; size: (width, height) or one number;
    colours: uint8 [V, 3] sRGB, None for the built-in topology's own or plain skin; yaw, pitch: degrees the camera stands to the
    subject's left and above.

    Raises:
      UserError: when rendering is not possible here, or the mesh has no triangles.
    """

    def __init__(
        self,
        vertices: np.ndarray,
        faces: np.ndarray,
        size: int | tuple[int, int] = 512,
        *,
        colours: np.ndarray | None = None,
        background: Sequence[int] = BACKGROUND,
        yaw: float = 0.0,
        pitch: float = 0.0,
    ):
        vertices = np.asarray(vertices, np.float32)
        faces = np.asarray(faces)
        if len(faces) == 0:
            raise UserError("this template has no triangles, so it cannot be drawn; use one with faces (.ply, .obj, .npz)")
        pyvista = _pyvista()
        width, height = (size, size) if isinstance(size, int) else size
        self.size = (int(width), int(height))
        if colours is None:
            colours = default_colours(len(vertices), faces)
        self.normals = VertexNormals(faces, len(vertices))
        self.mesh = pyvista.PolyData(vertices.copy(), np.insert(faces, 0, 3, axis=1).ravel())
        self.light = VertexLight(colours, yaw, pitch)
        self.mesh.point_data["colour"] = self.light(self.normals(vertices))
        inner = [int(round(SUPERSAMPLING * side)) for side in self.size]
        try:
            self.plotter = pyvista.Plotter(off_screen=True, window_size=inner, lighting="none")
            # Drawn larger and reduced: smoother than multisampling and, without a GPU, at half of its cost.
            window = self.plotter.render_window
            if window is not None:
                window.SetMultiSamples(0)
            self.plotter.renderer.SetBackground(*(int(c) / 255.0 for c in background))
            self.plotter.add_mesh(self.mesh, scalars="colour", rgb=True, lighting=False, show_scalar_bar=False, copy_mesh=False)
            self._frame(vertices, yaw, pitch, width / height)
            self.plotter.show(auto_close=False, interactive=False)
        except UserError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:160]
            raise UserError(f"rendering is not possible on this machine ({text}); write vertices (.npy) instead") from None

    def _frame(self, vertices: np.ndarray, yaw: float, pitch: float, aspect: float) -> None:
        low, high = vertices.min(0), vertices.max(0)
        # A mesh with neck or shoulders is framed from the crown to a little below the chin, by the width of its upper half.
        upper = vertices[vertices[:, 1] > 0.5 * (low[1] + high[1])]
        if np.ptp(upper[:, 0]) > 0.3 * (high[0] - low[0]):
            low[0], high[0] = upper[:, 0].min(), upper[:, 0].max()
        low[1] = max(low[1], high[1] - 1.62 * (high[0] - low[0]))
        centre, extent = 0.5 * (low + high), high - low
        view_angle = 24.0
        tall = max(extent[1] * 1.04, 1.10 * extent[0] / max(aspect, 1e-3))
        distance = 0.5 * tall / np.tan(np.radians(view_angle / 2)) + 0.22 * extent[2]
        direction = _turn(np.array([0.0, 0.0, 1.0]), yaw, pitch)
        camera = self.plotter.camera
        camera.focal_point = tuple(centre)
        camera.position = tuple(centre + distance * direction)
        camera.up = (0.0, 1.0, 0.0)
        camera.view_angle = view_angle
        self.plotter.renderer.ResetCameraClippingRange()

    def render(self, vertices: np.ndarray) -> np.ndarray:
        """Picture of a pose, vertices [V, 3] -> uint8 [H, W, 3]."""
        from PIL import Image

        vertices = np.asarray(vertices, np.float32)
        np.copyto(self.mesh.points, vertices)
        np.copyto(self.mesh.point_data["colour"], self.light(self.normals(vertices)))
        self.mesh.GetPoints().Modified()
        self.mesh.GetPointData().GetScalars().Modified()
        self.plotter.renderer.ResetCameraClippingRange()
        self.plotter.render()
        picture = Image.fromarray(np.ascontiguousarray(self.plotter.image[..., :3]))
        return np.asarray(picture.resize(self.size, Image.Resampling.BOX))

    def close(self) -> None:
        self.plotter.close()

    def __enter__(self) -> FaceRenderer:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _turn(direction: np.ndarray, yaw: float, pitch: float) -> np.ndarray:
    """A direction in front of the face turned to the subject's left by yaw and up by pitch, in degrees."""
    y, p = np.radians(yaw), np.radians(pitch)
    x, up, z = direction
    up, z = up * np.cos(p) + z * np.sin(p), z * np.cos(p) - up * np.sin(p)
    return np.array([x * np.cos(y) + z * np.sin(y), up, z * np.cos(y) - x * np.sin(y)])


def default_colours(num_vertices: int, faces: np.ndarray) -> np.ndarray:
    """Colours for a mesh: the built-in topology's own, otherwise plain skin; uint8 [V, 3]."""
    built_in = chart()
    if num_vertices == built_in.num_vertices and np.array_equal(faces, built_in.faces):
        from sedtalker_jax.face.colours import head_colours

        return head_colours()
    return np.tile(np.array(PLAIN, np.uint8), (num_vertices, 1))


def render_frame(
    vertices: np.ndarray,
    faces: np.ndarray,
    size: int | tuple[int, int] = 512,
    *,
    colours: np.ndarray | None = None,
    background: Sequence[int] = BACKGROUND,
    yaw: float = 0.0,
    pitch: float = 0.0,
) -> np.ndarray:
    """One picture of a face: vertices [V, 3] metres, faces [M, 3] -> uint8 [H, W, 3]. See FaceRenderer for the rest.

    Raises:
      UserError: when rendering is not possible here.
    """
    with FaceRenderer(vertices, faces, size, colours=colours, background=background, yaw=yaw, pitch=pitch) as renderer:
        return renderer.render(vertices)


def render_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    faces: np.ndarray,
    size: int | tuple[int, int] = 192,
    *,
    colours: Sequence[np.ndarray | None] | None = None,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    yaw: float = 0.0,
    pitch: float = 0.0,
) -> np.ndarray:
    """A contact sheet: rows of poses [V, 3] -> uint8 [height, width, 3]. colours: one entry per row.

    Raises:
      UserError: when rendering is not possible here.
    """
    from PIL import Image, ImageDraw, ImageFont

    width, height = (size, size) if isinstance(size, int) else size
    top = 26 if column_labels else 0
    left = 92 if row_labels else 0
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (left + columns * width, top + len(rows) * height), tuple(BACKGROUND))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for k, label in enumerate(column_labels):
        draw.text((left + (k + 0.5) * width, top / 2), label, fill=(40, 40, 40), font=font, anchor="mm")
    for r, row in enumerate(rows):
        if r < len(row_labels):
            draw.text((left / 2, top + (r + 0.5) * height), row_labels[r], fill=(40, 40, 40), font=font, anchor="mm")
        row_colours = colours[r] if colours is not None else None
        with FaceRenderer(row[0], faces, (width, height), colours=row_colours, yaw=yaw, pitch=pitch) as renderer:
            for k, vertices in enumerate(row):
                sheet.paste(Image.fromarray(renderer.render(vertices)), (left + k * width, top + r * height))
    return np.asarray(sheet)
