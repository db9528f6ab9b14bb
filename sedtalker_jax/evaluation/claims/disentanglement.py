"""Are content and emotion apart? Speech of one clip with the emotion of another, against the face that this really gives.

The world renders what never happened (data.world.oracle), so nothing has to be judged by eye:

    unswapped, swapped    the animator of the arm "oracle", driven by a clip's own true track and by that of the clip half the
                          split away, stretched to its length; each against its own truth
    forced-angry          the same animator on clips whose commonest emotion is happy, told "angry" at strength 0.8 throughout:
                          mean angry coefficient over that of the rendered truth
    phoneme-probe, speaker-probe    logistic regression on the condition c_t that the predicted track gives the animator of the
                          arm "predicted", beside the majority class. Phonemes are asked of voices that the fit has not heard,
                          speakers of other clips of theirs. With a joint model also on the residual P e_t (-residual).

The audio still carries its own emotion while the track says another: an animator that listens to the wrong channel is found
out here, since in training both agree.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sedtalker_jax import axes
from sedtalker_jax.emotion.labels import ACTIVE, CANONICAL
from sedtalker_jax.evaluation.claims.animation import clip_tracks, controls
from sedtalker_jax.evaluation.claims.animation_tracks import split_records
from sedtalker_jax.evaluation.claims.batches import animate, conditions, residual_projection, template_codes
from sedtalker_jax.evaluation.claims.face_scores import FaceScores
from sedtalker_jax.evaluation.claims.jobs import Job
from sedtalker_jax.evaluation.claims.probes import phoneme_frames, probe, take_turns
from sedtalker_jax.evaluation.claims.scores import ArmScores
from sedtalker_jax.evaluation.claims.settings import Settings
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.windows import stitch

FAMILY = "disentanglement"

FORCED_STRENGTH = 0.8

Record = Mapping[str, Any]


def jobs(settings: Settings) -> list[Job]:
    """ "seed<S>/disentanglement" and "seed<S>/disentanglement-residual" of every seed; none without a built-in world."""
    if not settings.world_hash():
        return []
    result = []
    for seed in settings.seeds:
        animators = tuple(f"seed{seed}/animator/{arm}" for arm in ("oracle", "predicted"))
        run = functools.partial(score, settings, seed)
        result.append(Job(f"seed{seed}/disentanglement", run, animators, expected_s=120.0))
        joint = (f"seed{seed}/joint/plain",)
        run = functools.partial(score_residual, settings, seed)
        result.append(Job(f"seed{seed}/disentanglement-residual", run, joint, expected_s=60.0))
    return result


def score(settings: Settings, seed: int, directory: Path) -> None:
    """Swaps, forced emotion, and probes of the condition."""
    records = split_records(settings, "test")
    scorer = FaceScores(settings.data)
    oracle = SEDTalker.load(directory.parent / "animator" / "oracle")
    for arm, rows in swaps(scorer, oracle, records).items():
        _save(directory, arm, seed, records, rows)
    happy = [record for record in records if commonest_emotion(record) == "happy"]
    if happy:
        _save(directory, "forced-angry", seed, happy, forced(scorer, oracle, happy, "angry"))
    predicted = SEDTalker.load(directory.parent / "animator" / "predicted")
    given = conditions(predicted, clip_tracks(directory.parent, "predicted", records))
    times = [np.arange(len(rows)) / predicted.fps for rows in given]
    save_probes(directory, seed, records, given, times)


def score_residual(settings: Settings, seed: int, directory: Path) -> None:
    """Probes of the residual of the joint model."""
    records = split_records(settings, "test")
    model = SEDTalker.load(directory.parent / "joint" / "plain")
    projection = residual_projection(model)
    signals = []
    for record, heard in zip(records, model.hear_many([record["waveform"] for record in records]), strict=True):
        total = axes.num_speech_frames(len(record["waveform"]))
        signals.append(stitch([part.embedding for part in heard], [part.first_frame for part in heard], total) @ projection)
    times = [axes.speech_frame_times(len(signal)) for signal in signals]
    save_probes(directory, seed, records, signals, times, suffix="-residual")


def swaps(scorer: FaceScores, model: SEDTalker, records: Sequence[Record]) -> dict[str, list[dict[str, float]]]:
    """Errors of the unswapped and of the swapped clips, each against its rendered truth."""
    waveforms, codes = [record["waveform"] for record in records], template_codes(model, records)
    own = [np.asarray(record["activation"], np.float32) for record in records]
    others = controls(own, scorer.fps)["other-clip"]
    result = {}
    for arm, activations in (("unswapped", own), ("swapped", others)):
        motions = animate(model, waveforms, activations, codes)
        rows = []
        for record, activation, motion in zip(records, activations, motions, strict=True):
            template = record["template"]
            truth = rendered(scorer, record, activation)
            rows.append(
                {
                    "lip_distance_error_mm": scorer.lip_distance_error_mm(motion, truth, template),
                    "expression_coefficient_error": scorer.expression_error(motion, truth, template),
                    "lip_vertex_error_rooted_mm": scorer.lip_error_mm(motion, truth),
                }
            )
        result[arm] = rows
    return result


def forced(scorer: FaceScores, model: SEDTalker, records: Sequence[Record], emotion: str) -> list[dict[str, float]]:
    """Mean coefficient of an emotion that a constant condition asks for, as a share of that of the rendered truth."""
    column = ACTIVE.index(emotion)
    asked = []
    for record in records:
        activation = np.zeros((len(record["motion"]), len(ACTIVE)), np.float32)
        activation[:, column] = FORCED_STRENGTH
        asked.append(activation)
    motions = animate(model, [record["waveform"] for record in records], asked, template_codes(model, records))
    rows = []
    for record, activation, motion in zip(records, asked, motions, strict=True):
        pair = (motion, rendered(scorer, record, activation))
        given, true = (scorer.expression(one, record["template"])[:, column].mean() for one in pair)
        rows.append({f"{emotion}_coefficient_share": float(given / true)})
    return rows


def rendered(scorer: FaceScores, record: Record, activation: Float[np.ndarray, "F K-1"]) -> Float[np.ndarray, "F R"]:
    """Coefficients of the record's speech on its head under an activation, as the world renders it."""
    return scorer.oracle.coefficients(scorer.oracle.rig(dict(record), activation), record["template"])


