"""Scans whose time axis is cut into pieces that run at the same time: on one device, or over the devices of a mesh axis.

A piece maps the state that enters it to the one that leaves it: h -> P h + f, where f is its final state from zero and
P = exp(A sum(delta)) its total decay (zero if a reset lies inside). So: scan every piece from zero for f; run the short
recurrence over pieces, which gives the state that enters each; scan every piece again from there. Twice the arithmetic for as
many times the parallelism as there are pieces, which pays where B x E alone cannot fill a device. Gradients need nothing of
their own: the scan is differentiable in its initial and final state.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kernels.selective_scan.arguments import ScanArgs, ScanOptions, activate_delta, compute_dtype, delta_padding

_STEPWISE = ("u", "delta", "B", "C", "z", "valid", "keep")


def total_decay(args: ScanArgs, options: ScanOptions) -> jax.Array:
    """P [B, E, N]: what the steps of `args` together multiply an entering state with."""
    delta = activate_delta(args.delta, args.delta_bias, options.delta_softplus, compute_dtype(args))
    if args.valid is not None:
        delta = delta * args.valid[..., None]
    decay = jnp.exp(jnp.sum(delta, axis=1)[..., None] * args.A)
    return decay if args.keep is None else decay * jnp.min(args.keep, axis=1)[:, None, None]


def entering_states(initial_state, decays, finals, reverse: bool):
    """The state that enters each piece, [pieces, B, E, N], and the one that leaves the last; pieces are in time order."""

    def step(h, piece):
        decay, final = piece
        return decay * h + final, h

    last, entering = jax.lax.scan(step, initial_state, (decays, finals), reverse=reverse)
    return entering, last


def split_in_time(run, args: ScanArgs, options: ScanOptions, pieces: int):
    """`run(args) -> (y, final)` over `pieces` pieces of L side by side in the batch. Any L: the end is padded."""
    batch, length = args.u.shape[:2]
    pad = -length % pieces
    if pad:
        args = _pad(args, options, pad)

    def fold(x):
        return x.reshape(batch * pieces, -1, *x.shape[2:])

    folded = {n: None if getattr(args, n) is None else fold(getattr(args, n)) for n in _STEPWISE}
    zeros = jnp.zeros((batch * pieces, *args.initial_state.shape[1:]), compute_dtype(args))
    cut = args._replace(**folded, initial_state=zeros)
    _, finals = run(cut)

    def by_piece(x):
        return jnp.moveaxis(x.reshape(batch, pieces, *x.shape[1:]), 1, 0)

    decays = total_decay(cut, options)
    entering, last = entering_states(args.initial_state, by_piece(decays), by_piece(finals), options.reverse)
    y, _ = run(cut._replace(initial_state=jnp.moveaxis(entering, 0, 1).reshape(zeros.shape)))
    return y.reshape(batch, length + pad, -1)[:, :length], last


def _pad(args: ScanArgs, options: ScanOptions, pad: int) -> ScanArgs:
    padding = delta_padding(args, options)
    changed = {}
    for name in _STEPWISE:
        x = getattr(args, name)
        if name == "valid" and x is None and padding is None:
            x = jnp.ones(args.u.shape[:2], compute_dtype(args))
        if x is not None:
            value = {"keep": 1.0, "delta": padding or 0.0}.get(name, 0.0)
            changed[name] = jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2), constant_values=value)
    return args._replace(**changed)


def over_devices(run, args: ScanArgs, options: ScanOptions, axis_name: str):
    """`run` where L is split over the devices of a manual mesh axis, as inside shard_map or pmap.

    Every device holds its piece of the step-wise arrays, and the same initial_state, A, D and bias. What travels is one
    decay and one state [B, E, N] per device. Returns this device's y, and the final state of the whole, the same everywhere.
    """
    zeros = jnp.zeros_like(args.initial_state)
    _, final = run(args._replace(initial_state=zeros))
    decays, finals = jax.lax.all_gather((total_decay(args, options), final), axis_name)
    entering, last = entering_states(args.initial_state, decays, finals, options.reverse)
    y, _ = run(args._replace(initial_state=entering[jax.lax.axis_index(axis_name)]))
    return y, last
