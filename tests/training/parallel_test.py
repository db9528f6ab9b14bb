"""One device equals four, pmap equals the sharded jit, one process equals two, micro-batches with unequal masks equal the whole
batch: all with randomness on."""

import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from sedtalker_jax.training.parallel import keep_compiled

LAYOUTS = {
    "pmap, 1 device, 4 micro-batches": dict(mode="pmap", devices=1, accumulation=4),
    "pmap, 4 devices": dict(mode="pmap", devices=4),
    "jit, 1 device": dict(mode="jit", devices=1),
    "jit, 4 devices, state sharded over 2": dict(mode="jit", devices=4, fsdp=2),
    "pmap, 2 processes x 2 devices": dict(mode="pmap", devices=2, processes=2),
    "jit, 2 processes x 2 devices": dict(mode="jit", devices=2, processes=2),
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def run(out, *, mode, devices, processes=1, fsdp=1, accumulation=1) -> dict[str, np.ndarray]:
    port = free_port()
    command = [sys.executable, "-m", "tests.training.parallel_run", str(out), "--mode", mode, "--devices", str(devices)]
    command += ["--fsdp", str(fsdp), "--accumulation", str(accumulation), "--processes", str(processes), "--port", str(port)]
    started = [
        subprocess.Popen([*command, "--process", str(i)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for i in range(processes)
    ]
    for process in started:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output[-3000:]
    with np.load(out) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return run(tmp_path_factory.mktemp("reference") / "out.npz", mode="pmap", devices=1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_gives_the_gradients_and_parameters_of_one_device(layout, reference, tmp_path):
    found = run(tmp_path / "out.npz", **LAYOUTS[layout])
    assert found.keys() == reference.keys()
    moved = 0.0
    for name, expected in reference.items():
        if name.startswith("gradient"):
            scale = np.linalg.norm(expected)
            error = np.linalg.norm(found[name] - expected)
            assert error <= 1e-6 * scale + 1e-15, (name, error, scale)
        elif name.startswith("after"):
            assert np.abs(found[name] - expected).max() <= 1e-6, name
            moved = max(moved, float(np.abs(expected - reference["before" + name.removeprefix("after")]).max()))
    assert moved > 1e-2


def test_validation_on_several_devices_lowers_for_tpu_with_its_kernels():
    # A kernel that XLA would have to partition is refused when the program is lowered.
    done = subprocess.run([sys.executable, "-m", "tests.training.lowering_run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["pmap", "True", "jit", "True"]


def test_validation_shares_its_rows_out_among_devices_and_finds_what_one_finds():
    done = subprocess.run([sys.executable, "-m", "tests.training.validation_run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["pmap", "2", "True", "jit", "2", "True"]


@pytest.mark.parametrize(
    ("backend", "own", "kept"), [("gpu", None, "compiled"), ("gpu", "own", "own"), ("cpu", None, None)], ids=str
)
def test_programs_are_kept_on_accelerators_and_where_the_user_says(backend, own, kept, monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    try:
        jax.config.update("jax_compilation_cache_dir", own and str(tmp_path / own))
        keep_compiled(tmp_path / "compiled")
        assert jax.config.jax_compilation_cache_dir == (kept and str(tmp_path / kept))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
