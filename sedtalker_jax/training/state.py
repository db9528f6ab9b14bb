"""The state that one training step maps to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict


@flax.struct.dataclass
class TrainState:
    """Everything that changes from step to step.

    There is no random state: an example's randomness comes from its own seed and the step number.

    Attributes:
      step: int32 scalar, the number of steps taken.
      params: trained parameters.
      frozen: parameters that stay as they were loaded: no gradient, moments, decay, average or all-reduce. {} without any.
      opt_state: the optimizer's.
      ema_params: exponential moving average of params; evaluation uses it, joined with `frozen`.
      skipped_steps: int32 scalar, steps whose gradient was not finite and which changed nothing else.
    """

    step: jax.Array
    params: Any
    frozen: Any
    opt_state: optax.OptState
    ema_params: Any
    skipped_steps: jax.Array

    @classmethod
    def create(cls, params: Any, optimizer: optax.GradientTransformation, trainable: Any = None) -> TrainState:
        """A state at step 0; the average starts at the parameters themselves.

        Args:
          params: all parameters, nested dicts.
          optimizer: gets the trained ones only.
          trainable: tree of bools like params; None = all are trained.
        """
        frozen: Any = {}
        if trainable is not None:
            params, frozen = partition(params, trainable)
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            frozen=frozen,
            opt_state=optimizer.init(params),
            # A copy: the state is donated, and two leaves must not share one buffer.
            ema_params=jax.tree.map(jnp.copy, params),
            skipped_steps=jnp.zeros((), jnp.int32),
        )


def partition(params: Mapping[str, Any], trainable: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits nested dicts of parameters into (trained, frozen) by a tree of bools; branches without leaves are left out."""
    flat, keep = flatten_dict(params), flatten_dict(trainable)
    return tuple(unflatten_dict({path: x for path, x in flat.items() if keep[path] is wanted}) for wanted in (True, False))


def combine(params: Mapping[str, Any], frozen: Mapping[str, Any]) -> Mapping[str, Any]:
    """Joins what `partition` split."""
    return unflatten_dict({**flatten_dict(params), **flatten_dict(frozen)}) if frozen else params
