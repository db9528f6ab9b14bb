"""What the readers of face data sets share: from motion files and sound to records, and the fit of the face space.

A reader lists its clips, opens one clip's motion and says where the mesh, the regions and the templates are; everything
else is here. The fields of a face record stand in sedtalker_jax.data.records.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from sedtalker_jax.data import records
from sedtalker_jax.data.corpora.corpus import Clip, Corpus, LeftOutError
from sedtalker_jax.data.faces.motion_code import encode_motion
from sedtalker_jax.data.faces.space_fit import fit_space
from sedtalker_jax.data.faces.surface import Surface
from sedtalker_jax.data.world.clock import SAMPLE_RATE, num_animation_frames, num_speech_frames
from sedtalker_jax.emotion.labels import ACTIVE, CANONICAL, NEUTRAL
from sedtalker_jax.errors import UNREADABLE_ARRAYS, UserError
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.face.template import FaceTemplate
from sedtalker_jax.speech.audio import encode_flac, load_audio

SCHEDULE, VOICE = "schedule", "voice"
"""Values of a record's `condition`."""

SHARED_OPTIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "fps": ("native", "frame rate of the records; one that divides the data set's keeps every n-th frame"),
        "rank": ("128", "largest rank of the face space"),
        "space": ("", "record directory or face_space.npz whose basis is used instead of fitting one"),
        "mesh": ("", ".ply or .obj with the triangles, if not beside the data set"),
        "regions": ("", "FLAME_masks.pkl, a folder with lve.txt and fdd.txt, or an .npz of named vertex lists"),
    }
)

SURFACE_NOTES = "surface.json"
"""File beside the records that says where triangles and regions come from (Surface.notes)."""

_FIT_FRAMES = 8192
_FRAMES_AT_ONCE = 256
_MAX_MISMATCH = (0.35, 0.1)  # between sound and motion: seconds, or share of the clip; more is another clip or frame rate


class Motion(Protocol):
    """Vertices of a clip that are read when asked for."""

    def __len__(self) -> int:
        """Number of frames."""
        ...

    def __getitem__(self, frames: slice | np.ndarray) -> Float[np.ndarray, "n V 3"]:
        """The given frames, in metres."""
        ...


@dataclasses.dataclass(frozen=True)
class FaceClip(Clip):
    """A clip of a face data set. Attributes beside Clip's:

    motion: file of its vertices or parameters, relative to the root, or its name inside a bigger file.
    template: name of its neutral face.
    expression: canonical emotion of the face; None where the data set does not say.
    strength: of the expression, in [0, 1]; 0 for neutral.
    options: the user's choices.
    """

    motion: str = ""
    template: str = ""
    expression: str | None = None
    strength: float = 0.0
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Rows(Protocol):
    """What gives rows of vertices: an array, a memory map, or a choice of rows of one."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def __getitem__(self, rows: slice | np.ndarray, /) -> np.ndarray:
        """The given rows."""
        ...


class VertexArray:
    """Motion in one array [F, V, 3] or [F, 3 V], often a memory map, in units of `metres_per_unit`."""

    def __init__(self, array: Rows, num_vertices: int, metres_per_unit: float = 1.0) -> None:
        self._array, self._num_vertices, self._scale = array, num_vertices, metres_per_unit

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, frames: slice | np.ndarray) -> Float[np.ndarray, "n V 3"]:
        return np.asarray(self._array[frames], np.float64).reshape(-1, self._num_vertices, 3) * self._scale


class _EveryNth:
    """The first frames of a motion, every n-th of them."""

    def __init__(self, motion: Motion, num_frames: int, stride: int) -> None:
        self._motion, self._frames = motion, range(0, num_frames, stride)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, frames: slice) -> Float[np.ndarray, "n V 3"]:
        chosen = self._frames[frames]
        return self._motion[slice(chosen.start, chosen.stop, chosen.step)]


def open_vertices(path: Path, num_vertices: int, metres_per_unit: float = 1.0) -> VertexArray:
    """A .npy file of [F, V, 3] or flat [F, 3 V] vertices, mapped, not read.

    Raises:
      UserError: missing, damaged, of another mesh, or empty.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UNREADABLE_ARRAYS as error:
        raise UserError(f"{path}: not a whole .npy file of numbers ({error}); fetch it again") from None
    if array.ndim not in (2, 3) or array[:1].size != 3 * num_vertices or not np.issubdtype(array.dtype, np.number):
        raise UserError(f"{path}: has {array.dtype} of shape {list(array.shape)}, not [frames, {num_vertices}, 3]")
    return VertexArray(array, num_vertices, metres_per_unit)


