"""One training step: a pure function of state and batch, the same for one device, many devices and many processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from sedtalker_jax.training.state import TrainState, combine

Batch = Mapping[str, Mapping[str, jax.Array]]


class Objective(Protocol):
    """A loss as sums over weights that are known first.

    total = sum_k scales[k] * sums[k] / weights[k], with sums and weights added over micro-batches and devices before the
    division. A mean of means would weigh a clip by the padding of its neighbours.
    """

    scales: Mapping[str, float]

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """Denominator of every term, from masks only."""
        ...

    def sums(self, params: Any, batch: Batch, step: jax.Array) -> dict[str, jax.Array]:
        """Numerator of every term; its keys are those of `weights`."""
        ...


def _all_devices(tree, axis_name):
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _micro_batches(batch: Batch, count: int) -> Batch:
    # Example i goes to micro-batch i % count: with the leading axis sharded over devices, every micro-batch is sharded too.
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1), batch)


def gradients(
    params: Any,
    batch: Batch,
    step: jax.Array,
    *,
    objective: Objective,
    frozen: Any = None,
    accumulation: int = 1,
    axis_name: str | None = None,
) -> tuple[Any, dict[str, jax.Array]]:
    """Gradient of the total loss, and the value of every term.

    Args:
      params: trained parameters.
      batch: arrays whose leading axis is the example; per device if `axis_name` is given, else global.
      step: step number, part of every example's randomness.
      objective: the loss.
      frozen: parameters without gradient, joined with params for the loss.
      accumulation: number of micro-batches; must divide the batch.
      axis_name: mapped axis over which to sum, None for the global view.

    Returns:
      (gradient, {"total": ..., term: ...}), the same on every device.
    """
    weights = objective.weights(batch)
    weights = {name: jnp.maximum(weight, 1e-6) for name, weight in _all_devices(weights, axis_name).items()}

    def weighted(params, micro_batch):
        sums = objective.sums(combine(params, frozen), micro_batch, step)
        terms = {name: sums[name] / weights[name] for name in weights}
        return sum(objective.scales[name] * term for name, term in terms.items()), terms

    differentiate = jax.value_and_grad(weighted, has_aux=True)
    if accumulation == 1:
        (total, terms), gradient = differentiate(params, batch)
    else:

        def add(accumulated, micro_batch):
            return jax.tree.map(jnp.add, accumulated, differentiate(params, micro_batch)), None

        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(differentiate, params, jax.tree.map(lambda x: x[0], _micro_batches(batch, accumulation))),
        )
        ((total, terms), gradient), _ = jax.lax.scan(add, zeros, _micro_batches(batch, accumulation))
    gradient, total, terms = _all_devices((gradient, total, terms), axis_name)
    return gradient, {"total": total, **terms}


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    clip_norm: float = 0.0,
    ema_decay: float = 0.999,
    accumulation: int = 1,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step. Pure: everything comes in as arguments, state and device scalars go out.

    A gradient that is not finite leaves parameters, moments and average as they are and adds one to `skipped_steps`.

    Args:
      state: of step n.
      batch: see `gradients`.
      objective: the loss.
      optimizer: must not clip by itself.
      clip_norm: largest global norm of the gradient, 0 = unlimited.
      ema_decay: decay of the parameter average.
      accumulation: number of micro-batches.
      axis_name: mapped axis under pmap or shard_map, None under a sharded jit.

    Returns:
      (state of step n + 1, metrics: float32 scalars "loss/<term>", "gradient_norm", "skipped_steps").
    """
    gradient, terms = gradients(
        state.params,
        batch,
        state.step,
        objective=objective,
        frozen=state.frozen,
        accumulation=accumulation,
        axis_name=axis_name,
    )
    with jax.named_scope("optimizer"):
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(norm)
        if clip_norm:
            factor = jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-12))
            gradient = jax.tree.map(lambda g: g * factor.astype(g.dtype), gradient)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step.astype(jnp.float32)
        decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
        ema_params = jax.tree.map(lambda e, p: e + (1.0 - decay).astype(e.dtype) * (p - e), state.ema_params, params)

    def keep(updated, previous):
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), updated, previous)

    updated = TrainState(
        step=state.step + 1,
        params=keep(params, state.params),
        frozen=state.frozen,
        opt_state=keep(opt_state, state.opt_state),
        ema_params=keep(ema_params, state.ema_params),
        skipped_steps=state.skipped_steps + jnp.where(finite, 0, 1),
    )
    metrics = {f"loss/{name}": value.astype(jnp.float32) for name, value in terms.items()}
    metrics["gradient_norm"] = norm.astype(jnp.float32)
    metrics["skipped_steps"] = updated.skipped_steps.astype(jnp.float32)
    return updated, metrics
