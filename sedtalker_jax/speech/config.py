"""Sizes and switches of the wav2vec 2.0 / HuBERT / WavLM family, in the words of a Hugging Face config.json."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sedtalker_jax.errors import UserError

MODEL_TYPES = ("wav2vec2", "hubert", "wavlm")
NORMS = ("group", "layer")
ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu", "swish", "quick_gelu")
REMAT_POLICIES = ("none", "full", "dots_saveable", "dots_with_no_batch_dims_saveable")

# Parts that some config.json ask for and that this family module does not have; each would change the result.
_REFUSED = ("add_adapter", "adapter_attn_dim", "conv_pos_batch_norm")


@dataclasses.dataclass(frozen=True)
class SpeechEncoderConfig:
    """Names and meanings follow config.json where it has them. The defaults are a plain model without training-time masking:
    set sizes for an encoder trained from scratch, or use `from_hf` / `from_directory` for a published one.

    Attributes:
      model_type: "wav2vec2", "hubert" or "wavlm" (which adds the gated relative position bias).
      conv_dim, conv_kernel, conv_stride, conv_bias: the feature extractor's layers.
      feat_extract_norm: "group" (per channel over time, first layer only) or "layer" (over channels, every layer).
      do_stable_layer_norm: norm before each sub-block (large models) instead of after it.
      feat_proj_layer_norm: norm before the feature projection (absent in some HuBERT models).
      num_buckets, max_bucket_distance: WavLM's relative positions.
      hidden_dropout, attention_dropout, activation_dropout, feat_proj_dropout, layerdrop: used with keys only.
      mask_*: SpecAugment over time and features, used with keys and apply_spec_augment only.
      normalise_input: bring each waveform to zero mean and unit variance over its valid samples first, which is what
        preprocessor_config.json calls do_normalize. Idempotent, so normalised input stays as it is.
      freeze_feature_extractor: no gradient to the convolutions.
      num_frozen_layers: no gradient to the first n encoder layers nor to anything before them. Frozen parts have no dropout.
      remat: what a layer's backward pass recomputes; see REMAT_POLICIES.
    """

    model_type: str = "wav2vec2"
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    feat_proj_layer_norm: bool = True
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    do_stable_layer_norm: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    num_buckets: int = 320
    max_bucket_distance: int = 800
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    feat_proj_dropout: float = 0.0
    layerdrop: float = 0.0
    apply_spec_augment: bool = False
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0
    normalise_input: bool = True
    freeze_feature_extractor: bool = False
    num_frozen_layers: int = 0
    remat: str = "none"

    def __post_init__(self):
        layers = (len(self.conv_dim), len(self.conv_kernel), len(self.conv_stride))
        problems = [
            (self.model_type not in MODEL_TYPES, f"model_type '{self.model_type}' is none of {', '.join(MODEL_TYPES)}"),
            (
                self.feat_extract_norm not in NORMS,
                f"feat_extract_norm '{self.feat_extract_norm}' is none of {', '.join(NORMS)}",
            ),
            (
                self.feat_extract_activation not in ACTIVATIONS,
                f"unknown feat_extract_activation '{self.feat_extract_activation}'",
            ),
            (self.hidden_act not in ACTIVATIONS, f"unknown hidden_act '{self.hidden_act}'"),
            (self.remat not in REMAT_POLICIES, f"remat '{self.remat}' is none of {', '.join(REMAT_POLICIES)}"),
            (len(set(layers)) != 1 or not layers[0], f"conv_dim, conv_kernel, conv_stride have {layers} entries"),
            (self.hidden_size % self.num_attention_heads, "num_attention_heads does not divide hidden_size"),
            (
                self.hidden_size % self.num_conv_pos_embedding_groups,
                "num_conv_pos_embedding_groups does not divide hidden_size",
            ),
            (
                not 0 <= self.num_frozen_layers <= self.num_hidden_layers,
                f"num_frozen_layers {self.num_frozen_layers} is not within 0 and {self.num_hidden_layers} layers",
            ),
        ]
        for wrong, message in problems:
            if wrong:
                raise UserError(f"speech encoder config: {message}")

    @property
    def has_relative_bias(self) -> bool:
        """WavLM's gated relative position bias."""
        return self.model_type == "wavlm"

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def frame_grid(self, layers: int | None = None) -> tuple[int, int]:
        """(window, hop) of the frames after the first `layers` convolutions (all by default), in samples.

        A stack of convolutions without padding is one window of kernel 1 + sum_i (kernel_i - 1) prod_{j < i} stride_j that
        moves by the product of the strides.
        """
        window, hop = 1, 1
        for kernel, stride in zip(self.conv_kernel[:layers], self.conv_stride[:layers], strict=True):
            window, hop = window + (kernel - 1) * hop, hop * stride
        return window, hop

    def num_frames(self, num_samples, layers: int | None = None):
        """Frames after the first `layers` convolutions (all by default), never negative. Takes ints and arrays."""
        # One division, not one per convolution: seven of them fused into whatever reads a mask are a graph of 10^12 paths,
        # and LLVM's loop vectoriser walks each of them where the lengths of a batch are one scalar (B = 1).
        window, hop = self.frame_grid(layers)
        frames = (num_samples - window) // hop + 1
        return frames * (frames > 0)

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], **changes: Any) -> SpeechEncoderConfig:
        """From the contents of a config.json (or `transformers` config.to_dict()).

        What the file leaves out has transformers' own default. `normalise_input` is False: config.json does not know
        it; `from_directory` reads preprocessor_config.json too.

        Args:
          values: the mapping.
          changes: fields of this class that override it.

        Raises:
          UserError: another family, or a part that this module does not have.
        """
        model_type = values.get("model_type")
        if model_type not in MODEL_TYPES:
            raise UserError(
                f"config.json: model_type '{model_type}' is not supported; it must be one of {', '.join(MODEL_TYPES)}"
            )
        for name in _REFUSED:
            if values.get(name):
                raise UserError(f"config.json: {name} = {values[name]} is not supported by this encoder")
        # Defaults of transformers' configs where they differ from this class's.
        merged = dict(layerdrop=0.1, activation_dropout=0.1, apply_spec_augment=True, normalise_input=False)
        own = {field.name for field in dataclasses.fields(cls)} - {"normalise_input", "freeze_feature_extractor", "remat"}
        merged |= {name: value for name, value in values.items() if name in own and value is not None}
        for name in ("conv_dim", "conv_kernel", "conv_stride"):
            if name in merged:
                merged[name] = tuple(merged[name])
        return cls(**(merged | changes))

    @classmethod
    def from_directory(cls, directory: str | os.PathLike, **changes: Any) -> SpeechEncoderConfig:
        """From a model directory: config.json, and preprocessor_config.json's do_normalize where there is one.

        Raises:
          UserError: no directory, no readable config.json, or what `from_hf` refuses.
        """
        directory = Path(directory)
        values = read_json(directory / "config.json")
        preprocessor = directory / "preprocessor_config.json"
        if preprocessor.exists():
            changes = {"normalise_input": bool(read_json(preprocessor).get("do_normalize", True))} | changes
        try:
            return cls.from_hf(values, **changes)
        except UserError as error:
            raise UserError(f"{directory}: {error}") from None
        except (TypeError, ValueError, ArithmeticError) as error:
            raise UserError(f"{directory}: config.json holds a value of the wrong kind ({error})") from None

    def to_hf(self) -> dict[str, Any]:
        """The contents of a config.json that transformers reads."""
        values = dataclasses.asdict(self)
        for name in ("normalise_input", "freeze_feature_extractor", "num_frozen_layers", "remat"):
            del values[name]
        if not self.has_relative_bias:
            del values["num_buckets"], values["max_bucket_distance"]
        if self.model_type != "hubert":
            del values["feat_proj_layer_norm"]
        architecture = {"wav2vec2": "Wav2Vec2Model", "hubert": "HubertModel", "wavlm": "WavLMModel"}[self.model_type]
        lists = {name: list(values[name]) for name in ("conv_dim", "conv_kernel", "conv_stride")}
        return values | lists | {"architectures": [architecture], "num_feat_extract_layers": len(self.conv_dim)}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model directory. Raises UserError that names the file."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; give a folder with a model in Hugging Face layout")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a model folder in Hugging Face layout has one") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no JSON object")
    return values
