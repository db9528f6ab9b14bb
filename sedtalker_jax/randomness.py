"""Randomness that belongs to the example, so that a step is the same however its batch is split over devices.

Every example carries a uint32 seed from its global index; `example_keys` turns seeds and the step number into one PRNG key
per example, and everything random in a model (dropout, LayerDrop, SpecAugment, condition noise) draws from these keys by
name. Nothing depends on the batch size, on the position in the batch or on the device count.
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sedtalker_jax.axes import Seeds

ExampleKeys = Key[Array, "B"]


def example_keys(seeds: Seeds, step: jax.Array | int) -> ExampleKeys:
    """One key per example: fold_in(key(seed), step)."""
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), step))(seeds)


def fold(keys: ExampleKeys, tag: str | int | jax.Array) -> ExampleKeys:
    """Independent keys for one use. `tag` names the use (a string), or is an index such as a scanned layer's number."""
    data = zlib.crc32(tag.encode()) if isinstance(tag, str) else tag
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys)


def dropout(x: Float[Array, "B ..."], rate: float, keys: ExampleKeys | None, tag: str) -> Float[Array, "B ..."]:
    """Inverted dropout with one key per example. The identity when `keys` is None or `rate` is 0."""
    if keys is None or rate == 0.0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(fold(keys, tag))
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros((), x.dtype))
