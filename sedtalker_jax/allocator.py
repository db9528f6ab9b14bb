"""Freed memory that the process keeps for its next allocation.

XLA's CPU programs take the memory of their results and scratch anew at every call. glibc's malloc gets blocks of some MiB and
more from the kernel and gives them back when they are freed, so that each step of training pays for the same pages again.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of mallopt(3), from glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Makes malloc hold on to what is freed (up to 2 GiB at the heap's end), for the whole process and for good.

    To be called by programs, not by libraries, and before other threads allocate. Does nothing where the environment sets
    malloc's parameters itself (MALLOC_..., GLIBC_TUNABLES), or where the C library has none (not glibc).

    Returns:
      whether malloc took the parameters.
    """
    if sys.platform != "linux":
        return False
    if "malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Only the main arena can grow to blocks of any size; the others, one per thread, map large blocks whatever MMAP_MAX says.
    parameters = {_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26}
    return all(mallopt(parameter, value) for parameter, value in parameters.items())
