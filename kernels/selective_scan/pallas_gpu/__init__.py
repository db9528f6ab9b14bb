"""The scan on Hopper GPUs: see `layout` for how it works, `forward` and `backward` for the kernels."""

from kernels.selective_scan.pallas_gpu.backward import backward
from kernels.selective_scan.pallas_gpu.forward import forward
from kernels.selective_scan.pallas_gpu.layout import unsupported

__all__ = ["backward", "forward", "unsupported"]
