"""Videos of talking faces: H.264 pictures, AAC sound, and under the face the emotion track with a moving playhead."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sedtalker_jax.axes import SAMPLE_RATE
from sedtalker_jax.emotion.formats import replace_when_complete
from sedtalker_jax.emotion.labels import ACTIVE, NEUTRAL, colour_rgb
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.render import BACKGROUND, FaceRenderer

if TYPE_CHECKING:
    from sedtalker_jax.emotion.track import EmotionTrack

PLOT_HEIGHT = 62
MAX_WIDTH = 16_384  # pixels; x264 takes no wider picture
_INK = (40, 40, 44)


class EmotionStrip:
    """The strip under the face: activation of every emotion over time in its colour, a legend, a playhead, the current label.

    width in pixels, duration in seconds. Drawn once; a frame costs a copy and two pieces of text.
    """

    def __init__(self, track: EmotionTrack, duration: float, width: int):
        from PIL import Image, ImageDraw, ImageFont

        self.width, self.duration = width, max(duration, 1e-3)
        self.font = ImageFont.load_default(max(10, min(15, width // 41)))
        self.bold = ImageFont.load_default(max(13, min(20, width // 26)))
        self.left, self.right = 10, width - 10
        names = [name for name in track.labels if name != NEUTRAL]
        supersample = 3
        plot_width = self.right - self.left
        self.legend_top, line = 30, 17
        # The legend wraps when the names do not fit in one line.
        places, x, y = [], self.left, self.legend_top
        for name in track.labels:
            wide = int(self.font.getlength(name)) + 24
            if x + wide > self.right and x > self.left:
                x, y = self.left, y + line
            places.append((name, x, y))
            x += wide
        self.top = y + line + 5
        self.bottom = self.top + PLOT_HEIGHT + 9
        self.height = height = self.bottom + 22
        image = Image.new("RGB", (width, height), (255, 255, 255))
        draw = ImageDraw.Draw(image)
        for name, x, y in places:
            draw.rounded_rectangle((x, y + 3, x + 10, y + 13), 2, fill=colour_rgb(name))
            draw.text((x + 14, y + 8), name, fill=_INK, font=self.font, anchor="lm")

        plot_height = PLOT_HEIGHT
        canvas = Image.new("RGB", (plot_width * supersample, plot_height * supersample), (247, 247, 249))
        times = np.asarray(track.times)
        # The columns of an activation are ACTIVE, whatever labels the track has and in which order.
        activation = np.clip(np.asarray(track.activation(), float), 0.0, 1.0)
        activation = activation[:, [ACTIVE.index(name) for name in names]]
        at = np.linspace(0.0, self.duration, plot_width * supersample)
        curves = {name: np.interp(at, times, activation[:, k]) for k, name in enumerate(names)} if len(times) else {}
        full_w, full_h = canvas.size
        for name, curve in sorted(curves.items(), key=lambda item: -item[1].sum()):
            if curve.max() < 0.02:
                continue
            tops = full_h - 1 - curve * (full_h - 6)
            layer = Image.new("L", canvas.size, 0)
            outline = [(0, full_h), *zip(range(full_w), tops, strict=True), (full_w, full_h)]
            ImageDraw.Draw(layer).polygon(outline, fill=150)
            canvas.paste(Image.new("RGB", canvas.size, colour_rgb(name)), (0, 0), layer)
            ImageDraw.Draw(canvas).line(outline[1:-1], fill=colour_rgb(name), width=2 * supersample)
        image.paste(canvas.resize((plot_width, plot_height), Image.Resampling.BOX), (self.left, self.top))
        # A bar of the most likely emotion below the curves.
        for segment in track.segments():
            x0, x1 = self._x(segment.start), self._x(segment.end)
            draw.rectangle((x0, self.bottom - 7, max(x1 - 1, x0), self.bottom), fill=colour_rgb(segment.label))
        step = next(s for s in (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1e9) if self.duration / s <= 10)
        for tick in np.arange(0.0, self.duration + 1e-6, step):
            draw.line((self._x(tick), self.bottom, self._x(tick), self.bottom + 3), fill=_INK)
            anchor = "lt" if self._x(tick) < 20 else "rt" if self._x(tick) > width - 24 else "mt"
            draw.text((self._x(tick), self.bottom + 5), f"{tick:g} s", fill=_INK, font=self.font, anchor=anchor)
        self.image = image
        self.track, self.times, self.activation, self.names = track, times, activation, names
        self.segments = track.segments()

    def _x(self, time: float) -> int:
        return int(round(self.left + np.clip(time / self.duration, 0.0, 1.0) * (self.right - self.left)))

    def draw(self, time: float) -> np.ndarray:
        """The strip with the playhead at `time` seconds, uint8 [height, width, 3]."""
        from PIL import ImageDraw

        image = self.image.copy()
        draw = ImageDraw.Draw(image)
        x = self._x(time)
        draw.line((x, self.top - 3, x, self.bottom + 1), fill=(20, 20, 20), width=2)
        label = next((s.label for s in self.segments if s.start <= time < s.end), NEUTRAL)
        if self.segments and time >= self.segments[-1].end:
            label = self.segments[-1].label
        if label == NEUTRAL or label not in self.names or not len(self.times):
            text = label
        else:
            strength = float(np.interp(time, self.times, self.activation[:, self.names.index(label)]))
            text = f"{label}  {strength:.2f}"
        draw.rounded_rectangle((self.left, 7, self.left + 14, 21), 3, fill=colour_rgb(label))
        draw.text((self.left + 21, 14), text, fill=_INK, font=self.bold, anchor="lm")
        draw.text((self.right, 14), f"{time:5.2f} s", fill=(120, 120, 124), font=self.font, anchor="rm")
        return np.asarray(image)


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """One face of a video.

    Attributes:
      vertices: [F, V, 3] metres, frame f shown from f / fps s.
      faces: [M, 3] triangles.
      track: drawn as a strip under the face; None without one.
      title: a line above it; None without one.
      colours: of the vertices, see FaceRenderer.
    """

    vertices: np.ndarray
    faces: np.ndarray
    track: EmotionTrack | None = None
    title: str | None = None
    colours: np.ndarray | None = None


def write_video(
    path: str | os.PathLike,
    vertices: np.ndarray,
    faces: np.ndarray,
    fps: float,
    waveform: np.ndarray | None = None,
    track: EmotionTrack | None = None,
    *,
    title: str | None = None,
    colours: np.ndarray | None = None,
    **options,
) -> None:
    """Renders a face in motion to an .mp4; arguments as of Panel and write_panels.

    Raises:
      UserError: as write_panels.
    """
    write_panels(path, [Panel(vertices, faces, track, title, colours)], fps, waveform, **options)


def write_panels(
    path: str | os.PathLike,
    panels: Sequence[Panel],
    fps: float,
    waveform: np.ndarray | None = None,
    *,
    size: int = 512,
    sample_rate: int = SAMPLE_RATE,
    yaw: float = 0.0,
    pitch: float = 0.0,
    progress: bool = False,
) -> None:
    """Renders faces in motion side by side to an .mp4, whole or not at all. It ends with the shortest of them.

    Args:
      panels: from left to right, all at `fps`.
      waveform: [S] in [-1, 1] at `sample_rate`, the sound.
      size: width and height of each face in pixels.
      yaw, pitch: see FaceRenderer.
      progress: shows a bar.

    Raises:
      UserError: when the path does not end in .mp4, cannot be written, the faces are too wide together, or rendering is not
        possible here.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise UserError(f"cannot write a video to {path}: the name must end in .mp4")
    num_frames = min((len(panel.vertices) for panel in panels), default=0)
    if num_frames == 0:
        raise UserError(f"cannot write {path}: the animation has no frames")
    try:
        import av
    except ImportError as error:
        raise UserError(f"writing {path} needs PyAV ({error}); install requirements.txt, or write vertices (.npy)") from None
    size = max(64, size - size % 2)
    if size * len(panels) > MAX_WIDTH:
        raise UserError(
            f"cannot write {path}: {len(panels)} faces of {size} pixels are wider than the {MAX_WIDTH} that H.264 holds here; "
            f"make them {MAX_WIDTH // len(panels)} at most, or fewer"
        )
    frames = range(num_frames)
    if progress:
        from tqdm import tqdm

        frames = tqdm(frames, desc=f"rendering {path.name}", unit="frame", dynamic_ncols=True)
    with contextlib.ExitStack() as opened:
        temporary = opened.enter_context(replace_when_complete(path))
        columns = [opened.enter_context(_Column(panel, fps, size, num_frames, yaw, pitch)) for panel in panels]
        container = opened.enter_context(av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}))
        height = max(column.height for column in columns)
        picture = np.empty((height + height % 2, size * len(columns), 3), np.uint8)
        video = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        video.height, video.width, video.pix_fmt = *picture.shape[:2], "yuv420p"
        video.options = {"crf": "20", "preset": "veryfast"}
        sound = _Sound(container, waveform, sample_rate) if waveform is not None and len(waveform) else None
        picture[:] = BACKGROUND
        for index in frames:
            for number, column in enumerate(columns):
                column.draw(picture[:, number * size : (number + 1) * size], index)
            for packet in video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
            if sound:
                sound.feed((index + 1) / fps)
        for packet in video.encode():
            container.mux(packet)
        if sound:
            sound.finish(num_frames / fps)


