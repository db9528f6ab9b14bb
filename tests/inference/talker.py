"""A whole system, diarizer, animator, face space and edit dictionary, of random parameters and in the smallest useful size."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.emotion import EditDictionary
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.models.sedtalker import SEDTalkerModel
from tests.support import CODE, LABELS, RANK, random_batch, random_params, tiny_model

WINDOW_S = 1.0
NUM_VERTICES = 12
SUBJECTS = ("ann", "bob", "cleo")


def tiny_codec(seed: int = 0) -> FaceCodec:
    """Random motion of a dozen vertices."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(3 * NUM_VERTICES, RANK)))[0].T.astype(np.float32)
    names = tuple(f"head-{i}" for i in range(CODE + 2))
    templates = rng.normal(0, 0.05, (len(names), NUM_VERTICES, 3)).astype(np.float32)
    faces = np.array([[0, 1, 2], [2, 3, 4]])
    space = FaceSpace("tiny", faces, basis, names, templates)
    return FaceCodec.fit(space, [rng.normal(0, 0.01, (40, RANK))], list(names), CODE)


@functools.cache
def tiny_talker() -> SEDTalker:
    """The system; recordings beyond WINDOW_S are heard in several windows. Shared by tests, which must not change it."""
    model = tiny_model(dropout=0.0, scan="reference")
    params = random_params(model, random_batch(1), seed=3)
    meta = {"labels": LABELS, "fps": 30.0, "config": {"pipeline": {"max_seconds": WINDOW_S / 2}}}
    talker = SEDTalker(model, params, tiny_codec(), meta)
    rng = np.random.default_rng(4)
    size = model.config.diarizer.embedding_size
    embeddings = np.concatenate([part.embedding for part in talker.hear(noise(3.0))])
    # Emotions lie around what the random diarizer says, so that edits neither vanish nor meet the bound at once.
    means = embeddings.mean(axis=0) + embeddings.std(axis=0) * rng.normal(0, 2.0, (len(LABELS), size))
    names = np.repeat(LABELS, 8)
    rows = means[np.repeat(np.arange(len(LABELS)), 8)] + embeddings.std(axis=0) * rng.normal(size=(len(names), size))
    talker.edit_dictionary = EditDictionary.fit(rows, names)
    return talker


@functools.cache
def subject_talker() -> SEDTalker:
    """The system whose animator knows SUBJECTS, with longer windows and without a dictionary; must not be changed either."""
    config = tiny_model(dropout=0.0, scan="reference").config
    animator = dataclasses.replace(config.animator, num_subjects=len(SUBJECTS))
    model = SEDTalkerModel(dataclasses.replace(config, animator=animator))
    meta = {"labels": LABELS, "fps": 30.0, "config": {"pipeline": {"max_seconds": 2.0}}}
    codec = dataclasses.replace(tiny_codec(), subjects=SUBJECTS)
    return SEDTalker(model, random_params(model, random_batch(1), seed=3), codec, meta)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise that swells and fades, float32 [S] at 16 kHz."""
    rng = np.random.default_rng(seed)
    times = np.arange(int(seconds * 16_000)) / 16_000
    return (0.1 * rng.normal(size=len(times)) * (1.2 + np.sin(9 * times))).astype(np.float32)
