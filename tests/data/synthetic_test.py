import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sedtalker_jax import axes
from sedtalker_jax.data import records, synthetic
from sedtalker_jax.data.world import clock, frozen
from sedtalker_jax.data.world.clip import World, make_record, plan_clip, speak
from sedtalker_jax.data.world.flite_server import find_library
from sedtalker_jax.data.world.oracle import FaceOracle, stretch
from sedtalker_jax.data.world.rules import load_rules, parse_rules
from sedtalker_jax.emotion.labels import CANONICAL
from sedtalker_jax.errors import UserError

pytest.importorskip("espeakng_loader", reason="the world speaks with espeakng-loader (requirements-world.txt)")

RULES = load_rules("configs/world_rules.toml")
RULES_B = load_rules("configs/world_b_rules.toml")
needs_flite = pytest.mark.skipif(find_library("flite") is None, reason="Flite is missing: apt-get install flite")


def contents(directory):
    manifest = records.read_manifest(directory)
    shards = [shard["file"] for content in manifest["splits"].values() for shard in content["shards"]]
    return {name: (Path(directory) / name).read_bytes() for name in [*shards, records.MANIFEST, records.FACE_SPACE]}


@pytest.fixture(scope="module", params=[pytest.param(RULES, id="a"), pytest.param(RULES_B, id="b", marks=needs_flite)])
def rules(request):
    return request.param


@pytest.fixture(scope="module")
def built(rules, request, tmp_path_factory):
    """The smallest world, made by two processes."""
    if rules is RULES:
        return request.getfixturevalue("tiny_world")
    out = tmp_path_factory.mktemp("world") / "two"
    synthetic.build(rules, out, "tiny", workers=2, progress=False)
    return out


@pytest.fixture(scope="module")
def world(rules, built):
    world = World(rules, "tiny")
    world.faces.load_space(built / records.FACE_SPACE)
    yield world
    world.close()


@pytest.mark.parametrize("workers", [1, 4])
def test_bytes_do_not_depend_on_workers(rules, built, tmp_path, workers):
    synthetic.build(rules, tmp_path / "again", "tiny", workers=workers, progress=False)
    assert contents(tmp_path / "again") == contents(built)
    assert {path.name for path in (tmp_path / "again").iterdir()} == set(contents(built))


def test_bytes_survive_a_kill_and_a_second_start(rules, built, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "sedtalker_jax.data.synthetic", "--rules", rules.path, "--out", str(out), "--quiet"]
    process = subprocess.Popen([*command, "--subset", "tiny", "--workers", "1"], start_new_session=True)
    shard = records.read_manifest(built)["splits"]["train"]["shards"][0]["file"]
    first = out / f".{shard}.json"
    deadline = time.monotonic() + 120
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / records.MANIFEST).exists()
    written = (out / shard).stat().st_mtime_ns
    synthetic.build(rules, out, "tiny", workers=2, progress=False)
    assert (out / shard).stat().st_mtime_ns == written, "a finished shard was made again"
    assert contents(out) == contents(built)


def test_the_clips_are_the_frozen_ones(rules, built):
    """The bytes that numbers were published with; on another kind of processor, the same to within rounding."""
    wanted = frozen.references()[rules["name"]]["clips"]
    assert len(wanted) == sum(rules["subsets"]["tiny"]["clips"].values())
    problems, _ = frozen.differences(frozen.clip_references(built), wanted)
    assert not problems, problems


def test_a_clip_does_not_depend_on_what_was_made_before(built, world):
    stored = records.RecordReader(built, "train").read_bytes(5)
    for index in (3, 5, 5):
        data = records.encode_record(make_record(world, speak(world, plan_clip(world, "train", index))))
        assert (data == stored) == (index == 5)


