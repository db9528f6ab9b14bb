"""The encoder family's grouped convolution over time (kernel 128, 16 groups), with gradients that are fast on a CPU.

XLA's CPU back end computes the gradient of a grouped convolution group by group and tap by tap: seconds where the
forward pass takes milliseconds. There, the convolution is done in the frequency domain in blocks (overlap-save), with
small dense Fourier matrices, so that everything is a matrix product; on other devices it is a plain convolution.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_BLOCK = 256
# With few channels per group the direct convolution has nothing to vectorise over and the spectral one wins forward too.
_NARROW_GROUP = 16


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def positional_convolution(x: Float[Array, "B T D"], kernel: Float[Array, "taps I D"], groups: int) -> Float[Array, "B T D"]:
    """y_t = sum_k kernel_k x_(t + k - taps // 2), grouped, zeros outside: torch's Conv1d, padding taps // 2, cut to T frames.

    Args:
      x: [B, T, D].
      kernel: [taps, D / groups, D].
      groups: number of groups.
    """
    return _forward(x, kernel, groups)


def _forward(x, kernel, groups):
    if kernel.shape[1] > _NARROW_GROUP:
        return _direct(x, kernel, groups)
    return lax.platform_dependent(
        x, kernel, cpu=functools.partial(_spectral, groups=groups), default=functools.partial(_direct, groups=groups)
    )


def _backward(groups, residuals, cotangent):
    def through(convolution):
        def pull(x, kernel, cotangent):
            _, vjp = jax.vjp(functools.partial(convolution, groups=groups), x, kernel)
            return vjp(cotangent)

        return pull

    return lax.platform_dependent(*residuals, cotangent, cpu=through(_spectral), default=through(_direct))


positional_convolution.defvjp(lambda x, kernel, groups: (_forward(x, kernel, groups), (x, kernel)), _backward)


def _padding(taps: int) -> tuple[int, int]:
    # An even kernel gives one frame more than it gets; the family drops the last one.
    return taps // 2, taps - 1 - taps // 2


def _direct(x, kernel, groups):
    return lax.conv_general_dilated(
        x, kernel, (1,), [_padding(kernel.shape[0])], dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups
    )


@functools.cache
def _fourier_matrices(size: int, hop: int) -> tuple[np.ndarray, np.ndarray]:
    """Real Fourier analysis [size, 2 Q] (cosines, then minus sines) and synthesis of the first `hop` samples [2, Q, hop]."""
    frequency = np.arange(size // 2 + 1)
    angle = 2.0 * np.pi * np.outer(np.arange(size), frequency) / size
    weight = np.where((frequency == 0) | (2 * frequency == size), 1.0, 2.0) / size
    synthesis = np.stack([np.cos(angle[:hop]) * weight, -np.sin(angle[:hop]) * weight])
    return np.concatenate([np.cos(angle), -np.sin(angle)], axis=1), synthesis.transpose(0, 2, 1)


def _spectral(x, kernel, groups):
    B, T, D = x.shape
    taps, inner, _ = kernel.shape
    size = max(_BLOCK, 2 * taps)
    hop = size - taps + 1
    blocks = -(-T // hop)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    analysis, synthesis = (jnp.asarray(matrix, dtype) for matrix in _fourier_matrices(size, hop))
    num_frequencies = analysis.shape[1] // 2

    before = _padding(taps)[0]
    padded = jnp.pad(x.astype(dtype), ((0, 0), (before, blocks * hop + taps - 1 - T - before), (0, 0)))
    segments = jnp.stack([padded[:, j * hop : j * hop + size] for j in range(blocks)], axis=1)
    spectrum = jnp.einsum("nq,bjnd->qbjd", analysis, segments).reshape(2, num_frequencies, B * blocks, groups, inner)
    spectrum = jnp.concatenate([spectrum[0], spectrum[1]], axis=-1)

    # A correlation multiplies by the conjugate spectrum; the complex product is one real product of twice the width.
    response = jnp.einsum("kq,kid->qid", analysis[:taps], kernel.astype(dtype))
    response = response.reshape(2, num_frequencies, inner, groups, inner)
    real, imaginary = response[0], -response[1]
    rotation = jnp.concatenate(
        [jnp.concatenate([real, imaginary], axis=-1), jnp.concatenate([-imaginary, real], axis=-1)], axis=1
    )
    product = jnp.einsum("qmgi,qigo->qmgo", spectrum, rotation).reshape(num_frequencies, B * blocks, groups, 2, inner)
    y = jnp.einsum("cqn,qmgco->mngo", synthesis, product)
    return y.reshape(B, blocks * hop, D)[:, :T].astype(x.dtype)
