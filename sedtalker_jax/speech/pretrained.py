"""Published encoders in and out: Hugging Face folders and fairseq / unilm files <-> (SpeechEncoder, parameters)."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax.typing import DTypeLike

from sedtalker_jax.errors import UserError
from sedtalker_jax.speech.checkpoint_names import current_name, is_fairseq, plain_names, tensor_specs
from sedtalker_jax.speech.config import SpeechEncoderConfig, read_json
from sedtalker_jax.speech.encoder import SpeechEncoder
from sedtalker_jax.speech.torch_pickle import Inert, read_torch_file

_SHOWN = 4
_TORCH_SUFFIXES = (".pt", ".bin", ".pth")


def load_pretrained_encoder(
    source: str | os.PathLike,
    *,
    padding: str = "masked",
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    **changes: Any,
) -> tuple[SpeechEncoder, Any]:
    """An encoder and its parameters from a folder in Hugging Face layout or a fairseq / unilm checkpoint file.

    The folder holds config.json and one of model.safetensors, its sharded form, pytorch_model.bin, its sharded form, or one
    fairseq / unilm file (.pt). Pickled code is never run and PyTorch is not needed. Checkpoints of task models give their
    encoder. preprocessor_config.json, where there is one, decides whether waveforms are normalised (`normalise_input`).

    Args:
      source: the folder, or a .pt file.
      padding, dtype, param_dtype: see SpeechEncoder.
      changes: fields of SpeechEncoderConfig to override, such as num_frozen_layers, layerdrop, remat.

    Returns:
      (encoder, params), for `encoder.apply({"params": params}, waveforms, lengths)`.

    Raises:
      UserError: no such folder, an unsupported model, a missing, unexpected or misshapen tensor, a damaged file.
    """
    source = Path(source)
    tensors, described, origin = _read_checkpoint(source)
    if (source / "config.json").exists():
        config = SpeechEncoderConfig.from_directory(source, **changes)
    elif described is None:
        read_json(source / "config.json")
        raise UserError(f"{source}: no config.json, and the checkpoint does not describe its model")
    else:
        config = _config_of_fairseq(origin, described, tensors, changes)
    params = params_from_tensors(config, tensors, origin, param_dtype)
    return SpeechEncoder(config, padding=padding, dtype=dtype, param_dtype=param_dtype), params


def params_from_tensors(
    config: SpeechEncoderConfig, tensors: Mapping[str, np.ndarray], origin: str | os.PathLike, dtype: DTypeLike = jnp.float32
) -> Any:
    """Our parameter tree from named tensors (any spelling that `load_pretrained_encoder` reads).

    Raises:
      UserError: names `origin` and the tensors that are missing, unexpected or of a wrong shape.
    """
    tensors = plain_names(tensors)
    specs = list(tensor_specs(config))
    missing = [spec.name for spec in specs if spec.name not in tensors and not spec.optional]
    if missing:
        raise UserError(
            f"{origin}: tensor missing: {_few(missing)}; the file does not belong to its config.json, or is incomplete"
        )
    unexpected = sorted(tensors.keys() - {spec.name for spec in specs})
    if unexpected:
        raise UserError(f"{origin}: tensor not known to a {config.model_type} encoder of this config: {_few(unexpected)}")
    for spec in specs:
        found = tensors[spec.name].shape if spec.name in tensors else spec.shape
        if found != spec.shape:
            raise UserError(f"{origin}: tensor {spec.name} has shape {list(found)}; config.json asks for {list(spec.shape)}")

    params: dict[str, Any] = {}
    stacks: dict[tuple[str, ...], list[np.ndarray]] = {}
    for spec in specs:
        # What an encoder never masked with starts at zero.
        value = spec.to_ours(tensors.get(spec.name, np.zeros(spec.shape, np.float32)))
        if spec.layer is None:
            _put(params, spec.path, jnp.asarray(value, dtype))
        else:
            frozen = spec.layer < config.num_frozen_layers
            stacks.setdefault(("frozen_layers" if frozen else "layers", *spec.path), []).append(value)
    for path, values in stacks.items():
        _put(params, path, jnp.asarray(np.stack(values), dtype))
    return params


def tensors_from_params(config: SpeechEncoderConfig, params: Any) -> dict[str, np.ndarray]:
    """The inverse of `params_from_tensors`: Hugging Face names, in transformers' current spelling."""
    tensors = {}
    for spec in tensor_specs(config):
        path = spec.path
        if spec.layer is not None:
            path = ("frozen_layers" if spec.layer < config.num_frozen_layers else "layers", *path)
        value = params
        for name in path:
            value = value[name]
        if spec.layer is not None:
            value = value[spec.layer - (0 if path[0] == "frozen_layers" else config.num_frozen_layers)]
        if spec.name == "masked_spec_embed" and not (config.mask_time_prob > 0 or config.mask_feature_prob > 0):
            continue  # transformers has it only where it masks.
        tensors[current_name(spec.name)] = np.ascontiguousarray(spec.to_theirs(np.asarray(jax.device_get(value))))
    return tensors


