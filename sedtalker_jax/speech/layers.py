"""Building blocks of the encoder family: norms, activations, the convolutional feature extractor, positions."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from sedtalker_jax.axes import SpeechFeatures, SpeechMask
from sedtalker_jax.speech.config import SpeechEncoderConfig
from sedtalker_jax.speech.positional_convolution import positional_convolution

_SUM_CHUNK = 128
_EPSILON = 1e-5  # torch's default for the feature extractor's norms, whatever layer_norm_eps says.


def activation(name: str) -> Callable[[Array], Array]:
    """The activation that a config names. "gelu" is the exact one (erf); jax's default is the approximation."""
    return {
        "gelu": lambda x: jax.nn.gelu(x, approximate=False),
        "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
        "relu": jax.nn.relu,
        "silu": jax.nn.silu,
        "swish": jax.nn.silu,
        "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    }[name]


def statistics_dtype(dtype: DTypeLike) -> DTypeLike:
    """Format of norms and softmax: float32, or float64 where the computation itself is."""
    return jnp.promote_types(dtype, jnp.float32)


class LayerNorm(nn.Module):
    """Norm over the last axis with statistics in float32 or better, in two passes."""

    epsilon: float = _EPSILON
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b T D"]) -> Float[Array, "*b T D"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), self.param_dtype)
        statistics = statistics_dtype(self.dtype)
        y = _norm_over_channels(x.astype(statistics), scale.astype(statistics), bias.astype(statistics), self.epsilon)
        return y.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _norm_over_channels(
    x: Float[Array, "*b T D"], scale: Float[Array, D], bias: Float[Array, D], epsilon: float
) -> Float[Array, "*b T D"]:
    """scale (x - m) / sqrt(v + epsilon) + bias with mean m and variance v over the last axis.

    The gradient is written out for the same reason as `_norm_over_time`'s.
    """
    return _channels_forward(x, scale, bias, epsilon)[0]


def _channels_forward(x, scale, bias, epsilon):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    y = x - mean
    inverse = lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + epsilon)
    return y * inverse * scale + bias, (x, scale, mean, inverse)


def _channels_backward(epsilon, residuals, cotangent):
    x, scale, mean, inverse = residuals
    y = (x - mean) * inverse
    of_y = cotangent * scale
    of_x = inverse * (of_y - jnp.mean(of_y, -1, keepdims=True) - y * jnp.mean(of_y * y, -1, keepdims=True))
    by_clip = (-1, *x.shape[-2:])
    of_bias, of_scale = (
        _sum_over_time(jnp.ones(rows.shape[:2], rows.dtype), rows).sum(axis=0)
        for rows in (cotangent.reshape(by_clip), (cotangent * y).reshape(by_clip))
    )
    return of_x, of_scale, of_bias


_norm_over_channels.defvjp(_channels_forward, _channels_backward)


class ChannelNormOverTime(nn.Module):
    """GroupNorm with one channel per group: each channel is normed over the frames that are valid."""

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: SpeechFeatures, valid: SpeechMask) -> SpeechFeatures:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), self.param_dtype)
        statistics = statistics_dtype(self.dtype)
        weights = valid.astype(statistics)
        weights = weights / jnp.maximum(weights.sum(axis=1, keepdims=True), 1.0)
        y = _norm_over_time(x.astype(statistics), weights, scale.astype(statistics), bias.astype(statistics))
        return y.astype(self.dtype)


@jax.custom_vjp
def _norm_over_time(
    x: Float[Array, "B T D"], weights: Float[Array, "B T"], scale: Float[Array, D], bias: Float[Array, D]
) -> Float[Array, "B T D"]:
    """scale (x - m) / sqrt(v + eps) + bias with m = sum_t w_t x_t, v = sum_t w_t (x_t - m)^2; the weights of a clip sum to 1.

    The gradient is written out because sums over time must be matrix products: XLA's own, masked or from a broadcast, take a
    CPU several times as long as the convolution before them. The weights get no gradient.
    """
    return _norm_forward(x, weights, scale, bias)[0]


def _norm_forward(x, weights, scale, bias):
    mean = _sum_over_time(weights, x)
    variance = _sum_over_time(weights, jnp.square(x - mean[:, None]))
    inverse = lax.rsqrt(variance + _EPSILON)
    y = (x - mean[:, None]) * (inverse * scale)[:, None] + bias
    return y, (x, weights, scale, mean, inverse)


def _norm_backward(residuals, cotangent):
    x, weights, scale, mean, inverse = residuals
    ones = jnp.ones_like(weights)
    y = (x - mean[:, None]) * inverse[:, None]
    of_bias, of_scale = _sum_over_time(ones, cotangent), _sum_over_time(ones, cotangent * y)
    through_statistics = weights[..., None] * (of_bias[:, None] + y * of_scale[:, None])
    of_x = (inverse * scale)[:, None] * (cotangent - through_statistics)
    return of_x, None, of_scale.sum(axis=0), of_bias.sum(axis=0)


