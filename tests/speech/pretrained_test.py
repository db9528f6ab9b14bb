"""Agreement with transformers' PyTorch models, and checkpoints of every kind in and out."""

from __future__ import annotations

import argparse
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from sedtalker_jax.errors import UserError
from sedtalker_jax.speech import SpeechEncoder, SpeechEncoderConfig, load_pretrained_encoder, save_pretrained_encoder
from sedtalker_jax.speech.pretrained import convert, tensors_from_params
from sedtalker_jax.speech.torch_pickle import read_torch_file
from tests.speech.support import VARIANTS, apply, noise, small_config, small_params

LENGTHS = np.array([9_600, 6_403, 1_000])


def torch_model(directory):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: no reference to compare with")
    from transformers import AutoModel

    model = AutoModel.from_pretrained(directory).eval()
    return torch, model


def saved(tmp_path, variant, **changes):
    config = small_config(variant, **changes)
    save_pretrained_encoder(tmp_path / "model", config, small_params(config))
    return tmp_path / "model", config


def assert_same_trees(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_hidden_states_agree_with_transformers(tmp_path, variant):
    directory, _ = saved(tmp_path, variant)
    torch, model = torch_model(directory)
    waveforms = noise(3, 9_600)
    waveforms *= np.arange(9_600) < LENGTHS[:, None]
    encoder, params = load_pretrained_encoder(directory, padding="reference")
    attention_mask = torch.arange(9_600)[None, :] < torch.tensor(LENGTHS)[:, None]
    for lengths, mask in [(None, None), (LENGTHS, attention_mask.long())]:
        ours = apply(encoder.config, params, waveforms, lengths, padding="reference")
        with torch.no_grad():
            theirs = model(torch.tensor(waveforms), attention_mask=mask, output_hidden_states=True)
        assert len(theirs.hidden_states) == len(ours.hidden_states)
        # What transformers computes on padded frames is not defined by its mask; frames of the clips are compared.
        valid = np.asarray(ours.frame_mask)
        for mine, state in zip([*ours.hidden_states, ours.last_hidden_state], [*theirs.hidden_states, theirs[0]], strict=True):
            mine, state = np.asarray(mine)[valid], state.numpy()[valid]
            assert np.linalg.norm(mine - state) <= 1e-5 * np.linalg.norm(state)
            assert np.abs(mine - state).max() <= 1e-4 * np.abs(state).max()


@pytest.mark.parametrize("variant", ["wav2vec2-base", "wavlm-large"])
def test_gradients_agree_with_transformers(tmp_path, variant):
    directory, config = saved(tmp_path, variant)
    torch, model = torch_model(directory)
    waveforms, direction = noise(2, 8_000), noise(2, 24, 32, seed=1)
    (model(torch.tensor(waveforms))[0] * torch.tensor(direction)).sum().backward()
    encoder, params = load_pretrained_encoder(directory)

    def loss(params):
        return jnp.sum(encoder.apply({"params": params}, waveforms).last_hidden_state * direction)

    gradient = jax.jit(jax.grad(loss))(params)
    ours = tensors_from_params(config, gradient)
    compared = 0
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        theirs = parameter.grad.numpy()
        np.testing.assert_allclose(ours[name], theirs, atol=2e-4 * np.abs(theirs).max() + 1e-5, rtol=0, err_msg=name)
        compared += 1
    assert compared >= len(ours) - 1  # All but the masking embedding, which no loss reaches.


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip_is_exact(tmp_path, variant):
    directory, config = saved(tmp_path, variant)
    encoder, params = load_pretrained_encoder(directory)
    assert encoder.config == SpeechEncoderConfig.from_directory(directory)
    assert encoder.config.to_hf() == config.to_hf()
    assert_same_trees(params, small_params(config))


def test_frozen_layers_come_from_the_same_file(tmp_path):
    directory, config = saved(tmp_path, "wavlm-base")
    whole, all_params = load_pretrained_encoder(directory)
    split, params = load_pretrained_encoder(directory, num_frozen_layers=2)
    assert jax.tree.leaves(params["frozen_layers"])[0].shape[0] == 2
    outputs = [apply(e.config, p, noise(1, 4_000)).hidden_states for e, p in [(whole, all_params), (split, params)]]
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5)
    again = tensors_from_params(split.config, params)
    for name, value in tensors_from_params(whole.config, all_params).items():
        np.testing.assert_array_equal(again[name], value)


