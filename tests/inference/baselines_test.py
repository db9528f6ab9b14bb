"""Forests that a diarizer is compared with: measured in worker processes, whose end is a user's mistake and no traceback."""

import os

import numpy as np
import pytest

from sedtalker_jax.data import prepare
from sedtalker_jax.data.mixing import open_records
from sedtalker_jax.emotion.labels import CANONICAL
from sedtalker_jax.errors import UserError
from sedtalker_jax.inference.baselines import STRIDE, FrameForest
from tests.data.corpora.layouts import LAYOUTS


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    base = tmp_path_factory.mktemp("savee")
    (base / "root").mkdir()
    LAYOUTS["savee"](base / "root")
    prepare.prepare("savee", base / "root", base / "records", progress=False)
    return str(base / "records")


def what_is_felt(record):
    """Features that tell: the label itself."""
    return np.asarray(record["emotion"][::STRIDE], np.float64)[:, None]


def crash(record):
    os._exit(1)  # as a process ends that is killed for want of memory


def test_a_forest_learns_from_the_training_clips_and_answers_frame_by_frame(directory):
    train = open_records([directory], "train", decode_audio=False)
    forest = FrameForest([directory], what_is_felt, CANONICAL, len(train), workers=1)
    assert forest.num_clips == len(train)
    known = set(np.asarray(forest.forest.classes_).tolist())
    assert known == {int(k) for record in train for k in record["emotion"] if k >= 0}
    records = [train[index] for index in range(3)]
    for record, together in zip(records, forest.predict(records), strict=True):
        assert together.shape == (len(record["emotion"]), len(CANONICAL))
        (alone,) = forest.predict([record])
        np.testing.assert_array_equal(alone, together)


def test_a_worker_that_dies_and_labels_that_nobody_feels_are_named(directory):
    with pytest.raises(UserError, match="a worker process died"):
        FrameForest([directory], crash, CANONICAL, 2, workers=1)
    with pytest.raises(UserError, match="no training clip has one of the labels bored, calm"):
        FrameForest([directory], what_is_felt, ("bored", "calm"), 2, workers=1)