_norm_over_time.defvjp(_norm_forward, _norm_backward)


def _sum_over_time(weights: Float[Array, "B T"], y: Float[Array, "B T D"]) -> Float[Array, "B D"]:
    """Weighted sum over frames, by chunks: one running float32 sum of thousands of frames loses 1e-5 of its value."""
    B, T, D = y.shape
    whole = T - T % _SUM_CHUNK
    chunks = (B, whole // _SUM_CHUNK, _SUM_CHUNK)
    by_chunk = jnp.einsum("bnt,bntd->bnd", weights[:, :whole].reshape(chunks), y[:, :whole].reshape(*chunks, D))
    return by_chunk.sum(axis=1) + jnp.einsum("bt,btd->bd", weights[:, whole:], y[:, whole:])


class Convolution(nn.Module):
    """A strided convolution over time without padding. Input [B, S, C] -> [B, (S - kernel) // stride + 1, features]."""

    features: int
    kernel_size: int
    stride: int
    use_bias: bool
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B S C"]) -> SpeechFeatures:
        shape = (self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(in_axis=(0, 1)), shape, self.param_dtype).astype(self.dtype)
        x = x.astype(self.dtype)
        if x.shape[-1] == 1:
            # One input channel: frames and a product. XLA's convolution is several times slower here, backward most of all.
            y = _frames(x, self.kernel_size, self.stride) @ kernel[:, 0]
        else:
            y = lax.conv_general_dilated(x, kernel, (self.stride,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype).astype(self.dtype)
        return y


def _frames(x: Float[Array, "B S 1"], size: int, hop: int) -> Float[Array, "B T size"]:
    """Overlapping frames as a concatenation of shifted blocks, whose gradient is slices rather than a scatter."""
    B, S, _ = x.shape
    T = (S - size) // hop + 1
    num_blocks = T + -(-size // hop) - 1
    x = jnp.pad(x[:, : num_blocks * hop, 0], ((0, 0), (0, max(0, num_blocks * hop - S))))
    blocks = x.reshape(B, num_blocks, hop)
    parts = [blocks[:, start // hop : start // hop + T, : size - start] for start in range(0, size, hop)]
    return jnp.concatenate(parts, axis=-1)


class FeatureExtractor(nn.Module):
    """The convolution stack: waveforms [B, S] -> features [B, T, conv_dim[-1]] every 20 ms.

    `lengths` are valid samples: with "group" norm they bound the statistics of the first layer. None = all samples count.
    """

    config: SpeechEncoderConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, waveforms: Float[Array, "B S"], lengths: Int[Array, B] | None) -> SpeechFeatures:
        config, dtypes = self.config, dict(dtype=self.dtype, param_dtype=self.param_dtype)
        x = waveforms[..., None]
        for i, (width, kernel, stride) in enumerate(zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)):
            x = Convolution(width, kernel, stride, config.conv_bias, name=f"conv_{i}", **dtypes)(x)
            if config.feat_extract_norm == "layer":
                x = LayerNorm(name=f"norm_{i}", **dtypes)(x)
            elif i == 0:
                frames = x.shape[1] if lengths is None else config.num_frames(lengths, layers=1)[:, None]
                valid = jnp.broadcast_to(jnp.arange(x.shape[1])[None, :] < frames, x.shape[:2])
                x = ChannelNormOverTime(name="norm_0", **dtypes)(x, valid)
            x = activation(config.feat_extract_activation)(x)
        return x


class PositionalConvolution(nn.Module):
    """Positions from a wide grouped convolution with weight norm: x [B, T, D] -> [B, T, D], to be added to x.

    The kernel is scale_k * direction_k / |direction_k|, the norm per tap over channels in and out (torch's dim=2).
    """

    config: SpeechEncoderConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: SpeechFeatures) -> SpeechFeatures:
        config = self.config
        taps, groups, D = config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups, config.hidden_size
        spread = nn.initializers.normal(2.0 / (taps * D) ** 0.5)
        direction = self.param("direction", spread, (taps, D // groups, D), self.param_dtype)
        norm = jnp.sqrt(jnp.sum(jnp.square(direction.astype(statistics_dtype(self.dtype))), axis=(1, 2)))
        # As a weight-normed layer starts: the kernel is the direction itself.
        scale = self.param("scale", lambda _: norm.astype(self.param_dtype))
        bias = self.param("bias", nn.initializers.zeros, (D,), self.param_dtype)
        kernel = direction * (scale / norm)[:, None, None]
        y = positional_convolution(x, kernel.astype(self.dtype), groups) + bias.astype(self.dtype)
        return activation(config.feat_extract_activation)(y)


def frame_mask(config: SpeechEncoderConfig, lengths: Int[Array, B], num_frames: int) -> Bool[Array, "B T"]:
    """True for frames that lie within the clip."""
    return jnp.arange(num_frames)[None, :] < config.num_frames(lengths)[:, None]
