"""Feed-forward layers: one network, or a dropless mixture of experts."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sedtalker_jax.precision import Precision


class FeedForward(nn.Module):
    """Gated feed-forward network: out(silu(gate(x)) * up(x))."""

    width: int
    hidden: int
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        def dense(features, name):
            return nn.Dense(
                features, use_bias=False, dtype=self.precision.compute, param_dtype=self.precision.params, name=name
            )

        return dense(self.width, "out")(nn.silu(dense(self.hidden, "gate")(x)) * dense(self.hidden, "up")(x))


class MixtureOfExperts(nn.Module):
    """Dropless top-k mixture of gated feed-forward experts with deterministic routing.

    Every expert is evaluated on every step and weighted by its gate, zero outside the top k: with the handful of experts
    that such models have, this costs little, keeps shapes static, and has no capacity, so that a clip alone equals the same
    clip in a batch. The gates of the chosen experts are renormalised to sum to one.

    The balance loss of a clip is num_experts * sum_i f_i P_i (Switch Transformer, arXiv 2101.03961, eq. 4) with f_i the share
    of valid steps that choose expert i (over k) and P_i the mean gate probability, over that clip's valid steps: it is 1 when
    the load is even. It is sown as "losses" / "moe_balance", [B].
    """

    width: int
    hidden: int
    num_experts: int = 4
    top_k: int = 2
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B L D"]:
        X, D, hidden_size = self.num_experts, self.width, self.hidden
        statistics, params = self.precision.statistics, self.precision.params
        router = self.param("router", nn.initializers.lecun_normal(), (D, X), params)
        probabilities = jax.nn.softmax(x.astype(statistics) @ router.astype(statistics), axis=-1)
        top_values, top_indices = jax.lax.top_k(probabilities, self.top_k)
        chosen = jax.nn.one_hot(top_indices, X, dtype=statistics)
        gates = jnp.einsum("blk,blkx->blx", top_values / top_values.sum(-1, keepdims=True), chosen)

        valid = mask.astype(statistics)[..., None]
        steps = jnp.maximum(valid.sum(axis=1), 1.0)
        share = (chosen.sum(axis=2) * valid).sum(axis=1) / steps / self.top_k
        mean_probability = (probabilities * valid).sum(axis=1) / steps
        self.sow("losses", "moe_balance", X * jnp.sum(share * mean_probability, axis=-1))

        fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=-2, out_axis=-1, batch_axis=(0,))
        gate = self.param("gate", fan_in, (X, D, hidden_size), params).astype(self.precision.compute)
        up = self.param("up", fan_in, (X, D, hidden_size), params).astype(self.precision.compute)
        out = self.param("out", fan_in, (X, hidden_size, D), params).astype(self.precision.compute)
        hidden = nn.silu(jnp.einsum("bld,xdi->blxi", x, gate)) * jnp.einsum("bld,xdi->blxi", x, up)
        return jnp.einsum("blxi,xid,blx->bld", hidden, out, gates.astype(self.precision.compute))
