"""The path from a reader to a record directory, with a small corpus of its own."""

import json
import shutil

import pytest

from sedtalker_jax import cli
from sedtalker_jax.data import building, prepare, records
from sedtalker_jax.errors import UserError
from tests.data import toy_corpus

NAMES = [f"s{speaker}_{take}" for speaker in range(4) for take in range(5)]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(prepare.READERS, "toy", toy_corpus.__name__)


@pytest.fixture
def root(tmp_path):
    return toy_corpus.write(tmp_path / "toy", NAMES)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def build(root, out, **choices):
    return prepare.prepare("toy", root, out, progress=False, clips_per_shard=4, **choices)


def test_records_hold_what_the_reader_gave_and_the_manifest_counts_it(root, tmp_path):
    manifest = build(root, tmp_path / "out")
    assert manifest == records.read_manifest(tmp_path / "out")
    assert {split: content["records"] for split, content in manifest["splits"].items()} == {"train": 10, "valid": 5, "test": 5}
    assert manifest["hours"] == pytest.approx(20 * 0.5 / 3600, abs=3e-4)
    train = manifest["splits"]["train"]
    assert train["speakers"] == {"s0": {"clips": 5, "seconds": 2.5}, "s3": {"clips": 5, "seconds": 2.5}}
    assert train["labels"] == {"neutral": {"clips": 10, "seconds": 5.0}} and train["frames"] == {"neutral": 240}
    assert manifest["skipped"] == {"known bad": {"count": 1, "clips": {"s9_9": "it is missing"}}}
    assert manifest["licence"]["name"] == "CC0-1.0" and manifest["seen"] == 20 and manifest["speaker_disjoint"]
    reader = records.RecordReader(tmp_path / "out", "train")
    assert [record["id"] for record in reader] == [name for name in NAMES if name[1] in "03"]
    assert reader[0]["corpus"] == "toy" and reader[0]["fps"] == 0.0 and reader[0]["fitted"] == 10
    index = reader.index()
    assert index.id.tolist() == [record["id"] for record in reader] and set(index.label) == {"neutral"}
    assert index.num_samples.tolist() == [8_000] * 10 and set(index.speaker) == {"s0", "s3"}
    hidden = [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    assert not hidden


def test_bytes_do_not_depend_on_the_number_of_workers(root, tmp_path):
    build(root, tmp_path / "one", workers=1)
    build(root, tmp_path / "three", workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_damaged_sound_is_left_out_counted_and_named(root, tmp_path):
    (root / "s0_2.wav").write_bytes(b"RIFF but no sound")
    (root / "s1_0.wav").write_bytes(b"")
    manifest = build(root, tmp_path / "out")
    damaged = manifest["skipped"]["damaged or unreadable"]
    assert damaged["count"] == 2 and set(damaged["clips"]) == {"s0_2", "s1_0"} and "s0_2.wav" in damaged["clips"]["s0_2"]
    assert manifest["splits"]["train"]["records"] == 9
    assert "s0_2" not in [record["id"] for record in records.RecordReader(tmp_path / "out", "train")]
    assert "2 damaged" in prepare.summary_line(manifest)


def test_an_interrupted_build_goes_on_and_gives_the_same_bytes(root, tmp_path, monkeypatch):
    build(root, tmp_path / "whole")
    write_shard, written = records.write_shard, []

    def dies_at_the_third(path, data):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        return write_shard(path, data)

    monkeypatch.setattr(building.records, "write_shard", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        build(root, tmp_path / "out")
    assert len(written) == 2 and not (tmp_path / "out" / records.MANIFEST).exists()
    with pytest.raises(UserError, match="no finished record directory"):
        records.RecordReader(tmp_path / "out", "train")
    (tmp_path / "out" / ".train-00000-of-00003.arrayrecord.1.part").write_bytes(b"of a process that was killed")
    kept = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in written}
    again = []
    monkeypatch.setattr(building.records, "write_shard", lambda path, data: again.append(path.name) or write_shard(path, data))
    build(root, tmp_path / "out")
    assert not set(again) & set(written)
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in written} == kept
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_worker_that_dies_ends_the_build_and_what_was_finished_is_kept(root, tmp_path):
    crashing = root / "s3_4.wav"
    whole = crashing.read_bytes()
    crashing.write_bytes(b"crash")
    with pytest.raises(UserError, match="a worker process died"):
        build(root, tmp_path / "out", workers=2)
    assert not (tmp_path / "out" / records.MANIFEST).exists()
    crashing.write_bytes(whole)
    build(root, tmp_path / "out", workers=2)
    build(root, tmp_path / "fresh", workers=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_an_interrupted_build_of_something_else_is_cleared(root, tmp_path, monkeypatch):
    write_shard = records.write_shard
    monkeypatch.setattr(building.records, "write_shard", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(root, tmp_path / "out", fold=1)
    assert (tmp_path / "out" / ".building.json").exists()
    monkeypatch.setattr(building.records, "write_shard", write_shard)
    (tmp_path / "out" / ".building.json").write_text('{"corp')  # the interruption came while this was written
    build(root, tmp_path / "out")
    build(root, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_finished_directory_is_kept_and_another_data_set_needs_overwrite(root, tmp_path):
    first = build(root, tmp_path / "out")
    shutil.move(root / "s0_0.wav", tmp_path / "s0_0.wav")
    with pytest.raises(UserError, match="holds another data set .its listing"):
        build(root, tmp_path / "out")
    with pytest.raises(UserError, match="holds another data set .its fold is 0, not 1"):
        build(root, tmp_path / "out", fold=1)
    shutil.move(tmp_path / "s0_0.wav", root / "s0_0.wav")
    assert build(root, tmp_path / "out") == first
    assert build(root, tmp_path / "out", fold=1, overwrite=True)["fold"] == 1
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        build(root, tmp_path / "full", overwrite=True)
    assert (tmp_path / "full" / "letter.txt").exists()


def test_repaired_sound_is_another_listing_and_overwrite_builds_again(root, tmp_path):
    out, sound = tmp_path / "out", root / "s0_2.wav"
    whole = sound.read_bytes()
    sound.write_bytes(b"RIFF but no sound")
    assert build(root, out)["skipped"]["damaged or unreadable"]["count"] == 1
    sound.write_bytes(whole)
    with pytest.raises(UserError, match="holds another data set .its listing"):
        build(root, out)
    manifest = build(root, out, overwrite=True)
    assert "damaged or unreadable" not in manifest["skipped"]
    # A repair that keeps the size shows in no listing; --overwrite reads all sound again nevertheless.
    first = records.RecordReader(out, "train")[0]["audio"].tobytes()
    other = root / "s3_1.wav"
    assert other.stat().st_size == (root / "s0_0.wav").stat().st_size
    (root / "s0_0.wav").write_bytes(other.read_bytes())
    assert build(root, out) == manifest
    build(root, out, overwrite=True)
    assert records.RecordReader(out, "train")[0]["audio"].tobytes() != first


def test_nothing_usable_says_why_and_another_start_tries_again(root, tmp_path):
    out, kept = tmp_path / "out", {}
    for name in NAMES:
        kept[name] = (root / f"{name}.wav").read_bytes()
        (root / f"{name}.wav").write_bytes(b"x" * len(kept[name]))  # of the same size, so that the listing stays
    with pytest.raises(UserError, match="no usable clip under .*left out: 20 damaged or unreadable"):
        build(root, out)
    assert not (out / records.MANIFEST).exists()
    for name, data in kept.items():
        (root / f"{name}.wav").write_bytes(data)
    assert sum(content["records"] for content in build(root, out)["splits"].values()) == 20


def test_commercial_licence_keeps_what_allows_it(root, tmp_path, monkeypatch):
    manifest = build(root, tmp_path / "out", licence="commercial")
    assert manifest["skipped"]["licence without commercial use"]["count"] == 5
    assert "s1" not in {record["speaker"] for record in records.RecordReader(tmp_path / "out", "train")}
    for name in NAMES:
        if name[1] != "1":
            (root / f"{name}.wav").unlink()
    with pytest.raises(UserError, match="leaves nothing of toy: its licence is CC0"):
        build(root, tmp_path / "none", licence="commercial")
    assert not (tmp_path / "none").exists()


def test_limit_spreads_over_the_splits(root, tmp_path):
    manifest = build(root, tmp_path / "out", limit=4)
    assert {split: content["records"] for split, content in manifest["splits"].items()} == {"train": 2, "valid": 1, "test": 1}


def test_a_reader_whose_speakers_cross_is_refused(root, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="speakers into several splits: s0, s1, s2, s3"):
        build(root, tmp_path / "out", options={"leak": "yes"})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--corpus", "toys"], "toys: unknown; the known ones are"),
        (["--root", "no/such"], "no/such: no such folder"),
        (["--fold", "2"], "folds 0 to 1"),
        (["--option", "whisper=yes"], "shout .yes: all clips are angry"),
        (["--workers", "0"], "--workers"),
        (["--limit", "0"], "--limit"),
        (["--root", "configs"], "expected sK_T.wav"),
        (["--out", "/proc/none/here"], "cannot write"),
    ],
)
def test_mistakes_give_one_line_and_code_2(root, tmp_path, arguments, named, capsys):
    given = {"--corpus": "toy", "--root": str(root), "--out": str(tmp_path / "out"), **dict([arguments])}
    assert cli.main(["prepare", *[part for pair in given.items() for part in pair], "--quiet"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "Traceback" not in message
    import re

    assert re.search(named, message), message
    assert not (tmp_path / "out").exists()


def test_the_command_prints_what_it_made(root, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["prepare", "--corpus", "toy", "--root", str(root), "--out", str(out), "--workers", "1"]
    assert cli.main([*command, "--option", "shout=yes", "--quiet"]) == 0
    assert "train 10, valid 5, test 5" in capsys.readouterr().out
    assert json.loads((out / records.MANIFEST).read_text())["options"] == {"leak": "no", "shout": "yes"}
    assert cli.main(["prepare", "--corpus", "help"]) == 0
    described = capsys.readouterr().out
    assert "licence CC0-1.0, commercial use allowed; 2 folds" in described
    assert "ravdess      RAVDESS: 24 actors" in described and "--option calm=leave-out" in described


def test_every_registered_reader_loads_and_describes_itself():
    for name in prepare.READERS:
        corpus = prepare.load_corpus(name)
        assert corpus.name == name and corpus.licence.name and corpus.licence.source