class _Column:
    """A panel with its renderer: title, face and strip, from top to bottom."""

    def __init__(self, panel: Panel, fps: float, size: int, num_frames: int, yaw: float, pitch: float):
        self.panel, self.fps, self.size = panel, fps, size
        self.header = _title(panel.title, size) if panel.title else None
        self.strip = EmotionStrip(panel.track, num_frames / fps, size) if panel.track is not None else None
        self.top = 0 if self.header is None else len(self.header)
        self.height = self.top + size + (self.strip.height if self.strip else 0)
        self.renderer = FaceRenderer(panel.vertices[0], panel.faces, size, colours=panel.colours, yaw=yaw, pitch=pitch)

    def __enter__(self) -> _Column:
        self.renderer.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.renderer.__exit__(*error)

    def draw(self, picture: np.ndarray, index: int) -> None:
        """Frame `index` into a picture [height, size, 3]."""
        if self.header is not None:
            picture[: self.top] = self.header
        picture[self.top : self.top + self.size] = self.renderer.render(self.panel.vertices[index])
        if self.strip:
            picture[self.top + self.size : self.height] = self.strip.draw(index / self.fps)


class _Sound:
    """The AAC stream of a container, fed in step with the pictures so that players need not seek."""

    CHUNK = 1024

    def __init__(self, container, waveform: np.ndarray, sample_rate: int):
        import av

        self.av, self.container, self.rate = av, container, sample_rate
        clean = np.nan_to_num(np.asarray(waveform, np.float32).reshape(-1))
        self.waveform = np.clip(clean, -1.0, 1.0)
        self.stream = container.add_stream("aac", rate=sample_rate, layout="mono")
        self.stream.bit_rate = 96_000
        self.done = 0

    def feed(self, until: float) -> None:
        """Encodes whole chunks up to `until` seconds."""
        last = min(int(until * self.rate), len(self.waveform))
        while self.done + self.CHUNK <= last:
            self._encode(self.waveform[self.done : self.done + self.CHUNK])

    def finish(self, duration: float) -> None:
        """Encodes what is left, cut or padded with silence to `duration` seconds."""
        total = int(round(duration * self.rate))
        self.waveform = np.pad(self.waveform[:total], (0, max(0, total - len(self.waveform))))
        self.feed(duration)
        if self.done < total:
            self._encode(self.waveform[self.done : total])
        for packet in self.stream.encode(None):
            self.container.mux(packet)

    def _encode(self, chunk: np.ndarray) -> None:
        frame = self.av.AudioFrame.from_ndarray(np.ascontiguousarray(chunk[None]), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = self.rate, self.done, Fraction(1, self.rate)
        for packet in self.stream.encode(frame):
            self.container.mux(packet)
        self.done += len(chunk)


def _title(text: str, width: int) -> np.ndarray:
    """A line of text on white, uint8 [28, width, 3]."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (width, 28), (255, 255, 255))
    font = ImageFont.load_default(14)
    while text and font.getlength(text) > width - 20:
        text = text[:-2] + "…" if not text.endswith("…") else text[:-2] + "…"
    ImageDraw.Draw(image).text((10, 14), text, fill=_INK, font=font, anchor="lm")
    return np.asarray(image)
