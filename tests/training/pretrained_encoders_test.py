"""Experiments with a second encoder for the words: both begin from their own checkpoints, train, and come back from one."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import editemotalk, sedtalker
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.model_card import MODEL_CARD
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.speech import load_pretrained_encoder, save_pretrained_encoder
from sedtalker_jax.training.experiment import Experiment
from sedtalker_jax.training.loop import train
from sedtalker_jax.training.state import combine
from tests.inference.talker import noise
from tests.speech.support import small_config, small_params

CHANGES = {"encoder": dict(freeze_feature_extractor=True), "content_encoder": dict(num_frozen_layers=1)}


def smoke(module, world, **model):
    """The paper's variant at its smallest, on a world whose clips have voice and face."""
    config = module.get_config("paper,smoke").unlock()
    config.data.update(directory=str(world), speech="", face="")
    config.pipeline.joins = None
    config.num_steps = config.eval_every = config.checkpoint.every_steps = 2
    config.accumulation = 2
    for part in (config.model.diarizer, config.model.animator):
        if part.backbone is not None:
            part.backbone.update(pattern="A", scan_implementation="reference")
    for name, value in model.items():
        config.model[name] = value
    return config.lock()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders in Hugging Face layout of two kinds of encoders."""
    folders = {}
    for name, variant in (("encoder", "wavlm-base"), ("content_encoder", "wav2vec2-large-lv60")):
        config = small_config(variant)
        folders[name] = tmp_path_factory.mktemp(name) / f"tiny-{variant}"
        save_pretrained_encoder(folders[name], config, small_params(config))
    return folders


@pytest.fixture(scope="module")
def config(tiny_world, checkpoints):
    return smoke(
        sedtalker,
        tiny_world,
        pretrained=str(checkpoints["encoder"]),
        content_pretrained=str(checkpoints["content_encoder"]),
        **{name: ConfigDict(changes) for name, changes in CHANGES.items()},
    )


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_each_encoder_begins_from_its_own_checkpoint_and_keeps_its_frozen_parts_apart(config, checkpoints, tmp_path):
    experiment = Experiment(config, tmp_path)
    fresh = experiment.parallel.create_state(experiment.create_state)
    state = experiment.load_pretrained(fresh)
    for name, folder in checkpoints.items():
        encoder, params = load_pretrained_encoder(folder, **CHANGES[name])
        assert experiment.model_config.encoders[name] == encoder.config
        for tree in (state.params, state.ema_params):
            assert_equal(combine(tree, state.frozen)[name], params)
    assert set(state.frozen["encoder"]) == {"feature_extractor"}
    assert {"frozen_layers", "feature_extractor"} < set(state.frozen["content_encoder"])
    assert set(state.frozen) == {"encoder", "content_encoder"}
    # A run that has begun goes on with its checkpoint's weights, and must not hold the published ones as well.
    meta = tmp_path / "checkpoints" / "2" / "meta" / "metadata"
    meta.parent.mkdir(parents=True)
    meta.write_text("{}")
    assert Experiment(config, tmp_path).load_pretrained(state) is state


def test_training_a_checkpoint_and_use(as_users_compile, config, checkpoints, tmp_path):
    experiment = Experiment(config, tmp_path)
    logged = train(experiment, str(tmp_path))
    assert np.isfinite(logged["valid/vertices"]) and np.isfinite(logged["valid/category"])
    talker = SEDTalker.load(tmp_path)
    assert talker.model.config == experiment.model_config and len(talker.labels) == 7
    for name, folder in checkpoints.items():
        _, begun = load_pretrained_encoder(folder, **CHANGES[name])
        assert_equal(talker.params[name]["feature_extractor"], begun["feature_extractor"])
        moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), talker.params[name]["layers"], begun["layers"])
        assert max(jax.tree.leaves(moved)) > 1e-6
    card = (tmp_path / MODEL_CARD).read_text()
    assert "speech encoder begun from: tiny-wavlm-base\n" in card
    assert "encoder of the words begun from: tiny-wav2vec2-large-lv60\n" in card
    waveform = noise(1.0)
    animation = talker.animate(waveform)
    np.testing.assert_array_equal(animation.track.probabilities, talker.diarize(waveform).probabilities)
    # Without a residual, a given track leaves nothing for the first encoder to do.
    del talker.params["encoder"]
    given = talker.animate(waveform, animation.track)
    np.testing.assert_allclose(given.vertices, animation.vertices, atol=1e-7)


def test_one_vector_for_an_utterance_trains_and_is_heard(tiny_world, tmp_path):
    experiment = Experiment(smoke(editemotalk, tiny_world), tmp_path)
    assert np.isfinite(train(experiment, str(tmp_path))["train/loss/consistency"])
    talker = SEDTalker.load(tmp_path)
    probabilities = talker.diarize(noise(1.0)).probabilities
    np.testing.assert_array_equal(probabilities, np.broadcast_to(probabilities[:1], probabilities.shape))
    assert np.abs(talker.diarize(noise(1.0, seed=1)).probabilities - probabilities).max() > 1e-7


def test_a_second_encoder_without_its_folder_is_named(tiny_world, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        Experiment(smoke(sedtalker, tiny_world, content_pretrained=str(tmp_path / "nowhere")), tmp_path)
