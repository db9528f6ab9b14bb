"""Editing an emotion by walking across the boundaries between emotions (EditEmoTalk, arXiv 2601.10000), over time.

A linear classifier f_k(z) = w_k . z + b_k of labelled embeddings gives unit normals v_k = w_k / |w_k|; an edit is
z'_t = z_t + sum_k x_k(t) s_k v_k. Three things are ours, as the paper's details are not public: z is the embedding whitened
by the training data, so that a step along a normal respects how embeddings vary together; s_k makes alpha readable; and the
position x_k on the line follows from alpha_k so that what is read changes evenly (emotion.pacing). At the mean of an emotion's
embeddings the diarizer is in doubt; a person who asks for the emotion is not. So s_k counts what is read of the edited
embedding, measured on voices that training did not hear (EditDictionary.scaled_to_reading):

    alpha = 0    as heard
    alpha = 1    the target is read as strong as its intensity usually is, without doubt about which emotion it is
    alpha < 0    less of it; alpha > 1 more than usual
    between      about that share of the change

After an edit, category and intensity are read again from the edited embedding, so the signals can't contradict each other.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from sedtalker_jax.emotion.formats import replace_when_complete
from sedtalker_jax.emotion.labels import NEUTRAL, resolve_label
from sedtalker_jax.emotion.pacing import STEPS, Pace
from sedtalker_jax.emotion.schedule import EditSchedule
from sedtalker_jax.errors import UNREADABLE_ARRAYS, UserError

FORMAT = 2
"""Of the stored file."""

LEAST_EXAMPLES = 5
"""Embeddings that an emotion needs before a boundary is drawn around it."""

LEAST_FRAMES, MOST_FRAMES = 50, 256
"""Unseen frames of an emotion that a scale can be measured on, and how many of them are moved."""

WITHIN_REACH = 0.9
"""alpha = 1 asks for at most this share of the most that is ever read of a target: for the rest it would lead very far."""

Read = Callable[[Float[np.ndarray, "n C"]], tuple[Float[np.ndarray, "n K"], Float[np.ndarray, " n"]]]
"""Embeddings -> (strength of every label of a dictionary, intensity): what the heads say and the face is driven by."""

BOUND_QUANTILE, BOUND_FACTOR = 0.999, 1.5
"""Edits are clipped at this factor times this quantile of the training embeddings' Mahalanobis distance from their mean."""


@dataclasses.dataclass(frozen=True, eq=False)
class EditDirection:
    """A way from one emotion to another.

    Attributes:
      step: [C] in embedding space: what alpha = 1 adds.
      normal: [C], the unit normal v in whitened space.
      scale: s, whitened units per alpha.
      offset: where the boundary lies along v, in whitened units from the training mean.
      boundary_alpha: where on the line the mean of the source emotion meets the boundary, in steps.
    """

    step: Float[np.ndarray, " C"]
    normal: Float[np.ndarray, " C"]
    scale: float
    offset: float
    boundary_alpha: float


@dataclasses.dataclass(frozen=True, eq=False)
class EditResult:
    """Edited embeddings [T, C], and which frames [T] reached the bound and were held back to it."""

    embeddings: Float[np.ndarray, "T C"]
    clipped: Bool[np.ndarray, " T"]


