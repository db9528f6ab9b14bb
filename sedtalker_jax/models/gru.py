"""A gated recurrent unit as a mixer along time: the baseline that the other blocks are compared with."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sedtalker_jax.precision import Precision


class GRUMixer(nn.Module):
    """Gated recurrent units (Cho et al., arXiv 1406.1078) of width D over the sequence, projected back to D.

    Attributes:
      width: D, of input, state and output.
      bidirectional: a second unit runs backwards from each clip's own end, and both states are projected together.
    """

    width: int
    bidirectional: bool = False
    precision: Precision = Precision()

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], mask: Bool[Array, "B L"], state: Float[Array, "B D"] | None = None
    ) -> Float[Array, "B L D"] | tuple[Float[Array, "B L D"], Float[Array, "B D"]]:
        """Args:
        x: [B, L, D].
        mask: [B, L], False = padding (at the end of each row; outputs there are unspecified).
        state: [B, D] of the forward unit after the steps before these; then the result is (y, state).
        """
        options = dict(dtype=self.precision.compute, param_dtype=self.precision.params)
        lengths = mask.sum(axis=1).astype(jnp.int32)

        def unit(reverse: bool) -> nn.RNN:
            name = "backward" if reverse else "forward"
            return nn.RNN(nn.GRUCell(self.width, **options, name=f"{name}_cell"), reverse=reverse, keep_order=True, name=name)

        if state is None:
            states = [unit(False)(x, seq_lengths=lengths)]
        else:
            following, forward = unit(False)(x, seq_lengths=lengths, initial_carry=state, return_carry=True)
            states = [forward]
        if self.bidirectional:
            states.append(unit(True)(x, seq_lengths=lengths))
        y = nn.Dense(self.width, use_bias=False, name="out_proj", **options)(jnp.concatenate(states, axis=-1))
        if state is None:
            return y
        # A row of padding alone has no last valid step to take the state from.
        return y, jnp.where((lengths > 0)[:, None], following, state)

    @nn.nowrap
    def initial_state(self, batch_size: int) -> Float[Array, "B D"]:
        """The state before the first step."""
        return jnp.zeros((batch_size, self.width), self.precision.params)
