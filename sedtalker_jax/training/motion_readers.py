"""Small networks that read motion, fitted to true motion before training and then frozen, and the losses that they make.

The emotion reader says which emotion a face shows, frame by frame; the lip reader says which phonemes its lips speak. The
animator is asked for motion that they read like the true one: an expression that is recognised and lips that can be read weigh
little in a mean of vertices. To the train step a fitted reader is a constant of the objective, like a Gram matrix; it is no
part of the state, and inference never runs it. A reader lies beside the run's checkpoints and is the same after a restart.

The losses compare with what the reader says of the true motion, not with labels: the face's timing is not the label's, and
where the reader can't tell on true motion, nothing is asked. A lip-reading latent as in SelfTalk (arXiv 2306.10799), with a
reader that has learned by CTC what lips mean instead of growing up together with the animator.
"""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Float

from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.emotion.formats import replace_when_complete
from sedtalker_jax.emotion.labels import ACTIVE
from sedtalker_jax.errors import UserError

READER_TERMS = ("shown_emotion", "lip_reading")
"""Loss terms; each has a reader of its own."""


def reader_file(term: str) -> str:
    """File of a workdir that holds the reader of a term."""
    return f"{term}_reader.npz"


WIDTH, REACH = 32, 4
"""Of a reader: width of its layers, frames on either side that it looks at."""

MAX_FRAMES = 128
"""Longer clips are fitted to their beginning: a lip reader's phonemes must all lie within it."""

FIT_STEPS, FIT_ROWS, FIT_LEARNING_RATE = 300, 16, 4e-3
HELD_OUT = 8
"""Every eighth clip is not fitted to but scores the reader."""

_PAUSES = frozenset({"_", "", "sil", "sp"})


