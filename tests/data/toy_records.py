"""Records in memory whose sound tells which clip it is: constant at an amplitude of its own."""

from __future__ import annotations

import numpy as np

from sedtalker_jax.data.index import RecordIndex, index_row
from sedtalker_jax.data.world.clock import num_speech_frames
from sedtalker_jax.emotion.labels import CANONICAL

RATE = 16_000


def clip(number, speaker, label, seconds, *, corpus="toy", session="", loudness_db=-26.0, **fields):
    """A record of constant sound at amplitude (number + 1) / 1000."""
    n = int(seconds * RATE)
    T = num_speech_frames(n)
    return {
        "id": f"{corpus}-{number}",
        "corpus": corpus,
        "speaker": speaker,
        "session": session,
        "label": label,
        "labels": list(CANONICAL),
        "segments": [[0.0, seconds, label]],
        "emotion": np.full(T, CANONICAL.index(label), np.int8),
        "intensity": np.full(T, np.nan, np.float16),
        "waveform": np.full(n, (number + 1) / 1000.0, np.float32),
        "num_samples": n,
        "loudness_db": loudness_db,
        "speech_span": [0.0, seconds],
        "fps": 0.0,
        "template": "",
        **fields,
    }


def toy_records(speakers=("ann", "bob"), labels=("neutral", "angry", "sad"), each=6, corpus="toy"):
    """`each` clips of 0.6 to 1.6 s of every speaker and label."""
    rng = np.random.default_rng(0)
    made = []
    for speaker in speakers:
        for label in labels:
            for _ in range(each):
                made.append(clip(len(made), speaker, label, round(rng.uniform(0.6, 1.6), 2), corpus=corpus))
    return made


class ToyReader:
    """As RecordReader, from a list."""

    def __init__(self, made):
        self.made = made

    def __len__(self):
        return len(self.made)

    def __getitem__(self, row):
        return self.made[row]

    def index(self):
        return RecordIndex.from_rows([index_row(record) for record in self.made])
