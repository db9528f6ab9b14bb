"""Which tensor of a Hugging Face, fairseq or unilm checkpoint is which of our parameters."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from sedtalker_jax.speech.config import MODEL_TYPES, SpeechEncoderConfig

_POSITIONS = "encoder.pos_conv_embed.conv"
_WEIGHT_NORM = {
    f"{_POSITIONS}.weight_g": f"{_POSITIONS}.parametrizations.weight.original0",
    f"{_POSITIONS}.weight_v": f"{_POSITIONS}.parametrizations.weight.original1",
}

_FAIRSEQ = (
    (r"^mask_emb$", "masked_spec_embed"),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^encoder\.pos_conv\.0\.", f"{_POSITIONS}."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.0\.", r"\1.conv."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.2\.(1\.)?", r"\1.layer_norm."),
    (r"\.self_attn\.grep_linear\.", ".attention.gru_rel_pos_linear."),
    (r"\.self_attn\.grep_a$", ".attention.gru_rel_pos_const"),
    (r"\.self_attn\.relative_attention_bias\.", ".attention.rel_attn_embed."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.self_attn\.", ".attention."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
)
# Tensors of pretraining and fine-tuning objectives, which are no part of the encoder.
_HEADS = re.compile(
    r"^(lm_head|classifier|projector|layer_weights|objective|tdnn|quantizer|project_hid|project_q|"
    r"final_proj|label_embs_concat|target_glu|proj|dropout_features|spk_proj|decoder|w2v_encoder\.proj)(\.|$)"
)


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One tensor of a checkpoint.

    Attributes:
      name: Hugging Face name without a task head's prefix.
      shape: its shape in the checkpoint.
      path: place in our parameters, without the stack's name for tensors of layers.
      layer: index of the encoder layer, None outside of them.
      to_ours, to_theirs: the change of layout; None = as it is.
      optional: absent from some checkpoints.
    """

    name: str
    shape: tuple[int, ...]
    path: tuple[str, ...]
    layer: int | None = None
    to_ours: Callable[[np.ndarray], np.ndarray] = np.asarray
    to_theirs: Callable[[np.ndarray], np.ndarray] = np.asarray
    optional: bool = False


def _reverse_axes(array: np.ndarray) -> np.ndarray:
    """torch's [out, in, taps] or [out, in] <-> our [taps, in, out] or [in, out]; its own inverse."""
    return array.T


def tensor_specs(config: SpeechEncoderConfig) -> Iterator[TensorSpec]:
    """Every tensor that a checkpoint of this config holds."""
    D, inner = config.hidden_size, config.intermediate_size

    def linear(name, path, rows, columns, layer=None):
        yield TensorSpec(f"{name}.weight", (rows, columns), (*path, "kernel"), layer, _reverse_axes, _reverse_axes)
        yield TensorSpec(f"{name}.bias", (rows,), (*path, "bias"), layer)

    def norm(name, path, width, layer=None):
        yield TensorSpec(f"{name}.weight", (width,), (*path, "scale"), layer)
        yield TensorSpec(f"{name}.bias", (width,), (*path, "bias"), layer)

    yield TensorSpec("masked_spec_embed", (D,), ("masked_embedding",), optional=True)
    channels = 1
    for i, (width, taps) in enumerate(zip(config.conv_dim, config.conv_kernel, strict=True)):
        name, ours = f"feature_extractor.conv_layers.{i}", "feature_extractor"
        kernel = (width, channels, taps)
        yield TensorSpec(f"{name}.conv.weight", kernel, (ours, f"conv_{i}", "kernel"), None, _reverse_axes, _reverse_axes)
        if config.conv_bias:
            yield TensorSpec(f"{name}.conv.bias", (width,), (ours, f"conv_{i}", "bias"))
        if config.feat_extract_norm == "layer" or i == 0:
            yield from norm(f"{name}.layer_norm", (ours, f"norm_{i}"), width)
        channels = width
    if config.feat_proj_layer_norm:
        yield from norm("feature_projection.layer_norm", ("projection_norm",), channels)
    yield from linear("feature_projection.projection", ("projection",), D, channels)

    taps, ours = config.num_conv_pos_embeddings, "positional_convolution"
    per_group = D // config.num_conv_pos_embedding_groups
    yield TensorSpec(
        f"{_POSITIONS}.weight_g", (1, 1, taps), (ours, "scale"), None, lambda g: g.reshape(-1), lambda g: g.reshape(1, 1, -1)
    )
    direction = (D, per_group, taps)
    yield TensorSpec(f"{_POSITIONS}.weight_v", direction, (ours, "direction"), None, _reverse_axes, _reverse_axes)
    yield TensorSpec(f"{_POSITIONS}.bias", (D,), (ours, "bias"))
    yield from norm("encoder.layer_norm", ("encoder_norm",), D)
    if config.has_relative_bias:
        table = (config.num_buckets, config.num_attention_heads)
        yield TensorSpec("encoder.layers.0.attention.rel_attn_embed.weight", table, ("relative_position_bias", "embedding"))

    for i in range(config.num_hidden_layers):
        name = f"encoder.layers.{i}"
        for theirs, mine in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "output")):
            yield from linear(f"{name}.attention.{theirs}", ("attention", mine), D, D, i)
        if config.has_relative_bias:
            gate, heads = f"{name}.attention.gru_rel_pos", config.num_attention_heads
            yield TensorSpec(
                f"{gate}_const", (1, heads, 1, 1), ("attention", "gate_const"), i,
                lambda c: c.reshape(-1), lambda c: c.reshape(1, -1, 1, 1),
            )  # fmt: skip
            weight, path = (8, config.head_size), ("attention", "gate_kernel")
            yield TensorSpec(f"{gate}_linear.weight", weight, path, i, _reverse_axes, _reverse_axes)
            yield TensorSpec(f"{gate}_linear.bias", (8,), ("attention", "gate_bias"), i)
        yield from norm(f"{name}.layer_norm", ("attention_norm",), D, i)
        yield from linear(f"{name}.feed_forward.intermediate_dense", ("feed_forward_in",), inner, D, i)
        yield from linear(f"{name}.feed_forward.output_dense", ("feed_forward_out",), D, inner, i)
        yield from norm(f"{name}.final_layer_norm", ("feed_forward_norm",), D, i)


def is_fairseq(names: Mapping[str, np.ndarray]) -> bool:
    """Whether the tensors have fairseq's (and unilm's) names."""
    return any(".self_attn." in name for name in names)


def plain_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The encoder's tensors under Hugging Face names without prefix, weight norm as weight_g and weight_v; heads left out."""
    for prefix in ("w2v_encoder.w2v_model.", *(f"{model_type}." for model_type in MODEL_TYPES)):
        if any(name.startswith(prefix) for name in tensors):
            # All else belongs to the head that the encoder sits under.
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            break
    fairseq = is_fairseq(tensors)
    spelled_back = {current: original for original, current in _WEIGHT_NORM.items()}
    plain = {}
    for name, value in tensors.items():
        if _HEADS.match(name):
            continue
        if fairseq:
            for pattern, replacement in _FAIRSEQ:
                name = re.sub(pattern, replacement, name)
        plain[spelled_back.get(name, name)] = value
    return plain


def current_name(name: str) -> str:
    """The spelling that transformers itself saves: weight norm as parametrizations."""
    return _WEIGHT_NORM.get(name, name)