class MotionReader(nn.Module):
    """Motion to features and logits, frame by frame, from a window of 2 reach + 1 frames."""

    num_outputs: int
    width: int = WIDTH
    reach: int = REACH

    @nn.compact
    def __call__(
        self, motion: Float[Array, "B F c"], mask: Bool[Array, "B F"]
    ) -> tuple[Float[Array, "B F D"], Float[Array, "B F O"]]:
        """Args: motion [B, F, c]; mask [B, F], False = padding."""
        present = mask[..., None]
        x = nn.silu(nn.Dense(self.width, name="frame")(jnp.where(present, motion, 0.0)))
        x = nn.silu(nn.Conv(self.width, (2 * self.reach + 1,), name="window")(jnp.where(present, x, 0.0)))
        return x, nn.Dense(self.num_outputs, name="outputs")(x)


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenReader:
    """A fitted MotionReader.

    Attributes:
      params: numpy.
      view: [R, c], what of the normalised coefficients it sees.
      feature_scale: mean square of the deviation of its features from their mean on true motion, summed over channels.
      score, chance: on clips that it was not fitted to. Emotion: share of frames named right, and of the most frequent emotion.
        Lips: CTC loss per phoneme in nats, and the same when each clip is given another one's motion.
    """

    params: Mapping[str, Any]
    view: np.ndarray
    feature_scale: float
    score: float
    chance: float

    def __call__(self, motion: Float[Array, "B F R"], mask: Bool[Array, "B F"]):
        """(features, logits) of motion in normalised coefficients."""
        params = jax.tree.map(lambda x: jnp.asarray(x, motion.dtype), dict(self.params))
        width, num_outputs = params["outputs"]["kernel"].shape
        return MotionReader(num_outputs, width).apply({"params": params}, motion @ jnp.asarray(self.view, motion.dtype), mask)

    def save(self, path: str | os.PathLike) -> None:
        """Writes an .npz file in one piece."""
        flat = {"/".join(names): np.asarray(value) for names, value in flatten_dict(dict(self.params)).items()}
        numbers = dict(feature_scale=self.feature_scale, score=self.score, chance=self.chance)
        with replace_when_complete(path) as temporary:
            np.savez(temporary, view=self.view, **{name: np.float64(x) for name, x in numbers.items()}, **flat)

    @classmethod
    def load(cls, path: str | os.PathLike) -> FrozenReader:
        """Reads what `save` wrote.

        Raises:
          UserError: it is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                values = {name: data[name] for name in data.files}
            numbers = {name: float(values.pop(name)) for name in ("feature_scale", "score", "chance")}
            view = values.pop("view")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not a motion reader ({error}); delete it, it is fitted again") from error
        return cls(unflatten_dict({tuple(name.split("/")): value for name, value in values.items()}), view, **numbers)


def _mask(part: Mapping[str, Any]) -> jax.Array:
    return jnp.arange(part["motion"].shape[1])[None, :] < part["num_frames"][:, None]


def reader_weights(part: Mapping[str, Any], readers: Mapping[str, FrozenReader]) -> dict[str, jax.Array]:
    """Denominators of the terms that have a reader: valid frames of the face part of a batch."""
    return dict.fromkeys(readers, jnp.sum(_mask(part)).astype(jnp.float32))


def reader_sums(
    part: Mapping[str, Any], motion: Float[Array, "B F R"], readers: Mapping[str, FrozenReader]
) -> dict[str, jax.Array]:
    """Numerators of the terms, sums over valid frames; all are 0 for the true motion.

    shown_emotion: divergence in nats of the emotion that the reader finds in the motion from the one in the true motion,
    KL(true || found). lip_reading: squared distance of the reader's features, in units of their spread over true motion.

    Args:
      part: the face part of a batch.
      motion: [B, F, R] what the model gives.
      readers: fitted readers by term.
    """
    mask, sums = _mask(part), {}
    for name, reader in readers.items():
        features, logits = reader(motion, mask)
        true_features, true_logits = jax.lax.stop_gradient(reader(part["motion"], mask))
        if name == "shown_emotion":
            error = optax.losses.kl_divergence(jax.nn.log_softmax(logits), jax.nn.softmax(true_logits))
        else:
            error = jnp.sum(jnp.square(features - true_features), axis=-1) / reader.feature_scale
        sums[name] = jnp.sum(jnp.where(mask, error, 0.0))
    return sums


# ---- fitting ----


def lip_view(codec: FaceCodec) -> Float[np.ndarray, "R c"]:
    """Coefficients to the lips alone: distances in the view are distances of lip vertices, in units of their mean motion."""
    values, vectors = np.linalg.eigh(codec.gram("lips").astype(np.float64))
    kept = values > 1e-4 * values[-1]
    return (vectors[:, kept] * np.sqrt(values[kept])).astype(np.float32)


def fit_reader(
    term: str, codec: FaceCodec, records: Sequence[Mapping[str, Any]], labels: Sequence[str], seed: int, *, num_steps=FIT_STEPS
) -> FrozenReader:
    """Fits a reader to true motion.

    Args:
      term: of READER_TERMS.
      codec: normalises the records' motion.
      records: of the training split: for shown_emotion with known `activation`, for lip_reading with `phonemes`.
      labels: the model's emotions, neutral first.
      seed: of the parameters and of the order.
      num_steps: of Adam.

    Raises:
      UserError: too few records say what the reader learns from.
    """
    clips = [_emotion_clip(r, labels) if term == "shown_emotion" else _phoneme_clip(r) for r in records]
    known = [(record["motion"][:MAX_FRAMES], clip) for record, clip in zip(records, clips, strict=True) if clip is not None]
    if len(known) < 2 * HELD_OUT:
        lacking = "known emotion" if term == "shown_emotion" else "phonemes"
        raise UserError(f"loss.{term}: only {len(known)} of {len(records)} training faces have {lacking}; set it to 0")
    view = np.eye(codec.rank, dtype=np.float32) if term == "shown_emotion" else lip_view(codec)
    lengths = np.array([len(motion) for motion, _ in known])
    motion = np.zeros((len(known), MAX_FRAMES, codec.rank), np.float32)
    for row, (frames, _) in enumerate(known):
        motion[row, : len(frames)] = codec.normalise(np.asarray(frames, np.float32))
    if term == "shown_emotion":
        targets, weights, num_outputs, loss = _emotion_targets([clip for _, clip in known], len(labels))
    else:
        targets, weights, num_outputs, loss = _phoneme_targets([clip for _, clip in known])
    data = jnp.asarray(motion @ view), jnp.asarray(targets), jnp.asarray(weights), jnp.asarray(lengths)
    held = np.arange(len(known)) % HELD_OUT == 0
    model = MotionReader(num_outputs)
    params = _fit(model, data, np.flatnonzero(~held), loss, seed, num_steps)
    test = jax.tree.map(lambda x: x[held], data)
    if term == "shown_emotion":
        _, logits = model.apply({"params": params}, test[0], jnp.arange(MAX_FRAMES) < test[3][:, None])
        valid = np.arange(MAX_FRAMES) < np.asarray(test[3])[:, None]
        truth = np.asarray(test[1]).argmax(-1)[valid]
        score = float((np.asarray(logits).argmax(-1)[valid] == truth).mean())
        chance = float(np.bincount(truth).max() / len(truth))
    else:
        score = float(loss(model, params, *test))
        chance = float(loss(model, params, jnp.roll(test[0], 1, axis=0), *test[1:3], jnp.roll(test[3], 1)))
    features, _ = model.apply({"params": params}, data[0], jnp.arange(MAX_FRAMES) < lengths[:, None])
    spread = np.asarray(features, np.float64)[np.arange(MAX_FRAMES) < lengths[:, None]].var(axis=0).sum()
    return FrozenReader(jax.tree.map(np.asarray, params), view, max(float(spread), 1e-6), score, chance)


def _emotion_clip(record: Mapping[str, Any], labels: Sequence[str]) -> np.ndarray | None:
    """[F, K] how much of each label the face shows, adding up to 1; None where nobody says."""
    columns = [ACTIVE.index(name) for name in labels if name != "neutral"]
    activation = np.asarray(record["activation"], np.float32)[:MAX_FRAMES, columns]
    if not np.isfinite(activation).all():
        return None
    return np.concatenate([np.maximum(1.0 - activation.sum(axis=1, keepdims=True), 0.0), activation], axis=1)


def _phoneme_clip(record: Mapping[str, Any]) -> list[str] | None:
    """Phonemes that end before MAX_FRAMES, without pauses; None where there are none, or more than CTC can place."""
    end = min(len(record["motion"]), MAX_FRAMES) / float(record["fps"])
    found = [symbol for symbol, _, stop, *_ in record.get("phonemes") or () if stop <= end and symbol not in _PAUSES]
    repeats = sum(a == b for a, b in zip(found, found[1:], strict=False))
    return found if found and len(found) + repeats <= min(len(record["motion"]), MAX_FRAMES) else None


def _emotion_targets(clips: Sequence[np.ndarray], num_labels: int):
    targets = np.zeros((len(clips), MAX_FRAMES, num_labels), np.float32)
    for row, clip in enumerate(clips):
        targets[row, : len(clip)] = clip / clip.sum(axis=1, keepdims=True)

    def loss(model, params, motion, targets, _, lengths):
        valid = jnp.arange(MAX_FRAMES) < lengths[:, None]
        _, logits = model.apply({"params": params}, motion, valid)
        entropy = optax.softmax_cross_entropy(logits, targets)
        return jnp.sum(jnp.where(valid, entropy, 0.0)) / jnp.sum(valid)

    return targets, np.zeros((len(clips), 1), np.float32), num_labels, loss


def _phoneme_targets(clips: Sequence[Sequence[str]]):
    symbols = {symbol: number for number, symbol in enumerate(sorted({s for clip in clips for s in clip}), start=1)}
    longest = max(len(clip) for clip in clips)
    targets, missing = np.zeros((len(clips), longest), np.int32), np.ones((len(clips), longest), np.float32)
    for row, clip in enumerate(clips):
        targets[row, : len(clip)], missing[row, : len(clip)] = [symbols[symbol] for symbol in clip], 0.0

    def loss(model, params, motion, targets, missing, lengths):
        valid = jnp.arange(MAX_FRAMES) < lengths[:, None]
        _, logits = model.apply({"params": params}, motion, valid)
        return jnp.sum(optax.ctc_loss(logits, 1.0 - valid, targets, missing)) / jnp.sum(1.0 - missing)

    return targets, missing, len(symbols) + 1, loss


def _fit(model: MotionReader, data, rows: np.ndarray, loss: Callable, seed: int, num_steps: int):
    chosen = np.random.Generator(np.random.Philox(key=[seed, 12])).choice(rows, (num_steps, FIT_ROWS))
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.cosine_decay_schedule(FIT_LEARNING_RATE, num_steps), weight_decay=1e-2),
    )

    @jax.jit
    def run(params, data, chosen):
        def step(carry, rows):
            params, state = carry
            batch = jax.tree.map(lambda x: x[rows], data)
            gradient = jax.grad(lambda params: loss(model, params, *batch))(params)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), chosen)[0][0]

    start = model.init(jax.random.key(seed), data[0][:1], jnp.ones((1, MAX_FRAMES), bool))["params"]
    return run(start, data, jnp.asarray(chosen))
