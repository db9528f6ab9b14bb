"""The device check on a device that every machine has: what is wrong or left out is said, and the exit code tells."""

import json

import pytest

from kernels.selective_scan import arg_specs, autotune, benchmark, device_check
from kernels.selective_scan.arguments import ScanConfig


@pytest.fixture
def quick(monkeypatch):
    """One contract problem; timings are made up, the correctness is not."""
    monkeypatch.setattr(arg_specs, "CONTRACT", (arg_specs.named("tiny"),))
    monkeypatch.setattr(autotune, "autotune", lambda spec, implementation: [(1e-3, ScanConfig(chunk=32))])
    monkeypatch.setattr(benchmark, "write", lambda rows, out: out.with_name("benchmark.json").write_text(json.dumps(rows)))
    measured = []

    def measure(spec, mode, names, *, rounds, seconds):
        measured.append((spec.name, spec.dtype, mode))
        return [{"implementation": name} for name in names if name != "mamba_ssm"]

    monkeypatch.setattr(benchmark, "measure", measure)
    return measured


def test_everything_is_checked_timed_and_tuned(quick, tmp_path, capsys):
    assert device_check.main(["--out", str(tmp_path), "--specs", "demo"]) == 0
    errors = json.loads((tmp_path / "errors.json").read_text())["tiny"]["chunked"]
    assert {"y", "final_state", "d u", "d A", "d C", "d delta_bias"} <= errors.keys()
    assert 0 < max(errors.values()) < 1e-5
    assert quick == [("demo", d, m) for d in ("float32", "bfloat16") for m in benchmark.MODES]
    assert json.loads((tmp_path / "tuning.json").read_text())["demo"][0]["chunk"] == 32
    assert "left out: nothing\nwrong: nothing\n" in capsys.readouterr().out


@pytest.mark.parametrize("error", [RuntimeError("no such instruction"), None])
def test_a_wrong_or_failing_kernel_is_named_and_the_rest_goes_on(quick, tmp_path, monkeypatch, capsys, error):
    def broken(spec, implementation):
        if implementation == "pallas_gpu":
            if error is not None:
                raise error
            return {"y": 1e-9, "d A": float("nan")}
        return {"y": 1e-9}

    monkeypatch.setitem(device_check.KERNELS, "cpu", "pallas_gpu")
    monkeypatch.setattr(device_check, "relative_errors", broken)
    assert device_check.main(["--out", str(tmp_path), "--specs", "demo"]) == 1
    out = capsys.readouterr().out
    assert "WRONG  pallas_gpu" in out and "right  chunked" in out and "wrong: pallas_gpu tiny\n" in out
    assert len(quick) == 4


def test_the_kernel_is_checked_when_all_else_has_been(quick, tmp_path, monkeypatch):
    # After an illegal access every call of the process fails.
    called = []
    monkeypatch.setitem(device_check.KERNELS, "cpu", "pallas_gpu")
    monkeypatch.setattr(arg_specs, "CONTRACT", (arg_specs.named("tiny"), arg_specs.named("demo")))
    monkeypatch.setattr(device_check, "relative_errors", lambda spec, name: called.append((name, spec.name)) or {"y": 1e-9})
    assert device_check.main(["--out", str(tmp_path), "--specs", "demo"]) == 0
    assert called == [(name, spec) for name in ("chunked", "pallas_gpu") for spec in ("tiny", "demo")]


def test_a_problem_that_fails_while_it_is_timed_is_named_and_the_others_are_timed(quick, tmp_path, monkeypatch, capsys):
    measure = benchmark.measure

    def failing(spec, mode, names, **limits):
        if (spec.dtype, mode) == ("float32", "forward_backward"):
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")
        return measure(spec, mode, names, **limits)

    monkeypatch.setattr(benchmark, "measure", failing)
    assert device_check.main(["--out", str(tmp_path), "--specs", "demo"]) == 1
    printed = capsys.readouterr()
    assert "wrong: timing demo float32 forward_backward\n" in printed.out and "OUT_OF_MEMORY" in printed.err
    assert len(quick) == 3 and (tmp_path / "tuning.json").exists()


@pytest.mark.parametrize("error", [ValueError("no configuration runs"), NotImplementedError("no such layout")])
def test_a_problem_that_cannot_be_tuned_is_named_and_the_others_are_tuned(quick, tmp_path, monkeypatch, capsys, error):
    tune = autotune.autotune

    def nothing_runs(spec, implementation):
        if spec.name == "demo":
            raise error
        return tune(spec, implementation)

    monkeypatch.setattr(autotune, "autotune", nothing_runs)
    assert device_check.main(["--out", str(tmp_path), "--specs", "demo,cpu"]) == 1
    assert "wrong: tuning demo\n" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "tuning.json").read_text())) == ["cpu"]


def test_nothing_is_begun_after_the_time_and_what_is_missing_is_said(quick, tmp_path, capsys):
    assert device_check.main(["--out", str(tmp_path), "--specs", "demo", "--minutes", "0"]) == 0
    assert quick == [] and not (tmp_path / "tuning.json").exists()
    assert "left out: demo float32 forward, " in capsys.readouterr().out


def test_an_unknown_problem_ends_with_one_line(tmp_path, capsys):
    assert device_check.main(["--out", str(tmp_path), "--specs", "no-such"]) == 2
    assert "no-such" in capsys.readouterr().err
