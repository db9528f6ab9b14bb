"""A corpus of noise for the tests of the build: files sK_T.wav of speaker K; a file that holds no sound is damaged."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np

from sedtalker_jax.data.corpora.corpus import SPLITS, Clip, Corpus, Licence, Listing, Skipped
from sedtalker_jax.errors import UserError
from sedtalker_jax.speech.audio import encode_flac, load_audio, save_audio


def write(root: Path, names: list[str]) -> Path:
    root.mkdir(parents=True)
    for name in names:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        save_audio(root / f"{name}.wav", rng.normal(0, 0.1, 8_000).astype(np.float32))
    return root


class Toy(Corpus):
    name = "toy"
    licence = Licence("CC0-1.0", True, "the test")
    folds = 2
    options = {"shout": ("no", "yes: all clips are angry"), "leak": ("no", "yes: a speaker crosses the splits")}
    fit_files = ("fitted.txt",)

    def list_clips(self, root, choices):
        files = sorted(root.glob("s*.wav"))
        if not files:
            raise UserError(f"{root}: expected sK_T.wav; found nothing of the kind")
        label = "angry" if choices.options["shout"] == "yes" else "neutral"
        clips = []
        for number, file in enumerate(files):
            index = number if choices.options["leak"] == "yes" else int(file.stem[1]) + choices.fold
            fields = {"label": label, "commercial": file.stem[1] != "1"}
            clips.append(Clip(file.stem, file.name, SPLITS[index % 3], file.stem[:2], fields))
        return Listing(clips, [Skipped("s9_9", "known bad", "it is missing")], {"seen": len(files)})

    def fit(self, clips, root, out, workers, progress):
        (out / "fitted.txt").write_text(str(len(clips)))

    def make_record(self, clip, root, out):
        if (root / clip.path).read_bytes() == b"crash":
            os._exit(1)  # as a decoder's segmentation fault ends a process
        waveform = load_audio(root / clip.path)
        return {
            "audio": encode_flac(waveform),
            "num_samples": len(waveform),
            "labels": ["neutral", "angry"],
            "segments": [[0.0, len(waveform) / 16_000, clip.fields["label"]]],
            "emotion": np.full(24, clip.fields["label"] == "angry", np.int8),
            "fitted": int((out / "fitted.txt").read_text()),
        }

    def manifest(self, out):
        return {"fps": 0.0}


CORPUS = Toy()
