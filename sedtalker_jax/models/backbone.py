"""The Transformer-Mamba stack: residual blocks chosen by a pattern string, modulated by a condition."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import flax.struct
import jax
from jaxtyping import Array, Bool, Float

from sedtalker_jax.models.attention import Attention, AttentionState
from sedtalker_jax.models.gru import GRUMixer
from sedtalker_jax.models.mamba import MambaMixer, MambaState
from sedtalker_jax.models.moe import FeedForward, MixtureOfExperts
from sedtalker_jax.models.normalisation import AdaptiveRMSNorm, RMSNorm
from sedtalker_jax.precision import Precision
from sedtalker_jax.randomness import ExampleKeys, dropout
from sedtalker_jax.value_ranges import at_least, below_one, positive


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
        at_least(self, 1, "width", "window", "num_heads", "num_kv_heads", "state_size", "expand", "conv_width")
        at_least(self, 0, "learned_rotary_rank")
        positive(self, "feed_forward")
        below_one(self, "dropout")
        unknown = set(self.pattern) - set("MEAG")
        if unknown or not self.pattern:
            raise ValueError(f"pattern={self.pattern!r}: expected one or more of the letters M, E, A, G, got {sorted(unknown)}")
        if self.width % self.num_heads or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"width={self.width} must be a multiple of num_heads={self.num_heads}, "
                f"and that of num_kv_heads={self.num_kv_heads}"
            )
        rotated = self.width if self.learned_rotary_rank else self.width // self.num_heads
        if "A" in self.pattern and rotated % 2:
            raise ValueError(f"width={self.width}, num_heads={self.num_heads}: rotary positions need an even width of a head")
        if "E" in self.pattern and not 1 <= self.top_k <= self.num_experts:
            raise ValueError(f"top_k={self.top_k} must lie within 1 and num_experts={self.num_experts}")

    @property
    def obstacle_to_streaming(self) -> str | None:
        """Why a stack of this shape can't take a sequence piece by piece; None where it can, with a state of fixed size."""
        if not self.causal:
            return "backbone.causal is False, so every step sees later ones"
        if "A" in self.pattern and self.window is None:
            return "backbone.window is None, so attention sees all earlier steps and its state would grow without end"
        return None


MixerState = MambaState | AttentionState | Float[Array, "B D"]
"""Of a Mamba, an attention and a recurrent mixer."""


@flax.struct.dataclass
class BackboneState:
    """What a stack carries from one piece of a sequence to the next: the states of its blocks' mixers, in order."""

    mixers: tuple[MixerState, ...]


def make_mixer(config: BackboneConfig, kind: str, precision: Precision) -> nn.Module:
    """The part of a block that mixes along time, by the block's letter."""
    if kind == "A":
        return Attention(
            config.width,
            config.num_heads,
            config.num_kv_heads,
            causal=config.causal,
            window=config.window,
            learned_rotary_rank=config.learned_rotary_rank,
            precision=precision,
            name="attention",
        )
    if kind == "G":
        return GRUMixer(config.width, bidirectional=not config.causal, precision=precision, name="gru")
    return MambaMixer(
        config.width,
        config.expand,
        config.state_size,
        config.conv_width,
        bidirectional=not config.causal,
        precision=precision,
        scan_implementation=config.scan_implementation,
        name="mamba",
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
        state: MixerState | None = None,
    ) -> Float[Array, "B L D"] | tuple[Float[Array, "B L D"], MixerState]:
        config, precision = self.config, self.precision
        y, gate = AdaptiveRMSNorm(precision, name="mixer_norm")(x, condition)
        mixer, following = make_mixer(config, self.kind, precision), None
        if state is None:
            y = mixer(y, mask)
        else:
            y, following = mixer(y, mask, state)
        x = x + dropout(y if gate is None else y * gate, config.dropout, keys, self.name + "/mixer")
        y, gate = AdaptiveRMSNorm(precision, name="feed_forward_norm")(x, condition)
        hidden = int(config.feed_forward * config.width)
        if self.kind == "E":
            y = MixtureOfExperts(config.width, hidden, config.num_experts, config.top_k, precision, name="experts")(y, mask)
        else:
            y = FeedForward(config.width, hidden, precision, name="feed_forward")(y)
        x = x + dropout(y if gate is None else y * gate, config.dropout, keys, self.name + "/feed_forward")
        return x if state is None else (x, following)


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
        state: BackboneState | None = None,
    ) -> Float[Array, "B L D"] | tuple[Float[Array, "B L D"], BackboneState]:
        """Args:
        x: [B, L, D].
        mask: [B, L], False = padding.
        condition: [B, L, C].
        keys: per example, None = no dropout.
        state: of the steps before these; then padding lies at the end of each row, and the result is (y, state).
        """
        block = nn.remat(Block, prevent_cse=False) if self.config.remat else Block
        following: list[MixerState] = []
        for index, kind in enumerate(self.config.pattern):
            with jax.named_scope(f"block_{index}_{kind}"):
                layer = block(self.config, kind, self.precision, name=f"block_{index}")
                if state is None:
                    x = layer(x, condition, mask, keys)
                else:
                    x, mixer = layer(x, condition, mask, keys, state.mixers[index])
                    following.append(mixer)
        y = RMSNorm(self.precision, name="final_norm")(x)
        return y if state is None else (y, BackboneState(tuple(following)))

    @nn.nowrap
    def initial_state(self, batch_size: int) -> BackboneState:
        """The state before the first step.

        Raises:
          ValueError: a stack of this shape can't take a sequence piece by piece.
        """
        obstacle = self.config.obstacle_to_streaming
        if obstacle is not None:
            raise ValueError(f"this stack can't stream: {obstacle}")
        mixers = (make_mixer(self.config, kind, self.precision) for kind in self.config.pattern)
        return BackboneState(tuple(mixer.initial_state(batch_size) for mixer in mixers))
