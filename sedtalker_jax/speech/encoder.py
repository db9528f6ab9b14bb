"""wav2vec 2.0, HuBERT and WavLM as one Linen module, in which padding never changes a result."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sedtalker_jax.axes import Lengths, SpeechFeatures, SpeechMask, Waveforms
from sedtalker_jax.randomness import ExampleKeys, dropout, fold
from sedtalker_jax.speech.attention import RelativePositionBias, SelfAttention
from sedtalker_jax.speech.config import SpeechEncoderConfig
from sedtalker_jax.speech.layers import (
    FeatureExtractor,
    LayerNorm,
    PositionalConvolution,
    activation,
    frame_mask,
    statistics_dtype,
)
from sedtalker_jax.speech.spec_augment import time_and_feature_masks

_NORMALISATION_EPSILON = 1e-7


@flax.struct.dataclass
class EncoderOutput:
    """Attributes:
    last_hidden_state: [B, T, D].
    hidden_states: [n + 1, B, T, D], the input of the first layer and the output of each; None when not asked for. In pre-norm
      models the last one is the last layer's own output, before the final norm, as in transformers 5 (4 gave the normed one).
    frame_mask: bool [B, T], False = padding.
    """

    last_hidden_state: SpeechFeatures
    hidden_states: Float[Array, "layers B T D"] | None
    frame_mask: SpeechMask


class EncoderLayer(nn.Module):
    """Attention and feed-forward with residuals; norms before (do_stable_layer_norm) or after. Scanned over x."""

    config: SpeechEncoderConfig
    first_layer: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: SpeechFeatures, index: Array, mask: SpeechMask | None, bias: Array | None, keys: ExampleKeys | None):
        config, dtypes = self.config, dict(dtype=self.dtype, param_dtype=self.param_dtype)
        keys = None if keys is None else fold(keys, self.first_layer + index)
        attention_norm = LayerNorm(config.layer_norm_eps, name="attention_norm", **dtypes)
        feed_forward_norm = LayerNorm(config.layer_norm_eps, name="feed_forward_norm", **dtypes)
        attention = SelfAttention(config, name="attention", **dtypes)

        def attend(h):
            return dropout(attention(h, mask, bias, keys), config.hidden_dropout, keys, "attention")

        def feed_forward(h):
            h = nn.Dense(config.intermediate_size, name="feed_forward_in", **dtypes)(h)
            h = dropout(activation(config.hidden_act)(h), config.activation_dropout, keys, "activation")
            h = nn.Dense(config.hidden_size, name="feed_forward_out", **dtypes)(h)
            return dropout(h, config.hidden_dropout, keys, "feed_forward")

        if config.do_stable_layer_norm:
            y = x + attend(attention_norm(x))
            y = y + feed_forward(feed_forward_norm(y))
        else:
            y = attention_norm(x + attend(x))
            y = feed_forward_norm(y + feed_forward(y))
        if keys is not None and config.layerdrop > 0:
            y = jnp.where(self._dropped(keys, index)[:, None, None], x, y)
        return y, y

    def _dropped(self, keys: ExampleKeys, index: Array):
        drop = jax.vmap(lambda key: jax.random.bernoulli(key, self.config.layerdrop))(fold(keys, "layerdrop"))
        # WavLM's first layer makes the position bias and is always there.
        always_kept = self.config.has_relative_bias & (self.first_layer + index == 0)
        return drop & ~always_kept


STACKED_LAYERS = frozenset({"frozen_layers", "layers"})
"""Names under which the parameters of all layers lie along a leading axis."""


class SpeechEncoder(nn.Module):
    """The encoder of wav2vec 2.0, HuBERT or WavLM.

    Layers are stacked along a leading axis of their parameters and run by a scan, in two stacks: `frozen_layers` (the first
    num_frozen_layers, which get no gradient) and `layers`. With `padding="masked"` a clip gives the same result alone and in
    any padded batch; `padding="reference"` takes a group-normed model's statistics over the padding too, as transformers does.

    Attributes:
      config: sizes and switches.
      padding: "masked" or "reference".
      dtype: format of activations and products. param_dtype: format of parameters.
    """

    config: SpeechEncoderConfig
    padding: str = "masked"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        waveforms: Waveforms,
        lengths: Lengths | None = None,
        keys: ExampleKeys | None = None,
        return_hidden_states: bool = True,
    ) -> EncoderOutput:
        """Encodes a batch of clips.

        Args:
          waveforms: [B, S] at 16 kHz; what lies beyond a clip's length is ignored.
          lengths: [B] valid samples per clip; None = all of S.
          keys: one PRNG key per example for dropout, LayerDrop and SpecAugment; None = deterministic.
          return_hidden_states: False leaves `hidden_states` None and their memory free.

        Returns:
          EncoderOutput with T = config.num_frames(S) frames. In "masked" mode padded frames are zero.

        Raises:
          ValueError: S is too short for one frame (400 samples), or `padding` is neither word.
        """
        config, dtypes = self.config, dict(dtype=self.dtype, param_dtype=self.param_dtype)
        if self.padding not in ("masked", "reference"):
            raise ValueError(f"padding must be 'masked' or 'reference', not {self.padding!r}")
        T = config.num_frames(waveforms.shape[1])
        if T < 1:
            raise ValueError(f"waveforms of {waveforms.shape[1]} samples are too short for one frame of the encoder")
        masked = self.padding == "masked"
        # In reference mode a call without lengths is transformers' call without an attention mask.
        attend_to = None if lengths is None else frame_mask(config, lengths, T)
        valid = jnp.ones((waveforms.shape[0], T), bool) if attend_to is None else attend_to

        waveforms = _prepare(waveforms, lengths, config.normalise_input, statistics_dtype(self.dtype))
        features = FeatureExtractor(config, name="feature_extractor", **dtypes)(waveforms, lengths if masked else None)
        if config.freeze_feature_extractor or config.num_frozen_layers:
            features = lax.stop_gradient(features)

        entry_keys = None if config.num_frozen_layers else keys
        x = self._project(features, entry_keys)
        x = self._spec_augment(x, valid, keys)
        if attend_to is not None:
            x = jnp.where(valid[..., None], x, jnp.zeros((), x.dtype))
        x = x + PositionalConvolution(config, name="positional_convolution", **dtypes)(x)
        encoder_norm = LayerNorm(config.layer_norm_eps, name="encoder_norm", **dtypes)
        if not config.do_stable_layer_norm:
            x = encoder_norm(x)
        x = dropout(x, config.hidden_dropout, entry_keys, "encoder_input")

        bias = None
        if config.has_relative_bias:
            bias = RelativePositionBias(config, self.param_dtype, name="relative_position_bias")(T)
            bias = bias.astype(statistics_dtype(self.dtype))
        states = [x[None]]
        if config.num_frozen_layers:
            x, outputs = self._stack("frozen_layers", 0, config.num_frozen_layers, return_hidden_states)(
                lax.stop_gradient(x), attend_to, jax.tree.map(lax.stop_gradient, bias), None
            )
            x = lax.stop_gradient(x)
            bias = jax.tree.map(lax.stop_gradient, bias)
            states = [lax.stop_gradient(state) for state in (*states, outputs)]
        num_trained = config.num_hidden_layers - config.num_frozen_layers
        if num_trained:
            x, outputs = self._stack("layers", config.num_frozen_layers, num_trained, return_hidden_states)(
                x, attend_to, bias, keys
            )
            states.append(outputs)
        if config.do_stable_layer_norm:
            x = encoder_norm(x)

        hidden_states = None
        if return_hidden_states:
            hidden_states = jnp.concatenate(states)
        if masked:
            x = jnp.where(valid[..., None], x, jnp.zeros((), x.dtype))
            if hidden_states is not None:
                hidden_states = jnp.where(valid[None, ..., None], hidden_states, jnp.zeros((), x.dtype))
        return EncoderOutput(x, hidden_states, valid)

    def _project(self, features: SpeechFeatures, keys: ExampleKeys | None) -> SpeechFeatures:
        config, dtypes = self.config, dict(dtype=self.dtype, param_dtype=self.param_dtype)
        if config.feat_proj_layer_norm:
            features = LayerNorm(config.layer_norm_eps, name="projection_norm", **dtypes)(features)
        x = nn.Dense(config.hidden_size, name="projection", **dtypes)(features)
        return dropout(x, config.feat_proj_dropout, keys, "feature_projection")

    def _spec_augment(self, x: SpeechFeatures, valid: SpeechMask, keys: ExampleKeys | None) -> SpeechFeatures:
        config = self.config
        # Always a parameter, so that a checkpoint has the same leaves whatever the training switches say.
        embedding = self.param("masked_embedding", nn.initializers.uniform(1.0), (config.hidden_size,), self.param_dtype)
        if keys is None or not config.apply_spec_augment:
            return x
        time, feature = time_and_feature_masks(keys, valid.sum(axis=1), x.shape[1], config)
        if time is not None:
            x = jnp.where(time[..., None], embedding.astype(x.dtype), x)
        if feature is not None:
            x = jnp.where(feature[:, None, :], jnp.zeros((), x.dtype), x)
        return x

    def _stack(self, name: str, first_layer: int, num_layers: int, collect: bool):
        """A scan over layers: returns f(x, mask, bias, keys) -> (x, outputs of each layer or None)."""
        layer = EncoderLayer if collect else _SilentLayer
        if self.config.remat != "none":
            policy = None if self.config.remat == "full" else getattr(jax.checkpoint_policies, self.config.remat)
            layer = nn.remat(layer, policy=policy, prevent_cse=False)
        scanned = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=num_layers,
        )(self.config, first_layer, self.dtype, self.param_dtype, name=name)
        return functools.partial(_run_stack, scanned, num_layers)


def _run_stack(scanned, num_layers: int, x, mask, bias, keys):
    return scanned(x, jnp.arange(num_layers), mask, bias, keys)


class _SilentLayer(EncoderLayer):
    """The layer without its per-layer output, for callers that want the last state only."""

    def __call__(self, x, index, mask, bias, keys):
        return super().__call__(x, index, mask, bias, keys)[0], None


def _prepare(waveforms: Waveforms, lengths: Lengths | None, normalise: bool, dtype: DTypeLike) -> Waveforms:
    """Zeros beyond each clip's length and, if asked, zero mean and unit variance within it."""
    waveforms = waveforms.astype(dtype)
    if lengths is None:
        lengths = jnp.full(waveforms.shape[:1], waveforms.shape[1])
    valid = jnp.arange(waveforms.shape[1])[None, :] < lengths[:, None]
    waveforms = jnp.where(valid, waveforms, 0.0)
    if not normalise:
        return waveforms
    count = jnp.maximum(lengths, 1).astype(dtype)[:, None]
    centred = jnp.where(valid, waveforms - waveforms.sum(axis=1, keepdims=True) / count, 0.0)
    variance = jnp.square(centred).sum(axis=1, keepdims=True) / count
    return centred * lax.rsqrt(variance + _NORMALISATION_EPSILON)


def trainable_mask(config: SpeechEncoderConfig, params: Any) -> Any:
    """A tree like `params` (the encoder's own) of bools: False for parameters that the config freezes.

    Frozen parameters need no optimizer moments, decay, average or all-reduce.
    """
    frozen = {"frozen_layers"}
    if config.freeze_feature_extractor or config.num_frozen_layers:
        frozen |= {"feature_extractor"}
    if config.num_frozen_layers:
        frozen |= {"projection_norm", "projection", "masked_embedding", "positional_convolution", "relative_position_bias"}
        if not config.do_stable_layer_norm:
            frozen |= {"encoder_norm"}
    return {name: jax.tree.map(lambda _, keep=name not in frozen: keep, subtree) for name, subtree in params.items()}
