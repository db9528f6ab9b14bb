"""The joint model, end to end: a clip's result never depends on what shares its batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sedtalker_jax import axes
from sedtalker_jax.models.sedtalker import SEDTalkerModel
from sedtalker_jax.models.track_source import PREDICTED_TRACK, TRUE_TRACK
from sedtalker_jax.training.experiment import model_config
from tests.support import random_params

LABELS = ("neutral", "angry", "happy")
FPS = 30.0


def small_model(*, stacking: int = 1, norm: str = "group", content=None, granularity="frame", **animator) -> SEDTalkerModel:
    """`content`: changes that make the encoder a second one, for the words."""
    sizes = dict(width=16, state_size=4, num_heads=4, num_kv_heads=2, num_experts=3)
    encoder = dict(
        conv_dim=(8,) * 7, feat_extract_norm=norm, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=64, num_conv_pos_embeddings=16,
    )  # fmt: skip
    config = dict(
        labels=LABELS,
        encoder=encoder,
        content_encoder=None if content is None else encoder | content,
        acoustics=dict(num_mels=12, num_lags=16),
        diarizer=dict(
            embedding_size=8, frame_stacking=stacking, granularity=granularity, backbone=dict(pattern="MA", **sizes)
        ),
        animator=dict(condition_width=16, frame_stacking=stacking, backbone=dict(pattern="EA", **sizes), **animator),
    )  # fmt: skip
    return SEDTalkerModel(model_config(config, dict(rank=6, template_size=3)))


def joint_batch(lengths: list[int], padded: int) -> dict:
    """Clips of the given lengths in samples, padded with noise, which must not matter."""
    rng = np.random.default_rng(0)
    B, F, K = len(lengths), axes.num_animation_frames(padded, FPS), len(LABELS)
    frames = np.array([axes.num_animation_frames(n, FPS) for n in lengths], np.int32)
    codes = rng.normal(size=(B, 3)).astype(np.float32)
    waveform = rng.normal(0, 0.1, (B, padded)).astype(np.float32)
    activation = rng.uniform(0, 1, (B, F, K - 1)).astype(np.float32)
    return {
        "speech": dict(waveform=waveform, lengths=np.array(lengths, np.int32)),
        "face": dict(
            motion=np.zeros((B, F, 6), np.float32),
            num_frames=frames,
            fps=np.full(B, FPS, np.float32),
            template_code=codes,
            activation=activation,
            # The diarizer's own track for the first clip, a given one for the others.
            track_source=np.where(np.arange(B) == 0, PREDICTED_TRACK, TRUE_TRACK).astype(np.int32),
        ),
    }


def row(batch: dict, index: int) -> dict:
    """One clip alone, cut to its own length."""
    S = int(batch["speech"]["lengths"][index])
    F = int(batch["face"]["num_frames"][index])
    speech = {name: x[index : index + 1] for name, x in batch["speech"].items()}
    face = {name: x[index : index + 1] for name, x in batch["face"].items()}
    speech["waveform"] = speech["waveform"][:, :S]
    face["motion"], face["activation"] = face["motion"][:, :F], face["activation"][:, :F]
    return {"speech": speech, "face": face}


LARGE = dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True, hidden_size=48, num_hidden_layers=2)
"""What makes an encoder of the large kind of a small one."""


@pytest.mark.parametrize(
    "variant",
    [
        dict(stacking=2, norm="group"),
        dict(stacking=3, norm="layer"),
        dict(stacking=1, norm="group", content=LARGE),
        dict(stacking=2, norm="layer", content=dict(feat_extract_norm="group"), granularity="utterance"),
    ],
)
def test_a_clip_alone_equals_the_clip_in_a_padded_batch(variant):
    model = small_model(**variant)
    batch = joint_batch([16_000, 23_456, 32_000], padded=32_000)
    params = {"params": random_params(model, row(batch, 0))}
    run = jax.jit(model.apply)
    together = run(params, batch)
    largest = float(jnp.abs(together["motion"]).max())
    assert largest > 0.1
    for i in range(2):
        alone = run(params, row(batch, i))
        F, T = alone["motion"].shape[1], alone["emotion"].logits.shape[1]
        np.testing.assert_allclose(together["motion"][i, :F], alone["motion"][0], atol=1e-5 * largest, rtol=0)
        np.testing.assert_allclose(
            jax.nn.softmax(together["emotion"].logits[i, :T]), jax.nn.softmax(alone["emotion"].logits[0]), atol=1e-5
        )
        np.testing.assert_allclose(together["emotion"].intensity[i, :T], alone["emotion"].intensity[0], atol=1e-5)


def test_stacked_frames_keep_their_own_condition():
    # Without blocks that mix over time every frame's motion depends on its own step; the head gives it its own condition.
    model = small_model(stacking=3)
    batch = joint_batch([16_000], padded=16_000)
    batch["face"]["track_source"] = np.full(1, TRUE_TRACK, np.int32)
    params = random_params(model, batch)
    head = params["animator"]["head"]["kernel"]
    width = model.config.animator.backbone.width
    params["animator"]["head"]["kernel"] = head.at[:width].set(0.0)
    run = jax.jit(model.apply)
    before = run({"params": params}, batch)["motion"]
    activation = batch["face"]["activation"].copy()
    activation[:, 10] = 0.0
    batch["face"]["activation"] = activation
    change = np.abs(run({"params": params}, batch)["motion"] - before).max(axis=(0, 2))
    # Frames 9 to 11 share a step, and still only the frame that was changed moves.
    assert change[10] > 1e-2 and np.delete(change, 10).max() == 0.0
