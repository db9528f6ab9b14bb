"""3D-RAVDESS: RAVDESS (Livingstone and Russo, PLOS ONE 2018) tracked as FLAME parameters with EMOCA (EmoFace, arXiv
2408.11518); voice and face are emotional.

    param/03-01-<emotion>-<intensity>-<statement>-<repetition>-<actor>.npy or .npz     wav/ same stem      30 fps

The authors' archive is not public; this is 3DMEAD's layout with RAVDESS's names, which any tracker's output can be put in.
Split by actor as EmoFace has it: 1-20, 21-22, 23-24.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType

from sedtalker_jax.data.corpora.corpus import Choices, Licence, Listing, Skipped
from sedtalker_jax.data.faces.corpus import FaceClip, face_fields, one_of, relative
from sedtalker_jax.data.faces.flame_parameters import FLAME_OPTIONS, FlameCorpus
from sedtalker_jax.emotion.labels import LEVEL_SCALES, NEUTRAL, corpus_label
from sedtalker_jax.errors import UserError

WORDS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""RAVDESS's emotions 01 to 08."""

_STEM = re.compile(r"0[1-3]-01-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)")


class ThreedRavdess(FlameCorpus):
    """See the module's docstring."""

    name = "3d_ravdess"
    licence = Licence(
        "CC-BY-NC-SA-4.0", commercial=False, source="https://zenodo.org/records/1188976", note="of RAVDESS itself"
    )
    native_fps = 30.0
    options = MappingProxyType(
        {**FLAME_OPTIONS, "calm": ("leave-out", "what the label calm becomes: leave-out, or neutral")}
    )  # fmt: skip

    def list_clips(self, root: Path, choices: Choices) -> Listing:
        """See Corpus.list_clips."""
        calm = one_of(choices.options, "calm", ("leave-out", "neutral"))
        files, silent, motionless = self.files(root)
        skipped = [Skipped(stem, "no sound") for stem in silent] + [Skipped(stem, "no motion") for stem in motionless]
        clips = []
        for stem, (parameters, sound) in files.items():
            match = _STEM.fullmatch(stem)
            actor = int(match[5]) if match else 0
            if match is None or not 1 <= actor <= 24:
                skipped.append(Skipped(stem, "no speech clip of RAVDESS"))
                continue
            word, level = WORDS[int(match[1]) - 1], int(match[2]) - 1
            emotion = NEUTRAL if (word, calm) == ("calm", "neutral") else corpus_label("ravdess", word)
            if emotion is None:
                skipped.append(Skipped(stem, "expression without a canonical emotion", word))
                continue
            neutral = emotion == NEUTRAL
            subject = f"actor{actor:02d}"
            fields = face_fields(
                f"statement{match[3]}", native_expression=word, expression_level=level + 1, voice_emotion=emotion,
                label=emotion, corpus_label=word, label_kind="intended", sex="male" if actor % 2 else "female",
                **({} if neutral else {"level": level, "level_scale": "ravdess"}),
            )  # fmt: skip
            strength = 0.0 if neutral else (level + 1) / len(LEVEL_SCALES["ravdess"])
            split = "train" if actor <= 20 else "valid" if actor <= 22 else "test"
            clips.append(FaceClip(
                stem, relative(sound, root), split, subject, fields, relative(parameters, root), subject, emotion, strength,
                choices.options,
            ))  # fmt: skip
        if not clips:
            raise UserError(f"{root}: no clip of 3D-RAVDESS in param/ and wav/ (names such as 03-01-05-02-01-01-12.npy)")
        return Listing(clips, skipped, {})

    def subject_of(self, stem: str) -> str | None:
        """See FlameCorpus.subject_of."""
        match = _STEM.fullmatch(stem)
        return f"actor{int(match[5]):02d}" if match else None


CORPUS = ThreedRavdess()
