"""Several record directories as one."""

import pickle

import numpy as np
import pytest

from sedtalker_jax.data import mixing, prepare, records
from sedtalker_jax.data.corpora.corpus import Choices
from sedtalker_jax.errors import UserError
from tests.data.corpora.layouts import LAYOUTS


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    base = tmp_path_factory.mktemp("mixed")
    made = []
    for name in ("savee", "tess"):
        (base / name).mkdir()
        LAYOUTS[name](base / name)
        prepare.prepare(name, base / name, base / f"{name}-records", progress=False)
        made.append(base / f"{name}-records")
    return made


def test_records_follow_one_another(directories):
    parts = [records.RecordReader(directory, "train") for directory in directories]
    mixed = pickle.loads(pickle.dumps(mixing.open_records(directories, "train")))
    assert len(mixed) == sum(map(len, parts))
    wanted = [record["id"] for part in parts for record in part]
    assert [mixed[i]["id"] for i in range(len(mixed))] == wanted == [record["id"] for record in mixed]
    assert mixed.read_bytes(len(parts[0])) == parts[1].read_bytes(0)
    index = mixed.index()
    assert index.id.tolist() == wanted and set(index.corpus) == {"savee", "tess"}
    for row in (0, len(mixed) - 1):
        assert index.num_samples[row] == len(mixed[row]["waveform"])
        assert index.label[row] == mixed[row]["label"]
    with pytest.raises(IndexError):
        mixed[len(mixed)]


def test_the_stored_index_is_what_the_records_say(directories):
    reader = records.RecordReader(directories[0], "train")
    stored = reader.index()
    (directories[0] / "train.index.npz").rename(directories[0] / "aside")
    try:
        read = records.RecordReader(directories[0], "train").index()
        for column in ("id", "corpus", "speaker", "session", "label", "num_samples", "start", "stop", "loudness_db"):
            np.testing.assert_array_equal(getattr(stored, column), getattr(read, column))
        (directories[0] / "train.index.npz").write_bytes(b"half")
        with pytest.raises(UserError, match="train.index.npz: missing or damaged"):
            reader.index()
    finally:
        (directories[0] / "aside").rename(directories[0] / "train.index.npz")


def test_splits_that_a_corpus_lacks_add_nothing(directories):
    valid = mixing.open_records(directories, "valid")
    assert {record["corpus"] for record in valid} == {"savee"}, "TESS has nobody to validate on"
    with pytest.raises(UserError, match="no records of split 'dev'"):
        mixing.MixedReader(directories, "dev")
    counts = {split: mixing.num_records(directories, split) for split in ("train", "valid", "dev")}
    assert counts == {"train": len(mixing.open_records(directories, "train")), "valid": len(valid), "dev": 0}
    assert not mixing.num_records(directories[1:], "valid")


def test_manifests_add_up(directories):
    parts = [records.read_manifest(directory) for directory in directories]
    merged = mixing.merge_manifests(parts)
    train = merged["splits"]["train"]
    assert train["records"] == sum(part["splits"]["train"]["records"] for part in parts)
    both = sum(part["splits"]["train"]["frames"]["angry"] for part in parts)
    assert train["frames"]["angry"] == both and merged["corpora"] == ["savee", "tess"]
    assert "savee/JK" not in train["speakers"] and {"savee/JE", "tess/OAF"} <= set(train["speakers"])


def test_one_corpus_is_held_out_whole(directories):
    train, test = mixing.hold_out(directories, "tess")
    assert train == [str(directories[0])] and test == [str(directories[1])]
    every = mixing.every_record(test)
    assert every[len(every) - 1]["id"] == list(every)[-1]["id"]
    counts = records.read_manifest(directories[1])["splits"]
    assert len({r["id"] for r in every}) == sum(split["records"] for split in counts.values()) == len(every)
    assert {r["corpus"] for r in every} == {"tess"} and {r["split"] for r in every} == {
        name for name, split in counts.items() if split["records"]
    }
    with pytest.raises(UserError, match="no directory holds 'meld' to leave out; there are savee, tess"):
        mixing.hold_out(directories, "meld")
    with pytest.raises(UserError, match="nothing to train on"):
        mixing.hold_out(directories[:1], "savee")


def test_readers_keep_their_listing_free_of_sound(directories, tmp_path):
    """Listing a corpus of any size must not decode it: files without sound are listed all the same."""
    (tmp_path / "AudioData" / "KL").mkdir(parents=True)
    (tmp_path / "AudioData" / "KL" / "a01.wav").write_bytes(b"")
    listing = prepare.load_corpus("savee").list_clips(tmp_path, Choices())
    assert [clip.id for clip in listing.clips] == ["KL_a01"]


def test_the_identity_is_that_of_the_choices_and_not_of_the_place(tmp_path):
    content = {"corpus": "ravdess", "fold": 0, "licence_filter": "any", "options": {}, "listing": "a1", "splits": {}}

    def identity(name, **changes):
        (tmp_path / name).mkdir()
        records.write_json(tmp_path / name / "manifest.json", {**content, **changes})
        return mixing.record_identity(tmp_path / name)

    first = identity("one")
    assert first.startswith("ravdess ") and identity("two", clips_per_shard=7, hours=3.5) == first
    others = [identity(f"other-{i}", **change) for i, change in enumerate([{"fold": 1}, {"listing": "b2"}, {"limit": 5}])]
    assert len({first, *others}) == 4
    world = {"corpus": None, "world": "world-a", "world_hash": "abc", "subset": "demo", "size": {"clips": 3}}
    named = identity("three", **world)
    assert named.startswith("world-a-demo ")
    assert identity("four", **{**world, "size": {"clips": 4}}) != named, "a world's hash does not cover the sizes of subsets"
