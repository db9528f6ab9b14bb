import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from sedtalker_jax.data import records
from sedtalker_jax.data.world.clip import encode_flac
from sedtalker_jax.errors import UserError


def example(index=0):
    rng = np.random.default_rng(index)
    return {
        "id": f"clip-{index}",
        "audio": encode_flac(rng.uniform(-0.5, 0.5, 1600).astype(np.float32)),
        "emotion": rng.integers(-1, 8, 5).astype(np.int8),
        "motion": rng.normal(size=(3, 4)).astype(np.float16),
        "segments": [[0.0, 0.5, "happy"]],
        "prosody": {"frames": rng.normal(size=(5, 2))},
        "fps": 30.0,
    }


def directory_with(tmp_path, counts):
    splits = {}
    for split, shards in counts.items():
        entries, index = [], 0
        for shard, count in enumerate(shards):
            name = records.shard_name(split, shard, len(shards))
            data = (records.encode_record(example(index + i)) for i in range(count))
            entries.append({"file": name, **records.write_shard(tmp_path / name, data)})
            index += count
        splits[split] = {"shards": entries}
    records.write_json(tmp_path / records.MANIFEST, {"splits": splits})
    return tmp_path


def test_a_record_survives_the_round_trip():
    record = example()
    back = records.read_record(records.encode_record(record))
    assert back["id"] == record["id"] and back["segments"] == record["segments"] and back["fps"] == 30.0
    for name in ("audio", "emotion", "motion"):
        assert back[name].dtype == record[name].dtype
        np.testing.assert_array_equal(back[name], record[name])
    np.testing.assert_array_equal(back["prosody"]["frames"], record["prosody"]["frames"])


def test_arrays_are_stored_little_endian_and_contiguous():
    swapped = {"x": np.arange(6, dtype=">f4").reshape(2, 3)[:, ::2]}
    back = records.read_record(records.encode_record(swapped))
    np.testing.assert_array_equal(back["x"], [[0, 2], [3, 5]])
    assert records.encode_record(swapped) == records.encode_record({"x": np.array([[0, 2], [3, 5]], dtype="<f4")})


def test_audio_survives_within_half_a_step_of_16_bits():
    waveform = np.random.default_rng(0).uniform(-0.9, 0.9, 4000).astype(np.float32)
    back = records.decode_flac(encode_flac(waveform))
    assert back.dtype == np.float32 and back.shape == waveform.shape
    assert np.abs(back - waveform).max() <= 1.01 / 32768


def test_random_access_over_shards(tmp_path):
    reader = records.RecordReader(directory_with(tmp_path, {"train": [3, 2]}), "train")
    assert len(reader) == 5
    assert [reader[i]["id"] for i in (4, 0, 3)] == ["clip-4", "clip-0", "clip-3"]
    assert reader[1]["waveform"].shape == (1600,)
    assert [record["id"] for record in reader] == [f"clip-{i}" for i in range(5)]
    again = pickle.loads(pickle.dumps(reader))
    assert again[2]["id"] == "clip-2"
    with pytest.raises(IndexError):
        reader[5]


def test_a_failing_writer_leaves_the_old_shard(tmp_path):
    path = tmp_path / "train-00000-of-00001.arrayrecord"
    records.write_shard(path, [records.encode_record(example())])
    before = path.read_bytes()

    def broken():
        yield records.encode_record(example(1))
        raise RuntimeError("the source ended")

    with pytest.raises(RuntimeError):
        records.write_shard(path, broken())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(UserError, match="no finished record directory"):
        records.RecordReader(tmp_path, "train")
    directory_with(tmp_path, {"train": [1]})
    with pytest.raises(UserError, match="no split 'test'"):
        records.RecordReader(tmp_path, "test")
    with pytest.raises(UserError, match="not a record"):
        records.read_record(b"\xc1 no record")
    (tmp_path / "train-00000-of-00001.arrayrecord").unlink()
    with pytest.raises(UserError, match="is missing"):
        records.RecordReader(tmp_path, "train")
    (tmp_path / records.MANIFEST).write_text(json.dumps({"splits": {}})[:-1])
    with pytest.raises(UserError, match="damaged"):
        records.read_manifest(tmp_path)


def test_reading_records_does_not_import_jax():
    code = "import sys; import sedtalker_jax.data.records, sedtalker_jax.data.world.clip; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
