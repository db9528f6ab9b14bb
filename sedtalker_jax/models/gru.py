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
    def __call__(self, x: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B L D"]:
        """Args: x [B, L, D]; mask [B, L], False = padding (at the end of each row; outputs there are unspecified)."""
        options = dict(dtype=self.precision.compute, param_dtype=self.precision.params)
        lengths = mask.sum(axis=1).astype(jnp.int32)

        def unit(reverse: bool) -> nn.RNN:
            name = "backward" if reverse else "forward"
            return nn.RNN(nn.GRUCell(self.width, **options, name=f"{name}_cell"), reverse=reverse, keep_order=True, name=name)

        states = [unit(False)(x, seq_lengths=lengths)]
        if self.bidirectional:
            states.append(unit(True)(x, seq_lengths=lengths))
        return nn.Dense(self.width, use_bias=False, name="out_proj", **options)(jnp.concatenate(states, axis=-1))
