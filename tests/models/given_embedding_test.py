"""A diarizer that reads one given vector per recording: it hears nothing, and nothing else changes."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from sedtalker_jax.models.diarizer import DiarizerConfig
from sedtalker_jax.models.sedtalker import SEDTalkerModel, trainable_parameters
from sedtalker_jax.training.step import gradients
from tests.support import random_batch, random_params, tiny_model, tiny_objective

SIZE = 5


def reading_model(*, own_words: bool = True) -> SEDTalkerModel:
    """The tiny model with a diarizer that reads vectors; `own_words`: the encoder is the animator's by name."""
    config = tiny_model(dropout=0.0, scan="reference").config
    diarizer = dataclasses.replace(config.diarizer, backbone=None, frame_stacking=1, given_size=SIZE)
    encoders = dict(encoder=None, content_encoder=config.encoder) if own_words else {}
    return SEDTalkerModel(dataclasses.replace(config, diarizer=diarizer, **encoders))


@functools.cache
def drawn():
    """(model, joint batch whose faces have their own sound and vectors, parameters)."""
    model, batch = reading_model(), random_batch(3)
    other = random_batch(3, seed=1)["speech"]
    batch["face"] |= dict(waveform=other["waveform"], lengths=other["lengths"])
    for number, part in enumerate(batch.values()):
        part["given_embedding"] = np.random.default_rng(number).normal(size=(3, SIZE)).astype(np.float32)
    return model, batch, random_params(model, batch)


@functools.cache
def outputs_of():
    model, _, params = drawn()
    return jax.jit(lambda batch: model.apply({"params": params}, batch, mutable=["losses"])[0])


def with_part(batch, name, **fields):
    return {**batch, name: {**batch[name], **fields}}


