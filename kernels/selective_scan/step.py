"""One step of the selective scan, for streaming: the state goes in and comes out."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kernels.selective_scan.arguments import activate_delta, finish_output


def selective_scan_step(
    state, u, delta, A, B, C, D=None, z=None, delta_bias=None, *, delta_softplus: bool = False, mask=None, reset=None
) -> tuple[jax.Array, jax.Array]:
    """Advances the scan by one step; L calls give what `selective_scan` gives for L steps, forward only in time.

    Args:
      state: [B, E, N], float32 (or float64): what the previous step, or `return_final_state`, gave.
      u, delta, z: [B, E]. B, C: [B, N]. A: [E, N]. D, delta_bias: [E].
      delta_softplus: delta is softplus(delta + delta_bias).
      mask: bool [B], False = padding: the state passes unchanged and y = 0. What lies there has to be finite.
      reset: bool [B], True = a new sequence starts here: the incoming state is discarded.

    Returns:
      y [B, E] in u.dtype, and the new state [B, E, N] in the dtype of `state`.

    Raises:
      ValueError: a shape does not fit; names the argument, its shape and what was expected.
    """
    if len(state.shape) != 3:
        raise ValueError(f"selective_scan_step: state has shape {state.shape}, expected [B, E, N]")
    batch, channels, size = state.shape
    expected = {
        "u": (u, (batch, channels)),
        "delta": (delta, (batch, channels)),
        "A": (A, (channels, size)),
        "B": (B, (batch, size)),
        "C": (C, (batch, size)),
        "D": (D, (channels,)),
        "z": (z, (batch, channels)),
        "delta_bias": (delta_bias, (channels,)),
        "mask": (mask, (batch,)),
        "reset": (reset, (batch,)),
    }
    for name, (x, shape) in expected.items():
        if x is not None and x.shape != shape:
            raise ValueError(f"selective_scan_step: {name} has shape {x.shape}, expected {shape} for state {state.shape}")
    dtype = state.dtype
    delta = activate_delta(delta, delta_bias, delta_softplus, dtype)
    if mask is not None:
        delta = jnp.where(mask[:, None], delta, 0)
    decay = jnp.exp(delta[:, :, None] * A)
    if reset is not None:
        decay = jnp.where(reset[:, None, None], 0, decay)
    state = decay * state + (delta * u.astype(dtype))[:, :, None] * B.astype(dtype)[:, None, :]
    y = jnp.einsum("ben,bn->be", state, C.astype(dtype), precision=jax.lax.Precision.HIGHEST)
    y = finish_output(y, u, D, z, None if mask is None else mask[:, None])
    return y.astype(u.dtype), state.astype(dtype)
