"""Embeddings given from outside: each row of a batch holds its own recording's vector, and mistakes are one line."""

import pickle

import numpy as np
import pytest

from sedtalker_jax.data.cross_fade import FadeConfig, cross_fade
from sedtalker_jax.data.given_embeddings import (
    RecordsWithEmbeddings,
    check_embeddings,
    checked_embedding,
    given_embedding,
    given_embedding_size,
    read_embedding,
    with_given_embeddings,
    write_given_embeddings,
)
from sedtalker_jax.data.joins import JoinConfig
from sedtalker_jax.data.pipeline import PipelineConfig, TrainBatches, make_example, pad_batch
from sedtalker_jax.emotion.labels import CANONICAL
from sedtalker_jax.errors import UserError
from sedtalker_jax.training.streams import Stream
from tests.data.given_tracks_test import face_record
from tests.data.toy_records import ToyReader, toy_records
from tests.inference.talker import tiny_codec
from tests.support import RANK

SIZE = 4


@pytest.fixture
def file(tmp_path):
    """(path, vectors of the first 30 toy clips)."""
    rng = np.random.default_rng(0)
    vectors = {f"toy-{number}": rng.normal(size=SIZE).astype(np.float32) for number in range(30)}
    write_given_embeddings(tmp_path / "vectors.npz", vectors)
    return str(tmp_path / "vectors.npz"), vectors


def batches(path, made, **fields):
    config = PipelineConfig(batch_size=4, embeddings=path, **fields)
    reader = with_given_embeddings(ToyReader(made), path)
    return TrainBatches(pickle.loads(pickle.dumps(reader)), None, CANONICAL, config, start=0, stop=9)


def test_every_row_has_the_vector_of_its_own_recording(file):
    path, vectors = file
    made = toy_records(each=5)
    for number in range(6):
        # Cropped or whole, a recording has one vector; the level of its sound tells which it is.
        part = batches(path, made, max_seconds=1.0, bucket_seconds=(1.0,), gain_db=0.0)[number]["speech"]
        clips = [f"toy-{round(1000 * float(wave.max())) - 1}" for wave in part["waveform"]]
        np.testing.assert_array_equal(part["given_embedding"], np.stack([vectors[clip] for clip in clips]))
    assert "given_embedding" not in TrainBatches(
        with_given_embeddings(ToyReader(made), ""), None, CANONICAL, PipelineConfig(batch_size=4), start=0, stop=9
    )[0]["speech"]  # fmt: skip


def test_a_face_with_its_own_sound_has_its_own_vector(file):
    path, vectors = file
    reader = RecordsWithEmbeddings(ToyReader([face_record(number) for number in (0, 1)]), path)
    rng, codec, config = np.random.default_rng(0), tiny_codec(), PipelineConfig(embeddings=path)
    examples = [make_example(record, codec, CANONICAL, config, rng, training=True) for record in reader]
    batch = pad_batch(examples, 4.0, codec)
    (part,) = Stream(("face",), (), config)._take(batch).items()
    assert part[0] == "face" and {"waveform", "lengths"} <= set(part[1])
    np.testing.assert_array_equal(part[1]["given_embedding"], [vectors["toy-0"], vectors["toy-1"]])
    assert "given_embedding" not in batch["face"], "of one clip's voice and face, the voice has it"


def test_a_clip_without_a_vector_is_found_before_training(file):
    path, _ = file
    with pytest.raises(UserError, match=r"vectors\.npz: no embedding for clip toy-30 \(30 others, such as toy-0\)"):
        batches(path, toy_records(each=6))
    with pytest.raises(UserError, match="no embedding for clip b"):
        check_embeddings(path, ["toy-1", "b"])


def test_joins_have_no_vector_and_fades_keep_their_recordings(file):
    path, vectors = file
    with pytest.raises(UserError, match="pipeline.joins must be None with pipeline.embeddings"):
        PipelineConfig(embeddings=path, joins=JoinConfig())
    PipelineConfig(embeddings=path, cross_fade=FadeConfig())
    clips = [{**face_record(number), "expression": name, "strength": 1.0} for number, name in enumerate(("angry", "happy"))]
    thirds = np.stack([np.eye(RANK) / 3] * 3)
    faded = cross_fade(list(RecordsWithEmbeddings(clips, path)), thirds, [1.5], np.random.default_rng(0))
    np.testing.assert_array_equal(faded["given_embedding"], vectors["toy-0"])


def test_mistakes_in_a_file_are_one_line(file, tmp_path):
    path, vectors = file
    assert given_embedding_size(path) == SIZE
    np.testing.assert_array_equal(given_embedding(path, "toy-3"), vectors["toy-3"])
    with pytest.raises(UserError, match=r"absent\.npz: embeddings can't be read .* pipeline\.embeddings"):
        given_embedding_size(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UserError, match=r"text\.npz: no \.npz file of embeddings .* write_given_embeddings"):
        given_embedding_size(tmp_path / "text.npz")
    with pytest.raises(UserError, match="holds no embedding"):
        write_given_embeddings(tmp_path / "x.npz", {})
    for wrong, message in (
        (np.zeros((1, SIZE)), r"clip b must be one vector of 4 numbers, not float32 \(1, 4\)"),
        (np.zeros(SIZE + 1), r"clip b must be one vector of 4 numbers, not float32 \(5,\)"),
        (np.full(SIZE, np.nan), "clip b has numbers that are not finite"),
    ):
        with pytest.raises(UserError, match=message):
            write_given_embeddings(tmp_path / "x.npz", {"a": np.zeros(SIZE), "b": wrong})
        np.savez(tmp_path / "others.npz", a=np.zeros(SIZE), b=wrong.astype(np.float32))
        with pytest.raises(UserError, match=message):
            given_embedding(tmp_path / "others.npz", "b")
    assert not (tmp_path / "x.npz").exists()


def test_one_recordings_file(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    found = read_embedding(tmp_path / "a.npy")
    assert found.dtype == np.float32 and found.tolist() == [0, 1, 2]
    np.save(tmp_path / "frames.npy", np.zeros((7, 3)))
    (tmp_path / "text.npy").write_text("no array")
    np.savez(tmp_path / "several.npz", a=np.zeros(3))
    for name in ("frames.npy", "text.npy", "several.npz", "absent.npy"):
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            read_embedding(tmp_path / name)


def test_what_a_model_reads_is_asked_for_and_nothing_else_is_taken():
    assert checked_embedding(None, 0) is None
    np.testing.assert_array_equal(checked_embedding([1, 2], 2), np.float32([1, 2]))
    with pytest.raises(UserError, match="reads no embedding"):
        checked_embedding(np.zeros(2), 0)
    with pytest.raises(UserError, match="an embedding of 2 numbers for each recording: give --embedding"):
        checked_embedding(None, 2)
    with pytest.raises(UserError, match=r"one vector of 2 numbers, not float64 \(3,\)"):
        checked_embedding(np.zeros(3), 2)
