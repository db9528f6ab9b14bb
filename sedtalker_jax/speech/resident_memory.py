"""Memory of this process as the Linux kernel counts it, so that PyTorch's, XLA's and numpy's are measured alike."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_bytes(peak: bool = False) -> int:
    """Bytes in memory now, or the most there have been since the process began or `peak_rise` last began."""
    name = "VmHWM" if peak else "VmRSS"
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", _STATUS.read_text()).group(1))


def peak_rise(function: Callable[[], object]) -> int | None:
    """By how many bytes the process grows at most while `function` runs; None on a system that can't tell."""
    if not _CLEAR.exists():
        return None
    gc.collect()
    _CLEAR.write_text("5")  # Sets the peak back to what is resident now: proc(5).
    before = resident_bytes()
    function()
    return max(0, resident_bytes(peak=True) - before)
