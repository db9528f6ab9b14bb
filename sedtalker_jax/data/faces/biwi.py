"""BIWI B3D(AC)^2 (Fanelli et al., "A 3-D audio-visual corpus of affective communication", IEEE TMM 2010) as FaceFormer and
CodeTalker convert it; biwi_6.py reads the decimated mesh of JambaTalk.

    vertices_npy/F2_e01.npy   [F, 70110] at 25 fps      wav/F2_e01.wav      templates.pkl      BIWI.ply      regions/

The conversion divides each frame by the square root of its surface area, so the unit is about 0.18 m, differs between
subjects and trembles a little from frame to frame. Published factors (FaceFormer issue 45) turn it into metres; the sentences
are spoken emotionally, but the conversion does not say how, so faces and voices carry no label.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from sedtalker_jax.data.corpora.corpus import Choices, Licence, Listing, Skipped
from sedtalker_jax.data.faces.corpus import (
    SHARED_OPTIONS,
    FaceClip,
    FaceCorpus,
    Motion,
    face_fields,
    one_of,
    open_vertices,
    what_is_in,
)
from sedtalker_jax.data.faces.surface import Surface, find_mesh, find_regions, load_surface
from sedtalker_jax.data.faces.vocaset import converted_files
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.mesh_files import read_templates

TRAINING_SUBJECTS = ("F2", "F3", "F4", "M3", "M4", "M5")
UNSEEN_SUBJECTS = ("F1", "F5", "F6", "F7", "F8", "M1", "M2", "M6")
TRAIN, VALID, TEST = range(1, 33), range(33, 37), range(37, 41)
"""Sentences e01-e32, e33-e36 and e37-e40. Test A: training subjects; test B: unseen ones."""

MILLIMETRES_PER_UNIT: Mapping[str, float] = MappingProxyType(
    {
        "F1": 173.5965, "F2": 179.7675, "F3": 185.8210, "F4": 185.8799, "F5": 182.6764, "F6": 186.2587, "F7": 180.6849,
        "F8": 180.7115, "M1": 188.5588, "M2": 192.8390, "M3": 184.9965, "M4": 186.2286, "M5": 201.2294, "M6": 189.5069,
    }
)  # fmt: skip
"""Subject -> factor from the converted template to the raw scan (github.com/EvelynFan/FaceFormer/issues/45)."""

_STEM = re.compile(r"([FM]\d)_e(\d\d)")


class Biwi(FaceCorpus):
    """See the module's docstring."""

    name = "biwi"
    num_vertices = 23370
    mesh_names: tuple[str, ...] = ("BIWI.ply", "templates/BIWI.ply", "templates/BIWI_topology.ply", "BIWI_topology.ply")
    licence = Licence(
        "ETH Zurich, for research only",
        commercial=False,
        source="https://data.vision.ee.ethz.ch/cvl/datasets/b3dac2.en.html",
        note="the owner's page was reported dead in 2024",
    )
    native_fps = 25.0
    speaker_disjoint = False  # test A holds the training subjects
    options = MappingProxyType(
        {
            **SHARED_OPTIONS,
            "test": ("a", "a: training subjects, sentences 37-40; b: unseen subjects, sentences 37-40"),
            "unit": (
                "auto",
                "metres per unit: a number, published (per subject), or auto (by the size of a face)",
            ),
        }
    )

    def list_clips(self, root: Path, choices: Choices) -> Listing:
        """See Corpus.list_clips."""
        test = one_of(choices.options, "test", ("a", "b"))
        if not (root / "vertices_npy").is_dir():
            raise UserError(f"{root}: not BIWI as converted: no folder vertices_npy/; found {what_is_in(root)}")
        neutral = self._raw_templates(root)
        scales = self._scales(neutral, choices.options)
        files, skipped = converted_files(root)
        clips = []
        for stem, (motion, sound) in sorted(files.items()):
            match = _STEM.fullmatch(stem)
            split, official = _split(match[1], int(match[2])) if match else (None, "")
            if match is None:
                skipped.append(Skipped(stem, "no emotional sentence of BIWI"))
            elif match[1] not in neutral:
                skipped.append(Skipped(stem, "no template of its subject"))
            elif split is None or (split == "test" and official != f"test_{test}"):
                skipped.append(Skipped(stem, "outside the chosen split"))
            else:
                fields = face_fields(f"e{match[2]}", official_split=official, metres_per_unit=scales[match[1]])
                clips.append(FaceClip(stem, sound, split, match[1], fields, motion, match[1], None, 0.0, choices.options))
        return Listing(clips, skipped, {"metres_per_unit": scales})

    def open_motion(self, clip: FaceClip, root: Path) -> Motion:
        """See FaceCorpus.open_motion."""
        return open_vertices(root / clip.motion, self.num_vertices, clip.fields["metres_per_unit"])

    def templates(self, root: Path, options: Mapping[str, str]) -> Mapping[str, Float[np.ndarray, "V 3"]]:
        """See FaceCorpus.templates."""
        neutral = self._raw_templates(root)
        scales = self._scales(neutral, options)
        return {name: vertices * scales[name] for name, vertices in neutral.items()}

    def surface(self, root: Path, options: Mapping[str, str], num_vertices: int) -> Surface:
        """See FaceCorpus.surface."""
        mesh = find_mesh(options["mesh"], [root / name for name in self.mesh_names], self.mesh_names[0])
        return load_surface(mesh, find_regions(options["regions"], [root]), num_vertices)

    def _raw_templates(self, root: Path) -> dict[str, np.ndarray]:
        neutral = read_templates(root / "templates.pkl")
        found = {len(vertices) for vertices in neutral.values()}
        if found != {self.num_vertices}:
            other = " (--corpus biwi_6 reads 3,895)" if found == {3895} else ""
            counts = ", ".join(str(count) for count in sorted(found)) or "no"
            raise UserError(f"{root / 'templates.pkl'}: has {counts} vertices, {self.name} has {self.num_vertices}{other}")
        return neutral

    def _scales(self, neutral: Mapping[str, np.ndarray], options: Mapping[str, str]) -> dict[str, float]:
        """Subject -> metres per unit."""
        choice = options["unit"]
        if choice not in ("auto", "published"):
            try:
                value = float(choice)
            except ValueError:
                raise UserError(f"--option unit={choice}: give metres per unit, published or auto") from None
            if not value > 0:
                raise UserError(f"--option unit={choice}: must be positive")
            return dict.fromkeys(neutral, value)
        scales = {}
        for name, vertices in neutral.items():
            size = float(np.ptp(vertices, axis=0).max())
            if choice == "published" or 0.7 < size < 3.0:  # heights in units of about 0.18 m
                if name not in MILLIMETRES_PER_UNIT:
                    raise UserError(f"no published scale of subject {name}; give --option unit=METRES")
                scales[name] = MILLIMETRES_PER_UNIT[name] / 1000.0
            elif 0.1 < size < 0.5:
                scales[name] = 1.0
            elif 100.0 < size < 500.0:
                scales[name] = 0.001
            else:
                raise UserError(f"the template of {name} is {size:.3g} units high: no known unit; give --option unit=METRES")
        return scales


CORPUS = Biwi()


def _split(subject: str, sentence: int) -> tuple[str | None, str]:
    """(split, name of the official split) of a sentence; (None, "") for one in no split."""
    if subject in TRAINING_SUBJECTS:
        for split, official, sentences in (("train", "train", TRAIN), ("valid", "valid", VALID), ("test", "test_a", TEST)):
            if sentence in sentences:
                return split, official
    if subject in UNSEEN_SUBJECTS and sentence in TEST:
        return "test", "test_b"
    return None, ""
