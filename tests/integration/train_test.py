"""Whole runs of train.py: resuming after kill -9 and after SIGTERM, on one and on four devices; clear errors."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from sedtalker_jax.training.checkpoint import FITTED_AFTERWARDS

STEPS = 7


def start(workdir, world, *, devices=1, extra=()):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = dict(os.environ, JAX_PLATFORMS="cpu", XLA_FLAGS=flags)
    command = [sys.executable, "train.py", "--config=configs/demo.py:smoke", f"--workdir={workdir}"]
    command += [f"--config.data.directory={world}", f"--config.num_steps={STEPS}", "--config.checkpoint.every_steps=2", *extra]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    return output


def series(workdir):
    """step -> every training number that does not depend on the clock."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = {}
    for line in lines:
        numbers = {name: value for name, value in line.items() if name.startswith(("train/", "valid/"))}
        found.setdefault(line["step"], {}).update(numbers)
    return found


def wait_for_step(workdir, process, step):
    """Waits until the metrics of a step are on disk; returns whether the run is still alive then."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        path = workdir / "metrics.jsonl"
        if path.exists() and path.read_text().count('"train/loss/total"') > step:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module", params=[1, 4])
def uninterrupted(request, tiny_world, tmp_path_factory):
    workdir = tmp_path_factory.mktemp(f"devices{request.param}")
    finish(start(workdir, tiny_world, devices=request.param))
    return request.param, series(workdir)


def test_a_run_killed_at_any_step_continues_bit_for_bit(uninterrupted, tiny_world, tmp_path):
    devices, expected = uninterrupted
    assert sorted(step for step in expected if "train/loss/total" in expected[step]) == list(range(STEPS))
    process = start(tmp_path, tiny_world, devices=devices)
    killed_at = 1 + os.getpid() % (STEPS - 3)
    assert wait_for_step(tmp_path, process, killed_at), process.communicate()[0][-3000:]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    # As if it had been evaluated before it goes on: what was fitted to that checkpoint fits no later one.
    fitted = [tmp_path / name for name in FITTED_AFTERWARDS]
    for path in fitted:
        path.write_text("{}")
    finish(start(tmp_path, tiny_world, devices=devices))
    assert series(tmp_path) == expected
    assert not any(path.exists() for path in fitted)


def test_sigterm_saves_and_the_rerun_finishes_the_series(tiny_world, tmp_path):
    process = start(tmp_path, tiny_world, extra=["--config.num_steps=400", "--config.checkpoint.every_steps=1000"])
    assert wait_for_step(tmp_path, process, 2), process.communicate()[0][-3000:]
    process.send_signal(signal.SIGTERM)
    finish(process)
    saved = [int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
    # Besides the first step, which is always kept, only the step at which the signal came.
    newest = max(saved)
    assert 1 < newest < 400 and set(saved) <= {1, newest}
    trained = [step for step, numbers in series(tmp_path).items() if "train/loss/total" in numbers]
    assert max(trained) == newest - 1


def test_a_missing_data_set_is_named_with_the_command_that_makes_it(tmp_path):
    process = start(tmp_path / "run", tmp_path / "nowhere")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    last = output.strip().splitlines()[-1]
    assert last.startswith("error: ") and "nowhere/manifest.json" in last and "sedtalker_jax.data.synthetic" in last
