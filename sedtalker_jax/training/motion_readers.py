"""Small networks that read motion, fitted to true motion before training and then frozen, and the losses that they make.

The emotion reader says which emotion a face shows, frame by frame; the lip reader says which phonemes its lips speak. Both read
the dynamics of a motion, normalised coefficients and their differences in a local window. To the train step a fitted reader is
a constant of the objective, like a Gram matrix: it is part of neither the state nor a checkpoint's parameters, and inference
never runs it. A reader lies beside the run's checkpoints and is the same after a restart. Three terms ask one:

    shown_emotion   the emotion found in the motion against the one found in the true motion, not against labels: the face's
                    timing is not the label's, and where the reader can't tell on true motion, nothing is asked
    lip_reading     the same for what the lips speak: an expression that is recognised and lips that can be read weigh little
                    in a mean of vertices. A lip-reading latent as in SelfTalk (arXiv 2306.10799), with a reader that has
                    learned by CTC what lips mean instead of growing up together with the animator
    consistency     the emotion found in the motion against the emotion that the animator was given, where that comes from an
                    embedding, heard or edited: an edited e' asks for a motion that nobody ever recorded and no vertex loss can
                    judge. Named by EditEmoTalk (arXiv 2601.10000), whose form is not public; this one is ours

What the emotion reader finds is the part of the embedding that drives the face: one strength per emotion, posterior times
intensity, as the diarizer's heads read it from e or e'. The coordinates of e itself turn while the diarizer learns, and the
style residual leaves the face by design hardly a trace to be read. It is fitted by cross-entropy: a squared error through a
saturated output has no gradient left, and a small reader then gives up an emotion for good.
"""

from __future__ import annotations

import dataclasses
import os
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
from sedtalker_jax.errors import UNREADABLE_ARRAYS, UserError
from sedtalker_jax.models.track_source import EDITED_TRACK, PREDICTED_TRACK

READER_TERMS = ("shown_emotion", "lip_reading", "consistency")
"""Loss terms that ask a reader."""


def reader_file(term: str) -> str:
    """File of a workdir that holds the reader of a term; terms that ask one reader share it."""
    return "lip_reader.npz" if term == "lip_reading" else "emotion_reader.npz"


LARGEST_SHARE = 0.05
"""Of the animator's parameters: what a reader may have at most."""

LARGEST_WIDTH, REACH = 32, 4
"""Of a reader: width of its layers, frames on either side that it looks at (0.13 s at 30 fps)."""

MAX_FRAMES = 128
"""Longer clips are fitted to their beginning: a lip reader's phonemes must all lie within it."""

FIT_STEPS, FIT_ROWS, FIT_LEARNING_RATE = 300, 16, 4e-3
HELD_OUT = 8
"""Every eighth clip is not fitted to but scores the reader."""

_PAUSES = frozenset({"_", "", "sil", "sp"})


class MotionReader(nn.Module):
    """Motion to features and logits, frame by frame, from a window of 2 reach + 1 frames and their differences."""

    num_outputs: int
    width: int
    reach: int = REACH

    @nn.compact
    def __call__(
        self, motion: Float[Array, "B F c"], mask: Bool[Array, "B F"]
    ) -> tuple[Float[Array, "B F D"], Float[Array, "B F O"]]:
        """Args: motion [B, F, c]; mask [B, F], False = padding."""
        present = mask[..., None]
        motion = jnp.where(present, motion, 0.0)
        step = jnp.diff(motion, axis=1, prepend=motion[:, :1])
        x = jnp.concatenate([motion, jnp.where(present, step, 0.0)], axis=-1)
        x = jnp.where(present, nn.silu(nn.Dense(self.width, name="frame")(x)), 0.0)
        # A convolution as one product over shifted copies: on a CPU a convolution's gradient inside a scan crawls.
        padded = jnp.pad(x, ((0, 0), (self.reach, self.reach), (0, 0)))
        shifted = [padded[:, tap : tap + x.shape[1]] for tap in range(2 * self.reach + 1)]
        x = nn.silu(nn.Dense(self.width, name="window")(jnp.concatenate(shifted, axis=-1)))
        return x, nn.Dense(self.num_outputs, name="outputs")(x)


def reader_size(width: int, num_inputs: int, num_outputs: int, reach: int = REACH) -> int:
    """Number of a MotionReader's parameters."""
    frame, window = 2 * num_inputs * width, (2 * reach + 1) * width * width
    return frame + window + width * num_outputs + 2 * width + num_outputs


