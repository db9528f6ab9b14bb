"""Runs every test on the CPU, with absl flags parsed; builds the world and the checkpoint that several tests read."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest
from absl import flags

flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def samples():
    """Directory of recordings and meshes that can't be part of the repository; tests that need them skip without it."""
    import pathlib

    beside = pathlib.Path(__file__).resolve().parents[2] / "shared" / "samples"
    directory = pathlib.Path(os.environ.get("SEDTALKER_SAMPLES", beside))
    if not directory.is_dir():
        pytest.skip(f"no sample recordings and meshes in {directory}; SEDTALKER_SAMPLES names their directory")
    return directory


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory, worker_id):
    """Directory of the smallest built-in world; parallel test workers share one build."""
    import subprocess
    import sys
    import time

    root = tmp_path_factory.getbasetemp()
    root = root if worker_id == "master" else root.parent
    directory, claim = root / "world-tiny", root / "world-tiny.claim"
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        deadline = time.monotonic() + 300
        while not (directory / "manifest.json").exists():
            assert time.monotonic() < deadline, "the other worker did not finish the world"
            time.sleep(0.5)
        return directory
    command = [sys.executable, "-m", "sedtalker_jax.data.synthetic", "--rules", "configs/world_rules.toml", "--subset", "tiny"]
    subprocess.run([*command, "--out", str(directory), "--workers", "2", "--quiet"], check=True)
    return directory


@pytest.fixture(scope="session")
def smoke_checkpoint(tiny_world, tmp_path_factory):
    """A workdir whose model took four steps: it knows nothing, but everything that reads a checkpoint can read it."""
    import subprocess
    import sys

    workdir = tmp_path_factory.mktemp("smoke")
    command = [sys.executable, "train.py", "--config=configs/demo.py:smoke", f"--workdir={workdir}"]
    done = subprocess.run([*command, f"--config.data.directory={tiny_world}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir
