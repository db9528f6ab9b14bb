"""3DMEAD: MEAD (Wang et al., ECCV 2020) tracked as FLAME parameters (EMOTE, ProbTalk3D); voice and face are emotional.

    param/<subject>_<sentence>_<emotion 0-7>_<level 0-2>.npy     wav/ same stem      25 fps

Two published splits (ProbTalk3D). `sentences`: 32 subjects, sentences 1-32 / 33-36 / 37-40 of neutral and 1-24 / 25-27 /
28-30 of emotional speech. `subjects`: these 32 for training, 7 others for validation, 8 for the test, all sentences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from sedtalker_jax.data.corpora.corpus import Choices, Licence, Listing, Skipped
from sedtalker_jax.data.faces.corpus import FaceClip, face_fields, one_of, relative
from sedtalker_jax.data.faces.flame_parameters import FLAME_OPTIONS, FlameCorpus
from sedtalker_jax.emotion.labels import LEVEL_SCALES, NEUTRAL
from sedtalker_jax.errors import UserError

EMOTIONS: tuple[tuple[str, str | None], ...] = (
    ("neutral", "neutral"), ("happy", "happy"), ("sad", "sad"), ("surprised", "surprise"), ("fear", "fear"),
    ("disgusted", "disgust"), ("angry", "angry"), ("contempt", None),
)  # fmt: skip
"""MEAD's emotions in the order of the numbers in file names, with the canonical ones; contempt has none."""

SUBJECTS: Mapping[str, str] = MappingProxyType(
    {
        subject: split
        for split, subjects in {
            "train": (
                "M003 M005 M007 M009 M011 M012 M013 M019 M022 M023 M024 M025 M026 M027 M028 M029 M030 M031 "
                "W009 W011 W014 W015 W016 W018 W019 W021 W023 W024 W025 W026 W028 W029"
            ),
            "valid": "M032 M033 M034 M035 W033 W035 W036",
            "test": "M037 M039 M040 M041 M042 W037 W038 W040",
        }.items()
        for subject in subjects.split()
    }
)
"""Subject -> split by subjects (ProbTalk3D: datasets/mead-splits-prior)."""

_NEUTRAL_SENTENCES = (("train", range(1, 33)), ("valid", range(33, 37)), ("test", range(37, 41)))
_EMOTIONAL_SENTENCES = (("train", range(1, 25)), ("valid", range(25, 28)), ("test", range(28, 31)))

_STEM = re.compile(r"([MW]\d{3})_(\d{3})_([0-7])_([0-2])")


class ThreedMead(FlameCorpus):
    """See the module's docstring."""

    name = "3dmead"
    licence = Licence(
        "MEAD and EMOTE terms, for research only",
        commercial=False,
        source="https://wywu.github.io/projects/MEAD/MEAD.html; https://emote.is.tue.mpg.de",
    )
    native_fps = 25.0
    speaker_disjoint = False  # the published split by sentences shares its subjects
    options = MappingProxyType({**FLAME_OPTIONS, "split": ("sentences", "sentences or subjects, the two published splits")})

    def list_clips(self, root: Path, choices: Choices) -> Listing:
        """See Corpus.list_clips."""
        protocol = one_of(choices.options, "split", ("sentences", "subjects"))
        files, silent, motionless = self.files(root)
        skipped = [Skipped(stem, "no sound") for stem in silent] + [Skipped(stem, "no motion") for stem in motionless]
        clips = []
        for stem, (parameters, sound) in files.items():
            match = _STEM.fullmatch(stem)
            if match is None:
                skipped.append(Skipped(stem, "no name of 3DMEAD"))
                continue
            subject, sentence, level = match[1], int(match[2]), int(match[4])
            name, emotion = EMOTIONS[int(match[3])]
            split = split_of(subject, sentence, emotion == NEUTRAL, protocol)
            if split is None:
                skipped.append(Skipped(stem, "outside the chosen split"))
            elif emotion is None:
                skipped.append(Skipped(stem, "expression without a canonical emotion", name))
            else:
                neutral = emotion == NEUTRAL
                # Sentence 1 of neutral and of emotional speech are different sentences in MEAD.
                fields = face_fields(
                    f"{'neutral' if neutral else name}_{sentence:03d}", native_expression=name, expression_level=level + 1,
                    voice_emotion=emotion, label=emotion, corpus_label=name, label_kind="intended",
                    sex="female" if subject[0] == "W" else "male",
                    **({} if neutral else {"level": level, "level_scale": "mead"}),
                )  # fmt: skip
                strength = 0.0 if neutral else (level + 1) / len(LEVEL_SCALES["mead"])
                clips.append(FaceClip(
                    stem, relative(sound, root), split, subject, fields, relative(parameters, root), subject, emotion, strength,
                    choices.options,
                ))  # fmt: skip
        if not clips:
            raise UserError(f"{root}: no clip of 3DMEAD in param/ and wav/ (names such as M003_001_4_2.npy)")
        return Listing(clips, skipped, {})

    def subject_of(self, stem: str) -> str | None:
        """See FlameCorpus.subject_of."""
        match = _STEM.fullmatch(stem)
        return match[1] if match else None


CORPUS = ThreedMead()


def split_of(subject: str, sentence: int, neutral: bool, protocol: str) -> str | None:
    """Split of a clip under one of the two published protocols; None when it is in none of its splits."""
    if protocol == "subjects":
        return SUBJECTS.get(subject)
    if SUBJECTS.get(subject) != "train":
        return None
    table = _NEUTRAL_SENTENCES if neutral else _EMOTIONAL_SENTENCES
    return next((split for split, sentences in table if sentence in sentences), None)
