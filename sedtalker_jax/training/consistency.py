"""The emotional consistency loss (named by EditEmoTalk, arXiv 2601.10000; its form here is ours, as theirs is not public).

A light network maps the dynamics of a motion, its normalised coefficients and their differences in a local window, to the
emotion that the motion shows. It is fitted to true motion before training, never changes afterwards, and is part of neither the
state nor the checkpoint's parameters: to the train step it is one more constant of the objective, like the Gram matrices. The
generator is then asked to move so that the network finds the emotion that it was given, also where an edited embedding e' asks
for a motion that nobody ever recorded and no vertex loss can judge.

What the network finds is the part of the embedding that drives the face: one strength per emotion, posterior times intensity,
as the diarizer's heads read it from e or e'. The coordinates of e itself turn while the diarizer learns, and the style residual
leaves the face by design hardly a trace to be read.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Float

from sedtalker_jax.emotion.formats import replace_when_complete
from sedtalker_jax.errors import UserError
from sedtalker_jax.models.track_source import EDITED_TRACK, PREDICTED_TRACK

MAPPER_FILE = "motion_mapper.npz"
"""File of a workdir that holds the fitted network."""

LARGEST_SHARE = 0.05
"""Of the animator's parameters: what the mapper may have at most."""

LARGEST_WIDTH = 32
REACH = 4
"""Frames of the window on either side: 0.13 s at 30 fps."""

FIT_STEPS, FIT_ROWS, FIT_FRAMES, FIT_LEARNING_RATE = 300, 32, 48, 4e-3
"""Adam over windows of FIT_FRAMES frames, FIT_ROWS at a time: seconds on a CPU."""


class MotionMapper(nn.Module):
    """Motion dynamics to emotion strengths.

    Attributes:
      width: of its hidden layers.
      num_strengths: K - 1, one for every emotion but neutral.
      reach: frames that the window takes in on either side.
    """

    width: int
    num_strengths: int
    reach: int = REACH

    @nn.compact
    def __call__(self, motion: Float[Array, "B F R"], mask: Bool[Array, "B F"]) -> Float[Array, "B F K-1"]:
        """Args: motion [B, F, R], normalised coefficients; mask [B, F], False = padding. Returns [B, F, K - 1] in [0, 1]."""
        present = mask[..., None]
        motion = jnp.where(present, motion, 0.0)
        step = jnp.diff(motion, axis=1, prepend=motion[:, :1])
        x = jnp.concatenate([motion, jnp.where(present, step, 0.0)], axis=-1)
        x = jnp.where(present, nn.silu(nn.Dense(self.width, name="dynamics")(x)), 0.0)
        # A convolution as one product over shifted copies: on a CPU a convolution's gradient inside a scan crawls.
        padded = jnp.pad(x, ((0, 0), (self.reach, self.reach), (0, 0)))
        shifted = [padded[:, tap : tap + x.shape[1]] for tap in range(2 * self.reach + 1)]
        x = nn.silu(nn.Dense(self.width, name="window")(jnp.concatenate(shifted, axis=-1)))
        return nn.sigmoid(nn.Dense(self.num_strengths, name="strengths")(x))


def mapper_size(width: int, rank: int, num_strengths: int, reach: int = REACH) -> int:
    """Number of a MotionMapper's parameters."""
    dynamics, window = 2 * rank * width, (2 * reach + 1) * width * width
    return dynamics + window + width * num_strengths + 2 * width + num_strengths


