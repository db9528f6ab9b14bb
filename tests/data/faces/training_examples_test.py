"""What training makes of face records: which of them the diarizer's output may drive."""

import numpy as np
import pytest

from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.data.faces import captures
from sedtalker_jax.data.pipeline import PipelineConfig, make_example
from sedtalker_jax.data.records import decode_flac
from sedtalker_jax.emotion.labels import ACTIVE, CANONICAL
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.models.track_source import NOISY_TRACK, PREDICTED_TRACK, TRUE_TRACK
from tests.data.faces import captures_test, trees

TABLE = """id,split,emotion,voice_emotion,fps
a_1,train,happy,neutral,24
a_2,train,happy,,24
b_1,train,,,24
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = captures_test.write(tmp_path_factory.mktemp("captures"), ["a_1", "a_2", "b_1"])
    (root / "clips.csv").write_text(TABLE)
    _, found = trees.build(captures.CORPUS, root, root / "out")
    space = FaceSpace.load(root / "out" / "face_space.npz")
    codec = FaceCodec.fit(space, [record["motion"] for record in found.values()], ["a", "b"], 2)
    for record in found.values():
        record["waveform"] = decode_flac(record["audio"])
    return found, codec


def examples(made, name, training=True):
    found, codec = made
    config = PipelineConfig(track_shares=(0.3, 0.3, 0.4))
    return [
        make_example(found[name], codec, CANONICAL, config, np.random.default_rng(seed), training=training)
        for seed in range(60)
    ]


def test_a_neutral_voice_never_drives_an_expressive_face(made):
    sources = {int(example["track_source"]) for example in examples(made, "a_1")}
    assert sources == {TRUE_TRACK, NOISY_TRACK}


def test_an_expressive_voice_does(made):
    sources = {int(example["track_source"]) for example in examples(made, "a_2")}
    assert sources == {TRUE_TRACK, NOISY_TRACK, PREDICTED_TRACK}
    (true,) = examples(made, "a_2", training=False)[:1]
    assert true["track_source"] == TRUE_TRACK and true["activation"][:, ACTIVE.index("happy")].min() == 1.0


@pytest.mark.parametrize("training", [True, False])
def test_an_unlabelled_face_has_no_schedule_to_learn_from(made, training):
    for example in examples(made, "b_1", training)[:10]:
        assert example["track_source"] == PREDICTED_TRACK and not example["activation"].any()
        assert np.isfinite(example["motion"]).all() and (example["emotion"] == -1).all()
