"""Number formats of a model, in one object instead of flags in every layer."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True)
class Precision:
    """Formats of parameters and of matrix products.

    Norms, softmax, the scan's state, losses and the optimizer stay in `statistics` whatever `compute` is: bfloat16 has eight
    bits of mantissa, and sums over time or channels need more.

    Attributes:
      params: format in which parameters are stored.
      compute: format of activations and of matrix products.
    """

    params: DTypeLike = "float32"
    compute: DTypeLike = "float32"

    def __post_init__(self):
        for name in ("params", "compute"):
            value = getattr(self, name)
            try:
                known = jnp.issubdtype(jnp.dtype(value), jnp.floating)
            except TypeError:
                known = False
            if not known:
                raise ValueError(f"precision.{name}={value!r}: expected float32, bfloat16, float16 or float64")

    @property
    def statistics(self) -> DTypeLike:
        """float32, or float64 where the computation itself is in float64."""
        return jnp.promote_types(self.compute, jnp.float32)