def save_pretrained_encoder(directory: str | os.PathLike, config: SpeechEncoderConfig, params: Any) -> None:
    """Writes a folder that transformers' from_pretrained loads: config.json, model.safetensors, preprocessor_config.json.

    The folder appears whole or not at all.

    Raises:
      UserError: the folder exists and is not empty, or can't be made.
    """
    directory = Path(directory)
    temporary = _folder_beside(directory)
    try:
        temporary.chmod(0o755)
        preprocessor = dict(
            feature_extractor_type="Wav2Vec2FeatureExtractor",
            feature_size=1,
            sampling_rate=16_000,
            padding_side="right",
            padding_value=0.0,
            do_normalize=config.normalise_input,
            # Group-normed models were trained without a mask.
            return_attention_mask=config.feat_extract_norm == "layer",
        )
        tensors = tensors_from_params(config, params)
        # The metadata that transformers insists on.
        safetensors.numpy.save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
        (temporary / "config.json").write_text(json.dumps(config.to_hf(), indent=2, sort_keys=True) + "\n")
        (temporary / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
        if directory.exists():
            directory.rmdir()
        os.replace(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _folder_beside(directory: Path) -> Path:
    """A new folder that can become `directory`, which must not exist or be empty."""
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise UserError(f"{directory}: exists and is not an empty folder; give another one")
        directory.absolute().parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.absolute().parent))
    except OSError as error:
        raise UserError(f"{directory}: can't be written ({error.strerror}); give another folder") from None


def convert(source: str | os.PathLike, out: str | os.PathLike) -> SpeechEncoderConfig:
    """Any checkpoint that `load_pretrained_encoder` reads -> a clean Hugging Face folder of the bare encoder.

    Returns:
      The encoder's config.

    Raises:
      UserError: as `load_pretrained_encoder` and `save_pretrained_encoder`.
    """
    _folder_beside(Path(out)).rmdir()  # loading may take minutes, and would be in vain
    encoder, params = load_pretrained_encoder(source)
    save_pretrained_encoder(out, encoder.config, params)
    return encoder.config


def _read_checkpoint(source: Path) -> tuple[dict[str, np.ndarray], Any, Path]:
    """(tensors, fairseq's own description of the model or None, the file that errors name)."""
    if source.is_file():
        return (*_read_torch(source), source)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; give a folder with a model in Hugging Face layout")
    for name, read in (("model.safetensors", _read_safetensors), ("pytorch_model.bin", lambda path: _read_torch(path)[0])):
        if (source / name).exists():
            return read(source / name), None, source / name
        index = source / f"{name}.index.json"
        if index.exists():
            tensors: dict[str, np.ndarray] = {}
            for shard in sorted(set(read_json(index).get("weight_map", {}).values())):
                if Path(shard).name != shard or not (source / shard).exists():
                    raise UserError(f"{index}: names the shard {shard}, which is not in the folder")
                tensors |= read(source / shard)
            return tensors, None, index
    others = sorted(path for path in source.iterdir() if path.suffix in _TORCH_SUFFIXES)
    if len(others) == 1:
        return (*_read_torch(others[0]), others[0])
    if others:
        raise UserError(
            f"{source}: holds {_few([path.name for path in others])}; name one of these files instead of the folder"
        )
    raise UserError(f"{source}: holds no checkpoint; model.safetensors or pytorch_model.bin is needed")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: cut, damaged or no safetensors file ({' '.join(str(error).split())}); fetch it again"
        ) from None


