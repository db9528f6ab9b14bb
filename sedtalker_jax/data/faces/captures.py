"""Anybody's own captures, of any topology and frame rate.

    wav/<clip>.wav                       (.flac, .mp3, .ogg, .m4a too)
    vertices/<clip>.npy                  [F, V, 3] or [F, 3 V]
    vertices/<clip>.npz                  vertices; optional: fps, blendshape weights [F, W] with weight_names,
                                         activation [F, n] with emotions
    weights/<clip>.csv                   in their place: ARKit's weights, as the app Live Link Face records them
    templates/<speaker>.ply              the neutral face (.obj, .npy, .npz too); or one template.ply for all
    regions/lips.txt, upper_face.txt     vertex lists, or another region file; known of the built-in topology
    clips.csv                            optional; columns id, speaker, sentence, split, emotion, intensity, voice_emotion,
                                         template, fps: all but id may be missing or empty

Without clips.csv a speaker is what stands before a name's last underscore. Without a column `split`, the last tenth of the
speakers is the test split and the tenth before them validation; with fewer than three speakers it is the clips' instead, and
the manifest says so. y points up and the face looks along +z.

Weights move a face through blendshapes: those of --option basis=FILE.npz, or the built-in rig, on a template of the built-in
topology or, without any template, on the mean built-in head.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from sedtalker_jax.data.corpora.corpus import SPLITS, Choices, LeftOutError, Licence, Listing, Skipped
from sedtalker_jax.data.corpora.speech import speech_record
from sedtalker_jax.data.faces.corpus import (
    SCHEDULE,
    SHARED_OPTIONS,
    VOICE,
    FaceClip,
    FaceCorpus,
    Motion,
    VertexArray,
    constant_activation,
    face_fields,
    listed_files,
    one_of,
    open_vertices,
    relative,
    what_is_in,
)
from sedtalker_jax.data.faces.surface import Surface, find_mesh, find_regions, load_regions
from sedtalker_jax.emotion.labels import ACTIVE, CANONICAL, NEUTRAL, resolve_label
from sedtalker_jax.errors import UNREADABLE_ARRAYS, UserError, about
from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
from sedtalker_jax.face.chart import TOPOLOGY
from sedtalker_jax.face.head import HeadSpec, make_head
from sedtalker_jax.face.live_link import read_live_link
from sedtalker_jax.face.mesh_files import MESH_SUFFIXES, load_npz
from sedtalker_jax.face.regions import head_regions
from sedtalker_jax.face.rig import ARKIT_NAMES
from sedtalker_jax.face.template import SUFFIXES, FaceTemplate, check_triangles, read_mesh, topology_name

SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".m4a")
UNREADABLE = "motion without a face, or damaged"
UNITS: Mapping[str, float] = MappingProxyType({"m": 1.0, "cm": 0.01, "mm": 0.001})
MEAN_HEAD = "built-in"
"""Template of captures that bring none."""

COLUMNS = ("id", "speaker", "sentence", "split", "emotion", "intensity", "voice_emotion", "template", "fps")


class Captures(FaceCorpus):
    """See the module's docstring."""

    name = "captures"
    licence = Licence("your own", commercial=True, source="--root", note="whoever prepares it knows its terms")
    native_fps = 30.0  # of a clip only where nothing else says: never used without --option capture_fps or a file's own
    speaker_disjoint = False  # one person's captures are a data set too
    options = MappingProxyType(
        {
            **SHARED_OPTIONS,
            "regions": (
                SHARED_OPTIONS["regions"][0],
                SHARED_OPTIONS["regions"][1] + "; none: without (no lip or region scores)",
            ),
            "capture_fps": ("", "frame rate of clips whose own is neither in clips.csv nor in their .npz"),
            "unit": ("m", "unit of vertices and templates: m, cm or mm"),
            "basis": (
                "",
                ".npz of blendshapes with names of ARKit's, through which weights/ move a face; else the built-in rig",
            ),
        }
    )

    def list_clips(self, root: Path, choices: Choices) -> Listing:
        """See Corpus.list_clips."""
        options = choices.options
        one_of(options, "unit", tuple(UNITS))
        motions = listed_files(root / "weights", ".csv")
        motions |= listed_files(root / "vertices", ".npy") | listed_files(root / "vertices", ".npz")
        sounds: dict[str, Path] = {}
        for suffix in reversed(SOUND_SUFFIXES):
            # Many recorders write .WAV.
            sounds |= listed_files(root / "wav", suffix.upper()) | listed_files(root / "wav", suffix)
        if not motions:
            raise UserError(
                f"{root}: no captures: expected vertices/<clip>.npy or .npz, or weights/<clip>.csv, and wav/<clip>.wav; "
                f"found {what_is_in(root)}"
            )
        rows = _read_table(root / "clips.csv") if (root / "clips.csv").exists() else {stem: {} for stem in sorted(motions)}
        templates = _template_files(root)
        clips, skipped = [], [Skipped(stem, "no motion") for stem in sorted(set(sounds) - set(motions))]
        skipped += [Skipped(stem, "not in clips.csv") for stem in sorted(set(motions) - set(rows))]
        for stem, row in rows.items():
            if stem not in motions or stem not in sounds:
                skipped.append(Skipped(stem, "no motion" if stem not in motions else "no sound"))
                continue
            try:
                clips.append(_clip(root, stem, row, motions[stem], sounds[stem], templates, options))
            except LeftOutError as error:
                skipped.append(Skipped(stem, error.reason, error.detail))
        for clip in clips:
            if clip.motion.endswith(".csv"):
                _basis(options["basis"], self.templates(root, options)[clip.template], root / clip.motion)
                break
        clips, how = _with_splits(clips)
        return Listing(clips, skipped, {"split_by": how, "rig_names": _weight_names(root, clips)})

    def clip_fps(self, clip: FaceClip) -> float:
        """See FaceCorpus.clip_fps."""
        return clip.fields["native_fps"]

    def open_motion(self, clip: FaceClip, root: Path) -> Motion:
        """See FaceCorpus.open_motion."""
        path, scale = root / clip.motion, UNITS[clip.options["unit"]]
        if path.suffix == ".csv":
            template = self.templates(root, clip.options)[clip.template]
            return _Posed(_weights(path)[0], _basis(clip.options["basis"], template, path))
        count = _num_vertices(str(root), clip.template)
        if path.suffix == ".npy":
            return open_vertices(path, count, scale)
        array = _npz_array(path, "vertices")
        if array is None or array.ndim not in (2, 3) or array[:1].size != 3 * count:
            shape = "nothing" if array is None else list(array.shape)
            raise UserError(f"{path}: an array vertices [frames, {count}, 3] is needed, found {shape}")
        return VertexArray(array, count, scale)

    def templates(self, root: Path, options: Mapping[str, str]) -> Mapping[str, Float[np.ndarray, "V 3"]]:
        """See FaceCorpus.templates."""
        scale = UNITS[options["unit"]]
        files = _template_files(root)
        if not files:
            return {MEAN_HEAD: _mean_head().vertices.astype(np.float64)}
        found = {name: _read_template(path, scale) for name, path in files.items()}
        counts = {len(vertices) for vertices in found.values()}
        if len(counts) > 1:
            raise UserError(
                f"{root}: templates of {', '.join(map(str, sorted(counts)))} vertices; one data set has one topology"
            )
        for name, vertices in found.items():
            height = float(np.ptp(vertices[:, 1]))
            if not 0.05 < height < 2.0:
                raise UserError(f"the template of {name} is {height:.3g} m high; --option unit= names its unit (m, cm, mm)")
        return found

    def surface(self, root: Path, options: Mapping[str, str], num_vertices: int) -> Surface:
        """See FaceCorpus.surface."""
        files = _template_files(root)
        if not files:
            head = _mean_head()
            return Surface(head.topology, head.faces, head.regions, {"triangles": head.topology, "regions": head.topology})
        meshes = [path for path in files.values() if path.suffix.lower() in (*MESH_SUFFIXES, ".npz")]
        path = find_mesh(options["mesh"], meshes, "a template as .ply or .obj")
        faces = read_mesh(path)[1] if path.suffix.lower() in MESH_SUFFIXES else load_npz(path).get("faces", np.zeros((0, 3)))
        faces = check_triangles(faces, num_vertices, path)
        if not len(faces):
            raise UserError(f"{path}: has no triangles of {num_vertices} vertices; give --option mesh=FILE")
        regions: Mapping[str, np.ndarray] = {}
        notes = {"triangles": path.name}
        topology = topology_name(num_vertices, len(faces), faces)
        if topology == TOPOLOGY and not options["regions"]:
            regions, notes = head_regions(), notes | {"regions": topology}
        elif options["regions"] != "none":
            regions, more = load_regions(find_regions(options["regions"], [root]), num_vertices)
            notes |= more
        return Surface(topology, faces, regions, notes)

    def activation(self, clip: FaceClip, num_frames: int, stride: int, root: Path) -> Float[np.ndarray, "F K-1"]:
        """See FaceCorpus.activation; an .npz's own activation [F, n] with emotions [n] comes first."""
        found = _npz_array(root / clip.motion, "activation")
        if found is None:
            return constant_activation(clip.expression, clip.strength, num_frames)
        given = np.asarray(found, np.float32)[::stride][:num_frames]
        emotions = _npz_array(root / clip.motion, "emotions")
        names = [resolve_label(str(name)) for name in (ACTIVE if emotions is None else np.atleast_1d(emotions))]
        if given.shape != (num_frames, len(names)) or not (np.isfinite(given).all() and 0 <= given.min() and given.max() <= 1):
            raise UserError(f"{clip.motion}: activation must be [F, {len(names)}] in [0, 1], one row per frame of motion")
        activation = np.zeros((num_frames, len(ACTIVE)), np.float32)
        for column, name in enumerate(names):
            if name != NEUTRAL:
                activation[:, ACTIVE.index(name)] = given[:, column]
        return activation

    def more_fields(self, clip: FaceClip, num_frames: int, stride: int, root: Path) -> dict[str, Any]:
        """See FaceCorpus.more_fields: the blendshape weights of an .npz or a recording, as `rig`."""
        path = root / clip.motion
        found = _weights(path)[0] if path.suffix == ".csv" else _npz_array(path, "weights")
        if found is None:
            return {}
        weights = np.asarray(found, np.float32)
        if weights.ndim != 2 or len(weights[::stride]) < num_frames:
            raise UserError(f"{clip.motion}: weights must be [F, W], one row per frame of motion, not {list(weights.shape)}")
        return {"rig": weights[::stride][:num_frames].astype(np.float16)}

    def voice_truth(self, clip: FaceClip, waveform: Float[np.ndarray, " S"]) -> dict[str, Any]:
        """See FaceCorpus.voice_truth."""
        label = clip.fields["voice_emotion"]
        if not label:
            return super().voice_truth(clip, waveform)
        truth = speech_record(waveform, [[0.0, round(len(waveform) / 16_000, 4), label]])
        if clip.fields["voice_intensity"] is not None and label != NEUTRAL:
            truth["intensity"][truth["emotion"] == CANONICAL.index(label)] = clip.fields["voice_intensity"]
        return truth


