"""EmoVOCA v2 (Nocentini et al., "EmoVOCA: Speech-driven emotional 3D talking heads", WACV 2025): expressive faces over
VOCASET's neutral speech, made by a mesh network.

    sequences/<subject>_sentence01_<Expression>_<level>.npy     [F, 5023, 3] at 60 fps, metres
    label/, intensity/   same stem, a scalar each               wav/   same stem, a copy of the neutral recording
    ../vocaset/templates.pkl, vertices_npy/, wav/               VOCASET beside it (or inside), its templates are needed

Levels 1 to 3 multiply the expression's latent code, so strengths are 1/3, 2/3 and 1. Level 0 (the generator run with
`--intensities 0 1 2 3`) is neutral from the same generator; VOCASET's own clips give the neutral face otherwise. The voice is
always neutral: records say so, and nothing can be learned here about emotion in speech.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from sedtalker_jax.data.corpora.corpus import Choices, Licence, Listing, Skipped
from sedtalker_jax.data.faces import vocaset
from sedtalker_jax.data.faces.corpus import (
    SCHEDULE,
    SHARED_OPTIONS,
    FaceClip,
    FaceCorpus,
    Motion,
    face_fields,
    listed_files,
    one_of,
    open_vertices,
    relative,
    what_is_in,
)
from sedtalker_jax.data.faces.surface import Surface, first_existing
from sedtalker_jax.emotion.labels import NEUTRAL
from sedtalker_jax.errors import UNREADABLE_ARRAYS, UserError
from sedtalker_jax.face.mesh_files import read_templates

EXPRESSIONS: Mapping[str, tuple[int, str | None]] = MappingProxyType(
    {
        "Afraid": (0, "fear"),
        "Disgust": (1, "disgust"),
        "Irritated1": (2, "angry"),
        "Sad1": (3, "sad"),
        "Smile2": (4, "happy"),
        "Drunk2": (5, None),
        "Ill": (6, None),
        "Moody": (7, None),
        "Pleased": (8, None),
        "Suspicious": (9, None),
        "Upset": (10, "upset"),
    }
)
"""Name in a file -> (number in label/, canonical emotion). Five have no counterpart and are left out."""

LEVELS = 3
"""The strongest level: strength = level / LEVELS."""

_STEM = re.compile(r"(FaceTalk_\d{6}_\d{5}_TA)_sentence(\d\d)_([A-Za-z]+\d?)_(\d)")
# Reports of the set also use the plain names of these three.
_PLAIN_NAMES = {"Angry": "Irritated1", "Irritated": "Irritated1", "Sad": "Sad1", "Happy": "Smile2", "Smile": "Smile2",
                "Drunk": "Drunk2"}  # fmt: skip


class EmoVoca(FaceCorpus):
    """See the module's docstring."""

    name = "emovoca"
    licence = Licence(
        "CC-BY-NC-4.0",
        commercial=False,
        source="https://github.com/miccunifi/EmoVOCA",
        note="made from VOCASET and Florence 4D, which need their owners' consent",
    )
    native_fps = 60.0
    options = MappingProxyType(
        {
            **SHARED_OPTIONS,
            "neutral": ("vocaset", "vocaset: with VOCASET's neutral clips, where they lie beside it; none: without them"),
            "vocaset": ("", "VOCASET's folder, if it is neither beside nor inside the root"),
        }
    )

    def list_clips(self, root: Path, choices: Choices) -> Listing:
        """See Corpus.list_clips."""
        base = _sequences(root)
        folder = _vocaset(root, base, choices.options)
        with_neutral = one_of(choices.options, "neutral", ("vocaset", "none")) == "vocaset"
        subjects = set(read_templates(folder / "templates.pkl"))
        sounds = listed_files(base / "wav", ".wav")
        neutral_sounds = listed_files(folder / "wav", ".wav")
        clips, skipped = [], []
        generated_neutral: set[tuple[str, int]] = set()
        for stem, motion in listed_files(base / "sequences", ".npy").items():
            match = _STEM.fullmatch(stem)
            name = _PLAIN_NAMES.get(match[3], match[3]) if match else ""
            if match is None or name not in EXPRESSIONS or int(match[4]) > LEVELS:
                skipped.append(Skipped(stem, "no name of EmoVOCA"))
                continue
            subject, sentence, level = match[1], int(match[2]), int(match[4])
            emotion = NEUTRAL if level == 0 else EXPRESSIONS[name][1]
            if level == 0 and (subject, sentence) in generated_neutral:
                skipped.append(Skipped(stem, "level 0 of another expression, the same motion"))
                continue
            split = vocaset.subject_split(subject, sentence, "all")
            sound = next(
                (found[key] for found, key in (
                    (sounds, stem), (sounds, f"{subject}_sentence{sentence:02d}"),
                    (neutral_sounds, f"{subject}_sentence{sentence:02d}"),
                ) if key in found), None,
            )  # fmt: skip
            if emotion is None:
                skipped.append(Skipped(stem, "expression without a canonical emotion", name))
            elif split is None or subject not in subjects:
                skipped.append(Skipped(stem, "no subject of VOCASET's split with a template", subject))
            elif sound is None:
                skipped.append(Skipped(stem, "no sound"))
            else:
                if level == 0:
                    generated_neutral.add((subject, sentence))
                fields = face_fields(
                    f"sentence{sentence:02d}", native_expression=name, expression_level=level, voice_emotion=NEUTRAL,
                    condition=SCHEDULE,
                )  # fmt: skip
                clips.append(FaceClip(
                    stem, relative(sound, root), split, subject, fields, relative(motion, root), subject, emotion,
                    level / LEVELS, choices.options,
                ))  # fmt: skip
        if with_neutral and (folder / "vertices_npy").is_dir():
            files, alone = vocaset.converted_files(folder)
            skipped += alone
            for stem, paths in sorted(files.items()):
                parsed = vocaset.parse_stem(stem)
                split = vocaset.subject_split(*parsed, "all") if parsed else None
                if parsed is None or split is None or parsed[0] not in subjects:
                    skipped.append(Skipped(stem, "no subject of VOCASET's split with a template"))
                    continue
                if parsed in generated_neutral:
                    skipped.append(Skipped(stem, "the generator's own neutral stands for it"))
                    continue
                motion, sound = (relative(folder / path, root) for path in paths)
                clips.append(vocaset.neutral_clip(stem, motion, sound, split, *parsed, choices.options))
        counts: dict[str, int] = {}
        for clip in clips:
            counts[str(clip.expression)] = counts.get(str(clip.expression), 0) + 1
        return Listing(clips, skipped, {"expressions": dict(sorted(counts.items()))})

    def open_motion(self, clip: FaceClip, root: Path) -> Motion:
        """See FaceCorpus.open_motion."""
        path = root / clip.motion
        _check_label(path, clip)
        return open_vertices(path, vocaset.NUM_VERTICES)

    def templates(self, root: Path, options: Mapping[str, str]) -> Mapping[str, Float[np.ndarray, "V 3"]]:
        """See FaceCorpus.templates."""
        return read_templates(_vocaset(root, _sequences(root), options) / "templates.pkl")

    def surface(self, root: Path, options: Mapping[str, str], num_vertices: int) -> Surface:
        """See FaceCorpus.surface."""
        base = _sequences(root)
        return vocaset.flame_surface([base, _vocaset(root, base, options), root], options, num_vertices)