def rewrite(directory, change):
    """Replaces model.safetensors by `change(tensors)` of its tensors."""
    tensors = safetensors.numpy.load_file(directory / "model.safetensors")
    safetensors.numpy.save_file(change(tensors), directory / "model.safetensors")


@pytest.mark.parametrize("variant", ["wav2vec2-base", "hubert-base", "wavlm-large"])
def test_task_heads_and_the_older_weight_norm_spelling(tmp_path, variant):
    directory, config = saved(tmp_path, variant)
    prefix = config.model_type

    def as_task_model(tensors):
        old = {
            name.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): v
            for name, v in tensors.items()
        }
        head = {"lm_head.weight": np.zeros((4, 32), np.float32), "layer_weights": np.zeros(4, np.float32)}
        return {f"{prefix}.{name}": value for name, value in old.items()} | head

    rewrite(directory, as_task_model)
    assert_same_trees(load_pretrained_encoder(directory)[1], small_params(config))


def test_sharded_safetensors(tmp_path):
    directory, config = saved(tmp_path, "wavlm-base")
    tensors = safetensors.numpy.load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, members in shards.items():
        safetensors.numpy.save_file({name: tensors[name] for name in members}, directory / shard)
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same_trees(load_pretrained_encoder(directory)[1], small_params(config))
    (directory / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00002"):
        load_pretrained_encoder(directory)


@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_bin_without_pytorch(tmp_path, legacy):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: it writes the file that is read without it")
    directory, config = saved(tmp_path, "wavlm-large")
    tensors = safetensors.numpy.load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    named = {name: torch.tensor(value) for name, value in tensors.items()}
    torch.save(named, directory / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    assert_same_trees(load_pretrained_encoder(directory)[1], small_params(config))
    content = (directory / "pytorch_model.bin").read_bytes()
    (directory / "pytorch_model.bin").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(UserError, match=r"pytorch_model\.bin: cut, damaged"):
        load_pretrained_encoder(directory)


def test_pickled_code_is_not_run(tmp_path):
    import os
    import pickle

    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    (tmp_path / "evil.bin").write_bytes(pickle.dumps({"a": Harmful()}))
    with pytest.raises(UserError, match="no PyTorch checkpoint"):
        read_torch_file(tmp_path / "evil.bin")
    assert not (tmp_path / "harm").exists()


def to_fairseq(tensors):
    layer_normed = "feature_extractor.conv_layers.1.layer_norm.bias" in tensors
    rules = [
        (r"^masked_spec_embed$", "mask_emb"),
        (r"^feature_projection\.projection", "post_extract_proj"),
        (r"^feature_projection\.layer_norm", "layer_norm"),
        (r"pos_conv_embed\.conv\.parametrizations\.weight\.original0", "pos_conv.0.weight_g"),
        (r"pos_conv_embed\.conv\.parametrizations\.weight\.original1", "pos_conv.0.weight_v"),
        (r"pos_conv_embed\.conv", "pos_conv.0"),
        (r"(conv_layers\.\d)\.conv", r"\1.0"),
        (r"(conv_layers\.\d)\.layer_norm", r"\1.2.1" if layer_normed else r"\1.2"),
        (r"(layers\.\d)\.layer_norm", r"\1.self_attn_layer_norm"),
        (r"attention\.gru_rel_pos_linear", "self_attn.grep_linear"),
        (r"attention\.gru_rel_pos_const", "self_attn.grep_a"),
        (r"attention\.rel_attn_embed", "self_attn.relative_attention_bias"),
        (r"attention\.", "self_attn."),
        (r"feed_forward\.intermediate_dense", "fc1"),
        (r"feed_forward\.output_dense", "fc2"),
    ]
    renamed = {}
    for name, value in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


@pytest.mark.parametrize("variant", ["wav2vec2-base", "hubert-base", "wavlm-base", "wavlm-large"])
@pytest.mark.parametrize("description", ["dict", "namespace"])
def test_fairseq_and_unilm_checkpoints(tmp_path, variant, description):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: it writes the file that is read without it")
    config = small_config(variant)
    tensors = {
        name: torch.tensor(value) for name, value in to_fairseq(tensors_from_params(config, small_params(config))).items()
    }
    tensors["label_embs_concat" if config.model_type == "hubert" else "final_proj.weight"] = torch.zeros(3, 3)
    described = dict(
        extractor_mode="layer_norm" if config.feat_extract_norm == "layer" else "default",
        encoder_layers=3,
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=48,
        encoder_attention_heads=4,
        layer_norm_first=config.do_stable_layer_norm,
        conv_feature_layers="[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
        conv_bias=config.conv_bias,
        conv_pos=16,
        conv_pos_groups=4,
        num_buckets=32,
        max_distance=60,
        normalize=True,
    )
    content = {"cfg": described} if description == "dict" else {"cfg": None, "args": argparse.Namespace(**described)}
    torch.save({"model": tensors} | content, tmp_path / "checkpoint.pt")
    encoder, params = load_pretrained_encoder(tmp_path / "checkpoint.pt")
    assert_same_trees(params, small_params(config))
    assert encoder.config.model_type == config.model_type and encoder.config.normalise_input
    convert(tmp_path / "checkpoint.pt", tmp_path / "converted")
    assert_same_trees(load_pretrained_encoder(tmp_path / "converted")[1], small_params(config))


def missing(tensors):
    del tensors["encoder.layers.1.attention.k_proj.bias"]
    return tensors


def misshapen(tensors):
    return tensors | {"encoder.layer_norm.weight": np.zeros(7, np.float32)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (missing, r"missing: encoder\.layers\.1\.attention\.k_proj\.bias"),
        (lambda tensors: tensors | {"encoder.surprise": np.zeros(3)}, r"not known .*encoder\.surprise"),
        (misshapen, r"encoder\.layer_norm\.weight has shape \[7\]; config\.json asks for \[32\]"),
    ],
)
def test_wrong_tensors_are_named(tmp_path, change, words):
    directory, _ = saved(tmp_path, "wavlm-base")
    rewrite(directory, change)
    with pytest.raises(UserError, match=words) as caught:
        load_pretrained_encoder(directory)
    assert "model.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_and_absent_files_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load_pretrained_encoder(tmp_path / "nowhere")
    directory, _ = saved(tmp_path, "wav2vec2-base")
    content = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors: cut, damaged"):
        load_pretrained_encoder(directory)
    (directory / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no checkpoint"):
        load_pretrained_encoder(directory)
    (directory / "model.safetensors").write_bytes(content)
    (directory / "config.json").write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        load_pretrained_encoder(directory)
    (directory / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        load_pretrained_encoder(directory)


@pytest.mark.parametrize("change", [{"model_type": "bert"}, {"add_adapter": True}, {"hidden_act": "mish"}, {"hidden_size": 33}])
def test_models_that_are_not_supported_are_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        SpeechEncoderConfig.from_hf({"model_type": "wav2vec2"} | change)


@pytest.mark.parametrize(
    "change", [{"hidden_size": "16"}, {"conv_dim": 5}, {"num_attention_heads": 0}, {"num_conv_pos_embedding_groups": 0}]
)
def test_values_of_the_wrong_kind_are_refused(tmp_path, change):
    directory, _ = saved(tmp_path, "wav2vec2-base")
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(values | change))
    with pytest.raises(UserError, match="model: .*config"):
        load_pretrained_encoder(directory)


def test_a_place_that_cannot_be_written_is_named_before_anything_is_read(tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file" / "encoder", "/proc/encoder"):
        with pytest.raises(UserError, match="encoder: can't be written"):
            convert(tmp_path / "nowhere", out)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        convert(tmp_path / "nowhere", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_preprocessor_decides_normalisation(tmp_path):
    for wanted in (True, False):
        config = small_config("wav2vec2-base", normalise_input=wanted)
        save_pretrained_encoder(tmp_path / str(wanted), config, small_params(config))
        assert load_pretrained_encoder(tmp_path / str(wanted))[0].config.normalise_input is wanted


def test_saving_does_not_overwrite(tmp_path):
    directory, config = saved(tmp_path, "wav2vec2-base")
    with pytest.raises(UserError, match="not an empty folder"):
        save_pretrained_encoder(directory, config, small_params(config))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_published_sizes_have_the_published_parameter_counts():
    sizes = {
        "wav2vec2-base": (dict(model_type="wav2vec2"), 94_371_712),
        "wavlm-base": (dict(model_type="wavlm"), 94_381_936),
        "wavlm-large": (
            dict(
                model_type="wavlm",
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=24,
                num_attention_heads=16,
                feat_extract_norm="layer",
                do_stable_layer_norm=True,
            ),
            315_453_120,
        ),
    }
    for values, expected in sizes.values():
        encoder = SpeechEncoder(SpeechEncoderConfig.from_hf(values))
        shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 800)))["params"]
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected
