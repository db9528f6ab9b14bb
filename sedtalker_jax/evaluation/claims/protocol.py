"""Every claim that is tested, as data; docs/claims.md explains how. A report marks claims that changed after its run began.

A source is where the claim stands. What the papers say of arms, measures and intervals can't be repeated, so those, and every
bound, are ours, and were set before the first run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator

from sedtalker_jax.evaluation.claims.statistics import Quantity

SEDTALKER = "SEDTalker (arXiv 2604.13335), abstract"
EDITEMOTALK = "EditEmoTalk (arXiv 2601.10000), abstract"
OURS = "ours"


@dataclasses.dataclass(frozen=True)
class Claim:
    """Attributes:
    name: short, unique.
    statement: what is claimed, in a sentence that a reader understands without this file.
    source: paper and section, or "ours".
    family: of the scores that it is about.
    arm: the arm that the claim is about.
    against: the arm that it is compared with; empty when its own score is compared with bounds.
    measure: name of the scores' measure.
    quantity: "difference" (arm - against), "ratio" (arm / against) or "value" (arm).
    low, high: bounds of the quantity if the claim is true; zero itself lies outside.
    refuted_by: what would show that it is false.
    """

    name: str
    statement: str
    source: str
    family: str
    arm: str
    measure: str
    refuted_by: str
    against: str = ""
    quantity: Quantity = "difference"
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self):
        if bool(self.against) != (self.quantity != "value"):
            raise ValueError(f"claim {self.name}: a {self.quantity} is against {self.against or 'nothing'}")
        if not self.low < self.high or not (math.isfinite(self.low) or math.isfinite(self.high)):
            raise ValueError(f"claim {self.name}: no bounds can be met, or missed")

    @property
    def goal(self) -> str:
        """The bounds in print: "below 0", "at most 1.1", "0.8 to 1.25"."""
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"{self.low:g} to {self.high:g}"
        if math.isfinite(self.low):
            return f"above {self.low:g}" if self.low == 0 else f"at least {self.low:g}"
        return f"below {self.high:g}" if self.high == 0 else f"at most {self.high:g}"

    @property
    def digest(self) -> str:
        """Of everything that decides the verdict; wording does not."""
        fields = (self.family, self.arm, self.against, self.measure, self.quantity, repr(self.low), repr(self.high))
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:12]


def _diarization() -> Iterator[Claim]:
    measure = "emotion_diarization_error_rate"
    for arm, what, source in (
        ("utterance-labels", "a model of the same make trained on labels copied from the utterance to all frames", SEDTALKER),
        ("window", "a 2 s sliding window classifier trained on clips of one emotion", SEDTALKER),
        ("linear", "a linear head on the same encoder, SpeechBrain's recipe", OURS),
        ("prosody-forest", "a random forest on seven prosody statistics", OURS),
    ):
        yield Claim(
            name=f"diarization-vs-{arm}",
            statement=f"Frame-level diarization makes fewer errors (EDER) than {what}",
            source=source,
            family="diarization",
            arm="ours",
            against=arm,
            measure=measure,
            high=0.0,
            refuted_by="an interval of the paired difference of EDER that holds zero or lies above it",
        )


CONDITIONS = {
    "none": "no emotion condition",
    "utterance": "the utterance's posterior held for the whole clip",
    "segments": "segments switched hard, then smoothed, as SEDTalker's release does",
    "window": "a 2 s sliding window",
}
"""What the predicted track is compared with."""

EXPRESSION, UPPER_FACE = "expression_coefficient_error", "emotional_vertex_error_mm2"


def _animation() -> Iterator[Claim]:
    for measure, words in ((EXPRESSION, "expression coefficients"), (UPPER_FACE, "the upper face, EVE")):
        for arm, what in CONDITIONS.items():
            yield Claim(
                name=f"animation-vs-{arm}-{'expression' if measure == EXPRESSION else 'eve'}",
                statement=f"A face driven by the predicted track is nearer to the truth ({words}) than one driven by {what}",
                source=SEDTALKER,
                family="animation",
                arm="predicted",
                against=arm,
                measure=measure,
                high=0.0,
                refuted_by="an interval of the paired difference that holds zero or lies above it, where the emotion changes",
            )
    for arm, what in (("other-clip", "another clip's track"), ("shifted", "the track shifted by 0.5 s")):
        yield Claim(
            name=f"animation-vs-{arm}",
            statement=f"It matters which track: the clip's own predicted one is better (expression coefficients) than {what}",
            source=OURS,
            family="animation",
            arm="predicted",
            against=arm,
            measure=EXPRESSION,
            high=0.0,
            refuted_by="an interval that holds zero or lies above it: the track, or its timing, would not matter",
        )
    yield Claim(
        name="animation-transition-jerk",
        statement="Emotion changes smoothly without a filter afterwards: jerk around changes is 0.8 to 1.25 times the truth's",
        source=SEDTALKER,
        family="animation",
        arm="predicted",
        measure="transition_jerk_ratio",
        quantity="value",
        low=0.8,
        high=1.25,
        refuted_by="an interval that is not inside these bounds: trembling above, oversmoothing below",
    )


def _disentanglement() -> Iterator[Claim]:
    for measure, words, high in (("lip_distance_error_mm", "lips", 1.10), (EXPRESSION, "expression", 1.25)):
        yield Claim(
            name=f"disentangled-{words}",
            statement=f"Speech of one clip with the emotion of another: the error of the {words} against the rendered truth is "
            f"at most {high:g} times the unswapped clip's",
            source=SEDTALKER,
            family="disentanglement",
            arm="swapped",
            against="unswapped",
            measure=measure,
            quantity="ratio",
            high=high,
            refuted_by=f"an interval of the ratio that reaches above {high:g}: one channel changes the other",
        )
    yield Claim(
        name="disentangled-forced-angry",
        statement="'angry' forced on happy speech gives at least 90% of the angry expression",
        source=SEDTALKER,
        family="disentanglement",
        arm="forced-angry",
        measure="angry_coefficient_share",
        quantity="value",
        low=0.9,
        refuted_by="an interval that reaches below 0.9: the voice's own emotion leaks past the condition",
    )
    for target in ("phoneme", "speaker"):
        yield Claim(
            name=f"disentangled-{target}-probe",
            statement=f"A linear probe finds the {target} in the emotion condition at most 2 points better than "
            "the majority class",
            source=SEDTALKER,
            family="disentanglement",
            arm=f"{target}-probe",
            against=f"{target}-majority",
            measure="accuracy",
            high=0.02,
            refuted_by="an interval of the difference of accuracies that reaches above 0.02",
        )


def _identity() -> Iterator[Claim]:
    yield Claim(
        name="identity-nearest-head",
        statement="On unseen heads the motion is nearer to the head's own truth than to any training head's in 95% of clips",
        source=SEDTALKER,
        family="identity",
        arm="oracle",
        measure="nearest_is_own",
        quantity="value",
        low=0.95,
        refuted_by="an interval of the share that reaches below 0.95",
    )
    yield Claim(
        name="identity-not-readable",
        statement="The training head can't be read from the motion of an unseen head above chance, within 2 points",
        source=SEDTALKER,
        family="identity",
        arm="training-head",
        against="chance",
        measure="accuracy",
        high=0.02,
        refuted_by="an interval of accuracy minus chance that reaches above 0.02",
    )


def _backbone() -> Iterator[Claim]:
    for arm, what in (("attention", "attention only"), ("mamba", "Mamba only"), ("gru", "a GRU")):
        yield Claim(
            name=f"backbone-vs-{arm}",
            statement=f"The Transformer-Mamba stack moves lips more exactly (LVE, rooted) than {what} of the same size",
            source=OURS,
            family="backbone",
            arm="transformer-mamba",
            against=arm,
            measure="lip_vertex_error_rooted_mm",
            high=0.0,
            refuted_by="an interval of the paired difference that holds zero or lies above it",
        )


def _editing() -> Iterator[Claim]:
    def own(name: str, statement: str, measure: str, refuted_by: str, **bounds) -> Claim:
        bounds = {"quantity": "value", "source": EDITEMOTALK} | bounds
        return Claim(f"editing-{name}", statement, bounds.pop("source"), "editing", "ours", measure, refuted_by, **bounds)

    yield own(
        "continuity",
        "The face's change towards the target rises at every one of 20 steps of alpha in 95% of clips",
        "monotone",
        "an interval of the share that reaches below 0.95",
        low=0.95,
    )
    yield own(
        "boundary-step",
        "No jump at the boundary: the step across it is at most 1.5 times the median step",
        "boundary_step",
        "an interval that reaches above 1.5",
        high=1.5,
    )
    yield own(
        "amplitude",
        "alpha = 1 changes the face 0.7 to 1.3 times as much as the truth changes; a still face has 0",
        "amplitude",
        "an interval that is not inside these bounds",
        low=0.7,
        high=1.3,
    )
    yield own(
        "control",
        "An evaluator of other heads and features names the target at alpha = 1 at least 0.8 times as often as on true motion",
        "target_named",
        "an interval of the ratio that reaches below 0.8",
        against="truth",
        quantity="ratio",
        low=0.8,
    )
    yield own(
        "lips",
        "An edit keeps the lips: their error against the edited truth is at most 1.1 times the unedited clip's",
        "lip_error_mm",
        "an interval of the ratio that reaches above 1.1",
        against="unedited",
        quantity="ratio",
        high=1.10,
    )
    yield own(
        "closure",
        "Closures of p, b and m are kept: their recall falls by at most 2 points",
        "closure_recall",
        "an interval of the difference that reaches below -0.02",
        against="unedited",
        quantity="difference",
        low=-0.02,
    )
    yield own(
        "locality",
        "An edit of a stretch moves no vertex by more than 0.1 mm further than 0.3 s from it",
        "leak_mm",
        "an interval that reaches above 0.1 mm",
        source=OURS,
        high=0.1,
    )
    for arm, what in (
        ("class-mean", "differences of class means"),
        ("one-hot", "interpolated one-hot labels"),
        ("random", "random directions"),
    ):
        yield own(
            f"control-vs-{arm}",
            f"At equal change of the expression, boundary normals make the target be named more often than {what}",
            "target_named_matched",
            "an interval of the paired difference that holds zero or lies below it",
            against=arm,
            quantity="difference",
            low=0.0,
        )
    yield own(
        "consistency-loss",
        "The emotional consistency loss brings edited faces nearer to the rendered truth (expression coefficients)",
        EXPRESSION,
        "an interval of the paired difference that holds zero or lies above it",
        against="no-consistency",
        quantity="difference",
        high=0.0,
    )


CLAIMS: tuple[Claim, ...] = (
    *_diarization(),
    *_animation(),
    *_disentanglement(),
    *_identity(),
    *_backbone(),
    *_editing(),
)
"""In the order of the table."""


def digests() -> dict[str, str]:
    """Name of every claim -> its digest, to be kept with a run's settings."""
    return {claim.name: claim.digest for claim in CLAIMS}
