"""Optimizer and schedule from a config."""

from __future__ import annotations

import dataclasses

import jax
import optax

from sedtalker_jax.speech.encoder import STACKED_LAYERS
from sedtalker_jax.value_ranges import at_least, below_one, positive


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Attributes:
    name: "adamw", or "sgd" to compare layouts with: at a constant rate, without decay.
    learning_rate: at the peak of the schedule.
    warmup_steps: linear from zero.
    final_fraction: the cosine ends at this fraction of the peak.
    weight_decay: decoupled, on matrices only (biases, norms, thresholds and the scan's A are spared).
    beta1, beta2: of Adam.
    clip_norm: largest global norm of the gradient; larger ones are scaled down. 0 = off.
    ema_decay: of the parameter average; early on it is lower, (1 + step) / (10 + step).
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    final_fraction: float = 0.02
    weight_decay: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.98
    clip_norm: float = 1.0
    ema_decay: float = 0.999

    def __post_init__(self):
        positive(self, "learning_rate")
        at_least(self, 0, "warmup_steps", "final_fraction", "weight_decay", "clip_norm")
        below_one(self, "beta1", "beta2", "ema_decay")


def learning_rate_schedule(config: OptimConfig, num_steps: int) -> optax.Schedule:
    """Linear warm-up, then a cosine down to final_fraction at num_steps; constant for "sgd"."""
    if config.name == "sgd":
        return optax.constant_schedule(config.learning_rate)
    warmup = min(config.warmup_steps, max(1, num_steps // 2))
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(num_steps, warmup + 1),
        end_value=config.learning_rate * config.final_fraction,
    )


def decayed(path: tuple, leaf: jax.Array) -> bool:
    """Whether weight decay applies: kernels, embeddings and expert matrices; not biases, norms, ordinal thresholds or log A.

    A leaf of a scanned stack of encoder layers counts as what it is in one layer, without the leading axis over layers.
    """
    names = [str(getattr(key, "key", key)) for key in path]
    axes_of_one_layer = leaf.ndim - (not STACKED_LAYERS.isdisjoint(names))
    return axes_of_one_layer >= 2 and not names[-1].startswith("log_A") and "level_thresholds" not in names


def make_optimizer(config: OptimConfig, num_steps: int) -> optax.GradientTransformation:
    """The optimizer, without clipping (the step clips, since it also reports the norm).

    Args:
      config: hyperparameters.
      num_steps: length of the schedule.

    Raises:
      ValueError: unknown optimizer name.
    """
    schedule = learning_rate_schedule(config, num_steps)
    if config.name == "adamw":
        return optax.adamw(
            schedule,
            b1=config.beta1,
            b2=config.beta2,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree_util.tree_map_with_path(decayed, params),
        )
    if config.name == "sgd":
        return optax.sgd(schedule)
    raise ValueError(f"optim.name={config.name!r}: expected 'adamw' or 'sgd'")
