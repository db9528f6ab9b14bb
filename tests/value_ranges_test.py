"""Configured numbers out of range are refused with the field's name, before anything is built from them."""

import pytest

from sedtalker_jax.data.pipeline import PipelineConfig
from sedtalker_jax.models.acoustics import AcousticsConfig
from sedtalker_jax.models.animator import AnimatorConfig
from sedtalker_jax.models.backbone import BackboneConfig
from sedtalker_jax.models.diarizer import DiarizerConfig
from sedtalker_jax.precision import Precision
from sedtalker_jax.training.losses import LossConfig
from sedtalker_jax.training.optim import OptimConfig
from tests.support import LABELS


def animator(**changes):
    return AnimatorConfig(BackboneConfig(), **{"rank": 4, "template_size": 2, **changes})


def diarizer(**changes):
    return DiarizerConfig(LABELS, BackboneConfig(), **changes)


@pytest.mark.parametrize(
    ("made", "field", "value"),
    [
        (OptimConfig, "learning_rate", 0.0),
        (OptimConfig, "warmup_steps", -1),
        (OptimConfig, "ema_decay", 1.0),
        (OptimConfig, "clip_norm", -1.0),
        (LossConfig, "vertices", -1.0),
        (LossConfig, "label_smoothing", 1.0),
        (LossConfig, "lips", float("nan")),
        (BackboneConfig, "dropout", 1.0),
        (BackboneConfig, "window", 0),
        (BackboneConfig, "state_size", 0),
        (BackboneConfig, "feed_forward", 0.0),
        (animator, "frame_stacking", 0),
        (animator, "condition_reach", -1),
        (animator, "subject_dropout", 1.5),
        (diarizer, "frame_stacking", -1),
        (AcousticsConfig, "num_mels", 0),
        (AcousticsConfig, "mask_s", -0.1),
        (PipelineConfig, "batch_size", 0),
        (PipelineConfig, "gain_db", -2.0),
        (Precision, "compute", "bf16"),
        (Precision, "params", "int8"),
    ],
)
def test_values_out_of_range_are_named(made, field, value):
    made()
    with pytest.raises(ValueError, match=f"{field}={value!r}"):
        made(**{field: value})


def test_edges_of_the_ranges_are_taken():
    OptimConfig(warmup_steps=0, clip_norm=0.0, weight_decay=0.0, ema_decay=0.0)
    BackboneConfig(window=None, dropout=0.0)
    LossConfig(**dict.fromkeys(("category", "vertices", "label_smoothing"), 0.0))
    Precision("float64", "bfloat16")
