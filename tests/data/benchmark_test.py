import json

import numpy as np

from sedtalker_jax.data import benchmark, records
from sedtalker_jax.data.joins import JoinConfig
from sedtalker_jax.data.pipeline import PipelineConfig


def test_the_benchmark_measures_joined_batches_and_its_parts(tmp_path, capsys):
    assert benchmark.main(["--batches", "2", "--batch-size", "4", "--json", str(tmp_path / "speed.json")]) == 0
    found = json.loads((tmp_path / "speed.json").read_text())
    speed = found["times_real_time"]
    assert set(speed) == {"pipeline", "decode", "join", "augment", "batch"} and all(value > 1 for value in speed.values())
    assert speed["pipeline"] < speed["decode"], "the whole takes longer than a part of it"
    assert found["pieces_per_example"] > 1.5 and found["records"] == 96 and 0 <= found["padding"] < 0.6
    assert "x real time per core" in capsys.readouterr().out


def test_prepared_records_can_be_measured_and_a_wrong_directory_is_named(tmp_path, capsys):
    benchmark.write_corpus(tmp_path)
    reader = records.RecordReader(tmp_path, "train")
    assert len(reader) == 96 and np.abs(reader[0]["waveform"]).max() < 1
    config = PipelineConfig(batch_size=2, joins=JoinConfig(augment=None))
    assert "augment" not in benchmark.run([tmp_path], 1, config)["times_real_time"]
    assert benchmark.main(["--records", str(tmp_path / "none")]) == 2
    assert "no finished record directory" in capsys.readouterr().err