@dataclasses.dataclass(frozen=True, eq=False)
class EditDictionary:
    """The boundaries between emotions in a diarizer's embedding space; stored with its checkpoint.

    Attributes:
      labels: names of the K emotions that have boundaries.
      mean: [C], of the training frames (of the labelled rows where no frames were given).
      whitening, colouring: [C, C]; z = (e - mean) @ whitening, and back e = mean + z @ colouring.
      class_means: [K, C] whitened means of the emotions.
      weights, biases: [K, C], [K]: f_k(z) = weights_k . z + biases_k, emotion k against the rest.
      pair_weights, pair_biases: [K, K, C], [K, K]: positive on the side of the second emotion; antisymmetric.
      scales: [K, K], whitened units per alpha from the first emotion to the second; on the diagonal, along the normal of an
        emotion against all others.
      bound: Mahalanobis distance from the mean beyond which edits are clipped.
      examples, example_emotions: [n, C], [n], the labelled embeddings that it was fitted to.
      expression_gain: how many times larger true faces change with their emotion than the animator's do, which was trained
        under a squared error and draws small what it can't be sure of. A face changes by this factor under an edit.
    """

    labels: tuple[str, ...]
    mean: Float[np.ndarray, " C"]
    whitening: Float[np.ndarray, "C C"]
    colouring: Float[np.ndarray, "C C"]
    class_means: Float[np.ndarray, "K C"]
    weights: Float[np.ndarray, "K C"]
    biases: Float[np.ndarray, " K"]
    pair_weights: Float[np.ndarray, "K K C"]
    pair_biases: Float[np.ndarray, "K K"]
    scales: Float[np.ndarray, "K K"]
    bound: float
    examples: Float[np.ndarray, "n C"]
    example_emotions: tuple[str, ...]
    expression_gain: float = 1.0

    @classmethod
    def fit(
        cls,
        embeddings: Float[np.ndarray, "n C"],
        emotions: Sequence[str],
        *,
        frames: Float[np.ndarray, "N C"] | None = None,
        regularisation: float = 1.0,
    ) -> EditDictionary:
        """Draws boundaries between labelled embeddings: means over utterances or segments, one row each.

        Until `scaled_to_reading` says more, alpha = 1 brings the mean of the source, along the normal, level with the target's.

        Args:
          embeddings: [n, C].
          emotions: the name of each row's emotion.
          frames: [N, C], embeddings of single frames, which then give the whitening and the bound. Means vary far less than
            frames in directions that do not tell emotions apart: whitened by means, an ordinary frame would lie outside the
            bound. None = the rows are what will be edited.
          regularisation: inverse strength C of the logistic regression, as in scikit-learn.

        Raises:
          UserError: fewer than two emotions with LEAST_EXAMPLES rows, or rows that are not finite.
        """
        # Imported here: editing with a stored dictionary needs numpy only.
        from sklearn.linear_model import LogisticRegression

        rows, names = np.asarray(embeddings, np.float64), np.asarray(emotions)
        if rows.ndim != 2 or len(rows) != len(names) or not np.all(np.isfinite(rows)):
            given = f"{rows.shape}, {len(names)} emotions"
            raise UserError(f"boundaries need finite embeddings [n, C] with one emotion each, not {given}")
        found, counts = np.unique(names, return_counts=True)
        labels = tuple(str(name) for name in found[counts >= LEAST_EXAMPLES])
        if len(labels) < 2:
            listed = ", ".join(f"{name} {count}" for name, count in zip(found, counts, strict=True))
            raise UserError(f"boundaries need two emotions with at least {LEAST_EXAMPLES} segments each; there are: {listed}")
        kept = np.isin(names, labels)
        rows, names = rows[kept], names[kept]
        spread = rows if frames is None else np.asarray(frames, np.float64)
        if spread.ndim != 2 or spread.shape[1] != rows.shape[1] or not np.all(np.isfinite(spread)):
            raise UserError(f"frames must be finite and [N, {rows.shape[1]}], not {spread.shape}")
        mean, whitening, colouring = _whitener(spread)
        z = (rows - mean) @ whitening
        class_means = np.stack([z[names == label].mean(axis=0) for label in labels])

        def boundary(points: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, float]:
            model = LogisticRegression(C=regularisation, class_weight="balanced", max_iter=2_000).fit(points, positive)
            return model.coef_[0], float(model.intercept_[0])

        K, C = len(labels), rows.shape[1]
        weights, biases = np.zeros((K, C)), np.zeros(K)
        pair_weights, pair_biases = np.zeros((K, K, C)), np.zeros((K, K))
        for k, label in enumerate(labels):
            weights[k], biases[k] = boundary(z, names == label)
            for j in range(k):
                pair = (names == label) | (names == labels[j])
                pair_weights[j, k], pair_biases[j, k] = boundary(z[pair], names[pair] == label)
                pair_weights[k, j], pair_biases[k, j] = -pair_weights[j, k], -pair_biases[j, k]
        bound = BOUND_FACTOR * float(np.quantile(np.linalg.norm((spread - mean) @ whitening, axis=1), BOUND_QUANTILE))
        scales = np.zeros((K, K))
        boundaries = weights, biases, pair_weights, pair_biases
        fitted = cls(labels, mean, whitening, colouring, class_means, *boundaries, scales, bound, rows, tuple(map(str, names)))
        for j, k in np.ndindex(K, K):
            weight, _, start = fitted._boundary(j, k)
            length = float(np.linalg.norm(weight))
            scales[j, k] = weight @ (class_means[k] - start) / length if length else 0.0
        return fitted

    def scaled_to_reading(
        self,
        read: Read,
        embeddings: Float[np.ndarray, "n C"],
        emotions: Sequence[str],
    ) -> EditDictionary:
        """The same boundaries with scales by which alpha = 1 is what a person means who names an emotion.

        Frames of the source (of neutral for edits that name none) move along the normal, until the mean of what is read of the
        target equals the mean intensity that is read of the target's own frames, or as near to it as is WITHIN_REACH. Of an
        emotion that hardly any frame has, all frames but the target's take the place. A scale stays where the target is read as
        strong as that already, and towards neutral, which has no strength.

        Args:
          read: what the heads say.
          embeddings: single frames of voices that training did not hear: those that it did are read with too little doubt.
          emotions: the name of each frame's emotion.
        """
        frames, names = np.asarray(embeddings, np.float64), np.asarray(emotions)
        scales, distances = self.scales.copy(), np.linspace(0.0, self.bound, 65)
        intensity = read(frames)[1] if len(frames) else np.zeros(0)
        for j, k in np.ndindex(*scales.shape):
            target = self.labels[k]
            own = names == target
            own = own if own.sum() >= LEAST_FRAMES else names != NEUTRAL
            rows = np.flatnonzero(names == (self.labels[j] if j != k else NEUTRAL))
            rows = rows if len(rows) >= LEAST_FRAMES else np.flatnonzero(names != target)
            if target == NEUTRAL or not own.any() or not len(rows):
                continue
            moving = frames[rows[np.unique(np.linspace(0, len(rows) - 1, MOST_FRAMES).round().astype(int))]]
            way = self.direction(target, self.labels[j] if j != k else None).normal @ self.colouring
            moved = [self.displace(moving, np.tile(distance * way, (len(moving), 1))).embeddings for distance in distances]
            strengths = read(np.concatenate(moved))[0][:, k].reshape(len(distances), -1).mean(axis=1)
            risen = np.maximum.accumulate(strengths)
            aim = min(float(intensity[own].mean()), WITHIN_REACH * float(risen[-1]))
            if aim > risen[0]:
                first = np.r_[True, np.diff(risen) > 0]
                scales[j, k] = np.interp(aim, risen[first], distances[first])
        return dataclasses.replace(self, scales=scales)

    def whiten(self, embeddings: Float[np.ndarray, "*n C"]) -> Float[np.ndarray, "*n C"]:
        """z of embeddings; its length is the Mahalanobis distance from the training mean."""
        return (np.asarray(embeddings, np.float64) - self.mean) @ self.whitening

    def scores(self, embeddings: Float[np.ndarray, "*n C"]) -> Float[np.ndarray, "*n K"]:
        """f_k of embeddings: positive on emotion k's side of its boundary."""
        return self.whiten(embeddings) @ self.weights.T + self.biases

    def direction(self, target: str, source: str | None = None) -> EditDirection:
        """The way towards `target`.

        Args:
          target: emotion to move to.
          source: emotion to move from, along the normal of the boundary between the two. Without it, the normal of the
            target's boundary against all others is taken, scaled from neutral (from all others for neutral itself, or when
            there is no neutral).

        Raises:
          UserError: an emotion without boundaries, or the same one twice.
        """
        k = j = self.labels.index(resolve_label(target, self.labels))
        if source is not None:
            j = self.labels.index(resolve_label(source, self.labels))
            if j == k:
                raise UserError(f"an edit from '{source}' to '{target}' leads nowhere; name two emotions")
        weight, bias, start = self._boundary(j, k)
        length = float(np.linalg.norm(weight))
        if length == 0:
            raise UserError(f"the boundary of '{target}' has no direction: its embeddings do not differ from the others")
        normal, scale, offset = weight / length, float(self.scales[j, k]), -bias / length
        boundary_alpha = float((offset - start @ normal) / scale) if scale else float("nan")
        return EditDirection(scale * normal @ self.colouring, normal, scale, offset, boundary_alpha)

    def distance(self, embeddings: Float[np.ndarray, "T C"], direction: EditDirection) -> float:
        """How far the mean of `embeddings` [T, C] lies beyond a direction's boundary, in whitened units; negative before it."""
        return float(self.whiten(embeddings).mean(axis=0) @ direction.normal - direction.offset)

    def _boundary(self, j: int, k: int) -> tuple[Float[np.ndarray, " C"], float, Float[np.ndarray, " C"]]:
        """(weight, bias, mean of the source) of the boundary from emotion j to k, or of k against all others where j is k."""
        if j != k:
            return self.pair_weights[j, k], float(self.pair_biases[j, k]), self.class_means[j]
        if NEUTRAL in self.labels and self.labels[k] != NEUTRAL:
            start = self.class_means[self.labels.index(NEUTRAL)]
        else:
            start = np.delete(self.class_means, k, axis=0).mean(axis=0)
        return self.weights[k], float(self.biases[k]), start

    def pace(self, embeddings: Float[np.ndarray, "T C"], step: Float[np.ndarray, " C"], read: Read) -> Pace:
        """How alpha leads along a step from each of some embeddings (emotion.pacing).

        Args:
          embeddings: [T, C], the diarizer's.
          step: [C], what alpha = 1 adds.
          read: what the heads say.
        """
        original = np.asarray(embeddings)
        shares = np.linspace(-1.0, 1.0, 2 * STEPS + 1)
        moved = [self.displace(original, np.broadcast_to(x * step, original.shape)).embeddings for x in shares]
        strengths = np.asarray(read(np.concatenate(moved))[0]).reshape(len(shares), len(original), -1).swapaxes(0, 1)
        return Pace.of(strengths[:, STEPS:], strengths[:, STEPS::-1])

    def apply(
        self,
        embeddings: Float[np.ndarray, "T C"],
        times: Float[np.ndarray, " T"],
        schedule: EditSchedule,
        read: Read | None = None,
    ) -> EditResult:
        """e'_t = e_t + sum_k x_k(t) step_k with x_k(t) where alpha_k(t) leads, held back where it would pass the bound.

        A frame that the schedule leaves alone comes back unchanged, bit by bit. A frame that lies outside the bound already
        may move towards the mean or along its shell, not further out.

        Args:
          embeddings: [T, C], the diarizer's.
          times: [T] seconds.
          schedule: of edits whose displacements add up; each is paced as if it were alone.
          read: what the heads say, by which alpha is even; None = alpha counts distance, x_k = alpha_k.
        """
        original = np.asarray(embeddings)
        if original.ndim != 2 or original.shape[1] != len(self.mean) or len(original) != len(times):
            wanted = f"{len(times)} times and a dictionary of {len(self.mean)} numbers"
            raise UserError(f"embeddings of shape {original.shape} do not fit {wanted}")
        delta = np.zeros(original.shape, np.float64)
        for edit in schedule.edits:
            step, alphas = self.direction(edit.target, edit.source).step, edit.alpha_at(times)
            if read is not None and len(original) and ((alphas != 0) & (np.abs(alphas) < 1)).any():
                alphas = self.pace(original, step, read).positions(alphas)
            delta += alphas[:, None] * step
        return self.displace(original, delta)

    def displace(self, embeddings: Float[np.ndarray, "T C"], delta: Float[np.ndarray, "T C"]) -> EditResult:
        """embeddings + delta, held back at the bound as in `apply`, whose displacements are those of a schedule."""
        original = np.asarray(embeddings)
        z, d = self.whiten(original), delta @ self.whitening
        limit = np.maximum(self.bound, np.linalg.norm(z, axis=1))
        # The largest share of the edit that stays inside: |z + share d| = limit is a quadratic equation in the share.
        squared, product = np.square(d).sum(axis=1), (z * d).sum(axis=1)
        room = np.maximum(limit**2 - np.square(z).sum(axis=1), 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(squared > 0, (-product + np.sqrt(product**2 + squared * room)) / squared, 1.0)
        clipped = share < 1.0 - 1e-9
        share = np.clip(share, 0.0, 1.0)
        edited = np.where((squared > 0)[:, None], original + share[:, None] * delta, original).astype(original.dtype)
        return EditResult(edited, clipped)

    def save(self, path: str | os.PathLike) -> None:
        """Writes an .npz file in one piece.

        Raises:
          UserError: another suffix, or a place that can't be written.
        """
        if Path(path).suffix != ".npz":
            raise UserError(f"{path}: an edit dictionary is stored as .npz")
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        arrays |= {"labels": np.array(self.labels), "example_emotions": np.array(self.example_emotions), "format": FORMAT}
        with replace_when_complete(path) as temporary:
            np.savez_compressed(temporary, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> EditDictionary:
        """Reads what `save` wrote.

        Raises:
          UserError: missing or malformed file, or one of another format.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                if "weights" in data and ("format" not in data or data["format"] != FORMAT):
                    raise UserError(f"{path}: an edit dictionary of another version of this project; evaluate.py fits it again")
                arrays: dict = {field.name: data[field.name] for field in dataclasses.fields(cls)}
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; fit a dictionary first") from error
        except UNREADABLE_ARRAYS as error:
            raise UserError(f"{path}: not an edit dictionary ({error}); fit it again") from error
        for name in ("labels", "example_emotions"):
            arrays[name] = tuple(map(str, arrays[name]))
        arrays |= {name: float(arrays[name]) for name in ("bound", "expression_gain")}
        return cls(**arrays)


def segment_embeddings(
    embeddings: Float[np.ndarray, "T C"], times: Float[np.ndarray, " T"], segments: Sequence[Sequence]
) -> tuple[Float[np.ndarray, "n C"], list[str]]:
    """Mean embedding and label of each segment (start_s, end_s, label, ...) that holds a frame: the rows that `fit` takes."""
    values, moments = np.asarray(embeddings, np.float64), np.asarray(times)
    means, labels = [], []
    for start, end, label, *_ in segments:
        inside = (moments >= start) & (moments < end)
        if inside.any():
            means.append(values[inside].mean(axis=0))
            labels.append(str(label))
    return np.array(means).reshape(len(means), values.shape[1]), labels


def compose(schedules: Mapping[str, EditSchedule] | Sequence[EditSchedule]) -> EditSchedule:
    """All edits of several schedules together; displacements add up, in any order."""
    several = schedules.values() if isinstance(schedules, Mapping) else schedules
    return EditSchedule(tuple(edit for schedule in several for edit in schedule.edits))


def _whitener(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean = rows.mean(axis=0)
    covariance = np.cov(rows, rowvar=False).reshape(rows.shape[1], rows.shape[1])
    values, vectors = np.linalg.eigh(covariance)
    # A little of the mean variance is added: directions in which segments hardly vary must not be blown up.
    values = np.maximum(values, 0.0) + max(1e-3 * float(values.mean()), 1e-12)
    return mean, vectors / np.sqrt(values) @ vectors.T, vectors * np.sqrt(values) @ vectors.T