CORPUS = Captures()


class _Posed:
    """Motion that blendshapes make of ARKit's weights."""

    def __init__(self, weights: Float[np.ndarray, "F 52"], basis: BlendshapeBasis) -> None:
        self._weights, self._basis = weights, basis

    def __len__(self) -> int:
        return len(self._weights)

    def __getitem__(self, frames: slice | np.ndarray) -> Float[np.ndarray, "n V 3"]:
        return self._basis.posed(self._weights[frames])


@functools.lru_cache(maxsize=2)
def _weights(path: Path) -> tuple[Float[np.ndarray, "F 52"], float]:
    return read_live_link(path)


def _basis(option: str, template: Float[np.ndarray, "V 3"], path: Path) -> BlendshapeBasis:
    """The blendshapes that move a template, in metres."""
    topology = topology_name(len(template), 0, np.zeros((0, 3), np.int32))
    face = FaceTemplate("template", topology, template.astype(np.float32), np.zeros((0, 3), np.int32), {})
    if option:
        with about(option):
            return BlendshapeBasis.load(option).on(face)
    basis = BlendshapeBasis.known(face)
    if basis is None:
        raise UserError(
            f"{path}: weights move built-in heads only; for a face of {len(template)} vertices give its blendshapes as "
            "--option basis=FILE.npz"
        )
    return basis


