"""Who feels what when: true frame labels against copied ones, sliding windows, a linear head, prosody, and one label a clip.

Arms, all scored with the Viterbi decoder, whose cost of a change and whose temperature are chosen for each arm on the
validation split:

    ours               the diarizer of configs/claims.py, trained on the true label of every frame
    utterance-labels   the same, trained on each clip's commonest label in all of its frames (SEDTalker's release)
    window             the same network as a classifier of 2 s windows, trained on clips of one emotion; applied every second,
                       the answer of a window being the mean over its frames, and overlapping answers cross-faded
    linear             the same encoder and labels, with a linear head on every frame (SpeechBrain's recipe)
    prosody-forest     a random forest on seven prosody statistics of the 1.5 s around a frame
    oracle-utterance   the true commonest label, held for the whole clip: no system that gives one answer a clip is better

Trained arms see the same seconds of audio in the same number of steps.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from sedtalker_jax.data.mixing import open_records
from sedtalker_jax.evaluation import emotion_metrics as metrics
from sedtalker_jax.evaluation.claims import diarization_tables as tables
from sedtalker_jax.evaluation.claims.diarization_arms import TRAINED, Arm, load_arms, train
from sedtalker_jax.evaluation.claims.jobs import Job
from sedtalker_jax.evaluation.claims.scores import ArmScores
from sedtalker_jax.evaluation.claims.settings import Settings
from sedtalker_jax.evaluation.emotion_evaluation import JOIN_TOLERANCE_S
from sedtalker_jax.inference.scoring import emotion_clip


def jobs(settings: Settings) -> list[Job]:
    """Training jobs "seed<S>/diarizer/<arm>" and the scoring job "seed<S>/diarization" of every seed."""
    result = []
    for seed in settings.seeds:
        names = {arm: f"seed{seed}/diarizer/{arm}" for arm in TRAINED}
        for arm, name in names.items():
            result.append(Job(name, functools.partial(train, settings, arm, seed), expected_s=110.0))
        scoring, other = functools.partial(score, settings, seed), settings.other_world_hash()
        inputs = (other,) if other else ()
        result.append(Job(f"seed{seed}/diarization", scoring, tuple(names.values()), 240.0, inputs))
    return result


def score(settings: Settings, seed: int, directory: Path) -> None:
    """Scores all arms of a seed on the test split: score files, tables, figures."""
    labels, hears = load_arms(settings, directory.parent / "diarizer", seed)
    records = {name: list(open_records(settings.record_directories, name)) for name in ("valid", "test")}
    clips = {name: [emotion_clip(record, labels) for record in rows] for name, rows in records.items()}
    arms = [Arm.fit(name, hear, records["valid"], clips["valid"]) for name, hear in hears.items()]
    results = [tables.ArmResult.of(arm, records["test"], clips["test"]) for arm in arms]
    for result in results:
        arm_scores(result, seed).save(directory)
    tables.write(directory, results, records["test"], clips["test"])
    if settings.other_world_hash():
        tables.write_other_world(directory, arms, settings.other_data, labels)


def arm_scores(result: tables.ArmResult, seed: int, family: str = "diarization") -> ArmScores:
    """An arm's scores clip by clip. Weights make each measure what its pooled counts give."""
    clips = result.clips
    columns: dict[str, list[tuple[float, float]]] = {}

    def add(name: str, value: float, weight: float) -> None:
        columns.setdefault(name, []).append((value, weight))

    for clip, track, decided in zip(clips, result.tracks, result.decided, strict=True):
        segments = decided.segments()
        error = metrics.emotion_diarization_error_rate(clip.segments, segments, clip.duration)
        add("emotion_diarization_error_rate", error.error_rate, clip.duration)
        known = clip.emotion >= 0
        right = decided.probabilities.argmax(axis=1)[known] == clip.emotion[known]
        add("frame_accuracy", right.mean() if known.any() else np.nan, known.sum())
        true, said = (metrics.segment_boundaries(rows, clip.duration) for rows in (clip.segments, segments))
        match = metrics.match_boundaries(true, said, 0.5)
        add("boundary_f1_0.5s", match.f1, match.reference + match.hypothesis)
        brier = metrics.brier_score(clip.emotion, track.probabilities) if known.any() else np.nan
        add("brier", brier, known.sum())
        alarms, joins = metrics.join_false_alarms(np.asarray(clip.joins), true, said, JOIN_TOLERANCE_S)
        add("join_false_alarm_rate_0.5s", alarms / joins if joins else np.nan, joins)
    arrays = {name: np.array(rows, np.float64).T for name, rows in columns.items()}
    return ArmScores(
        family=family,
        arm=result.arm.name,
        seed=seed,
        clips=tuple(clip.name for clip in clips),
        voices=tuple(clip.speaker for clip in clips),
        measures={name: values for name, (values, _) in arrays.items()},
        weights={name: weights for name, (_, weights) in arrays.items()},
    )
