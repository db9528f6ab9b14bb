"""The Mamba mixer (arXiv 2312.00752, section 3.4), forward or in both directions, with masks."""

from __future__ import annotations

import math

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from kernels.causal_conv1d import causal_conv1d
from kernels.selective_scan import selective_scan
from sedtalker_jax.precision import Precision


def _s4d_real_log(key: jax.Array, shape: tuple[int, int], dtype) -> jax.Array:
    """log of n = 1..N in every channel: A = -exp(log A) is the S4D-real initialisation."""
    del key
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[1] + 1, dtype=dtype)), shape)


def _inverse_softplus_time_steps(key: jax.Array, shape: tuple[int], dtype, low: float = 1e-3, high: float = 0.1) -> jax.Array:
    """Bias whose softplus is log-uniform in [low, high]: the range of time constants that Mamba starts from."""
    steps = jnp.exp(jax.random.uniform(key, shape, dtype) * (math.log(high) - math.log(low)) + math.log(low))
    return steps + jnp.log(-jnp.expm1(-steps))


@flax.struct.dataclass
class MambaState:
    """What a forward scan carries from one piece of a sequence to the next.

    Attributes:
      convolution: [B, W-1, E], the inputs of the convolution before the piece.
      scan: [B, E, N], the state space's state.
    """

    convolution: Float[Array, "B W-1 E"] | None
    scan: Float[Array, "B E N"] | None


class MambaMixer(nn.Module):
    """Input-dependent state space mixing along time.

    Attributes:
      width: D, of input and output.
      expand: E = expand * D.
      state_size: N.
      conv_width: taps of the depthwise causal convolution.
      bidirectional: add a second scan that runs backwards in time, with its own parameters (the input and output projections
        are shared).
      scan_implementation: passed to `selective_scan`; None chooses by platform.
    """

    width: int
    expand: int = 2
    state_size: int = 16
    conv_width: int = 4
    bidirectional: bool = False
    precision: Precision = Precision()
    scan_implementation: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], mask: Bool[Array, "B L"], state: MambaState | None = None
    ) -> Float[Array, "B L D"] | tuple[Float[Array, "B L D"], MambaState]:
        """Args:
        x: [B, L, D].
        mask: [B, L], False = padding (at the end of each row; outputs there are unspecified).
        state: of the steps before these; then the result is (y, state). Forward scans only.
        """
        inner = self.expand * self.width
        u, z = jnp.split(self._dense(2 * inner, "in_proj", use_bias=False)(x), 2, axis=-1)
        y, following = self._scan(u, z, mask, state, reverse=False)
        if self.bidirectional:
            y = y + self._scan(u, z, mask, None, reverse=True)[0]
        y = self._dense(self.width, "out_proj", use_bias=False)(y)
        return y if state is None else (y, following)

    @nn.nowrap
    def initial_state(self, batch_size: int) -> MambaState:
        """The state before the first step."""
        inner = self.expand * self.width
        return MambaState(
            jnp.zeros((batch_size, self.conv_width - 1, inner), self.precision.compute),
            jnp.zeros((batch_size, inner, self.state_size), self.precision.statistics),
        )

    def _dense(self, features: int, name: str, **options) -> nn.Dense:
        return nn.Dense(features, dtype=self.precision.compute, param_dtype=self.precision.params, name=name, **options)

    def _scan(self, u, z, mask, state: MambaState | None, *, reverse: bool) -> tuple[Float[Array, "B L E"], MambaState]:
        before = MambaState(None, None) if state is None else state
        params, inner, N = self.precision.params, u.shape[-1], self.state_size
        suffix = "_reverse" if reverse else ""
        bound = 1.0 / math.sqrt(self.conv_width)
        weight = self.param(
            "conv_weight" + suffix,
            lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound),
            (self.conv_width, inner),
            params,
        )
        bias = self.param("conv_bias" + suffix, nn.initializers.zeros, (inner,), params)
        # The convolution must look into the past of its own scan: for the backward scan that is the future of the clip.
        u, inputs = causal_conv1d(
            u,
            weight,
            bias,
            activation="silu",
            initial_state=before.convolution,
            mask=mask,
            reverse=reverse,
            return_final_state=True,
        )
        rank = max(1, math.ceil(self.width / 16))
        projected = self._dense(rank + 2 * N, "x_proj" + suffix, use_bias=False)(u)
        step_features, B, C = jnp.split(projected, np.array([rank, rank + N]), axis=-1)
        delta = self._dense(
            inner,
            "step_proj" + suffix,
            use_bias=False,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
        )(step_features)
        step_bias = self.param("step_bias" + suffix, _inverse_softplus_time_steps, (inner,), params)
        log_A = self.param("log_A" + suffix, _s4d_real_log, (inner, N), params)
        skip = self.param("skip" + suffix, nn.initializers.ones, (inner,), params)
        statistics = self.precision.statistics
        y, final = selective_scan(
            u,
            delta,
            -jnp.exp(log_A.astype(statistics)),
            B,
            C,
            D=skip.astype(statistics),
            z=z,
            delta_bias=step_bias.astype(statistics),
            delta_softplus=True,
            initial_state=before.scan,
            mask=mask,
            reverse=reverse,
            return_final_state=True,
            implementation=self.scan_implementation,
        )
        return y, MambaState(inputs, final)
