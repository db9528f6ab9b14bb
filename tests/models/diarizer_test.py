"""One emotion vector per utterance."""

import dataclasses

import jax
import numpy as np
import pytest

from sedtalker_jax.models.diarizer import Diarizer, DiarizerConfig
from tests.support import LABELS

CONFIG = DiarizerConfig(LABELS, None, hidden_sizes=(16,), embedding_size=12, frame_stacking=2)


def test_an_utterance_has_the_mean_of_its_frames_embeddings():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 21, 6)).astype(np.float32)
    mask = np.arange(21)[None, :] < np.array([[21], [13]])
    params = Diarizer(CONFIG).init(jax.random.key(0), features, mask)
    frames = Diarizer(CONFIG).apply(params, features, mask)
    one = Diarizer(dataclasses.replace(CONFIG, granularity="utterance")).apply(params, features, mask)
    for row, length in enumerate((21, 13)):
        mean = np.asarray(frames.embedding[row, :length], np.float64).mean(axis=0)
        np.testing.assert_allclose(one.embedding[row], np.broadcast_to(mean, (21, 12)), atol=1e-6)
    np.testing.assert_array_equal(one.embedding, np.broadcast_to(one.embedding[:, :1], one.embedding.shape))
    # Every head reads that vector, so all frames say the same, and something else than they would each. The last unit may
    # differ: XLA's vectorised sigmoid and the one for what is left of an array round differently.
    for name in ("logits", "intensity", "boundary_logits"):
        values = np.asarray(getattr(one, name))
        np.testing.assert_array_max_ulp(values, np.broadcast_to(values[:, :1], values.shape), maxulp=1)
        assert np.abs(np.asarray(getattr(frames, name)) - values).max() > 1e-3


def test_another_granularity_is_refused():
    with pytest.raises(ValueError, match="granularity='word'"):
        dataclasses.replace(CONFIG, granularity="word")