def _read_torch(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    loaded = read_torch_file(path)
    described = None
    if isinstance(loaded, dict) and isinstance(loaded.get("model"), dict):
        described = loaded.get("cfg") or loaded.get("args")
        loaded = loaded["model"]
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds no named tensors")
    tensors = {name: value for name, value in loaded.items() if isinstance(value, np.ndarray)}
    if not tensors:
        raise UserError(f"{path}: holds no named tensors")
    return tensors, described


def _config_of_fairseq(
    origin: Path, described: Any, tensors: Mapping[str, np.ndarray], changes: Mapping[str, Any]
) -> SpeechEncoderConfig:
    """A config from what a fairseq or unilm checkpoint says: a dict, a Namespace, or {"model": ..., "task": ...}."""
    top = _attributes(described)
    values = _attributes(top["model"]) if "model" in top else top
    # Fine-tuned checkpoints wrap the pretrained model's arguments.
    if "encoder_layers" not in values and "w2v_args" in values:
        top = _attributes(values["w2v_args"])
        values = _attributes(top["model"]) if "model" in top else top
    task = _attributes(top.get("task", {}))
    if not is_fairseq(tensors) or "encoder_layers" not in values:
        raise UserError(f"{origin}: does not describe its model; put the model's config.json into a folder beside it")
    names = plain_names(tensors)
    relative = any(name.endswith("rel_attn_embed.weight") for name in names)
    hubert = "label_embs_concat" in tensors or "hubert" in str(values.get("_name", values.get("arch", "")))
    layers = values.get("conv_feature_layers", "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]")
    widths, kernels, strides = zip(*_convolution_layers(origin, layers), strict=True)
    norm = {"default": "group", "layer_norm": "layer"}.get(values.get("extractor_mode", "default"))
    if norm is None:
        raise UserError(f"{origin}: extractor_mode '{values['extractor_mode']}' is not supported")
    found = dict(
        model_type="wavlm" if relative else "hubert" if hubert else "wav2vec2",
        conv_dim=widths,
        conv_kernel=kernels,
        conv_stride=strides,
        conv_bias=bool(values.get("conv_bias", False)),
        feat_extract_norm=norm,
        do_stable_layer_norm=bool(values.get("layer_norm_first", False)),
        hidden_size=values.get("encoder_embed_dim", 768),
        intermediate_size=values.get("encoder_ffn_embed_dim", 3072),
        num_hidden_layers=values["encoder_layers"],
        num_attention_heads=values.get("encoder_attention_heads", 12),
        num_conv_pos_embeddings=values.get("conv_pos", 128),
        num_conv_pos_embedding_groups=values.get("conv_pos_groups", 16),
        num_buckets=values.get("num_buckets", 320),
        max_bucket_distance=values.get("max_distance", 800),
        hidden_dropout=float(values.get("dropout", 0.1)),
        attention_dropout=float(values.get("attention_dropout", 0.1)),
        activation_dropout=float(values.get("activation_dropout", 0.0)),
        layerdrop=float(values.get("encoder_layerdrop", 0.0)),
        apply_spec_augment=True,
        normalise_input=bool(values.get("normalize", task.get("normalize", False))),
    )
    return SpeechEncoderConfig(**(found | dict(changes)))


def _convolution_layers(origin: Path, expression: str) -> list[tuple[int, int, int]]:
    """Reads "[(512, 10, 5)] + [(512, 3, 2)] * 4 + ...", which fairseq evaluates as Python, without evaluating it."""
    layers: list[tuple[int, int, int]] = []
    term = r"\[\s*\(\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\)\s*\]\s*(?:\*\s*(\d+))?"
    if not re.fullmatch(rf"\s*{term}\s*(\+\s*{term}\s*)*", expression):
        raise UserError(f"{origin}: conv_feature_layers '{expression}' is not understood")
    for width, kernel, stride, times in re.findall(term, expression):
        layers += [(int(width), int(kernel), int(stride))] * int(times or 1)
    return layers


def _attributes(value: Any) -> dict[str, Any]:
    """The entries of a dict, or of an object that was pickled (a Namespace)."""
    if isinstance(value, Inert):
        return dict(vars(value))
    return dict(value) if isinstance(value, Mapping) else {}


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _few(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
