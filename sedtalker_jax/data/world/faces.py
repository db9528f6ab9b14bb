"""The world's heads, how they articulate, and the low-rank space that their motion is stored in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from sedtalker_jax.data.world.rules import SPLITS, Rules
from sedtalker_jax.data.world.synthesiser import Phone
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.articulation import Phoneme, articulate
from sedtalker_jax.face.head import Head, HeadSpec, make_head
from sedtalker_jax.face.rules import face_rules
from sedtalker_jax.face.space import FaceSpace

_HEADS_APART = 10_000  # seeds of the splits' heads lie in blocks of this size: no head is in two splits


def _head_spec(rules: Rules) -> HeadSpec:
    given = rules["face"].get("head", {})
    known = [field.name for field in fields(HeadSpec)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UserError(f"{rules.path}: [face.head] has no setting {unknown[0]!r}; it has {', '.join(known)}")
    return HeadSpec(**given)


class FaceCast:
    """The heads of each split of a subset. Heads are made when first used; the first heads of a split never change."""

    def __init__(self, rules: Rules, subset: str) -> None:
        self.rules = rules
        self.counts = {split: int(rules["subsets"][subset]["heads"][split]) for split in SPLITS}
        self.face_rules = face_rules(rules["face"].get("rules"))
        self._spec = _head_spec(rules)
        self._prefix = str(rules["face"].get("head_prefix", ""))
        self._heads: dict[int, Head] = {}
        self._projections: dict[int, np.ndarray] = {}
        self.space: FaceSpace | None = None

    def num_heads(self, split: str) -> int:
        return self.counts[split]

    def head_seed(self, split: str, index: int) -> int:
        """Seed for make_head: another for every world, split and index."""
        world = self.rules.seed % 100_000  # make_head takes 32 bits
        return (world * len(SPLITS) + SPLITS.index(split)) * _HEADS_APART + index

    def head_name(self, split: str, index: int) -> str:
        """Name of a head in face_space.npz and in the records."""
        return f"{self._prefix}{split}-head-{index:03d}"

    def find_head(self, name: str) -> tuple[str, int]:
        """(split, index) of a head's name.

        Raises:
          UserError: when the world has no such head.
        """
        split, _, index = name.removeprefix(self._prefix).partition("-head-")
        known = name.startswith(self._prefix) and split in self.counts and index.isdigit()
        if not known or int(index) >= self.counts[split]:
            raise UserError(f"this world has no head {name!r}; its heads are named like {self.head_name('train', 0)}")
        return split, int(index)

    def head(self, split: str, index: int) -> Head:
        """Head `index` of a split."""
        seed = self.head_seed(split, index)
        if seed not in self._heads:
            self._heads[seed] = make_head(seed, self._spec)
        return self._heads[seed]

    def articulate(self, split: str, index: int, phones: Sequence[Phone], activation: np.ndarray) -> np.ndarray:
        """Rig weights [F, W] of a head that says the phonemes with the face activation [F, K - 1]."""
        phonemes = [Phoneme(p.symbol, p.start_s, p.end_s, p.stress) for p in phones]
        return articulate(phonemes, len(activation), self.rules.fps, activation, self.head(split, index).style, self.face_rules)

    def displacements(self, split: str, index: int, rig: np.ndarray) -> np.ndarray:
        """Exact displacements [F, V, 3] in metres of rig weights [F, W], before the low-rank space."""
        return self.head(split, index).displacements(rig)

    def fit_space(self, samples: Sequence[tuple[int, np.ndarray]]) -> FaceSpace:
        """The face space of the training heads' motion, with the templates of all splits.

        samples: (training head, rig weights [n, W]) of some clips. Only the training split shapes the basis.
        """
        moved = np.concatenate([self.displacements("train", head, rig) for head, rig in samples])
        cast = [(split, i) for split in SPLITS for i in range(self.counts[split])]
        templates = [self.template(split, i) for split, i in cast]
        return FaceSpace.fit(
            moved,
            int(self.rules["face_space"]["rank"]),
            topology=templates[0].topology,
            faces=templates[0].faces,
            templates=templates,
            regions=templates[0].regions,
            fps=self.rules.fps,
            head_seeds=[self.head_seed(split, i) for split, i in cast],
        )

    def template(self, split: str, index: int):
        """The head at rest, under the name that records use."""
        return replace(self.head(split, index).template, name=self.head_name(split, index))

    def load_space(self, path: str | Path) -> None:
        """Takes the face space that `coefficients` projects onto."""
        self.space = FaceSpace.load(path)
        self._projections.clear()

    def coefficients(self, split: str, index: int, rig: np.ndarray) -> np.ndarray:
        """Coefficients [F, R] of rig weights [F, W]: a head's shapes are projected once, so no vertex is computed."""
        if self.space is None:
            raise ValueError("load_space comes first")
        seed = self.head_seed(split, index)
        if seed not in self._projections:
            shapes = self.head(split, index).shapes.reshape(rig.shape[1], -1).astype(np.float64)
            self._projections[seed] = np.einsum("wv,rv->wr", shapes, self.space.basis.astype(np.float64))
        # einsum and not a matrix product, whose rounding depends on the number of threads that share it.
        return np.einsum("fw,wr->fr", rig.astype(np.float64), self._projections[seed]).astype(np.float32)
