"""Small models and batches that several tests share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from sedtalker_jax.models.acoustics import AcousticsConfig
from sedtalker_jax.models.animator import AnimatorConfig
from sedtalker_jax.models.backbone import BackboneConfig
from sedtalker_jax.models.diarizer import DiarizerConfig
from sedtalker_jax.models.sedtalker import SEDTalkerConfig, SEDTalkerModel
from sedtalker_jax.precision import Precision
from sedtalker_jax.speech import SpeechEncoderConfig
from sedtalker_jax.training.losses import JointObjective, LossConfig
from sedtalker_jax.training.motion_losses import FaceLossConstants

LABELS = ("neutral", "angry", "disgust", "fear", "happy", "sad", "surprise", "upset")
RANK, CODE = 6, 3


def tiny_model(*, dropout: float = 0.1, dtype: str = "float32", scan: str | None = None) -> SEDTalkerModel:
    """Attention in the diarizer, Mamba with experts in the animator, at the smallest useful size, with all randomness on.

    Args:
      scan: implementation of the selective scan; "reference" compiles fastest where the scan is not what is tested.
    """
    backbone = dict(
        width=8, state_size=2, num_heads=2, num_kv_heads=1, num_experts=3, top_k=2, dropout=dropout, scan_implementation=scan
    )
    return SEDTalkerModel(
        SEDTalkerConfig(
            encoder=SpeechEncoderConfig(
                conv_dim=(4,) * 7,
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=8,
                num_conv_pos_embeddings=8,
                num_conv_pos_embedding_groups=2,
            ),
            diarizer=DiarizerConfig(LABELS, BackboneConfig(pattern="A", **backbone), embedding_size=10, frame_stacking=2),
            animator=AnimatorConfig(BackboneConfig(pattern="E", **backbone), rank=RANK, template_size=CODE, condition_width=8),
            acoustics=AcousticsConfig(num_mels=12, num_lags=8, voice_shift_mels=1.0, voice_shift_lags=2.0, mask_s=0.2),
            precision=Precision(dtype, dtype),
        )
    )


def random_params(model: SEDTalkerModel, batch: dict, seed: int = 0, dtype=np.float32):
    """Parameters of the right shapes, all different from zero; drawn by numpy, since compiling initialisers takes long."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = str(path[-1].key)
        value = rng.normal(0.0, 1.0 / np.sqrt(leaf.shape[-2] if leaf.ndim > 1 else 20.0), leaf.shape)
        if name.startswith("log_A"):
            value = np.log(np.arange(1.0, leaf.shape[-1] + 1)) + 0.1 * value
        if name in ("weight", "scale") and leaf.ndim == 1:
            value = 1.0 + value if name == "weight" else value
        return jnp.asarray(value, dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def random_batch(size: int, *, seconds: float = 1.0, seed: int = 0, fps: float = 30.0, dtype=np.float32) -> dict:
    """A joint batch of noise with clips of unequal length, some unlabelled frames, and all three track sources."""
    rng = np.random.default_rng(seed)
    S = int(16_000 * seconds)
    T, F = (S - 400) // 320 + 1, int(round(seconds * fps))
    lengths = rng.integers(S // 2, S + 1, size).astype(np.int32)
    waveform = rng.normal(0, 0.1, (size, S)).astype(dtype)
    emotion = rng.integers(-1, len(LABELS), (size, T)).astype(np.int32)
    valid = np.zeros((size, T), np.float32)
    frames = np.zeros(size, np.int32)
    for i, length in enumerate(lengths):
        waveform[i, length:] = 0
        valid[i, : (length - 400) // 320 + 1] = 1
        frames[i] = round(length / 16_000 * fps)
    seeds = rng.integers(0, 2**32, size, dtype=np.uint32)
    activation = rng.random((size, F, len(LABELS) - 1)).astype(dtype)
    return {
        "speech": dict(
            waveform=waveform,
            lengths=lengths,
            emotion=np.where(valid > 0, emotion, -1).astype(np.int32),
            intensity=rng.random((size, T)).astype(dtype),
            intensity_mask=(valid * (rng.random((size, T)) < 0.7)).astype(dtype),
            boundary=(rng.random((size, T)) < 0.1).astype(dtype),
            boundary_mask=valid.astype(dtype),
            seed=seeds,
        ),
        "face": dict(
            motion=rng.normal(0, 1, (size, F, RANK)).astype(dtype),
            num_frames=frames,
            fps=np.full(size, fps, np.float32),
            template_code=rng.normal(0, 1, (size, CODE)).astype(dtype),
            activation=activation,
            track_source=(np.arange(size) % 3).astype(np.int32),
            seed=seeds,
        ),
    }


def tiny_objective(model: SEDTalkerModel) -> JointObjective:
    """All loss terms, with made-up Gram matrices."""
    rng = np.random.default_rng(1)

    def gram():
        half = rng.normal(0, 1, (RANK, RANK))
        return (half @ half.T / RANK).astype(np.float32)

    face = FaceLossConstants({name: gram() for name in ("vertices", "lips", "upper_face", "velocity")})
    return JointObjective(model, LossConfig(), np.linspace(0.5, 1.5, len(LABELS)).astype(np.float32), face)
