"""Moving emotion in the pipeline: which examples fade, and that batches stay a function of their number."""

import dataclasses
import pickle

import numpy as np
import pytest

from sedtalker_jax.data import cross_fade as cf
from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.data.faces.corpus import constant_activation
from sedtalker_jax.data.pipeline import PipelineConfig, TrainBatches
from sedtalker_jax.emotion.labels import CANONICAL
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.models.track_source import PREDICTED_TRACK
from sedtalker_jax.training.streams import streams_of
from tests.data.toy_records import RATE, ToyReader, clip

V, RANK, SECONDS, FPS = 12, 4, 2.0, 30.0
EXPRESSIONS = (("neutral", 0.0), ("happy", 1.0), ("angry", 2 / 3), ("sad", 1 / 3))
CONFIG = PipelineConfig(batch_size=4, max_seconds=SECONDS, bucket_seconds=(SECONDS,), track_shares=(1.0, 0.0, 0.0), gain_db=0.0,
                        cross_fade=cf.FadeConfig(share=1.0, smoothing=1))  # fmt: skip


@pytest.fixture(scope="module")
def codec():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(3 * V, RANK)))[0].T
    faces = np.stack([np.arange(V - 2), np.arange(1, V - 1), np.arange(2, V)], axis=1)
    space = FaceSpace("strip", faces, basis.astype(np.float32), ("head",),
                      rng.normal(size=(1, V, 3)).astype(np.float32),
                      {"upper_face": np.arange(4), "lips": np.arange(6, 9)}, FPS)  # fmt: skip
    return FaceCodec.fit(space, [rng.normal(size=(50, RANK))], ["head"], 2)


@pytest.fixture(scope="module")
def reader():
    """Four recordings in four expressions each, and four that have one."""
    made, frames = [], round(SECONDS * FPS)
    for number in range(20):
        recording, variant = divmod(number, 4) if number < 16 else (number, 0)
        expression, strength = EXPRESSIONS[variant]
        talk = np.random.default_rng(recording).normal(0, 1e-3, (frames, RANK))
        made.append(clip(
            recording, "ann", "neutral", SECONDS, template="head", fps=FPS, sentence=f"s{recording}", expression=expression,
            strength=strength, motion=(talk + variant).astype(np.float32), condition="schedule",
            activation=constant_activation(expression, strength, frames).astype(np.float16),
            audio=np.full(3, recording, np.uint8), native_expression=expression, expression_level=variant,
        ) | {"id": f"{recording}-{expression}"})  # fmt: skip
    return ToyReader(made)


def batches(reader, codec, config=CONFIG, start=0, stop=30, **place):
    return TrainBatches(reader, codec, CANONICAL, config, start=start, stop=stop, **place)


def equal(a, b):
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def moving(batch):
    """Which rows of a batch change their expression."""
    face = batch["face"]
    rows = zip(face["activation"], face["num_frames"], strict=True)
    return np.array([np.ptp(activation[:frames], axis=0).max() > 0.1 for activation, frames in rows])


def test_processes_pad_faces_of_several_frame_rates_alike(reader, codec):
    # Every other recording at half the rate: some batches' halves then hold one rate each.
    made = []
    for number, record in enumerate(reader.made):
        slow = number % 2 == 0
        fields = dict(fps=FPS / 2, motion=record["motion"][::2], activation=record["activation"][::2]) if slow else {}
        made.append(record | fields)
    config = dataclasses.replace(CONFIG, cross_fade=None, batch_size=2)
    whole = batches(ToyReader(made), codec, config)
    halves = [batches(ToyReader(made), codec, config, process_index=p, process_count=2) for p in range(2)]
    mixed = 0
    for number in range(20):
        face = whole[number]["face"]
        mixed += len(set(face["fps"].tolist())) == 2
        for p, half in enumerate(halves):
            equal({name: value[p::2] for name, value in face.items()}, half[number]["face"])
    assert mixed > 3


def test_a_face_whose_expression_the_labels_lack_is_left_out(reader, codec):
    labels = tuple(name for name in CANONICAL if name not in ("happy", "disgust"))
    config = dataclasses.replace(CONFIG, cross_fade=None)
    few = TrainBatches(reader, codec, labels, config, start=0, stop=40)
    kept = [record for record in reader.made if record["expression"] != "happy"]
    drawn = {seed for number in range(3) for seed in few[number]["face"]["seed"].tolist()}
    # Three batches of four are an epoch of the fifteen or so that are left; none is a happy face taken for a neutral one.
    assert few._per_epoch[0] == len(kept) // 4 and len(drawn) == 12
    strengths = {float(x) for number in range(30) for x in few[number]["face"]["activation"].max(axis=(1, 2))}
    assert not strengths & {1.0} and strengths >= {0.0}
    voices = TrainBatches(reader, None, labels, config, start=0, stop=40)
    assert voices._per_epoch[0] == len(reader) // 4


