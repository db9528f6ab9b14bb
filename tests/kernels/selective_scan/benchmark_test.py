"""The benchmark, the autotuner and the roofline on problems of a few milliseconds."""

import json

import pytest

from kernels.selective_scan import arg_specs, autotune, benchmark, roofline


def test_benchmark_writes_rows_and_a_plot(tmp_path, capsys):
    out = tmp_path / "scan"
    rows = benchmark.main(
        ["--specs", "tiny", "--rounds", "3", "--modes", "forward", "--implementations", "default,plain_scan", "--out", str(out)]
    )
    assert [r["implementation"] for r in rows] == ["default", "plain_scan"]
    assert json.loads((tmp_path / "scan.json").read_text())["rows"] == [r | {"shape": list(r["shape"])} for r in rows]
    assert (tmp_path / "scan.png").stat().st_size > 1000
    assert rows[1]["speedup_over_best_baseline"] == 1.0
    assert not list(tmp_path.glob("*part*"))


@pytest.mark.parametrize("arguments", [["--specs", "nothing"], ["--implementations", "nothing"]])
def test_benchmark_refuses_unknown_names(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(arguments)
    assert stop.value.code == 2
    assert "nothing" in capsys.readouterr().err


def test_autotune_orders_the_candidates_that_differ(monkeypatch):
    monkeypatch.setattr(autotune, "CHUNKS", (8, 32))
    monkeypatch.setattr(autotune, "TIME_SPLITS", (1, 2))
    found = autotune.autotune(arg_specs.named("plain"), "chunked", backward=False, rounds=2)
    assert {(c.chunk, c.time_splits) for _, c in found} == {(8, 1), (8, 2), (32, 1)}
    assert found == sorted(found, key=lambda pair: pair[0])


def test_roofline_counts_the_study_problem():
    # 33.6 M elements of [B, L, E], 16 exponentials and two for each of softplus and gate: 671 M.
    work = roofline.work(arg_specs.named("study"), backward=False)
    assert work.special_functions == 8 * 2048 * 2048 * 20
    assert roofline.bound(work, roofline.device_named("NVIDIA H200"))[0] == "special"
    assert roofline.device_named("TPU v5 lite").name == "TPU v5e"
    assert roofline.device_named("cpu") is None
