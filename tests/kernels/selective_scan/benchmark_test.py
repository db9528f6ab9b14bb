"""The benchmark measures what it says: every contestant, in the same problem, against the best baseline."""

import json
import sys

import pytest

from kernels.selective_scan import benchmark


def test_contestants_take_turns_in_processes_of_their_own(tmp_path, capsys):
    flags = ["--specs", "tiny", "--modes", "forward", "--implementations", "default,plain_scan,associative", "--rounds", "2"]
    rows = benchmark.main([*flags, "--out", str(tmp_path / "cpu")])
    assert [row["implementation"] for row in rows] == ["default", "plain_scan", "associative"]
    best = min(row["median_ms"] for row in rows[1:])
    for row in rows:
        # Two turns; calls of a problem this small fill each of them many times over.
        assert row["calls"] > 2 and 0 < row["min_ms"] <= row["median_ms"]
        assert row["speedup_over_best_baseline"] == pytest.approx(best / row["median_ms"])
    assert json.loads((tmp_path / "cpu.json").read_text())["rows"] == json.loads(json.dumps(rows))
    assert (tmp_path / "cpu.png").stat().st_size > 0
    assert capsys.readouterr().out.count("tiny") == len(rows)


def test_without_matplotlib_the_numbers_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    benchmark.write([], tmp_path / "cuda")
    assert json.loads((tmp_path / "cuda.json").read_text())["rows"] == []
    assert "no matplotlib" in capsys.readouterr().err and not (tmp_path / "cuda.png").exists()


def test_a_form_that_would_store_too_many_states_is_left_out(monkeypatch, capfd):
    monkeypatch.setattr(benchmark, "_Process", benchmark._InProcess)
    monkeypatch.setattr(benchmark, "STORED_STATES_LIMIT", 1.0)
    flags = ["--specs", "tiny", "--modes", "forward_backward", "--implementations", "default,plain_scan", "--rounds", "1"]
    assert [row["implementation"] for row in benchmark.main(flags)] == ["default"]
    assert "plain_scan skipped" in capfd.readouterr().err


@pytest.mark.parametrize("flags", [["--specs", "no-such"], ["--implementations", "no-such"]])
def test_a_name_that_is_none_ends_with_one_line(flags, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(flags)
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "no-such" in message and "known:" in message
