"""The selective scan of Mamba (S6, arXiv 2312.00752): one interface, several implementations, any device.

from kernels.selective_scan import selective_scan, selective_scan_step
"""

from kernels.selective_scan.api import IMPLEMENTATIONS, selective_scan
from kernels.selective_scan.arguments import ScanConfig
from kernels.selective_scan.step import selective_scan_step

__all__ = ["IMPLEMENTATIONS", "ScanConfig", "selective_scan", "selective_scan_step"]