class FaceCorpus(Corpus):
    """Base of the readers of face data sets.

    Attributes beside Corpus's:
      native_fps: of the data set's motion.
    """

    native_fps: float
    options: Mapping[str, tuple[str, str]] = SHARED_OPTIONS
    fit_files = (records.FACE_SPACE, SURFACE_NOTES)

    @abc.abstractmethod
    def open_motion(self, clip: FaceClip, root: Path) -> Motion:
        """The vertices of a clip at the native frame rate.

        Raises:
          UserError: missing or damaged file.
        """

    @abc.abstractmethod
    def templates(self, root: Path, options: Mapping[str, str]) -> Mapping[str, Float[np.ndarray, "V 3"]]:
        """Neutral faces of all subjects by name, in metres. Called once.

        Raises:
          UserError: missing or damaged files.
        """

    @abc.abstractmethod
    def surface(self, root: Path, options: Mapping[str, str], num_vertices: int) -> Surface:
        """Triangles and regions. Called once.

        Raises:
          UserError: missing files; the message says which and where from.
        """

    def read_waveform(self, clip: FaceClip, root: Path) -> Float[np.ndarray, " S"]:
        """Sound of a clip at 16 kHz; by default the file clip.path."""
        return load_audio(root / clip.path)

    def clip_fps(self, clip: FaceClip) -> float:
        """Native frame rate of a clip."""
        return self.native_fps

    def activation(self, clip: FaceClip, num_frames: int, stride: int, root: Path) -> Float[np.ndarray, "F K-1"]:
        """The face's emotion at the kept frames; by default constant over the clip."""
        return constant_activation(clip.expression, clip.strength, num_frames)

    def more_fields(self, clip: FaceClip, num_frames: int, stride: int, root: Path) -> dict[str, Any]:
        """Further record fields at the kept frames, such as `rig`; by default none."""
        return {}

    def voice_truth(self, clip: FaceClip, waveform: Float[np.ndarray, " S"]) -> dict[str, Any]:
        """Record fields segments, emotion [T] and intensity [T]; by default nobody labelled the voice."""
        T = num_speech_frames(len(waveform))
        return {"segments": [], "emotion": np.full(T, -1, np.int8), "intensity": np.full(T, np.nan, np.float16)}

    def make_record(self, clip: FaceClip, root: Path, out: Path) -> dict[str, Any]:
        """See Corpus.make_record."""
        space = load_space(out)
        template = space.template(clip.template).vertices
        native = self.clip_fps(clip)
        stride = frame_stride(clip.options["fps"], native)
        motion = self.open_motion(clip, root)
        waveform = self.read_waveform(clip, root)
        num_frames, num_samples = common_length(len(motion), native, len(waveform), clip.motion)
        vertices = _EveryNth(motion, num_frames, stride)
        try:
            coded = encode_motion(space, template, vertices)
        except UserError as error:
            raise UserError(f"{clip.motion}: {error}") from None
        waveform = waveform[:num_samples]
        return {
            "template": clip.template,
            "audio": encode_flac(waveform),
            "num_samples": num_samples,
            "labels": list(CANONICAL),
            "fps": native / stride,
            "activation": self.activation(clip, len(vertices), stride, root).astype(np.float16),
            "expression": clip.expression or "",
            "strength": float("nan") if clip.expression is None else clip.strength,
            **self.voice_truth(clip, waveform),
            **self.more_fields(clip, len(vertices), stride, root),
            **coded,
        }

    def fit(self, clips: Sequence[FaceClip], root: Path, out: Path, workers: int, progress: bool) -> None:
        """See Corpus.fit: the face space with all subjects' templates, fitted to frames spread over the training clips."""
        if not clips:
            raise UserError(f"{self.name}: no training clip; a face space needs at least one clip of split train")
        # One thread: linear algebra with another number of threads rounds otherwise, and records should not depend on that.
        with threadpool_limits(limits=1):
            space, surface = self._fit(clips, root, progress)
        records.write_json(out / SURFACE_NOTES, dict(surface.notes))
        space.save(out / records.FACE_SPACE)

    def _fit(self, clips: Sequence[FaceClip], root: Path, progress: bool) -> tuple[FaceSpace, Surface]:
        options = clips[0].options
        rank = whole_number(options["rank"], "rank", 1)
        neutral = self.templates(root, options)
        surface = self.surface(root, options, len(next(iter(neutral.values()))))
        templates = [
            FaceTemplate(name, surface.topology, vertices, surface.faces, surface.regions)
            for name, vertices in sorted(neutral.items())
        ]
        fps = self.clip_fps(clips[0]) / frame_stride(options["fps"], self.clip_fps(clips[0]))
        if options["space"]:
            return _borrow_space(options["space"], templates, surface, fps), surface
        chosen = [clips[i] for i in np.unique(np.linspace(0, len(clips) - 1, min(len(clips), _FIT_FRAMES)).astype(int))]
        shown = tqdm(chosen, desc=f"{self.name} face space", unit="clip", disable=not progress)
        count = max(1, _FIT_FRAMES // len(chosen))
        samples = (part for clip in shown for part in self._sample(clip, root, neutral[clip.template], count))
        return fit_space(samples, rank, surface=surface, templates=templates, fps=fps), surface

    def _sample(self, clip: FaceClip, root: Path, template: np.ndarray, count: int) -> Iterator[Float[np.ndarray, "n V 3"]]:
        """Displacements of `count` frames spread over a clip, in parts; none of a damaged one, which make_record reports."""
        try:
            motion = self.open_motion(clip, root)
            frames = np.unique(np.linspace(0, len(motion) - 1, min(count, len(motion))).astype(int))
            for start in range(0, len(frames), _FRAMES_AT_ONCE):
                displacements = motion[frames[start : start + _FRAMES_AT_ONCE]] - template
                yield displacements[np.isfinite(displacements).all(axis=(1, 2))]
        except UserError:
            return

    def manifest(self, out: Path) -> Mapping[str, Any]:
        """Frame rate, rank and topology of the face space; where its triangles and regions come from, and their sizes."""
        space = load_space(out)
        face = {
            "topology": space.topology,
            "num_vertices": space.num_vertices,
            "regions": {name: len(value) for name, value in sorted(space.regions.items())},
            "residual_rms_mm": round(space.residual * 1e3, 6),
            **json.loads((out / SURFACE_NOTES).read_text()),
        }
        return {"fps": space.fps, "rank": space.rank, "face_space": face}


def constant_activation(expression: str | None, strength: float, num_frames: int) -> Float[np.ndarray, "F K-1"]:
    """One expression at one strength in every frame; NaN without one, zeros for neutral."""
    activation = np.full((num_frames, len(ACTIVE)), np.nan if expression is None else 0.0, np.float32)
    if expression is not None and expression != NEUTRAL:
        activation[:, ACTIVE.index(expression)] = strength
    return activation


def frame_stride(wanted: str, native: float) -> int:
    """Every how many native frames one is kept for the option `fps`.

    Raises:
      UserError: not a number, or a rate that does not divide the native one: frames are never interpolated.
    """
    if wanted == "native":
        return 1
    try:
        stride = native / float(wanted)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"--option fps={wanted}: give native or a number") from None
    if stride < 1 or abs(stride - round(stride)) > 1e-6:
        rates = ", ".join(f"{native / n:g}" for n in (1, 2, 3, 4))
        raise UserError(f"--option fps={wanted}: must divide the data set's {native:g} fps ({rates} ...)")
    return round(stride)


