"""Batches are a function of their number: without joins as records are, with joins from single utterances."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from sedtalker_jax import axes
from sedtalker_jax.data.joins import JoinConfig
from sedtalker_jax.data.pipeline import PipelineConfig, TrainBatches, iterate, make_example, pad_batch
from sedtalker_jax.emotion.labels import CANONICAL, LEVEL_SCALES
from sedtalker_jax.errors import UserError
from tests.data.toy_records import ToyReader, clip, toy_records

JOINED = PipelineConfig(batch_size=4, max_seconds=4.0, bucket_seconds=(1.5, 3.0, 4.0), joins=JoinConfig(), seed=11)


def batches_of(config, made=None, start=0, stop=40, **place):
    return TrainBatches(ToyReader(made or toy_records()), None, CANONICAL, config, start=start, stop=stop, **place)


def equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("config", [PipelineConfig(batch_size=4, seed=3), JOINED], ids=["plain", "joined"])
def test_a_batch_depends_on_its_number_only(config):
    whole, late = batches_of(config), batches_of(config, start=17)
    for number in (17, 39, 20):
        equal(whole[number]["speech"], late[number - 17]["speech"])
    equal(pickle.loads(pickle.dumps(whole))[20]["speech"], whole[20]["speech"])  # as worker processes get it
    halves = [batches_of(config, process_index=p, process_count=2) for p in range(2)]
    for number in (0, 23):
        together = whole[number]["speech"]
        for p, half in enumerate(halves):
            equal({name: value[p::2] for name, value in together.items()}, half[number]["speech"])
    other = batches_of(PipelineConfig(**{**vars(config), "seed": 4}))
    assert not np.array_equal(whole[0]["speech"]["seed"], other[0]["speech"]["seed"])


def test_without_joins_examples_are_the_records_in_seeded_order():
    made, config = toy_records(), PipelineConfig(batch_size=4, seed=3)
    batches = batches_of(config, made)
    order = np.random.Generator(np.random.Philox(key=[3, 0])).permutation(len(made))
    rows = {tuple(sorted(order[i : i + 4].tolist())) for i in range(0, len(made), 4)}
    seen = set()
    for number in range(len(made) // 4):
        speech = batches[number]["speech"]
        assert set(speech) == {
            "waveform", "lengths", "emotion", "intensity", "intensity_mask", "boundary", "boundary_mask", "seed"
        }  # fmt: skip
        expected = {}
        for row in range(len(made)):
            rng = np.random.Generator(np.random.Philox(key=[4, row]))
            example = make_example(made[row], None, CANONICAL, config, rng, training=True)
            expected[int(example["seed"])] = row, example
        members = [expected[int(seed)] for seed in speech["seed"]]
        seen.add(tuple(sorted(row for row, _ in members)))
        equal(speech, pad_batch([example for _, example in members], 4.0, None)["speech"])
    assert seen == rows


@pytest.mark.parametrize(
    ("counts", "edges"),
    [((6, 2, 9), {1.0: 6, 3.0: 11}), ((9, 8, 2), {1.0: 9, 3.0: 10}), ((2, 0, 2), {3.0: 4}), ((9, 0, 1), {3.0: 10})],
)
def test_a_bucket_smaller_than_a_batch_joins_its_neighbour(counts, edges):
    lengths = np.repeat([0.9, 1.9, 2.9], counts)
    made = [clip(i, "ann", "sad", seconds) for i, seconds in enumerate(lengths)]
    config = PipelineConfig(batch_size=4, max_seconds=3.0, bucket_seconds=(1.0, 2.0, 3.0), gain_db=0.0)
    batches = batches_of(config, made, stop=400)
    seen, padded = set(), {}
    for number in range(60):
        speech = batches[number]["speech"]
        numbers = np.round(speech["waveform"][:, 0] * 1000).astype(int) - 1
        seen |= set(numbers.tolist())
        padded.setdefault(speech["waveform"].shape[1] / 16_000, set()).update(numbers.tolist())
    assert seen == set(range(len(made)))
    assert {edge: len(rows) for edge, rows in padded.items()} == edges


def test_joined_batches_hold_every_example_once_in_buckets_that_fit():
    made = toy_records(each=16)  # 96 clips: 24 batches, 3 blocks of 8
    batches = batches_of(JOINED, made, stop=48)
    joined = batches._joined
    for epoch in range(2):
        numbers = []
        for number in range(24 * epoch, 24 * epoch + 24):
            edge, members = joined._block(number // 8)[number % 8]
            numbers += members
            lengths = [joined._num_samples(i) / axes.SAMPLE_RATE for i in members]
            assert edge in JOINED.bucket_seconds
            assert edge == JOINED.max_seconds or max(lengths) <= edge + 1e-6
            smaller = [e for e in JOINED.bucket_seconds if e < edge]
            assert not smaller or max(lengths) > smaller[-1]
            speech = batches[number]["speech"]
            assert speech["waveform"].shape == (4, int(edge * 16_000))
            assert speech["lengths"].tolist() == [min(round(n * 16_000), int(JOINED.max_seconds * 16_000)) for n in lengths]
        assert sorted(numbers) == list(range(96 * epoch, 96 * epoch + 96))
    used = sum(float(batches[n]["speech"]["lengths"].sum()) for n in range(24))
    held = sum(batches[n]["speech"]["waveform"].size for n in range(24))
    assert used / held > 0.7, "sorting within blocks keeps padding small"


def test_padding_carries_no_label():
    batches = batches_of(JOINED)
    for number in range(8):
        speech = batches[number]["speech"]
        valid = np.arange(speech["emotion"].shape[1]) < axes.num_speech_frames(speech["lengths"])[:, None]
        assert (speech["emotion"][~valid] == -1).all() and (speech["level"][~valid] == -1).all()
        np.testing.assert_array_equal(speech["boundary_mask"], valid.astype(np.float32))
        beyond = np.arange(speech["waveform"].shape[1]) >= speech["lengths"][:, None]
        assert not speech["waveform"][beyond].any()
        assert speech["waveform"].dtype == np.float32 and np.isfinite(speech["waveform"]).all()
        assert not speech["intensity_mask"].any(), "corpora have levels, not intensities"


def test_boundaries_lie_where_the_label_changes_and_not_at_other_joins():
    config = PipelineConfig(
        batch_size=4, max_seconds=6.0, bucket_seconds=(6.0,), joins=JoinConfig(augment=None, pause_s=(0.1, 0.4))
    )
    batches = batches_of(config)
    changes = joins = 0
    for number in range(12):
        speech = batches[number]["speech"]
        for row, example in enumerate(batches._joined._block(number // 8)[number % 8][1]):
            plan = batches._joined.sampler.plan(*divmod(example, len(batches._joined.sampler)))
            joins += len(plan.pauses)
            emotion, T = speech["emotion"][row], axes.num_speech_frames(int(speech["lengths"][row]))
            at = np.flatnonzero(np.diff(emotion[:T]) != 0)
            changes += len(at)
            high = np.flatnonzero(speech["boundary"][row] > 0.85)
            assert len(at) <= len(high) <= 3 * len(at)
            assert all(np.abs(high - t).min() <= 1 for t in at)
    assert 0.3 * joins < changes < 0.7 * joins


def test_levels_without_joins_come_from_the_record():
    made = [clip(i, "ann", "angry", 1.0, level=i % 3, level_scale="crema_d") for i in range(4)]
    made += [clip(i, "ann", "sad", 1.0) for i in range(4, 8)]
    config = PipelineConfig(batch_size=8, levels=True, gain_db=0.0)
    speech = batches_of(config, made)[0]["speech"]
    T = axes.num_speech_frames(16_000)
    for row in range(8):
        number = round(float(speech["waveform"][row, 0]) * 1000) - 1
        expected = (number % 3, list(LEVEL_SCALES).index("crema_d")) if number < 4 else (-1, -1)
        assert set(speech["level"][row, :T]) == {expected[0]} and set(speech["level_scale"][row, :T]) == {expected[1]}
        assert (speech["level"][row, T:] == -1).all()


def changing(number, first, second, share):
    """A clip that says `first` for a share of its time and `second` after that; its first and last frames are silence."""
    record = clip(number, "ann", first, 2.0)
    T = len(record["emotion"])
    change = int(share * T)
    record["emotion"][change:] = CANONICAL.index(second)
    record["emotion"][[0, -1]] = -1
    record["intensity"] = np.where(np.arange(T) < change, 0.2, 0.6).astype(np.float16)
    record["segments"] = [[0.0, 2.0 * share, first], [2.0 * share, 2.0, second]]
    return record


@pytest.mark.parametrize("share, commonest, strength", [(0.7, "sad", 0.2), (0.3, "happy", 0.6)])
def test_labels_of_the_utterance_are_its_commonest_one_in_every_frame_and_never_change(share, commonest, strength):
    record = changing(0, "sad", "happy", share)
    rng = np.random.default_rng(0)
    true, copied = (
        make_example(record, None, CANONICAL, PipelineConfig(label_granularity=kind), rng, training=False)
        for kind in ("frame", "utterance")
    )
    assert len(set(true["emotion"])) == 3 and true["boundary"].max() > 0.8
    assert set(copied["emotion"]) == {CANONICAL.index(commonest)} and not copied["boundary"].any()
    np.testing.assert_allclose(copied["intensity"], strength, atol=1e-3)
    assert copied["intensity_mask"].all()
    # A crop keeps the whole clip's label, also where the clip says something else.
    short = PipelineConfig(max_seconds=0.5, bucket_seconds=(0.5,), label_granularity="utterance")
    cropped = make_example(record, None, CANONICAL, short, rng, training=False)
    assert set(cropped["emotion"]) == {CANONICAL.index(commonest)}


def test_clips_of_several_emotions_can_be_left_out():
    made = [changing(i, "sad", "happy", 0.5) if i % 3 else clip(i, "ann", "sad", 1.0) for i in range(24)]
    config = PipelineConfig(batch_size=4, gain_db=0.0, one_emotion_only=True)
    for batch in iterate(batches_of(config, made, stop=6), config):
        numbers = np.round(batch["speech"]["waveform"][:, 0] * 1000).astype(int) - 1
        assert not (numbers % 3).any() and len(set(numbers.tolist())) == 4
    with pytest.raises(UserError, match="fewer training clips"):
        batches_of(PipelineConfig(batch_size=4, one_emotion_only=True), made[1:3])


def test_configs_of_plain_dicts_and_wrong_uses():
    config = PipelineConfig(joins={"join_shares": [0.5, 0.5], "augment": None})
    assert config.joins == JoinConfig(join_shares=(0.5, 0.5), augment=None)
    assert hash(config) == hash(PipelineConfig(joins={"join_shares": [0.5, 0.5], "augment": None}))
    with pytest.raises(ValueError, match="speech alone"):
        TrainBatches(ToyReader(toy_records()), object(), CANONICAL, JOINED, start=0, stop=1)
    with pytest.raises(UserError, match="fewer usable clips"):
        batches_of(PipelineConfig(batch_size=64, joins=JoinConfig()))
    with pytest.raises(ValueError, match="join_shares"):
        PipelineConfig(joins=JoinConfig(), one_emotion_only=True)
    with pytest.raises(ValueError, match="label_granularity"):
        PipelineConfig(label_granularity="word")
    with pytest.raises(ValueError, match="bucket_seconds"):
        PipelineConfig(max_seconds=4.0, bucket_seconds=(2.0,))


def test_reading_ahead_keeps_the_order():
    batches = batches_of(JOINED, stop=6)
    read = list(iterate(batches, JOINED))
    assert len(read) == 6
    for number, batch in enumerate(read):
        equal(batch["speech"], batches[number]["speech"])


BATCHES_OUTSIDE_OF_ABSL = """
import sys
import numpy as np
from tests.data.pipeline_test import CANONICAL, PipelineConfig, ToyReader, TrainBatches, iterate, toy_records

if __name__ == "__main__":
    sums = {}
    for workers in (0, 2):
        config = PipelineConfig(batch_size=4, seed=3, num_workers=workers, prefetch=2)
        batches = TrainBatches(ToyReader(toy_records()), None, CANONICAL, config, start=0, stop=5)
        sums[workers] = [float(np.abs(batch["speech"]["waveform"]).sum()) for batch in iterate(batches, config)]
    sys.exit(sums[0] != sums[2] or len(sums[0]) != 5)
"""


def test_worker_processes_need_no_program_of_absl(tmp_path):
    """Python programs call `train` without absl's app, which alone parses the flags that Grain's processes read."""
    script = tmp_path / "script.py"
    script.write_text(BATCHES_OUTSIDE_OF_ABSL)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