def test_records_hold_what_the_format_says(rules, built):
    space = np.load(built / records.FACE_SPACE)
    rank, num_vertices = len(space["basis"]), space["templates"].shape[1]
    np.testing.assert_allclose(space["basis"] @ space["basis"].T, np.eye(rank), atol=1e-4)
    assert space["basis"].shape == (rank, 3 * num_vertices)
    for split, count in rules["subsets"]["tiny"]["clips"].items():
        reader = records.RecordReader(built, split)
        assert len(reader) == count
        for record in reader:
            num_samples = record["num_samples"]
            num_speech = axes.num_speech_frames(num_samples)
            num_frames = axes.num_animation_frames(num_samples, record["fps"])
            assert record["split"] == split and record["labels"] == list(CANONICAL)
            assert record["waveform"].shape == (num_samples,) and np.abs(record["waveform"]).max() > 0.01
            assert record["emotion"].shape == record["intensity"].shape == (num_speech,)
            assert record["motion"].shape == (num_frames, rank)
            assert record["activation"].shape == (num_frames, 7)
            assert record["rig"].shape[0] == num_frames and np.isfinite(record["rig"]).all()
            assert record["template"] in space["template_names"]
            assert record["prosody"]["frames"].shape == (num_speech, len(record["prosody"]["names"]))
            ends = [end for _, end, _ in record["segments"]]
            starts = [start for start, _, _ in record["segments"]]
            assert all(a <= b + 1e-9 for a, b in zip(ends[:-1], starts[1:], strict=True))
            assert 1.5 < num_samples / 16_000 < 10.0


def test_frames_agree_with_segments(built):
    for record in records.RecordReader(built, "train"):
        times = clock.speech_frame_times(len(record["emotion"]))
        for time_s, label in zip(times, record["emotion"], strict=True):
            inside = [name for start, end, name in record["segments"] if start + 0.002 < time_s < end - 0.002]
            if label >= 0 and inside:
                assert inside == [CANONICAL[label]]


def test_motion_is_the_rig_in_the_face_space(built, world):
    for split in ("train", "test"):
        record = records.RecordReader(built, split)[0]
        exact = world.faces.displacements(*world.faces.find_head(record["template"]), record["rig"].astype(np.float32))
        shown = world.faces.space.displacements(record["motion"].astype(np.float32))
        assert np.sqrt(((exact - shown) ** 2).sum(-1).mean()) < 0.2e-3
        assert np.sqrt((exact**2).sum(-1).mean()) > 1e-3


def test_splits_share_nothing(built):
    seen = {}
    for split in ("train", "valid", "test"):
        for record in records.RecordReader(built, split, decode_audio=False):
            for kind in ("speaker", "template"):
                assert seen.setdefault((kind, record[kind]), split) == split
            for sentence in record["sentence"].replace("?", ".").split("."):
                if sentence.strip():
                    assert seen.setdefault(("sentence", sentence.strip()), split) == split
    seeds = np.load(built / records.FACE_SPACE)["head_seeds"]
    assert len(set(seeds.tolist())) == len(seeds)


def test_lips_close_on_p_b_m(rules, built):
    closed = opened = 0
    oracle = FaceOracle(rules, "tiny")
    for record in records.RecordReader(built, "train", decode_audio=False):
        vertices = oracle.vertices(record["rig"].astype(np.float32), record["template"])
        marks = oracle.faces.head(*oracle.faces.find_head(record["template"])).landmarks
        gap = np.linalg.norm(vertices[:, marks["upper_inner_lip"]] - vertices[:, marks["lower_inner_lip"]], axis=-1)
        for symbol, start, end in record["phonemes"]:
            frames = gap[int(np.ceil(start * 30)) : int(end * 30) + 1]
            if len(frames):
                if symbol in ("p", "b", "m"):
                    closed += frames.min() < 0.3 * np.median(gap)
                    opened += 1
    assert opened > 20
    assert closed / opened > 0.6


def test_the_oracle_repeats_a_record_and_renders_swaps(built):
    oracle = FaceOracle.from_directory(built)
    reader = records.RecordReader(built, "test", decode_audio=False)
    one, other = reader[0], reader[1]
    again = oracle.rig(one, one["activation"])
    np.testing.assert_array_equal(again.astype(np.float16), one["rig"])
    np.testing.assert_array_equal(oracle.coefficients(again, one["template"]).astype(np.float16), one["motion"])
    swapped = oracle.render_pair(one, other)
    assert swapped.shape == (len(one["motion"]), oracle.faces.head("test", 0).template.num_vertices, 3)
    expected = oracle.rig(one, stretch(other["activation"], len(one["motion"])))
    np.testing.assert_array_equal(swapped, oracle.vertices(expected, one["template"]))
    still = oracle.render_schedule(one, lambda times: np.zeros((len(times), 7)))
    neutral = oracle.vertices(oracle.rig(one, np.zeros((len(one["motion"]), 7))), one["template"])
    np.testing.assert_array_equal(still, neutral)
    with pytest.raises(UserError, match="no head 'nobody'"):
        oracle.vertices(again, "nobody")