CORPUS = EmoVoca()


def _sequences(root: Path) -> Path:
    """The folder that holds sequences/: the root, or EmoVOCA's folder in it."""
    inside = [root / name for name in ("EmoVOCA", "EmoVOCAv2", "New_EmoVOCA", "Dataset/EmoVOCA", "Dataset/New_EmoVOCA")]
    found = first_existing([folder for folder in [root, *inside] if (folder / "sequences").is_dir()])
    if found is None:
        raise UserError(f"{root}: not EmoVOCA: no folder sequences/ (nor EmoVOCA/sequences/); found {what_is_in(root)}")
    return found


def _vocaset(root: Path, base: Path, options: Mapping[str, str]) -> Path:
    """The folder with VOCASET's templates.pkl."""
    places = [base / "vocaset", base.parent / "vocaset", root / "vocaset", base]
    tried = [Path(options["vocaset"])] if options["vocaset"] else places
    found = first_existing([folder for folder in tried if (folder / "templates.pkl").is_file()])
    if found is None:
        raise UserError(
            f"{tried[0] / 'templates.pkl'}: missing; EmoVOCA's sequences are displaced from VOCASET's templates: put VOCASET "
            "beside it as vocaset/, or give --option vocaset=DIR"
        )
    return found


def _check_label(path: Path, clip: FaceClip) -> None:
    """The scalars in label/ and intensity/, where they exist, must say what the name says."""
    level = clip.fields["expression_level"]
    if clip.fields["native_expression"] == NEUTRAL:
        return
    for folder, wanted in (("label", EXPRESSIONS[clip.fields["native_expression"]][0]), ("intensity", level)):
        file = path.parent.parent / folder / path.name
        if not file.exists():
            continue
        try:
            value = int(np.load(file, allow_pickle=False).item())
        except UNREADABLE_ARRAYS as error:
            raise UserError(f"{file}: not a whole number ({error})") from None
        if value != wanted:
            raise UserError(f"{file}: says {value}, but the name of the clip means {wanted}")
