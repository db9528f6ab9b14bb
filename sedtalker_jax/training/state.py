"""The state that one training step maps to the next."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """Everything that changes from step to step.

    There is no random state: an example's randomness comes from its own seed and the step number.

    Attributes:
      step: int32 scalar, the number of steps taken.
      params: trained and frozen parameters.
      opt_state: the optimizer's.
      ema_params: exponential moving average of params; evaluation uses it.
      skipped_steps: int32 scalar, steps whose gradient was not finite and which changed nothing else.
    """

    step: jax.Array
    params: Any
    opt_state: optax.OptState
    ema_params: Any
    skipped_steps: jax.Array

    @classmethod
    def create(cls, params: Any, optimizer: optax.GradientTransformation) -> TrainState:
        """A state at step 0; the average starts at the parameters themselves."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            # A copy: the state is donated, and two leaves must not share one buffer.
            ema_params=jax.tree.map(jnp.copy, params),
            skipped_steps=jnp.zeros((), jnp.int32),
        )
