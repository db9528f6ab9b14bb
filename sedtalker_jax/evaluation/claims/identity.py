"""Is an unseen head moved as itself? Motions of the test heads in the animator of the arm "oracle", under the true track.

    oracle          nearest_is_own: 1 for a clip whose motion is nearer to the head's own truth than to what any training head
                    would do in the same clip. The world renders the clip's phonemes and activation on every training head, with
                    that head's own visemes, expressions and shapes; the distance is the root mean square over frames and all
                    vertices of the difference of displacements from rest.
    training-head, chance
                    Does the animator give an unseen head the manner of the training head that it resembles most? Linear
                    discriminant analysis learns from true motion which training head moves (it is right in nine clips of ten
                    that it has not seen: tables/identity.json). `accuracy` is 1 for a clip of which it names the training head
                    whose template code is nearest to the clip's head, in the animator's motion ("training-head") and in the
                    true motion of the same clip ("chance"). Heads that look alike may move alike: so the truth, and not one
                    in the number of heads, is what chance gives.

Every second test clip is scored: each is rendered on all training heads.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sedtalker_jax.data.mixing import open_records
from sedtalker_jax.evaluation.claims.animation import clip_tracks
from sedtalker_jax.evaluation.claims.animation_tracks import split_records
from sedtalker_jax.evaluation.claims.batches import animate, template_codes
from sedtalker_jax.evaluation.claims.face_scores import FaceScores
from sedtalker_jax.evaluation.claims.jobs import Job
from sedtalker_jax.evaluation.claims.scores import ArmScores
from sedtalker_jax.evaluation.claims.settings import Settings
from sedtalker_jax.evaluation.claims.tables import save_table
from sedtalker_jax.inference.pipeline import SEDTalker

FAMILY = "identity"

CLIP_STRIDE = 2

FRAME_STRIDE = 5
"""Every which frame the classifier is fitted to."""

HELD_OUT = 0.2
"""Share of the training clips that the classifier's own accuracy is measured on."""

Record = Mapping[str, Any]


def jobs(settings: Settings) -> list[Job]:
    """ "seed<S>/identity" of every seed; none without a built-in world."""
    if not settings.world_hash():
        return []
    return [
        Job(f"seed{s}/identity", functools.partial(score, settings, s), (f"seed{s}/animator/oracle",), expected_s=90.0)
        for s in settings.seeds
    ]


def score(settings: Settings, seed: int, directory: Path) -> None:
    """Scores the animator of the arm "oracle"."""
    records = split_records(settings, "test")[::CLIP_STRIDE]
    scorer = FaceScores(settings.data)
    model = SEDTalker.load(directory.parent / "animator" / "oracle")
    codes = template_codes(model, records)
    waveforms = [record["waveform"] for record in records]
    motions = animate(model, waveforms, clip_tracks(directory.parent, "oracle", records), codes)
    truths = [np.asarray(record["motion"], np.float32) for record in records]
    train = open_records(settings.record_directories, "train", decode_audio=False)
    manner = HeadClassifier.fit([(record["template"], record["motion"]) for record in train])
    heads = training_heads(scorer)
    own = [nearest_is_own(scorer, record, motion, heads) for record, motion in zip(records, motions, strict=True)]
    _save(directory, "oracle", seed, records, {"nearest_is_own": np.array(own, float)})
    known = template_codes(model, [{"template": name} for name in manner.heads])
    alike = [manner.heads[int(np.square(known - code).sum(axis=1).argmin())] for code in codes]
    for arm, moved in (("training-head", motions), ("chance", truths)):
        named = np.array([manner.name(motion) == head for motion, head in zip(moved, alike, strict=True)], float)
        _save(directory, arm, seed, records, {"accuracy": named})
    rows = [
        ("training clips that the classifier names rightly", manner.held_out_accuracy),
        ("the same by guessing", 1 / len(manner.heads)),
        ("clips nearest to their own head", float(np.mean(own))),
        ("the same by guessing among all heads", 1 / (len(heads) + 1)),
    ]
    save_table(directory, "identity", "Identity: what the measures can tell", ("share",), rows)


def training_heads(scorer: FaceScores) -> list[str]:
    """Names of the world's training heads."""
    faces = scorer.oracle.faces
    return [faces.head_name("train", index) for index in range(faces.num_heads("train"))]


def nearest_is_own(scorer: FaceScores, record: Record, motion: Float[np.ndarray, "F R"], heads: Sequence[str]) -> bool:
    """Whether a motion is nearer to the record's own than to the record's speech and expression on any of other heads.

    The rows of the space's basis are orthonormal in metres, so distances of coefficients are distances of displacements.
    """
    activation = np.asarray(record["activation"], np.float32)

    def distance(head: str) -> float:
        truth = scorer.oracle.coefficients(scorer.oracle.rig(dict(record), activation, head), head)
        return float(np.square(motion - truth).sum(axis=1).mean())

    own = distance(record["template"])
    return all(distance(head) > own for head in heads)


class HeadClassifier:
    """Linear discriminant analysis of single frames; a clip is named by the sum of its frames' log-probabilities.

    Attributes:
      heads: the names that it can give.
      held_out_accuracy: share of clips named rightly, of those kept from a first fit.
    """

    def __init__(self, heads: Sequence[str], fitted, held_out_accuracy: float):
        self.heads, self._fitted, self.held_out_accuracy = tuple(heads), fitted, held_out_accuracy

    @classmethod
    def fit(cls, clips: Sequence[tuple[str, Float[np.ndarray, "F R"]]]) -> HeadClassifier:
        """Fits to (head, true motion) of many clips; the last HELD_OUT of them first measure how well this works."""
        heads = sorted({head for head, _ in clips})
        kept = len(clips) - round(HELD_OUT * len(clips))
        trial = cls(heads, _discriminant(clips[:kept], heads), float("nan"))
        right = [trial.name(motion) == head for head, motion in clips[kept:]]
        return cls(heads, _discriminant(clips, heads), float(np.mean(right)) if right else float("nan"))

    def name(self, motion: Float[np.ndarray, "F R"]) -> str:
        """The training head that a motion is most like."""
        logs = self._fitted.predict_log_proba(np.asarray(motion, np.float32)).sum(axis=0)
        return self.heads[int(self._fitted.classes_[logs.argmax()])]


def _discriminant(clips: Sequence[tuple[str, np.ndarray]], heads: Sequence[str]):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    frames = [np.asarray(motion, np.float32)[::FRAME_STRIDE] for _, motion in clips]
    names: Int[np.ndarray, " n"] = np.repeat([heads.index(head) for head, _ in clips], [len(rows) for rows in frames])
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1e-3).fit(np.concatenate(frames), names)


def _save(directory: Path, arm: str, seed: int, records: Sequence[Record], measures) -> None:
    clips, voices = (tuple(record[name] for record in records) for name in ("id", "speaker"))
    ArmScores(FAMILY, arm, seed, clips, voices, measures).save(directory)