def test_speech_and_expression_do_not_add(rules, built):
    """The best additive model of the rig's motion leaves more than a tenth of the expression's energy at the mouth."""
    oracle = FaceOracle(rules, "tiny")
    record = records.RecordReader(built, "train", decode_audio=False)[0]
    num_frames = len(record["motion"])
    mouth = oracle.faces.head("train", 0).template.regions["mouth"]
    moved = []
    for emotion in range(-1, 7):
        activation = np.zeros((num_frames, 7))
        if emotion >= 0:
            activation[:, emotion] = 0.9
        moved.append(oracle.vertices(oracle.rig(record, activation), record["template"])[:, mouth])
    moved = np.stack(moved)  # [K, F, mouth vertices, 3]
    mean = moved.mean(axis=(0, 1), keepdims=True)
    speech, expression = moved.mean(0, keepdims=True) - mean, moved.mean(1, keepdims=True) - mean
    residual = moved - mean - speech - expression
    assert (residual**2).sum() > 0.10 * (expression**2).sum() * num_frames


def test_another_rules_file_makes_another_world(tmp_path):
    text = RULES.text
    for old, new in (
        ("seed = 20260701", "seed = 7"),
        ("train = 12, valid = 4, test = 4", "train = 3, valid = 1, test = 1"),
        ("fps = 30.0", "fps = 25.0"),
        ("rank = 64", "rank = 24"),
    ):
        assert old in text
        text = text.replace(old, new)
    other = parse_rules(text)
    manifest = synthetic.build(other, tmp_path / "b", "tiny", workers=1, progress=False)
    assert manifest["world_hash"] != RULES.world_hash
    record = records.RecordReader(tmp_path / "b", "train")[0]
    assert record["fps"] == 25.0 and record["motion"].shape[1] == 24
    with pytest.raises(UserError, match="another world"):
        synthetic.build(RULES, tmp_path / "b", "tiny", workers=1, progress=False)
    with pytest.raises(UserError, match="built-in world|this code makes"):
        records.write_json(tmp_path / "b" / records.MANIFEST, {**manifest, "world_hash": "0" * 16})
        FaceOracle.from_directory(tmp_path / "b")


def test_a_finished_world_is_not_built_again(rules, built):
    before = contents(built)
    assert synthetic.build(rules, built, "tiny", workers=1, progress=False)["subset"] == "tiny"
    assert contents(built) == before


def test_a_subset_of_another_size_is_another_data_set(tmp_path):
    """Voices take turns, so that a clip of a larger subset is another clip under the same name."""
    text = RULES.text
    for size, wanted in (("train = 4, valid = 2, test = 2", "train = 5, valid = 2, test = 2"), ("train = 12,", "train = 13,")):
        assert size in text
        larger = parse_rules(text.replace(size, wanted))
        assert larger.world_hash == RULES.world_hash
        directory = tmp_path / wanted[:10]
        directory.mkdir()
        records.write_json(
            directory / records.MANIFEST,
            {"world": RULES["name"], "world_hash": RULES.world_hash, "subset": "tiny", "size": RULES["subsets"]["tiny"]},
        )
        assert synthetic.build(RULES, directory, "tiny", progress=False)["size"] == RULES["subsets"]["tiny"]
        with pytest.raises(UserError, match="another world or subset"):
            synthetic.build(larger, directory, "tiny", progress=False)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--rules", "no.toml", "--out", "x"], "no.toml"),
        (["--out", "x", "--subset", "huge"], "huge"),
        (["--out", "x", "--workers", "0"], "workers"),
        (["--out", "/proc/none/here"], "cannot write"),
        (["--out", "configs"], "not empty"),
    ],
)
def test_mistakes_give_one_line_and_code_2(arguments, named, capsys):
    assert synthetic.main([*arguments, "--quiet"]) == 2
    message = capsys.readouterr().err
    assert named in message and message.count("\n") == 1 and "Traceback" not in message
    assert not Path("x").exists()


def test_clocks_agree_with_the_axes():
    for num_samples in (0, 399, 400, 719, 720, 16_000, 96_001):
        assert clock.num_speech_frames(num_samples) == axes.num_speech_frames(num_samples)
        assert clock.num_animation_frames(num_samples, 30.0) == axes.num_animation_frames(num_samples, 30.0)
    np.testing.assert_array_equal(clock.speech_frame_times(50), axes.speech_frame_times(50))
    assert (clock.SAMPLE_RATE, clock.FRAME_HOP, clock.FRAME_WINDOW) == (axes.SAMPLE_RATE, axes.FRAME_HOP, axes.FRAME_WINDOW)
