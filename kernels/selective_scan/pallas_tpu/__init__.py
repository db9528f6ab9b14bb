"""The scan on TPU: see `layout` for how the arrays lie, `forward` and `backward` for the kernels."""

from kernels.selective_scan.pallas_tpu.backward import backward
from kernels.selective_scan.pallas_tpu.forward import forward
from kernels.selective_scan.pallas_tpu.layout import unsupported

__all__ = ["backward", "forward", "unsupported"]