def common_length(num_frames: int, fps: float, num_samples: int, name: str) -> tuple[int, int]:
    """Frames and samples that both sound and motion have: (frames at `fps`, samples at 16 kHz).

    Raises:
      LeftOutError: they differ by more than a third of a second and a tenth of the clip, or nothing is left.
    """
    seconds = (num_frames / fps, num_samples / SAMPLE_RATE)
    if abs(seconds[0] - seconds[1]) > max(_MAX_MISMATCH[0], _MAX_MISMATCH[1] * max(seconds)):
        raise LeftOutError(
            "sound and motion of different lengths",
            f"{name}: {num_frames} frames at {fps:g} fps last {seconds[0]:.2f} s, its sound {seconds[1]:.2f} s",
        )
    frames = min(num_frames, num_animation_frames(num_samples, fps))
    samples = min(num_samples, round(frames / fps * SAMPLE_RATE))
    if frames < 2 or num_speech_frames(samples) < 1:
        raise LeftOutError("too short", f"{name}: {frames} frames with sound")
    return frames, samples


def whole_number(text: str, name: str, smallest: int) -> int:
    """An option's value as an int.

    Raises:
      UserError: it is none, or too small.
    """
    if not re.fullmatch(r"\d+", text) or int(text) < smallest:
        raise UserError(f"--option {name}={text}: give a whole number from {smallest}")
    return int(text)


