"""The Transformer-Mamba stack: residual blocks chosen by a pattern string, modulated by a condition."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
from jaxtyping import Array, Bool, Float

from sedtalker_jax.models.attention import Attention
from sedtalker_jax.models.gru import GRUMixer
from sedtalker_jax.models.mamba import MambaMixer
from sedtalker_jax.models.moe import FeedForward, MixtureOfExperts
from sedtalker_jax.models.normalisation import AdaptiveRMSNorm, RMSNorm
from sedtalker_jax.precision import Precision
from sedtalker_jax.randomness import ExampleKeys, dropout


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """Shape of a stack.

    Attributes:
      pattern: one letter per block. M: Mamba + feed-forward. E: Mamba + mixture of experts. A: attention + feed-forward.
        G: gated recurrent units + feed-forward, a baseline.
      width: D.
      feed_forward: hidden width of the feed-forward networks, as a multiple of D.
      causal: attention sees no later step, Mamba and recurrent units run forward only; otherwise these run in both directions.
      window: attention's reach in steps; None = all.
      num_heads, num_kv_heads, learned_rotary_rank: see Attention.
      state_size, expand, conv_width: see MambaMixer.
      num_experts, top_k: see MixtureOfExperts.
      dropout: rate on the output of every sub-block.
      remat: recompute each block in the backward pass instead of storing its activations.
      scan_implementation: of the selective scan; None chooses by platform.
    """

    pattern: str = "MAM"
    width: int = 128
    feed_forward: float = 2.0
    causal: bool = False
    window: int | None = None
    num_heads: int = 4
    num_kv_heads: int = 2
    learned_rotary_rank: int = 0
    state_size: int = 16
    expand: int = 2
    conv_width: int = 4
    num_experts: int = 4
    top_k: int = 2
    dropout: float = 0.1
    remat: bool = False
    scan_implementation: str | None = None

    def __post_init__(self):
        unknown = set(self.pattern) - set("MEAG")
        if unknown or not self.pattern:
            raise ValueError(f"pattern={self.pattern!r}: expected one or more of the letters M, E, A, G, got {sorted(unknown)}")
        if self.width % self.num_heads or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"width={self.width} must be a multiple of num_heads={self.num_heads}, "
                f"and that of num_kv_heads={self.num_kv_heads}"
            )


class Block(nn.Module):
    """x <- x + gate * Mixer(norm(x, c));  x <- x + gate * FeedForward(norm(x, c))."""

    config: BackboneConfig
    kind: str
    precision: Precision = Precision()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        condition: Float[Array, "B L C"] | None,
        mask: Bool[Array, "B L"],
        keys: ExampleKeys | None,
    ) -> Float[Array, "B L D"]:
        config, precision = self.config, self.precision
        y, gate = AdaptiveRMSNorm(precision, name="mixer_norm")(x, condition)
        if self.kind == "A":
            y = Attention(
                config.width,
                config.num_heads,
                config.num_kv_heads,
                causal=config.causal,
                window=config.window,
                learned_rotary_rank=config.learned_rotary_rank,
                precision=precision,
                name="attention",
            )(y, mask)
        elif self.kind == "G":
            y = GRUMixer(config.width, bidirectional=not config.causal, precision=precision, name="gru")(y, mask)
        else:
            y = MambaMixer(
                config.width,
                config.expand,
                config.state_size,
                config.conv_width,
                bidirectional=not config.causal,
                precision=precision,
                scan_implementation=config.scan_implementation,
                name="mamba",
            )(y, mask)
        x = x + dropout(y if gate is None else y * gate, config.dropout, keys, self.name + "/mixer")
        y, gate = AdaptiveRMSNorm(precision, name="feed_forward_norm")(x, condition)
        hidden = int(config.feed_forward * config.width)
        if self.kind == "E":
            y = MixtureOfExperts(config.width, hidden, config.num_experts, config.top_k, precision, name="experts")(y, mask)
        else:
            y = FeedForward(config.width, hidden, precision, name="feed_forward")(y)
        return x + dropout(y if gate is None else y * gate, config.dropout, keys, self.name + "/feed_forward")


class Backbone(nn.Module):
    """The stack of blocks that `config.pattern` spells, and a final norm."""

    config: BackboneConfig
    precision: Precision = Precision()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "B L"],
        *,
        condition: Float[Array, "B L C"] | None = None,
        keys: ExampleKeys | None = None,
    ) -> Float[Array, "B L D"]:
        """Args: x [B, L, D]; mask [B, L] False = padding; condition [B, L, C]; keys per example, None = no dropout."""
        block = nn.remat(Block, prevent_cse=False) if self.config.remat else Block
        for index, kind in enumerate(self.config.pattern):
            with jax.named_scope(f"block_{index}_{kind}"):
                x = block(self.config, kind, self.precision, name=f"block_{index}")(x, condition, mask, keys)
        return RMSNorm(self.precision, name="final_norm")(x)
