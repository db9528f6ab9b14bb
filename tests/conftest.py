"""Runs every test on the CPU, with flags parsed and one thread per numeric library for repeatable timing of the suite."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest
from absl import flags

flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def samples():
    """Directory of recordings and meshes that can't be part of the repository; tests that need them skip without it."""
    import pathlib

    directory = pathlib.Path(__file__).resolve().parents[2] / "shared" / "samples"
    if not directory.is_dir():
        pytest.skip("no sample recordings beside this checkout (../shared/samples)")
    return directory
