"""A second encoder for the words: it hears for the animator alone, and nothing crosses between the halves."""

import dataclasses
import functools

import flax
import jax
import numpy as np
import pytest

from sedtalker_jax.errors import UserError
from sedtalker_jax.models.sedtalker import SEDTalkerModel, trainable_parameters
from sedtalker_jax.speech import SpeechEncoderConfig
from sedtalker_jax.training.losses import JointObjective
from sedtalker_jax.training.step import gradients
from tests.support import random_batch, random_params, tiny_model, tiny_objective

OF_EMOTION = {"encoder", "emotion_layers", "diarizer"}
OF_CONTENT = {"content_encoder", "content_layers", "animator"}


def two_encoders(**changes) -> SEDTalkerModel:
    """The second one is of another kind and size than the first."""
    config = tiny_model(dropout=0.0, scan="reference").config
    large = dict(feat_extract_norm="layer", do_stable_layer_norm=True, hidden_size=12, num_attention_heads=3)
    content = dataclasses.replace(config.encoder, **large, num_hidden_layers=2, num_conv_pos_embedding_groups=3)
    return SEDTalkerModel(dataclasses.replace(config, content_encoder=content, **changes))


@functools.cache
def drawn():
    """(model, joint batch whose faces have their own sound, parameters)."""
    model, batch = two_encoders(), random_batch(3)
    other = random_batch(3, seed=1)["speech"]
    batch["face"] |= dict(waveform=other["waveform"], lengths=other["lengths"])
    return model, batch, random_params(model, batch)


@functools.cache
def outputs_of():
    model, batch, _ = drawn()
    return jax.jit(lambda params: model.apply({"params": params}, batch, mutable=["losses"])[0])


def changed(params, names):
    """Other parameters under `names`."""
    return {
        name: jax.tree.map(lambda x: np.float32(1.3) * np.asarray(x) + np.float32(0.1), part) if name in names else part
        for name, part in params.items()
    }


def test_the_diarizer_does_not_hear_through_the_second_encoder():
    _, _, params = drawn()
    before, after = outputs_of()(params), outputs_of()(changed(params, {"content_encoder", "content_layers"}))
    jax.tree.map(np.testing.assert_array_equal, before["emotion"], after["emotion"])
    assert np.abs(before["motion"] - after["motion"]).max() > 1e-3


def test_the_second_encoder_is_another_one():
    _, _, params = drawn()
    assert params["content_encoder"]["layers"]["attention_norm"]["scale"].shape == (2, 12)
    assert params["encoder"]["layers"]["attention_norm"]["scale"].shape == (1, 8)
    before, after = outputs_of()(params), outputs_of()(changed(params, {"encoder"}))
    assert np.abs(before["emotion"].logits - after["emotion"].logits).max() > 1e-3


@functools.cache
def gradient_of():
    """Gradient of the loss whose terms are scaled by the last argument."""
    model, _, _ = drawn()
    objective: JointObjective = tiny_objective(model)
    names = tuple(objective.scales)

    def scaled(params, batch, scales):
        objective.scales = scales
        return gradients(params, batch, 0, objective=objective)[0]

    return names, jax.jit(scaled)


@pytest.mark.parametrize(
    ("terms", "own"), [({"category", "intensity", "boundary"}, OF_EMOTION), ({"vertices", "lips"}, OF_CONTENT)]
)
def test_no_gradient_crosses(terms, own):
    _, batch, params = drawn()
    names, scaled = gradient_of()
    gradient = scaled(params, batch, {name: float(name in terms) for name in names})
    size = {name: max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(part)) for name, part in gradient.items()}
    assert set(size) == OF_EMOTION | OF_CONTENT
    assert {name for name, largest in size.items() if largest > 0} == own


def test_what_is_not_asked_for_is_not_run():
    model, batch, params = drawn()
    sound = batch["speech"]["waveform"], batch["speech"]["lengths"]

    def hear(m):
        return m.diarize(m.encode(*sound, content=False)).logits

    def words(m):
        return m.encode(*sound, emotion=False).content_features

    # Flax refuses to run a module whose parameters are missing.
    for method, own in ((hear, OF_EMOTION), (words, {"content_encoder", "content_layers"})):
        enough = {name: params[name] for name in own}
        jax.eval_shape(lambda p, method=method: model.apply({"params": p}, method=method), enough)
        both = {name: part for name, part in enough.items() if not name.endswith("encoder")}
        with pytest.raises(flax.errors.ScopeParamNotFoundError, match="encoder"):
            jax.eval_shape(lambda p, method=method: model.apply({"params": p}, method=method), both)


def test_without_style_the_face_follows_its_track_alone():
    model = two_encoders(style_residual=False)
    _, batch, _ = drawn()
    batch = {**batch, "face": {**batch["face"], "track_source": np.zeros(3, np.int32)}}
    params = random_params(model, batch)
    assert "residual" not in params["animator"]["emotion"]
    run = jax.jit(lambda params: model.apply({"params": params}, batch, mutable=["losses"])[0]["motion"])
    np.testing.assert_array_equal(run(params), run(changed(params, OF_EMOTION)))


def test_each_encoder_is_frozen_by_its_own_config():
    model, batch, params = drawn()
    config = dataclasses.replace(
        model.config,
        encoder=dataclasses.replace(model.config.encoder, freeze_feature_extractor=True),
        content_encoder=dataclasses.replace(model.config.content_encoder, num_frozen_layers=1),
    )
    frozen = jax.tree_util.tree_leaves_with_path(trainable_parameters(config, random_params(SEDTalkerModel(config), batch)))
    names = {"/".join(str(key.key) for key in path[:2]) for path, trained in frozen if not trained}
    assert {name for name in names if name.startswith("encoder")} == {"encoder/feature_extractor"}
    assert {"content_encoder/frozen_layers", "content_encoder/projection"} <= names
    assert not any(name.startswith(("diarizer", "animator", "emotion", "content_layers")) for name in names)


def test_one_encoder_for_both_has_no_parameters_of_a_second():
    model = tiny_model(dropout=0.0)
    assert set(random_params(model, random_batch(1))) == {"encoder", "emotion_layers", "diarizer", "content_layers", "animator"}


def test_a_second_encoder_needs_two_halves_and_the_same_frames():
    config = two_encoders().config
    for half in ("diarizer", "animator"):
        with pytest.raises(UserError, match="one half alone has model.encoder"):
            dataclasses.replace(config, **{half: None})
    # 160 samples apart: twice as many frames as the diarizer's.
    fast = SpeechEncoderConfig(conv_dim=(4,) * 6, conv_kernel=(10, 3, 3, 3, 3, 2), conv_stride=(5, 2, 2, 2, 2, 2))
    with pytest.raises(UserError, match="model.content_encoder: its frames are 240 samples long and 160 apart"):
        dataclasses.replace(config, content_encoder=fast)