@functools.cache
def _mean_head() -> FaceTemplate:
    return make_head(0, HeadSpec(spread=0.0), MEAN_HEAD).template


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    """Clip -> its row of clips.csv, without empty cells."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            unknown = [name for name in names if name not in COLUMNS]
            if "id" not in names or unknown:
                raise UserError(f"{path}: columns are {', '.join(COLUMNS)} (id is needed), not {', '.join(unknown) or names}")
            rows = [{key: value.strip() for key, value in row.items() if key and value and value.strip()} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a table in UTF-8 ({error})") from None
    table: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, 2):
        if not row.get("id") or row["id"] in table:
            raise UserError(f"{path}, line {number}: {'no id' if not row.get('id') else row['id'] + ' stands there twice'}")
        table[row["id"]] = row
    return table


def _clip(
    root: Path,
    stem: str,
    row: Mapping[str, str],
    motion: Path,
    sound: Path,
    templates: Mapping[str, Path],
    options: Mapping[str, str],
) -> FaceClip:
    speaker = row.get("speaker") or stem.rpartition("_")[0] or stem
    template = row.get("template") or (speaker if speaker in templates else "template" if templates else MEAN_HEAD)
    if template not in (templates or (MEAN_HEAD,)):
        raise UserError(f"{root}: no template for {stem}: templates/{speaker}.ply or template.ply is needed")
    emotion = _label(root, stem, row, "emotion")
    voice = _label(root, stem, row, "voice_emotion") or emotion
    intensity = _number(_cell(root, stem, "intensity"), row.get("intensity", "1"), 0.0, 1.0)
    strength = 0.0 if emotion in (None, NEUTRAL) else intensity
    # The column says how strong the face is; of the voice it tells where the face has the same emotion, or none.
    of_voice = "intensity" in row and emotion in (None, voice)
    heard: dict[str, Any] = {"label": voice} if voice else {}
    silent_voice = voice == NEUTRAL and emotion not in (None, NEUTRAL)
    fields = face_fields(
        row.get("sentence", stem),
        native_expression=row.get("emotion", ""),
        voice_emotion=voice or "",
        condition=SCHEDULE if silent_voice else VOICE,
        native_fps=_fps(root, stem, row, motion, options),
        voice_intensity=intensity if of_voice else None,
        **heard,
    )
    split = row.get("split", "")
    if split and split not in SPLITS:
        raise UserError(f"{root / 'clips.csv'}: split {split!r} of {stem}; give {', '.join(SPLITS)}")
    return FaceClip(
        stem, relative(sound, root), split, speaker, fields, relative(motion, root), template, emotion, strength, options
    )  # fmt: skip


def _fps(root: Path, stem: str, row: Mapping[str, str], motion: Path, options: Mapping[str, str]) -> float:
    """Frame rate of a clip: a recording's own, clips.csv, else its .npz, else the option.

    Raises:
      LeftOutError: a motion that can't be read.
      UserError: none is known, or it is none.
    """
    if motion.suffix == ".csv":
        try:
            return _weights(motion)[1]
        except UserError as error:
            raise LeftOutError(UNREADABLE, str(error)) from error
    if "fps" in row:
        return _number(_cell(root, stem, "fps"), row["fps"], 1.0, 1000.0)
    stored = _npz_array(motion, "fps")
    if stored is not None:
        return _number(f"{motion}: its fps", str(np.squeeze(stored)), 1.0, 1000.0)
    if not options["capture_fps"]:
        raise UserError(f"{motion}: how many frames per second? give --option capture_fps=N, or a column fps in clips.csv")
    return _number("--option capture_fps", options["capture_fps"], 1.0, 1000.0)


def _cell(root: Path, stem: str, name: str) -> str:
    """A cell of clips.csv, for messages."""
    return f"{root / 'clips.csv'}: {name} of {stem}"


def _number(what: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise UserError(f"{what}, {text!r}, must be a number from {low:g} to {high:g}")
    return value


def _label(root: Path, stem: str, row: Mapping[str, str], name: str) -> str | None:
    """The canonical emotion in a cell, None of an empty one."""
    if name not in row:
        return None
    with about(_cell(root, stem, name)):
        return resolve_label(row[name])


def _with_splits(clips: Sequence[FaceClip]) -> tuple[list[FaceClip], str]:
    """Fills in the splits that clips.csv left open: (clips, what they were split by)."""
    unsplit = [clip for clip in clips if not clip.split]
    if not unsplit:
        return list(clips), "clips.csv"
    speakers = sorted({clip.speaker for clip in clips})
    if len(unsplit) < len(clips):
        raise UserError(f"clips.csv: {unsplit[0].id} has no split, though others have; fill in all or none")
    by_speaker = len(speakers) >= 3
    units = speakers if by_speaker else [clip.id for clip in clips]
    held = max(1, round(len(units) / 10)) if len(units) >= 3 else 0
    split = {unit: "train" for unit in units}
    split |= {unit: "valid" for unit in units[len(units) - 2 * held : len(units) - held]}
    split |= {unit: "test" for unit in units[len(units) - held :]}
    done = [dataclasses.replace(clip, split=split[clip.speaker if by_speaker else clip.id]) for clip in clips]
    return done, "speaker" if by_speaker else "clip: the same speakers are in all splits"


def _template_files(root: Path) -> dict[str, Path]:
    """Template name -> file: templates/<name>.* and template.*; none where weights move the mean head."""
    folders = ((root / "templates").glob("*"), root.glob("template.*"))
    found = [path for paths in folders for path in sorted(paths) if path.suffix.lower() in SUFFIXES]
    if not found and listed_files(root / "vertices", ".npy") | listed_files(root / "vertices", ".npz"):
        raise UserError(f"{root}: no template.ply and no templates/<speaker>.ply: the neutral face of each speaker is needed")
    return {path.stem: path for path in found if not path.name.startswith(".")}


def _read_template(path: Path, scale: float) -> Float[np.ndarray, "V 3"]:
    """Vertices of a template in metres."""
    if path.suffix.lower() in MESH_SUFFIXES:
        vertices = read_mesh(path)[0]
    elif path.suffix == ".npz":
        vertices = load_npz(path).get("vertices", np.zeros(0))
    else:
        try:
            vertices = np.load(path, allow_pickle=False)
        except UNREADABLE_ARRAYS as error:
            raise UserError(f"{path}: not a .npy file of vertices ({error})") from None
    vertices = np.asarray(vertices)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not len(vertices) or not np.isfinite(vertices).all():
        raise UserError(f"{path}: a template is [V, 3] finite numbers, found {list(vertices.shape)}")
    return vertices.astype(np.float64) * scale


def _weight_names(root: Path, clips: Sequence[FaceClip]) -> list[str]:
    """Names of the blendshape weights: ARKit's of recordings, else from the first .npz that has them."""
    if any(clip.motion.endswith(".csv") for clip in clips):
        return list(ARKIT_NAMES)
    for clip in clips:
        names = _npz_array(root / clip.motion, "weight_names")
        if names is not None:
            return [str(name) for name in names]
    return []


@functools.lru_cache(maxsize=256)
def _num_vertices(root: str, template: str) -> int:
    return len(_read_template(_template_files(Path(root))[template], 1.0))


def _npz_array(path: Path, name: str) -> np.ndarray | None:
    """One array of an .npz file without reading the others; None if the file is no .npz or does not have it."""
    if path.suffix != ".npz":
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            return content[name] if name in content.files else None
    except UNREADABLE_ARRAYS as error:
        raise LeftOutError(UNREADABLE, f"{path}: not a whole .npz file of arrays ({error}); write it again") from None
