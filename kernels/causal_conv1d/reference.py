"""The convolution as a shift register, one step after another. Written to be read."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def convolve(x, weight, bias, initial_state, mask, reset, activation):
    """x [B, L, E] -> y [B, L, E] in x.dtype, final state [B, W-1, E]. A padded step pushes zero, except at the end."""
    batch, length, _ = x.shape
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, weight.dtype), jnp.float32)
    w = weight.astype(dtype)
    mask = jnp.ones((batch, length), bool) if mask is None else mask
    reset = jnp.zeros((batch, length), bool) if reset is None else reset
    # True at the padding that follows the last valid step: there the register stands still.
    trailing = jnp.flip(jnp.cumsum(jnp.flip(mask, 1), axis=1), 1) == 0

    def step(register, inputs):
        x_t, mask_t, reset_t, trailing_t = inputs
        register = jnp.where(reset_t[:, None, None], 0, register)
        window = jnp.concatenate([register, jnp.where(mask_t[:, None], x_t, 0)[:, None]], axis=1)
        y_t = jnp.sum(window * w, axis=1)
        if bias is not None:
            y_t = y_t + bias.astype(dtype)
        if activation == "silu":
            y_t = jax.nn.silu(y_t)
        y_t = jnp.where(mask_t[:, None], y_t, 0)
        return jnp.where(trailing_t[:, None, None], register, window[:, 1:]), y_t

    steps = tuple(jnp.moveaxis(a, 1, 0) for a in (x.astype(dtype), mask, reset, trailing))
    register, y = jax.lax.scan(step, initial_state.astype(dtype), steps)
    return jnp.moveaxis(y, 0, 1).astype(x.dtype), register.astype(x.dtype)
