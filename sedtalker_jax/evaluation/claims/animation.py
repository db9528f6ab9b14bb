"""Does a track that moves in time make a better face? SEDTalker's claim, against what is simpler.

Arms of equal size, data, steps and seed; they differ in the emotion condition alone, in training and in scoring
(animation_tracks lists them). The segments arm's motion is filtered with a Gaussian of one frame, as the release does. In the
model of "predicted", two more conditions show whether it is the clip's own track, at its own time, that matters:

    other-clip  the predicted track of another clip, stretched to this one's length
    shifted     the clip's predicted track, 0.5 s late

Scores (face_scores): expression_coefficient_error first, emotional_vertex_error_mm2 and transition_jerk_ratio, on clips whose
emotion changes; lip_vertex_error_rooted_mm on all.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from scipy import ndimage

from sedtalker_jax.data.given_tracks import given_track
from sedtalker_jax.data.world.oracle import stretch
from sedtalker_jax.evaluation.claims.animation_tracks import ARMS, split_records, write_tracks
from sedtalker_jax.evaluation.claims.batches import animate, template_codes
from sedtalker_jax.evaluation.claims.face_scores import FaceScores, emotion_changes
from sedtalker_jax.evaluation.claims.jobs import Job, train_arm
from sedtalker_jax.evaluation.claims.scores import ArmScores
from sedtalker_jax.evaluation.claims.settings import Settings
from sedtalker_jax.inference.pipeline import SEDTalker

CONTROLS = ("other-clip", "shifted")
"""Conditions that are scored in the model of the arm "predicted"."""

RELEASE_GAUSSIAN_FRAMES = 1.0
"""Standard deviation of the filter over the motion of the arm "segments"."""

SHIFT_S = 0.5

Record = Mapping[str, Any]


def jobs(settings: Settings) -> list[Job]:
    """ "seed<S>/tracks", "seed<S>/animator/<arm>" and "seed<S>/animation" of every seed; none without a built-in world, since
    its rig is what expressions are measured with."""
    if not settings.world_hash():
        return []
    result = []
    for seed in settings.seeds:
        tracks = f"seed{seed}/tracks"
        hears = (f"seed{seed}/diarizer/ours", f"seed{seed}/diarizer/window")
        result.append(Job(tracks, functools.partial(write_tracks, settings, seed), hears, expected_s=80.0))
        names = {arm: f"seed{seed}/animator/{arm}" for arm in ARMS}
        for arm, name in names.items():
            result.append(Job(name, functools.partial(train, settings, arm, seed), (tracks,), expected_s=110.0))
        scoring = functools.partial(score, settings, seed)
        result.append(Job(f"seed{seed}/animation", scoring, tuple(names.values()), expected_s=90.0))
    return result


def animator_config(settings: Settings, seed: int, tracks: Path) -> ConfigDict:
    """The config of an animator that a file of given tracks drives; unlocked."""
    from configs import claims

    config = claims.get_config(",".join(["animator", *([settings.variant] if settings.variant else [])]))
    config.seed = config.pipeline.seed = seed
    config.data.face = settings.data
    config.pipeline.tracks = str(tracks)
    config.pipeline.track_shares = (1.0, 0.0, 0.0)
    if not settings.smoke:
        config.num_steps = config.eval_every = settings.animator_steps
    return config


def train(settings: Settings, arm: str, seed: int, workdir: Path) -> None:
    """Trains one arm."""
    train_arm(animator_config(settings, seed, workdir.parent.parent / "tracks" / f"{arm}.npz").lock(), workdir)


def score(settings: Settings, seed: int, directory: Path) -> None:
    """Scores all arms and controls of a seed on the test split."""
    records = split_records(settings, "test")
    scorer = FaceScores(settings.data)
    for arm, motions in arm_motions(directory.parent, records).items():
        arm_scores(scorer, "animation", arm, seed, records, motions).save(directory)


def arm_motions(seed_directory: Path, records: Sequence[Record]) -> dict[str, list[Float[np.ndarray, "F R"]]]:
    """Motion of every clip under every arm and control, in metres."""
    waveforms = [record["waveform"] for record in records]
    motions = {}
    for arm in ARMS:
        model = SEDTalker.load(seed_directory / "animator" / arm)
        codes = template_codes(model, records)
        given = clip_tracks(seed_directory, arm, records)
        motions[arm] = animate(model, waveforms, given, codes)
        if arm == "segments":
            motions[arm] = [ndimage.gaussian_filter1d(m, RELEASE_GAUSSIAN_FRAMES, axis=0, mode="nearest") for m in motions[arm]]
        if arm == "predicted":
            for name, condition in controls(given, model.fps).items():
                motions[name] = animate(model, waveforms, condition, codes)
    return motions


def clip_tracks(seed_directory: Path, arm: str, records: Sequence[Record]) -> list[Float[np.ndarray, "F K-1"]]:
    """An arm's condition of each record."""
    path = seed_directory / "tracks" / f"{arm}.npz"
    return [given_track(path, record, len(record["motion"])) for record in records]


def controls(activations: Sequence[Float[np.ndarray, "F K-1"]], fps: float) -> dict[str, list[Float[np.ndarray, "F K-1"]]]:
    """The conditions of CONTROLS: the clip half the split away in place of each, and each one SHIFT_S late."""
    frames = round(SHIFT_S * fps)
    partners = [activations[(row + len(activations) // 2) % len(activations)] for row in range(len(activations))]
    return {
        "other-clip": [stretch(other, len(own)).astype(np.float32) for own, other in zip(activations, partners, strict=True)],
        "shifted": [own[np.maximum(np.arange(len(own)) - frames, 0)] for own in activations],
    }


def arm_scores(
    scorer: FaceScores,
    family: str,
    arm: str,
    seed: int,
    records: Sequence[Record],
    motions: Sequence[Float[np.ndarray, "F R"]],
) -> ArmScores:
    """Scores of an arm's motions, clip by clip: of the lips everywhere, of emotion where it changes."""
    rows = []
    for record, motion in zip(records, motions, strict=True):
        truth = np.asarray(record["motion"], np.float64)
        row = {"lip_vertex_error_rooted_mm": scorer.lip_error_mm(motion, truth)}
        transitions = emotion_changes(record)
        if transitions:
            row |= scorer.moving_emotion(motion, truth, record["template"], transitions)
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
    jerk = columns.pop("true_transition_jerk", None)
    return ArmScores(
        family=family,
        arm=arm,
        seed=seed,
        clips=tuple(record["id"] for record in records),
        voices=tuple(record["speaker"] for record in records),
        measures=columns,
        weights={} if jerk is None else {"transition_jerk_ratio": np.nan_to_num(jerk)},
    )