def mapper_width(animator_size: int, rank: int, num_strengths: int) -> int:
    """The largest width, up to LARGEST_WIDTH, with which the mapper keeps to its share of the animator's parameters.

    Raises:
      UserError: not even a width of 2 does.
    """
    for width in range(LARGEST_WIDTH, 1, -1):
        if mapper_size(width, rank, num_strengths) <= LARGEST_SHARE * animator_size:
            return width
    raise UserError(
        f"loss.consistency: the animator's {animator_size:,} parameters leave no room for a mapper of at most "
        f"{LARGEST_SHARE:.0%}; make the animator larger or set the loss to 0"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Consistency:
    """A fitted mapper, and the loss that it makes.

    Attributes:
      params: of the mapper, numpy.
      mean_square: of the emotion strengths that it was fitted to, summed over emotions: a motion without any emotion has a loss
        of about 1.
    """

    params: Mapping[str, Any]
    mean_square: float

    def weight(self, part: Mapping[str, jax.Array]) -> jax.Array:
        """Frames whose emotion comes from an embedding, heard or edited."""
        return jnp.sum(self._frames(part)).astype(jnp.float32)

    def sum(self, part: Mapping[str, jax.Array], motion: jax.Array, activation: jax.Array) -> jax.Array:
        """Squared error between the emotion found in the motion and the one that it was made from, over these frames.

        Args:
          part: the face part of a batch.
          motion: [B, F, R] of the generator, in normalised units.
          activation: [B, F, K-1] that it was given; no gradient reaches it.
        """
        valid = jnp.arange(motion.shape[1])[None, :] < part["num_frames"][:, None]
        error = self.strengths(motion, valid) - jax.lax.stop_gradient(activation)
        squared = jnp.sum(jnp.square(error), axis=-1) / self.mean_square
        return jnp.sum(jnp.where(self._frames(part), squared, 0.0))

    def strengths(self, motion: Float[Array, "B F R"], mask: Bool[Array, "B F"]) -> Float[Array, "B F K-1"]:
        """The emotion that a motion shows."""
        width, num_strengths = np.shape(self.params["strengths"]["kernel"])
        params = jax.tree.map(lambda x: jnp.asarray(x, motion.dtype), dict(self.params))
        return MotionMapper(width, num_strengths).apply({"params": params}, motion, mask)

    def _frames(self, part: Mapping[str, jax.Array]) -> Bool[Array, "B F"]:
        source = part["track_source"][:, None]
        valid = jnp.arange(part["motion"].shape[1])[None, :] < part["num_frames"][:, None]
        return valid & ((source == PREDICTED_TRACK) | (source == EDITED_TRACK))

    @classmethod
    def fit(
        cls,
        motions: Sequence[Float[np.ndarray, "F R"]],
        activations: Sequence[Float[np.ndarray, "F K-1"]],
        *,
        width: int,
        seed: int,
        num_steps: int = FIT_STEPS,
    ) -> Consistency:
        """Fits the mapper to true motion.

        Args:
          motions: normalised coefficients of training clips.
          activations: the emotion strengths that these faces show; clips in which they are not known (NaN) are left out.
          width: of the mapper.
          seed: of its parameters and of the windows.
          num_steps: of Adam.

        Raises:
          UserError: no clip whose emotion strengths are known.
        """
        pairs = [(m, a) for m, a in zip(motions, activations, strict=True) if len(m) > 1 and np.isfinite(a).all()]
        if not pairs:
            raise UserError("loss.consistency: no training face says what emotion it shows; set it to 0 for these records")
        rng = np.random.Generator(np.random.Philox(key=[seed, 11]))
        rows, num_strengths = len(pairs), np.shape(pairs[0][1])[1]
        motion, strength = (np.zeros((rows, max(len(m) for m, _ in pairs), np.shape(x)[1]), np.float32) for x in pairs[0])
        lengths = np.array([len(m) for m, _ in pairs])
        for row, (m, a) in enumerate(pairs):
            motion[row, : len(m)], strength[row, : len(m)] = m, a
        chosen = rng.integers(rows, size=(num_steps, FIT_ROWS))
        starts = (rng.random((num_steps, FIT_ROWS)) * np.maximum(lengths[chosen] - FIT_FRAMES + 1, 1)).astype(np.int32)
        frames = starts[..., None] + np.arange(FIT_FRAMES)
        mapper = MotionMapper(width, num_strengths)
        fitted = _fit(mapper, jax.random.key(seed), motion, strength, lengths, chosen, frames)
        known = np.concatenate([a for _, a in pairs]).astype(np.float64)
        return cls(jax.tree.map(np.asarray, fitted), max(float(np.mean(np.sum(np.square(known), axis=1))), 1e-6))

    def save(self, path: str | os.PathLike) -> None:
        """Writes an .npz file in one piece."""
        flat = {"/".join(names): np.asarray(value) for names, value in flatten_dict(dict(self.params)).items()}
        with replace_when_complete(path) as temporary:
            np.savez(temporary, mean_square=np.float64(self.mean_square), **flat)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Consistency:
        """Reads what `save` wrote.

        Raises:
          UserError: it is damaged.
        """
        try:
            with np.load(Path(path), allow_pickle=False) as data:
                values = {name: data[name] for name in data.files}
            mean_square = float(values.pop("mean_square"))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise UserError(f"{path}: not a motion mapper ({error}); delete it, it is fitted again") from error
        return cls(unflatten_dict({tuple(name.split("/")): value for name, value in values.items()}), mean_square)


@functools.partial(jax.jit, static_argnums=0)
def _fit(mapper: MotionMapper, key, motion, strength, lengths, chosen, positions):
    params = mapper.init(key, jnp.zeros((1, 2, motion.shape[2])), jnp.ones((1, 2), bool))["params"]
    frames = jnp.minimum(positions, motion.shape[1] - 1)
    optimizer = optax.adam(optax.cosine_decay_schedule(FIT_LEARNING_RATE, chosen.shape[0]))

    def loss(params, rows, frames, positions):
        valid = positions < lengths[rows][:, None]
        found = mapper.apply({"params": params}, motion[rows[:, None], frames], valid)
        squared = jnp.sum(jnp.square(found - strength[rows[:, None], frames]), axis=-1)
        return jnp.sum(jnp.where(valid, squared, 0.0)) / jnp.maximum(jnp.sum(valid), 1)

    def step(carry, batch):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, *batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), (chosen, frames, positions))
    return params
