"""Runs every test on the CPU, with absl flags parsed; builds the world and the checkpoint that several tests read.

What is set here before jax is imported is inherited by parallel workers and by every program that a test starts.
"""

import fcntl
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest
from absl import flags

from tests.compile_effort import FULL, QUICK

flags.FLAGS.mark_as_parsed()


def pytest_configure(config):
    if hasattr(config, "workerinput"):
        return
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()
    # What one process of this run has compiled no other has to; kept for this run alone.
    compiled = tempfile.TemporaryDirectory(prefix="compiled-for-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(compiled.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


@pytest.fixture
def as_users_compile(monkeypatch):
    """For tests in which different programs give the same bits, which XLA keeps to with its default effort only."""
    import jax

    # Programs that other tests compiled in this process, with less effort.
    jax.clear_caches()
    monkeypatch.setenv("XLA_FLAGS", FULL)
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def samples():
    """Directory of recordings and meshes that can't be part of the repository; tests that need them skip without it."""
    beside = pathlib.Path(__file__).resolve().parents[2] / "shared" / "samples"
    directory = pathlib.Path(os.environ.get("SEDTALKER_SAMPLES", beside))
    if not directory.is_dir():
        pytest.skip(f"no sample recordings and meshes in {directory}; SEDTALKER_SAMPLES names their directory")
    return directory


def _build_once(tmp_path_factory, worker_id, name, *arguments):
    """Directory that `python ARGUMENTS... DIRECTORY` fills: parallel workers share one build."""
    root = tmp_path_factory.getbasetemp()
    directory = (root if worker_id == "master" else root.parent) / name
    with open(directory.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        finished = directory.with_suffix(".finished")
        if not finished.exists():
            *arguments, flag = map(str, arguments)
            done = subprocess.run([sys.executable, *arguments, f"{flag}={directory}"], capture_output=True, text=True)
            assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
            finished.touch()
    return directory


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory, worker_id):
    """Directory of the smallest built-in world."""
    command = ["-m", "sedtalker_jax.data.synthetic", "--rules", "configs/world_rules.toml", "--subset", "tiny"]
    return _build_once(tmp_path_factory, worker_id, "world-tiny", *command, "--workers", 2, "--quiet", "--out")


@pytest.fixture(scope="session")
def smoke_checkpoint(tiny_world, tmp_path_factory, worker_id):
    """A workdir whose model took four steps: it knows nothing, but everything that reads a checkpoint can read it."""
    command = ["train.py", "--config=configs/demo.py:smoke", f"--config.data.directory={tiny_world}"]
    return _build_once(tmp_path_factory, worker_id, "smoke", *command, "--workdir")
