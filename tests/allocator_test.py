import os
import subprocess
import sys

import pytest

# Page faults of taking and freeing 64 MiB sixteen times: 16 x 16,384 pages of 4 KiB, or those of one block.
_PROGRAM = """
import resource, sys
from sedtalker_jax.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(16):
    block = b"x" * 2**26
    del block
print(int(kept), faults() - before)
"""


def _run(argument, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, argument], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    kept, faults = (int(word) for word in done.stdout.split())
    return bool(kept), faults


def test_freed_blocks_are_taken_again_without_page_faults():
    kept, faults = _run("keep")
    if not kept:
        pytest.skip("this C library's malloc has no mallopt")
    usual = _run("leave")[1]
    assert faults < 0.15 * usual


@pytest.mark.parametrize("environment", [{"MALLOC_TOP_PAD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}])
def test_what_the_environment_sets_stays(environment):
    assert _run("keep", **environment)[0] is False
