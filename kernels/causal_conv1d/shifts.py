"""The convolution as W shifted multiply-adds, which XLA fuses into one pass over x on every device.

A depthwise `lax.conv` has one input channel per output channel, the worst case of the matrix units and of the CPU's
convolution library. Sequences are told apart by the running count of resets: step t sees step s only if no reset lies
between them, that is if their counts agree.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def convolve(x, weight, bias, initial_state, mask, reset, activation):
    """x [B, L, E] -> y [B, L, E] in x.dtype, final state [B, W-1, E]."""
    width, length = weight.shape[0], x.shape[1]
    past = width - 1
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, weight.dtype), jnp.float32)
    w = weight.astype(dtype)
    valid = None if mask is None else mask[:, :, None]
    inputs = x if valid is None else jnp.where(valid, x, 0)
    inputs = jnp.concatenate([initial_state.astype(x.dtype), inputs], axis=1)
    sequence = None
    if reset is not None:
        # The state before step 0 belongs to sequence 0, which a reset at step 0 leaves.
        sequence = jnp.pad(jnp.cumsum(reset, axis=1), ((0, 0), (past, 0)))

    y = jnp.zeros(x.shape, dtype)
    for k in range(width):
        tap = jax.lax.slice_in_dim(inputs, k, k + length, axis=1).astype(dtype)
        if sequence is not None and k < past:
            same = jax.lax.slice_in_dim(sequence, k, k + length, axis=1) == sequence[:, past:]
            tap = jnp.where(same[:, :, None], tap, 0)
        y = y + w[k] * tap
    if bias is not None:
        y = y + bias.astype(dtype)
    if activation == "silu":
        y = jax.nn.silu(y)
    if valid is not None:
        y = jnp.where(valid, y, 0)
    return y.astype(x.dtype), _final_state(inputs, sequence, mask, past)


def _final_state(inputs, sequence, mask, past: int):
    """The last W-1 inputs up to the last valid step, zero where they belong to an earlier sequence than the end."""
    if mask is None:
        final = inputs[:, inputs.shape[1] - past :]
        numbers = None if sequence is None else sequence[:, sequence.shape[1] - past :]
    else:
        length = mask.shape[1]
        # Steps up to the last valid one; in `inputs` the window before the following step starts at that number.
        used = jnp.max(jnp.where(mask, jnp.arange(1, length + 1), 0), axis=1)
        index = used[:, None] + jnp.arange(past)
        final = jnp.take_along_axis(inputs, index[:, :, None], axis=1)
        numbers = None if sequence is None else jnp.take_along_axis(sequence, index, axis=1)
    if numbers is not None:
        final = jnp.where((numbers == sequence[:, -1:])[:, :, None], final, 0)
    return final
