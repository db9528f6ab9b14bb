"""VOCASET (Cudeiro et al., "Capture, learning, and synthesis of 3D speaking styles", CVPR 2019), in both of its layouts.

    converted (FaceFormer, CodeTalker, ...)        original (VOCA)
      vertices_npy/<subject>_sentence01.npy          data_verts.npy         [N, 5023, 3], a row per frame
      wav/<subject>_sentence01.wav                   raw_audio_fixed.pkl    subject -> sentence -> audio, sample_rate
      templates.pkl                                  templates.pkl          subject -> [5023, 3]
      templates/FLAME_sample.ply                     subj_seq_to_idx.pkl    subject -> sentence -> frame -> row

60 frames per second, metres, FLAME's 5,023 vertices. The speech is neutral reading. Split by subject as VOCA publishes it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import soxr
from jaxtyping import Float

from sedtalker_jax.data.corpora.corpus import Choices, Licence, Listing, Skipped
from sedtalker_jax.data.faces.corpus import (
    SCHEDULE,
    SHARED_OPTIONS,
    FaceClip,
    FaceCorpus,
    Motion,
    VertexArray,
    face_fields,
    listed_files,
    one_of,
    open_vertices,
    relative,
    what_is_in,
)
from sedtalker_jax.data.faces.surface import Surface, find_mesh, find_regions, load_surface
from sedtalker_jax.data.world.clock import SAMPLE_RATE
from sedtalker_jax.emotion.labels import NEUTRAL
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.array_pickle import load_pickled_arrays
from sedtalker_jax.face.mesh_files import read_templates

SPLIT_OF_SUBJECT: Mapping[str, str] = MappingProxyType(
    {
        f"FaceTalk_{code}_TA": split
        for split, codes in {
            "train": (
                "170728_03272", "170904_00128", "170725_00137", "170915_00223", "170811_03274", "170913_03279",
                "170904_03276", "170912_03278",
            ),
            "valid": ("170811_03275", "170908_03277"),
            "test": ("170809_00138", "170731_00024"),
        }.items()
        for code in codes
    }
)  # fmt: skip
"""VOCA's subjects: 8 for training, 2 for validation, 2 for the test (VOCA:config_parser.py)."""

HELD_OUT_SENTENCES = range(21, 41)
"""Sentences of validation and test subjects that VOCA's split uses; training subjects give all 40."""

NUM_VERTICES = 5023
MESH_NAMES = ("FLAME_sample.ply", "templates/FLAME_sample.ply", "template/FLAME_sample.ply")

_STEM = re.compile(r"(FaceTalk_\d{6}_\d{5}_TA)_sentence(\d\d)")


def subject_split(subject: str, sentence: int, protocol: str) -> str | None:
    """Split of a clip under VOCA's protocol ("voca") or with all sentences ("all"); None when it is in no split."""
    split = SPLIT_OF_SUBJECT.get(subject)
    if split is None or (protocol == "voca" and split != "train" and sentence not in HELD_OUT_SENTENCES):
        return None
    return split


def parse_stem(stem: str) -> tuple[str, int] | None:
    """(subject, sentence number) of FaceTalk_170725_00137_TA_sentence01; None for another name."""
    match = _STEM.fullmatch(stem)
    return (match[1], int(match[2])) if match else None


def flame_surface(folders: Iterable[Path], options: Mapping[str, str], num_vertices: int) -> Surface:
    """Triangles of FLAME_sample.ply and regions of FLAME_masks.pkl or regions/, looked for in `folders`."""
    folders = list(folders)
    mesh = find_mesh(options["mesh"], [folder / name for folder in folders for name in MESH_NAMES], "FLAME_sample.ply")
    return load_surface(mesh, find_regions(options["regions"], folders), num_vertices)


