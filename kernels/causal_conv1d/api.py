"""The public functions: checks, and the step for streaming."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kernels.causal_conv1d import reference, shifts

IMPLEMENTATIONS = ("reference", "shifts")
"""Names that `implementation` accepts beside None."""

ACTIVATIONS = (None, "silu")


def causal_conv1d(
    x,
    weight,
    bias=None,
    *,
    activation: str | None = None,
    initial_state=None,
    mask=None,
    reset=None,
    reverse: bool = False,
    return_final_state: bool = False,
    implementation: str | None = None,
):
    """Depthwise causal convolution along L. In JAX, for one example:

        x = concatenate([initial_state, x])                       # [W-1 + L, E]
        y[t] = bias + sum(weight[k] * x[t + k] for k in range(W)) # weight[W-1] meets the present, weight[0] the oldest

    Products and sums are float32 whatever the inputs are (float64 if an input is float64).

    Args:
      x: [B, L, E], any floating dtype. weight: [W, E], W >= 1. bias: [E] or None.
      activation: None or "silu".
      initial_state: [B, W-1, E] or None (zeros): the inputs before step 0, oldest first. In reverse, the inputs after
        step L-1, the farthest first.
      mask: bool [B, L], False = padding: its input counts as zero and y = 0. Padding behind the last valid step leaves
        the state as it was.
      reset: bool [B, L], True where a new sequence starts: step t sees nothing before it (in reverse, t-1 sees nothing from
        t on). Where the convolution starts, a reset discards initial_state. The conventions of `selective_scan`.
      reverse: y[t] depends on x[t], x[t+1], ...: `flip(causal_conv1d(flip(x), ...))`.
      return_final_state: also return what `initial_state` of the following piece has to be.
      implementation: None (the best), "shifts" or "reference".

    Returns:
      y [B, L, E] in x.dtype, or (y, final_state [B, W-1, E] in x.dtype). Differentiable in every float argument.

    Raises:
      ValueError, TypeError: a shape, dtype or name that does not fit, with the argument's name and what was expected.
    """
    _check(x, weight, bias, initial_state, mask, reset, activation)
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ValueError(f"causal_conv1d: implementation {implementation!r} is none of {', '.join(IMPLEMENTATIONS)}")
    batch, length, channels = x.shape
    if initial_state is None:
        initial_state = jnp.zeros((batch, weight.shape[0] - 1, channels), x.dtype)
    if length == 0:
        return (x, initial_state.astype(x.dtype)) if return_final_state else x
    if reverse:
        x = jnp.flip(x, 1)
        mask = None if mask is None else jnp.flip(mask, 1)
        if reset is not None:
            # Running down, t-1 is cut off where a sequence starts at t; nothing but initial_state lies above L-1.
            reset = jnp.flip(jnp.concatenate([reset[:, 1:], reset[:, -1:]], axis=1), 1)
    run = reference.convolve if implementation == "reference" else shifts.convolve
    y, final = run(x, weight, bias, initial_state, mask, reset, activation)
    y = jnp.flip(y, 1) if reverse else y
    return (y, final) if return_final_state else y


def causal_conv1d_step(state, x, weight, bias=None, *, activation: str | None = None, mask=None, reset=None):
    """One step of `causal_conv1d` for streaming.

    Args:
      state: [B, W-1, E], the inputs before this one, oldest first. x: [B, E]. weight: [W, E]. bias: [E].
      activation: None or "silu". mask, reset: bool [B]; a padded step leaves the state as it was and gives y = 0.

    Returns:
      (y [B, E] in x.dtype, state [B, W-1, E] in the dtype of `state`): the order of `selective_scan_step`.
    """
    expected = (x.shape[0], weight.shape[0] - 1, x.shape[1])
    if state.shape != expected:
        raise ValueError(f"causal_conv1d_step: state has shape {state.shape}, expected [B, W-1, E] = {expected}")
    if reset is not None:
        state = jnp.where(reset[:, None, None], 0, state).astype(state.dtype)
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, weight.dtype), jnp.float32)
    window = jnp.concatenate([state, x[:, None].astype(state.dtype)], axis=1)
    y = jnp.einsum("bwe,we->be", window.astype(dtype), weight.astype(dtype), precision=jax.lax.Precision.HIGHEST)
    y = _finish(y, bias, activation, None if mask is None else mask[:, None])
    following = window[:, 1:]
    if mask is not None:
        following = jnp.where(mask[:, None, None], following, state)
    return y.astype(x.dtype), following


def _finish(y, bias, activation, mask) -> jax.Array:
    """Bias, activation and zeros at padded steps."""
    if bias is not None:
        y = y + bias.astype(y.dtype)
    if activation == "silu":
        y = jax.nn.silu(y)
    return y if mask is None else jnp.where(mask, y, 0)


def _check(x, weight, bias, initial_state, mask, reset, activation) -> None:
    if len(x.shape) != 3:
        raise ValueError(f"causal_conv1d: x has shape {tuple(x.shape)}, expected [B, L, E]")
    batch, length, channels = x.shape
    if len(weight.shape) != 2 or weight.shape[0] < 1 or weight.shape[1] != channels:
        raise ValueError(f"causal_conv1d: weight has shape {tuple(weight.shape)}, expected [W, E] with E = {channels}")
    width = weight.shape[0]
    for name, array, shape, axes in (
        ("bias", bias, (channels,), "[E]"),
        ("initial_state", initial_state, (batch, width - 1, channels), "[B, W-1, E]"),
        ("mask", mask, (batch, length), "[B, L]"),
        ("reset", reset, (batch, length), "[B, L]"),
    ):
        if array is not None and tuple(array.shape) != shape:
            raise ValueError(f"causal_conv1d: {name} has shape {tuple(array.shape)}, expected {axes} = {shape}")
    for name, array in (("x", x), ("weight", weight), ("bias", bias), ("initial_state", initial_state)):
        if array is not None and not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"causal_conv1d: {name} has dtype {array.dtype}, expected a real floating type")
    for name, array in (("mask", mask), ("reset", reset)):
        if array is not None and array.dtype != jnp.bool_:
            raise TypeError(f"causal_conv1d: {name} has dtype {array.dtype}, expected bool")
    if activation not in ACTIVATIONS:
        raise ValueError(f"causal_conv1d: activation {activation!r} is none of {ACTIVATIONS}")
