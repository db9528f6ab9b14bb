"""What a scan has to move and compute, and what devices can do: the denominators of every share reported.

Per element of [B, L, E] and state n. Forward: one exponential and four float32 instructions (delta A; delta u B; two
multiply-adds). Backward by recomputation: two exponentials and about twelve instructions. Softplus and the gate add two
special-function operations each, per element of [B, L, E]. Inputs, outputs and saved states cross the memory once.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from kernels.selective_scan.arg_specs import ArgSpec


@dataclasses.dataclass(frozen=True)
class Device:
    """Peak rates per second: memory in bytes, special functions and float32 instructions in operations.

    clock: of a TPU core, in Hz; 0 where nothing is counted in bundles. cores: that one call can use at once.
    """

    name: str
    memory: float
    special: float
    float32: float
    clock: float = 0.0
    cores: int = 1


DEVICES = (
    # 132 SMs at 1.98 GHz: 16 special functions and 128 float32 lanes per SM and cycle.
    Device("H200", 4.8e12, 132 * 16 * 1.98e9, 132 * 128 * 1.98e9),
    # One register of 8 x 128 per bundle and unit; four vector slots. Clocks follow from the published matrix peaks.
    Device("TPU v5e", 819e9, 1024 * 1.5e9, 4 * 1024 * 1.5e9, clock=1.5e9),
    Device("TPU v5p", 2765e9, 2 * 1024 * 1.75e9, 2 * 4 * 1024 * 1.75e9, clock=1.75e9, cores=2),
    Device("TPU v6e", 1640e9, 1024 * 1.75e9, 4 * 1024 * 1.75e9, clock=1.75e9),
)


@dataclasses.dataclass(frozen=True)
class Work:
    """Totals of one call."""

    memory_bytes: int
    special_functions: int
    float32_instructions: int


def work(spec: ArgSpec, backward: bool, chunk: int = 64) -> Work:
    """What the forward pass, or forward and backward together, has to do for `spec`."""
    b, l, e, n = spec.shape  # noqa: E741
    item = 2 if spec.dtype == "bfloat16" else 4
    tokens, states = b * l * e, b * l * e * n
    extra = 2 * spec.softplus + 2 * spec.z
    shared = 2 * b * l * n * item
    saved = b * -(-l // chunk) * e * n * 4
    memory = tokens * item * (3 + spec.z) + shared
    special, instructions = states + extra * tokens, 4 * states
    if backward:
        # Reads u, delta, dy (and z), writes du, ddelta (and dz); dB and dC in float32; the saved states both ways.
        memory += tokens * item * (5 + 2 * spec.z) + shared + 2 * b * l * n * 4 + 2 * saved
        special += 2 * states + 2 * extra * tokens
        instructions += 12 * states
    return Work(memory, special, instructions)


def device_named(kind: str) -> Device | None:
    """The entry whose words all occur in a device kind such as "NVIDIA H200", or None."""
    # A v5e calls itself "TPU v5 lite", a v5p "TPU v5".
    words = {"v5p" if word == "v5" else word for word in kind.lower().replace(" lite", "e").split()}
    for device in DEVICES:
        if words.issuperset(device.name.lower().split()):
            return device
    return None


def limits(work: Work, device: Device) -> dict[str, float]:
    """Least seconds by memory, special-function unit and float32 issue."""
    return {
        "memory": work.memory_bytes / device.memory,
        "special": work.special_functions / device.special,
        "float32": work.float32_instructions / device.float32,
    }


def bound(work: Work, device: Device) -> tuple[str, float]:
    """The binding limit and its seconds."""
    times = limits(work, device)
    name = max(times, key=lambda k: times[k])
    return name, float(np.float64(times[name]))