def reader_width(term: str, animator_size: int, num_inputs: int, num_outputs: int) -> int:
    """The largest width, up to LARGEST_WIDTH, with which a reader keeps to its share of the animator's parameters.

    Raises:
      UserError: not even a width of 2 does.
    """
    for width in range(LARGEST_WIDTH, 1, -1):
        if reader_size(width, num_inputs, num_outputs) <= LARGEST_SHARE * animator_size:
            return width
    raise UserError(
        f"loss.{term}: the animator's {animator_size:,} parameters leave no room for a reader of at most "
        f"{LARGEST_SHARE:.0%}; make the animator larger or set the loss to 0"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenReader:
    """A fitted MotionReader.

    Attributes:
      params: numpy.
      view: [R, c], what of the normalised coefficients it sees.
      scale: unit of squared errors. Emotion: mean square of the strengths that it was fitted to, summed over emotions, so that
        a motion without any emotion is off by about 1. Lips: mean square of the deviation of its features from their mean on
        true motion, summed over channels.
      score, chance: on clips that it was not fitted to. Emotion: share of frames named right, and of the most frequent emotion.
        Lips: CTC loss per phoneme in nats, and the same when each clip is given another one's motion.
    """

    params: Mapping[str, Any]
    view: np.ndarray
    scale: float
    score: float
    chance: float

    def __call__(self, motion: Float[Array, "B F R"], mask: Bool[Array, "B F"]):
        """(features, logits) of motion in normalised coefficients."""
        params = jax.tree.map(lambda x: jnp.asarray(x, motion.dtype), dict(self.params))
        width, num_outputs = params["outputs"]["kernel"].shape
        return MotionReader(num_outputs, width).apply({"params": params}, motion @ jnp.asarray(self.view, motion.dtype), mask)

    def strengths(self, motion: Float[Array, "B F R"], mask: Bool[Array, "B F"]) -> Float[Array, "B F K-1"]:
        """Of the emotion reader: how much of every emotion but neutral a motion shows, in [0, 1]."""
        return jax.nn.softmax(self(motion, mask)[1])[..., 1:]

    def save(self, path: str | os.PathLike) -> None:
        """Writes an .npz file in one piece."""
        flat = {"/".join(names): np.asarray(value) for names, value in flatten_dict(dict(self.params)).items()}
        numbers = dict(scale=self.scale, score=self.score, chance=self.chance)
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
            numbers = {name: float(values.pop(name)) for name in ("scale", "score", "chance")}
            view = values.pop("view")
            layers = [values[f"{layer}/{name}"] for layer in ("frame", "window", "outputs") for name in ("kernel", "bias")]
            if len(values) != len(layers):
                raise ValueError("unexpected arrays")
        except UNREADABLE_ARRAYS as error:
            raise UserError(f"{path}: not a motion reader ({error}); delete it, it is fitted again") from error
        return cls(unflatten_dict({tuple(name.split("/")): value for name, value in values.items()}), view, **numbers)


def reader_weights(part: Mapping[str, Any], readers: Mapping[str, FrozenReader]) -> dict[str, jax.Array]:
    """Denominators of the terms that have a reader: the frames of the face part of a batch that each of them judges."""
    return {term: jnp.sum(_judged(term, part)).astype(jnp.float32) for term in readers}


def reader_sums(
    part: Mapping[str, Any],
    motion: Float[Array, "B F R"],
    activation: Float[Array, "B F K-1"],
    readers: Mapping[str, FrozenReader],
) -> dict[str, jax.Array]:
    """Numerators of the terms, sums over the frames that each of them judges.

    shown_emotion: divergence in nats of the emotion that the reader finds in the motion from the one in the true motion,
    KL(true || found). lip_reading: squared distance of the reader's features from those of the true motion. consistency:
    squared error between the strengths that the reader finds and those given. Squares are in units of the reader's scale.

    Args:
      part: the face part of a batch.
      motion: [B, F, R] what the model gives, in normalised units.
      activation: [B, F, K-1] that it was given; no gradient reaches it.
      readers: fitted readers by term.
    """
    valid, sums = _valid(part), {}
    for term, reader in readers.items():
        if term == "consistency":
            error = reader.strengths(motion, valid) - jax.lax.stop_gradient(activation)
            error = jnp.sum(jnp.square(error), axis=-1) / reader.scale
        else:
            features, logits = reader(motion, valid)
            true_features, true_logits = jax.lax.stop_gradient(reader(part["motion"], valid))
            if term == "shown_emotion":
                error = optax.losses.kl_divergence(jax.nn.log_softmax(logits), jax.nn.softmax(true_logits))
            else:
                error = jnp.sum(jnp.square(features - true_features), axis=-1) / reader.scale
        sums[term] = jnp.sum(jnp.where(_judged(term, part), error, 0.0))
    return sums


def _valid(part: Mapping[str, Any]) -> jax.Array:
    return jnp.arange(part["motion"].shape[1])[None, :] < part["num_frames"][:, None]


def _judged(term: str, part: Mapping[str, Any]) -> Bool[Array, "B F"]:
    """consistency: frames whose emotion comes from an embedding, heard or edited; the others: frames with a true motion."""
    source = part["track_source"][:, None]
    from_embedding = (source == PREDICTED_TRACK) | (source == EDITED_TRACK)
    return _valid(part) & (from_embedding if term == "consistency" else source != EDITED_TRACK)


# ---- fitting ----


def lip_view(codec: FaceCodec) -> Float[np.ndarray, "R c"]:
    """Coefficients to the lips alone: distances in the view are distances of lip vertices, in units of their mean motion."""
    values, vectors = np.linalg.eigh(codec.gram("lips").astype(np.float64))
    kept = values > 1e-4 * values[-1]
    return (vectors[:, kept] * np.sqrt(values[kept])).astype(np.float32)


def fit_reader(
    term: str,
    codec: FaceCodec,
    records: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    seed: int,
    *,
    animator_size: int,
    num_steps: int = FIT_STEPS,
) -> FrozenReader:
    """Fits the reader of a term to true motion.

    Args:
      term: of READER_TERMS.
      codec: normalises the records' motion.
      records: of the training split: for lip_reading with `phonemes`, else with known `activation`; others are left out.
      labels: the model's emotions, neutral first.
      seed: of the parameters and of the order.
      animator_size: number of parameters of the animator that the reader will judge.
      num_steps: of Adam.

    Raises:
      UserError: too few records say what the reader learns from, or the animator is too small for a reader.
    """
    lips = term == "lip_reading"
    clips = [_phoneme_clip(record) if lips else _emotion_clip(record, labels) for record in records]
    known = [(record["motion"][:MAX_FRAMES], clip) for record, clip in zip(records, clips, strict=True) if clip is not None]
    # Two clips are then held out, so that one can be given the other's motion.
    if len(known) <= HELD_OUT:
        lacking = "phonemes" if lips else "known emotion"
        raise UserError(
            f"loss.{term}: {len(known)} of {len(records)} training faces have {lacking}, and at least {HELD_OUT + 1} must; "
            "set it to 0, or look at more of them with a larger data.codec_clips"
        )
    view = lip_view(codec) if lips else np.eye(codec.rank, dtype=np.float32)
    lengths = np.array([len(motion) for motion, _ in known])
    motion = np.zeros((len(known), MAX_FRAMES, codec.rank), np.float32)
    for row, (frames, _) in enumerate(known):
        motion[row, : len(frames)] = codec.normalise(np.asarray(frames, np.float32))
    if lips:
        targets, weights, num_outputs, loss = _phoneme_targets([clip for _, clip in known])
    else:
        targets, weights, num_outputs, loss = _emotion_targets([clip for _, clip in known], len(labels))
    data = jnp.asarray(motion @ view), jnp.asarray(targets), jnp.asarray(weights), jnp.asarray(lengths)
    held = np.arange(len(known)) % HELD_OUT == 0
    model = MotionReader(num_outputs, reader_width(term, animator_size, view.shape[1], num_outputs))
    params = _fit(model, data, np.flatnonzero(~held), loss, seed, num_steps)
    valid = np.arange(MAX_FRAMES) < lengths[:, None]
    features, logits = (np.asarray(x, np.float64) for x in model.apply({"params": params}, data[0], valid))
    if lips:
        test = jax.tree.map(lambda x: x[held], data)
        score = float(loss(model, params, *test))
        chance = float(loss(model, params, jnp.roll(test[0], 1, axis=0), *test[1:3], jnp.roll(test[3], 1)))
        scale = float(features[valid].var(axis=0).sum())
    else:
        scored = valid & held[:, None]
        truth = targets[scored].argmax(-1)
        score = float((logits[scored].argmax(-1) == truth).mean())
        chance = float(np.bincount(truth).max() / len(truth))
        scale = float(np.square(targets[valid][:, 1:]).sum(axis=1).mean())
    return FrozenReader(jax.tree.map(np.asarray, params), view, max(scale, 1e-6), score, chance)


def _emotion_clip(record: Mapping[str, Any], labels: Sequence[str]) -> np.ndarray | None:
    """[F, K] how much of each label the face shows, adding up to 1; None where nobody says, or what the labels lack."""
    if record.get("expression", "") not in ("", *labels):
        return None
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
