"""What every implementation of the scan receives: checked arrays, static options and the shared elementwise parts."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LOG2_E = 1.4426950408889634
"""exp(x) = exp2(LOG2_E x): exp2 is the instruction that vector units have, so the factor is folded into A once."""

SHARED = ("A", "D", "delta_bias")
"""The ScanArgs without a batch axis. Their gradients leave an implementation per example and are summed in one place."""

SOFTPLUS_THRESHOLD = 20.0
"""Above this input softplus is the identity (the limit that PyTorch and mamba_ssm use): exp never overflows."""


@dataclasses.dataclass(frozen=True)
class ScanConfig:
    """Tuning knobs; None lets the implementation choose. None of them changes the result beyond rounding.

    Attributes:
      chunk: steps between two saved states (and the length of a recomputed stretch in the backward pass). The default
        is the longest balanced chunk of at most 64 steps.
      time_splits: number of pieces of L scanned at the same time (two passes; pays when B x E is small).
      unroll: steps of the recurrence that are written out in one turn of its loop. The default is 1 of `chunked` and
        `pallas_gpu`; 16 forward and 8 backward of `pallas_tpu`, whose compiler orders operations within a turn only.
      channel_tile: channels that an instance of `pallas_tpu` advances together, a multiple of 128. The default spreads E evenly
        over as few tiles of at most 1,024 as hold it. The other implementations have no such choice: a thread of `pallas_gpu`
        owns a channel, 128 of them make its block.
      interpret: run a Pallas kernel in an interpreter on the CPU. `True`, or the parameters of the interpreter.
      batch_axes, channel_axes: names of the mesh axes over which B and E are split under an Auto mesh. By default axes
        named "model", "tensor" or "tp" split E and all others split B.
    """

    chunk: int | None = None
    time_splits: int | None = None
    unroll: int | None = None
    channel_tile: int | None = None
    interpret: object = None
    batch_axes: tuple[str, ...] | None = None
    channel_axes: tuple[str, ...] | None = None

    def __post_init__(self):
        for name in ("chunk", "time_splits", "unroll"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"ScanConfig: {name} = {value}, expected 1 or more")
        if self.channel_tile is not None and (self.channel_tile % 128 or not 128 <= self.channel_tile <= 1024):
            raise ValueError(f"ScanConfig: channel_tile = {self.channel_tile}, expected a multiple of 128 up to 1,024")


@dataclasses.dataclass(frozen=True)
class ScanOptions:
    """The static half of a call."""

    delta_softplus: bool = False
    reverse: bool = False
    chunk: int = 64
    config: ScanConfig = ScanConfig()


class ScanArgs(NamedTuple):
    """The arrays of a call, None where a part is absent. Also the shape of the gradients.

    u, delta, z [B, L, E] and B, C [B, L, N] keep the caller's dtype; A [E, N], D, delta_bias [E] and initial_state
    [B, E, N] have the compute dtype (float32; float64 when an input is float64).
    valid [B, L] is 0 at padded steps, keep [B, L] is 0 where the incoming state is discarded; both in the compute dtype.
    """

    u: jax.Array
    delta: jax.Array
    A: jax.Array
    B: jax.Array
    C: jax.Array
    D: jax.Array | None
    z: jax.Array | None
    delta_bias: jax.Array | None
    initial_state: jax.Array
    valid: jax.Array | None
    keep: jax.Array | None


def balanced_chunk(length: int, target: int) -> int:
    """The chunk <= target that covers `length` in equal pieces: 200 steps make 4 x 50, not 3 x 64 and a rest."""
    if length <= 0:
        return 1
    return -(-length // -(-length // target))


def compute_dtype(args: ScanArgs) -> np.dtype:
    """dtype of the state and of all arithmetic: float64 if an input is, else float32."""
    return args.A.dtype


def activate_delta(delta: jax.Array, bias: jax.Array | None, softplus: bool, dtype) -> jax.Array:
    """softplus(delta + bias) in the compute dtype; softplus(x) = log1p(exp(x)), the identity above the threshold."""
    delta = delta.astype(dtype)
    if bias is not None:
        delta = delta + bias
    if softplus:
        # The inner `where` keeps exp finite, so that its gradient is finite in the branch that is not taken.
        safe = jnp.minimum(delta, SOFTPLUS_THRESHOLD)
        delta = jnp.where(delta > SOFTPLUS_THRESHOLD, delta, jnp.log1p(jnp.exp(safe)))
    return delta


def delta_padding(args: ScanArgs, options: ScanOptions) -> float | None:
    """What to pad `delta` with so that the activated delta is exactly 0 there; None where only a mask can do it."""
    if options.delta_softplus:
        return -1e4  # softplus underflows to 0, whatever the bias
    return 0.0 if args.delta_bias is None else None


def finish_output(y, u, D, z, valid) -> jax.Array:
    """(y + D u) silu(z), zero at padded steps. y is in the compute dtype; `valid` broadcasts against it."""
    if D is not None:
        y = y + D * u.astype(y.dtype)
    if z is not None:
        z = z.astype(y.dtype)
        y = y * z * jax.nn.sigmoid(z)
    if valid is not None:
        y = y * valid
    return y


def step_flags(mask, reset, reverse: bool, dtype):
    """`valid` and `keep` of ScanArgs from the caller's mask and reset.

    A reset acts on a padded step too: a boundary between two packed sequences must never be lost.
    """
    valid = None if mask is None else mask.astype(dtype)
    keep = None
    if reset is not None:
        if reverse:
            # Running down, the state that reaches t comes from t + 1: it is cut where a sequence starts at t + 1.
            # Nothing lies above L - 1 but initial_state, which a reset at the scan's first step discards.
            reset = jnp.concatenate([reset[:, 1:], reset[:, -1:]], axis=1)
        keep = 1.0 - reset.astype(dtype)
    return valid, keep
