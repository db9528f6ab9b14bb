"""The depthwise causal convolution of the Mamba block, with state in and out.

from kernels.causal_conv1d import causal_conv1d, causal_conv1d_step
"""

from kernels.causal_conv1d.api import IMPLEMENTATIONS, causal_conv1d, causal_conv1d_step

__all__ = ["IMPLEMENTATIONS", "causal_conv1d", "causal_conv1d_step"]