class Vocaset(FaceCorpus):
    """See the module's docstring."""

    name = "vocaset"
    licence = Licence(
        "VOCASET licence (Max Planck Institute, non-commercial scientific research)",
        commercial=False,
        source="https://voca.is.tue.mpg.de/license.html",
    )
    native_fps = 60.0
    options = MappingProxyType(
        {**SHARED_OPTIONS, "split": ("voca", "voca: sentences 21-40 of held-out subjects; all: every sentence")}
    )

    def list_clips(self, root: Path, choices: Choices) -> Listing:
        """See Corpus.list_clips."""
        protocol = one_of(choices.options, "split", ("voca", "all"))
        if (root / "vertices_npy").is_dir():
            found, skipped = converted_files(root)
            layout = "converted"
        elif (root / "data_verts.npy").exists():
            _check_original(root)
            rows, sounds = _rows(str(root)), _sounds(str(root))
            names = {f"{subject}_{sentence}" for subject, sentences in rows.items() for sentence in sentences}
            heard = {f"{subject}_{sentence}" for subject, sentences in sounds.items() for sentence in sentences}
            found = {name: ("data_verts.npy", "raw_audio_fixed.pkl") for name in names & heard}
            skipped = [Skipped(name, "no sound") for name in sorted(names - heard)]
            skipped += [Skipped(name, "no motion") for name in sorted(heard - names)]
            layout = "original"
        else:
            raise UserError(
                f"{root}: not VOCASET: it has neither vertices_npy/ with wav/ (converted) nor data_verts.npy with its pickles "
                f"(original); found {what_is_in(root)}"
            )
        known = set(read_templates(root / "templates.pkl"))
        clips = []
        for stem, (motion, sound) in sorted(found.items()):
            parsed = parse_stem(stem)
            if parsed is None:
                skipped.append(Skipped(stem, "no name of VOCASET"))
                continue
            subject, sentence = parsed
            split = subject_split(subject, sentence, protocol)
            if split is None:
                skipped.append(Skipped(stem, "outside the published split"))
            elif subject not in known:
                skipped.append(Skipped(stem, "no template of its subject"))
            else:
                clips.append(neutral_clip(stem, motion, sound, split, subject, sentence, choices.options))
        return Listing(clips, skipped, {"layout": layout})

    def open_motion(self, clip: FaceClip, root: Path) -> Motion:
        """See FaceCorpus.open_motion."""
        if clip.path != "raw_audio_fixed.pkl":
            return open_vertices(root / clip.motion, NUM_VERTICES)
        subject, sentence = clip.id.rsplit("_", 1)
        rows = _rows(str(root))[subject][sentence]
        frames = sorted(int(frame) for frame in rows)
        if frames != list(range(frames[0], frames[0] + len(frames))):
            raise UserError(f"{root / 'subj_seq_to_idx.pkl'}: {clip.id} has gaps between its frames")
        order = {int(frame): int(row) for frame, row in rows.items()}
        return VertexArray(_VertexRows(root, np.array([order[frame] for frame in frames])), NUM_VERTICES)

    def read_waveform(self, clip: FaceClip, root: Path) -> Float[np.ndarray, " S"]:
        """See FaceCorpus.read_waveform."""
        if clip.path != "raw_audio_fixed.pkl":
            return super().read_waveform(clip, root)
        subject, sentence = clip.id.rsplit("_", 1)
        return _pickled_waveform(_sounds(str(root))[subject][sentence], root / clip.path, clip.id)

    def templates(self, root: Path, options: Mapping[str, str]) -> Mapping[str, Float[np.ndarray, "V 3"]]:
        """See FaceCorpus.templates."""
        return read_templates(root / "templates.pkl")

    def surface(self, root: Path, options: Mapping[str, str], num_vertices: int) -> Surface:
        """See FaceCorpus.surface."""
        return flame_surface([root], options, num_vertices)


CORPUS = Vocaset()


def converted_files(root: Path) -> tuple[dict[str, tuple[str, str]], list[Skipped]]:
    """Stem -> (motion, sound) of vertices_npy/ and wav/, relative to the root, and the files without a partner."""
    motions, sounds = listed_files(root / "vertices_npy", ".npy"), listed_files(root / "wav", ".wav")
    skipped = [Skipped(stem, "no sound") for stem in sorted(set(motions) - set(sounds))]
    # The peers' loaders drop a sound without its motion without a word.
    skipped += [Skipped(stem, "no motion") for stem in sorted(set(sounds) - set(motions))]
    both = {stem: (relative(motions[stem], root), relative(sounds[stem], root)) for stem in set(motions) & set(sounds)}
    return both, skipped


def neutral_clip(
    stem: str, motion: str, sound: str, split: str, subject: str, sentence: int, options: Mapping[str, str]
) -> FaceClip:
    """A clip of VOCASET: neutral face over neutral speech."""
    fields = face_fields(
        f"sentence{sentence:02d}", native_expression=NEUTRAL, expression_level=0, voice_emotion=NEUTRAL, condition=SCHEDULE
    )
    return FaceClip(stem, sound, split, subject, fields, motion, subject, NEUTRAL, 0.0, options)


class _VertexRows:
    """The rows of one clip in data_verts.npy; the map is opened when rows are read."""

    def __init__(self, root: Path, rows: np.ndarray) -> None:
        self._path, self._rows = root / "data_verts.npy", rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, frames: slice | np.ndarray) -> np.ndarray:
        try:
            return np.load(self._path, mmap_mode="r", allow_pickle=False)[self._rows[frames]]
        except (OSError, ValueError, EOFError, IndexError) as error:
            raise UserError(f"{self._path}: cut or damaged ({error}); fetch it again") from None


def _check_original(root: Path) -> None:
    for name in ("raw_audio_fixed.pkl", "subj_seq_to_idx.pkl", "templates.pkl"):
        if not (root / name).exists():
            raise UserError(f"{root / name}: missing; plain unzip leaves it in the archive: unpack trainingdata.zip with 7z x")


@functools.lru_cache(maxsize=1)
def _rows(root: str) -> dict[str, dict[str, Mapping[Any, Any]]]:
    return load_pickled_arrays(Path(root) / "subj_seq_to_idx.pkl", "subject -> sentence -> frame -> row")


@functools.lru_cache(maxsize=1)
def _sounds(root: str) -> dict[str, dict[str, Mapping[str, Any]]]:
    return load_pickled_arrays(Path(root) / "raw_audio_fixed.pkl", "subject -> sentence -> sound")


def _pickled_waveform(entry: Mapping[str, Any], path: Path, name: str) -> Float[np.ndarray, " S"]:
    """16 kHz mono float32 of {"audio", "sample_rate"}; whole numbers are scaled by their type's range."""
    try:
        sound, rate = np.asarray(entry["audio"]), int(entry["sample_rate"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {name} is no sound with its rate ({error})") from None
    if sound.ndim == 2:
        sound = sound.mean(axis=int(np.argmin(sound.shape)))
    scale = -float(np.iinfo(np.asarray(entry["audio"]).dtype).min) if entry["audio"].dtype.kind == "i" else 1.0
    waveform = sound.astype(np.float32) / np.float32(scale)
    if not np.isfinite(waveform).all() or not len(waveform):
        raise UserError(f"{path}: {name} holds no sound, or samples that are not finite")
    return waveform if rate == SAMPLE_RATE else soxr.resample(waveform, rate, SAMPLE_RATE)