def commonest_emotion(record: Record) -> str:
    """The commonest label of a record's voice; '' without labels."""
    emotion = np.asarray(record["emotion"])
    known = emotion[emotion >= 0]
    return record["labels"][int(np.bincount(known, minlength=len(CANONICAL)).argmax())] if len(known) else ""


def save_probes(
    directory: Path,
    seed: int,
    records: Sequence[Record],
    signals: Sequence[Float[np.ndarray, "F C"]],
    times: Sequence[Float[np.ndarray, " F"]],
    suffix: str = "",
) -> None:
    """Probes a signal for the phoneme and the speaker, and saves what is found beside the majority class."""
    speakers = [record["speaker"] for record in records]
    asked = {
        "phoneme": ([phoneme_frames(record, own) for record, own in zip(records, times, strict=True)], speakers),
        "speaker": ([np.full(len(own), name) for name, own in zip(speakers, times, strict=True)], take_turns(speakers)),
    }
    for target, (classes, groups) in asked.items():
        found = probe(signals, classes, groups)
        for arm, accuracy in (("probe", found.accuracy), ("majority", found.majority)):
            rows = [{"accuracy": value} for value in accuracy]
            _save(directory, f"{target}-{arm}{suffix}", seed, records, rows, weights={"accuracy": found.frames})


def _save(directory: Path, arm: str, seed: int, records, rows: Sequence[Mapping[str, float]], weights=None) -> None:
    ArmScores(
        family=FAMILY,
        arm=arm,
        seed=seed,
        clips=tuple(record["id"] for record in records),
        voices=tuple(record["speaker"] for record in records),
        measures={name: np.array([row[name] for row in rows]) for name in rows[0]},
        weights=weights or {},
    ).save(directory)