def test_the_diarizers_output_is_a_function_of_the_vector_alone():
    _, batch, params = drawn()
    before = outputs_of()(batch)
    noise = np.random.default_rng(7).normal(size=batch["speech"]["waveform"].shape).astype(np.float32)
    deaf = outputs_of()(with_part(batch, "speech", waveform=noise))
    jax.tree.map(np.testing.assert_array_equal, before["emotion"], deaf["emotion"])
    # Every frame has the linear map of its recording's vector.
    linear = params["diarizer"]["embed"]
    wanted = batch["speech"]["given_embedding"] @ linear["kernel"] + linear["bias"]
    for row, length in enumerate(batch["speech"]["lengths"]):
        frames = before["emotion"].embedding[row, : (length - 400) // 320 + 1]
        np.testing.assert_allclose(frames, np.broadcast_to(wanted[row], frames.shape), atol=1e-5)
    turned = outputs_of()(with_part(batch, "speech", given_embedding=batch["speech"]["given_embedding"][::-1]))
    np.testing.assert_allclose(turned["emotion"].logits[::-1, 0], before["emotion"].logits[:, 0], atol=1e-5)
    assert np.abs(turned["emotion"].logits - before["emotion"].logits).max() > 1e-2


@pytest.mark.parametrize("granularity", ["frame", "utterance"])
def test_a_recording_alone_says_what_it_says_in_a_padded_batch(granularity):
    model, batch, params = drawn()
    diarizer = dataclasses.replace(model.config.diarizer, granularity=granularity)
    alone = SEDTalkerModel(dataclasses.replace(model.config, diarizer=diarizer, content_encoder=None, animator=None))
    speech = {name: batch["speech"][name] for name in ("waveform", "lengths", "given_embedding")}

    def read(part):
        return alone.apply({"params": {"diarizer": params["diarizer"]}}, {"speech": part})["emotion"]

    together = read(speech)
    for row, length in enumerate(speech["lengths"]):
        part = {name: value[row : row + 1] for name, value in speech.items()}
        one = read({**part, "waveform": part["waveform"][:, :length]})
        frames = (length - 400) // 320 + 1
        assert one.logits.shape[1] == frames < together.logits.shape[1] or length == 16_000
        for name in ("embedding", "logits", "intensity", "boundary_logits"):
            np.testing.assert_allclose(getattr(together, name)[row, :frames], getattr(one, name)[0], atol=1e-6)


def test_the_face_says_the_words_of_the_sound_with_the_style_and_emotion_of_its_vector():
    _, batch, _ = drawn()
    before = outputs_of()(batch)["motion"]
    face = batch["face"]
    words = outputs_of()(with_part(batch, "face", waveform=face["waveform"][::-1]))["motion"]
    voice = outputs_of()(with_part(batch, "face", given_embedding=face["given_embedding"][::-1]))["motion"]
    other = outputs_of()(with_part(batch, "speech", given_embedding=-batch["speech"]["given_embedding"]))["motion"]
    assert np.abs(words - before).max() > 1e-3 and np.abs(voice - before).max() > 1e-3
    np.testing.assert_array_equal(other, before)


def test_no_encoder_is_held_for_the_emotion():
    model, batch, params = drawn()
    assert set(params) == {"diarizer", "content_encoder", "content_layers", "animator"}
    assert set(params["diarizer"]) == {"embed", "heads"}
    assert set(trainable_parameters(model.config, params)) == set(params)
    # One encoder is the animator's then. Flax refuses to run a module whose parameters are missing.
    shared = reading_model(own_words=False)
    assert set(random_params(shared, batch)) == {"diarizer", "encoder", "content_layers", "animator"}
    sound = batch["speech"]["waveform"], batch["speech"]["lengths"]

    def read(m):
        return m.diarize(m.encode(*sound, content=False, given_embedding=batch["speech"]["given_embedding"])).logits

    for each in (model, shared):
        jax.eval_shape(lambda p, m=each: m.apply({"params": p}, method=read), {"diarizer": params["diarizer"]})
    alone = SEDTalkerModel(dataclasses.replace(model.config, content_encoder=None, animator=None))
    assert set(random_params(alone, {"speech": batch["speech"]})) == {"diarizer"}


def test_emotion_trains_the_linear_map_and_the_heads():
    model, batch, params = drawn()
    objective = tiny_objective(model)
    objective.scales = {name: float(name in ("category", "intensity", "boundary")) for name in objective.scales}
    speech = {"speech": batch["speech"]}
    gradient, _ = jax.jit(functools.partial(gradients, objective=objective))(params, speech, 0)
    assert float(optax.tree.norm(gradient["diarizer"]["embed"]["kernel"])) > 1e-3
    assert {name for name, part in gradient.items() if float(optax.tree.norm(part)) > 0} == {"diarizer"}


def test_a_model_that_hears_ignores_vectors_and_has_the_parameters_it_had():
    _, batch, _ = drawn()
    hears = tiny_model(dropout=0.0)
    without = {name: {k: v for k, v in part.items() if k != "given_embedding"} for name, part in batch.items()}
    shapes = [jax.eval_shape(hears.init, jax.random.key(0), each)["params"] for each in (batch, without)]
    assert jax.tree.map(lambda x: x.shape, shapes[0]) == jax.tree.map(lambda x: x.shape, shapes[1])
    assert set(shapes[0]) == {"encoder", "emotion_layers", "diarizer", "content_layers", "animator"}


def test_what_would_hear_is_refused_beside_what_reads():
    model, batch, params = drawn()
    with pytest.raises(ValueError, match="given_size leaves nothing to hear"):
        dataclasses.replace(model.config.diarizer, frame_stacking=2)
    with pytest.raises(ValueError, match="given_size leaves nothing to hear"):
        DiarizerConfig(model.config.diarizer.labels, None, hidden_sizes=(4,), given_size=SIZE)
    with pytest.raises(ValueError, match="model.encoder"):
        dataclasses.replace(model.config, encoder=model.config.content_encoder)
    with pytest.raises(ValueError, match="model.encoder"):
        dataclasses.replace(tiny_model().config, encoder=None)
    silent = {**batch, "speech": {k: v for k, v in batch["speech"].items() if k != "given_embedding"}}
    with pytest.raises(ValueError, match="none is given"):
        jax.eval_shape(lambda: model.apply({"params": params}, silent, mutable=["losses"]))