def one_of(options: Mapping[str, str], name: str, allowed: Sequence[str]) -> str:
    """An option's value, checked.

    Raises:
      UserError: it is none of `allowed`.
    """
    if options[name] not in allowed:
        raise UserError(f"--option {name}={options[name]}: give {' or '.join(allowed)}")
    return options[name]


def listed_files(folder: Path, suffix: str) -> dict[str, Path]:
    """Stem -> path of the files with that suffix in a folder, without hidden ones (macOS writes ._ copies)."""
    found = sorted(path for path in folder.glob(f"*{suffix}") if not path.name.startswith("."))
    return {path.stem: path for path in found}


def what_is_in(folder: Path) -> str:
    """Names in a folder, for messages."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"


def relative(path: Path, root: Path) -> str:
    """A path as clips hold it: relative to the root where it lies below, else whole."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path.absolute())


def load_space(directory: Path) -> FaceSpace:
    """The face space of a record directory, kept until the file changes.

    Raises:
      UserError: there is none.
    """
    path = directory / records.FACE_SPACE
    return _load_space(str(path), path.stat().st_mtime_ns if path.exists() else 0)


@functools.lru_cache(maxsize=2)
def _load_space(path: str, _changed: int) -> FaceSpace:
    return FaceSpace.load(path)


def _borrow_space(path: str, templates: Sequence[FaceTemplate], surface: Surface, fps: float) -> FaceSpace:
    """Another data set's basis with this one's templates and regions."""
    source = Path(path) / records.FACE_SPACE if Path(path).is_dir() else Path(path)
    space = FaceSpace.load(source)
    if space.num_vertices != templates[0].num_vertices or not np.array_equal(space.faces, surface.faces):
        raise UserError(
            f"--option space={path}: its topology '{space.topology}' with {space.num_vertices} vertices is not this data set's "
            f"'{surface.topology}' with {templates[0].num_vertices}"
        )
    return dataclasses.replace(
        space,
        template_names=tuple(template.name for template in templates),
        templates=np.stack([template.vertices for template in templates]),
        regions=dict(surface.regions),
        fps=fps,
    )


def face_fields(
    sentence: str,
    *,
    native_expression: str = "",
    expression_level: int | None = None,
    voice_emotion: str = "",
    condition: str = VOICE,
    **more: Any,
) -> dict[str, Any]:
    """Plain record fields of a face clip (see the module's docstring)."""
    return {
        "sentence": sentence,
        "native_expression": native_expression,
        "expression_level": expression_level,
        "voice_emotion": voice_emotion,
        "condition": condition,
        **more,
    }
