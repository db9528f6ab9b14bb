"""Conditions given from outside drive the face, in training and in evaluation, and mistakes in their file are one line."""

import numpy as np
import pytest

from sedtalker_jax.data.given_tracks import given_track, write_given_tracks
from sedtalker_jax.data.pipeline import PipelineConfig, TrainBatches, make_example
from sedtalker_jax.emotion.labels import ACTIVE, CANONICAL
from sedtalker_jax.errors import UserError
from sedtalker_jax.models.track_source import NOISY_TRACK, TRUE_TRACK
from tests.data.toy_records import ToyReader, clip
from tests.inference.talker import tiny_codec
from tests.support import RANK


def face_record(number: int, seconds: float = 3.0) -> dict:
    rng = np.random.default_rng(number)
    F = round(30 * seconds)
    return clip(
        number,
        "ann",
        "angry",
        seconds,
        fps=30.0,
        template="head-0",
        motion=rng.normal(0, 0.01, (F, RANK)).astype(np.float16),
        activation=rng.random((F, len(ACTIVE))).astype(np.float16),
    )


@pytest.fixture
def tracks(tmp_path):
    """A file of tracks for two clips, and what is in it."""
    rng = np.random.default_rng(5)
    content = {f"toy-{n}": rng.random((91, len(ACTIVE))).astype(np.float16) for n in range(2)}
    write_given_tracks(tmp_path / "tracks.npz", content)
    return str(tmp_path / "tracks.npz"), content


def example(config, number=0, *, training=False, labels=CANONICAL, seed=0):
    return make_example(face_record(number), tiny_codec(), labels, config, np.random.default_rng(seed), training=training)


def test_the_given_track_is_the_condition_and_nothing_else_changes(tracks):
    path, content = tracks
    given = PipelineConfig(track_shares=(1.0, 0.0, 0.0), tracks=path)
    own = PipelineConfig(track_shares=(1.0, 0.0, 0.0))
    for training in (False, True):
        with_track, without = example(given, 1, training=training), example(own, 1, training=training)
        np.testing.assert_array_equal(with_track["activation"], content["toy-1"][:90].astype(np.float32))
        for name in set(without) - {"activation"}:
            np.testing.assert_array_equal(with_track[name], without[name], err_msg=name)
        assert with_track["track_source"] == TRUE_TRACK


def test_crops_and_other_label_orders_take_their_part_of_it(tracks):
    path, content = tracks
    config = PipelineConfig(max_seconds=1.0, bucket_seconds=(1.0,), track_shares=(1.0, 0.0, 0.0), tracks=path)
    labels = ("neutral", "sad", "angry")
    columns = [ACTIVE.index("sad"), ACTIVE.index("angry")]
    for seed in range(4):
        found = example(config, training=True, labels=labels, seed=seed)["activation"]
        wanted = content["toy-0"].astype(np.float32)[:, columns]
        starts = [start for start in range(61) if np.array_equal(wanted[start : start + 30], found)]
        assert len(starts) == 1, "a stretch of the clip's own track"


def test_the_noisy_share_disturbs_the_given_track(tracks):
    path, content = tracks
    found = example(PipelineConfig(track_shares=(0.0, 1.0, 0.0), tracks=path), training=True)
    assert found["track_source"] == NOISY_TRACK
    assert not np.array_equal(found["activation"], content["toy-0"][:90])
    still = {"toy-0": np.zeros((90, len(ACTIVE)), np.float16)}
    write_given_tracks(path, still)
    found = example(PipelineConfig(track_shares=(0.0, 1.0, 0.0), tracks=path), training=True)
    assert not found["activation"].any(), "a file that was written again is read again; nothing stays nothing"


def test_a_clip_without_a_track_is_found_before_training(tracks):
    config = PipelineConfig(batch_size=2, track_shares=(1.0, 0.0, 0.0), tracks=tracks[0])

    def batches(numbers, **fields):
        made = ToyReader([face_record(number) | fields for number in numbers])
        return TrainBatches(made, tiny_codec(), ("neutral", "angry"), config, start=0, stop=1)

    assert len(batches([0, 1])[0]["face"]["seed"]) == 2
    with pytest.raises(UserError, match="no track for clip toy-2"):
        batches([0, 1, 2])
    # Of faces that the labels lack nobody needs one.
    with pytest.raises(UserError, match="fewer training clips"):
        batches([0, 1, 2], expression="sad")


def test_mistakes_are_one_line(tracks, tmp_path):
    path, _ = tracks
    shares = (1.0, 0.0, 0.0)
    with pytest.raises(UserError, match=r"tracks\.npz: no track for clip toy-7 \(2 others, such as toy-0\)"):
        example(PipelineConfig(track_shares=shares, tracks=path), 7)
    with pytest.raises(UserError, match="absent.npz: tracks can't be read"):
        example(PipelineConfig(track_shares=shares, tracks=str(tmp_path / "absent.npz")))
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UserError, match=r"text\.npz: no \.npz file of tracks"):
        example(PipelineConfig(track_shares=shares, tracks=str(tmp_path / "text.npz")))
    with pytest.raises(UserError, match="91 frames and the clip 92"):
        given_track(path, {"id": "toy-0"}, 92)
    for wrong, message in (
        (np.zeros((5, 3)), r"\[F, 7\]"),
        (np.full((5, 7), 1.5), "outside"),
        (np.full((5, 7), np.nan), "outside"),
    ):
        with pytest.raises(UserError, match=message):
            write_given_tracks(tmp_path / "wrong.npz", {"toy-0": wrong})
    with pytest.raises(UserError, match="must end in 0"):
        PipelineConfig(tracks=path)