def test_no_fade_goes_through_an_expression_that_the_labels_lack(reader, codec):
    read = []

    class Watched(ToyReader):
        def __getitem__(self, row):
            read.append(self.made[row]["id"])
            return super().__getitem__(row)

    labels = tuple(name for name in CANONICAL if name != "sad")
    few = TrainBatches(Watched(reader.made), codec, labels, CONFIG, start=0, stop=40)
    faded = sum(int(moving(few[number]).sum()) for number in range(12))
    assert faded > 20 and len(read) > 48 and not [clip for clip in read if "sad" in clip]


def test_a_batch_with_fades_depends_on_its_number_only(reader, codec):
    whole, late = batches(reader, codec), batches(reader, codec, start=17)
    copied = pickle.loads(pickle.dumps(whole))  # as worker processes get it
    for number in (17, 29):
        equal(whole[number]["face"], late[number - 17]["face"])
        equal(whole[number]["face"], copied[number]["face"])
    halves = [batches(reader, codec, process_index=p, process_count=2) for p in range(2)]
    for p, half in enumerate(halves):
        equal({name: value[p::2] for name, value in whole[3]["face"].items()}, half[3]["face"])
    assert not np.array_equal(whole[0]["face"]["motion"], whole[5]["face"]["motion"])


def test_recordings_with_several_expressions_fade_and_the_others_are_as_they_were(reader, codec):
    still = dataclasses.replace(CONFIG, cross_fade=None)
    whole, plain = batches(reader, codec), batches(reader, codec, still)
    fading = faded = 0
    for number in range(10):
        a, b = whole[number], plain[number]
        equal(a["speech"], b["speech"])  # the same sounds, crops and seeds
        alone = b["speech"]["waveform"][:, 0] * 1000 > 16
        assert not moving(b).any() and not moving(a)[alone].any()
        np.testing.assert_array_equal(a["face"]["motion"][alone], b["face"]["motion"][alone])
        fading, faded = fading + (~alone).sum(), faded + moving(a)[~alone].sum()
    assert fading == faded > 20
    half = batches(reader, codec, dataclasses.replace(CONFIG, cross_fade=cf.FadeConfig(share=0.5, smoothing=1)))
    share = sum(moving(half[number]).sum() for number in range(25)) / (25 * 4 * 16 / 20)
    assert 0.3 < share < 0.7


def test_a_fade_is_driven_by_its_schedule_and_never_by_the_diarizer(reader, codec):
    listening = dataclasses.replace(CONFIG, track_shares=(0.0, 0.0, 1.0))
    made = ToyReader([{**record, "condition": "voice"} for record in reader.made])
    for number in range(10):
        batch = batches(made, codec, listening)[number]
        alone = batch["speech"]["waveform"][:, 0] * 1000 > 16
        assert (batch["face"]["track_source"][~alone] != PREDICTED_TRACK).all()
        assert (batch["face"]["track_source"][alone] == PREDICTED_TRACK).all()


def test_the_face_follows_the_schedule(reader, codec):
    """The toy motion's offset is its expression's number: where a face has arrived at one, the schedule names it too."""
    checked = set()
    for number in range(10):
        batch = batches(reader, codec)[number]
        for row in np.flatnonzero(moving(batch)):
            coefficients = batch["face"]["motion"][row] * codec.motion_std + codec.motion_mean
            for end in (0, -1):
                variant = int(np.rint(coefficients[end].mean()))
                if np.abs(coefficients[end] - variant).max() > 0.01:
                    continue  # the face lags behind the schedule, and is still on its way
                name, strength = EXPRESSIONS[variant]
                expected = constant_activation(name, strength, 1)[0]
                np.testing.assert_allclose(batch["face"]["activation"][row, end], expected, atol=0.02)
                checked.add((end, name))
    assert len(checked) == 8


def test_only_faces_fade_and_plain_dicts_are_configs():
    from ml_collections import ConfigDict

    pipeline = ConfigDict(dict(max_seconds=4.0, bucket_seconds=(4.0,), cross_fade=dict(share=0.25, onset=(0.1, 0.2)), joins={}))
    speech, face = streams_of(ConfigDict(dict(speech="a", face="b")), pipeline)
    assert speech.pipeline.cross_fade is None and speech.pipeline.joins is not None
    assert face.pipeline.cross_fade == cf.FadeConfig(share=0.25, onset=(0.1, 0.2)) and face.pipeline.joins is None
    hash(face.pipeline)
    with pytest.raises(ValueError, match="share=2"):
        cf.FadeConfig(share=2)


def test_a_clip_too_short_for_a_change_stays_one_of_the_expressions(reader, codec):
    short = ToyReader([
        {**record, "num_samples": int(0.7 * RATE), "waveform": record["waveform"][: int(0.7 * RATE)]} for record in reader.made
    ])  # fmt: skip
    for number in range(4):
        assert not moving(batches(short, codec)[number]).any()
