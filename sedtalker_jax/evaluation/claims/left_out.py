"""What carries over to a recorded corpus that training never saw: leave-one-corpus-out of the diarizer, no claim but a table.

For every corpus of `--data a,b,c` the diarizer of the arm "ours" is trained on the others; temperature and cost of a change are
chosen on their validation splits; then every clip of the corpus is scored, whatever its split. Beside it stand the emotion that
is commonest in the others' training clips, always said, and the arm "ours" itself, which has the corpus in its training, both
on the corpus's test split. A built-in world is no corpus and has none of this.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sedtalker_jax.data.mixing import hold_out, merge_manifests, open_records, record_name
from sedtalker_jax.data.records import read_manifest
from sedtalker_jax.evaluation import emotion_metrics as metrics
from sedtalker_jax.evaluation.bootstrap import HierarchicalBootstrap
from sedtalker_jax.evaluation.claims.diarization import arm_scores
from sedtalker_jax.evaluation.claims.diarization_arms import Arm, Record, error_rate, train, whole_tracks
from sedtalker_jax.evaluation.claims.diarization_tables import ArmResult
from sedtalker_jax.evaluation.claims.jobs import Job
from sedtalker_jax.evaluation.claims.settings import Settings
from sedtalker_jax.evaluation.claims.tables import Cell, save_table
from sedtalker_jax.evaluation.emotion_evaluation import constant_tracks
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.scoring import emotion_clip

FAMILY = "leave-one-corpus-out"

COLUMNS = (
    "clips",
    "voices",
    "share of emotions that the others lack",
    "EDER",
    "low",
    "high",
    "frame accuracy",
    "EDER, the others' commonest emotion",
    "EDER of its test split",
    "the same, the corpus in training",
    "difference",
    "low",
    "high",
)

_AT_A_TIME = 256
"""Clips whose sound is in memory together: a whole corpus may be a hundred thousand of them."""


def jobs(settings: Settings) -> list[Job]:
    """ "seed<S>/diarizer/without-<corpus>" of every corpus and seed, and "seed<S>/diarization/leave-one-corpus-out"."""
    corpora = corpora_to_leave_out(settings)
    result = []
    for seed in settings.seeds if corpora else ():
        names = {corpus: f"seed{seed}/diarizer/without-{corpus}" for corpus in corpora}
        for corpus, name in names.items():
            training = functools.partial(train, settings, "ours", seed, held_out=corpus)
            result.append(Job(name, training, expected_s=110.0))
        scoring = functools.partial(score, settings, corpora, seed)
        required = (*names.values(), f"seed{seed}/diarizer/ours")
        result.append(Job(f"seed{seed}/diarization/{FAMILY}", scoring, required, expected_s=120.0))
    return result


def corpora_to_leave_out(settings: Settings) -> tuple[str, ...]:
    """Names of the corpora without which training and validation clips are left; none for a built-in world.

    Raises:
      UserError: no finished records.
    """
    if settings.world_hash():
        return ()
    directories = settings.record_directories
    manifests = {directory: read_manifest(directory) for directory in directories}

    def trains_without(corpus: str) -> bool:
        others = [manifest for directory, manifest in manifests.items() if record_name(directory) != corpus]
        return all(any(m["splits"].get(split, {}).get("records") for m in others) for split in ("train", "valid"))

    return tuple(corpus for corpus in dict.fromkeys(map(record_name, directories)) if trains_without(corpus))


def score(settings: Settings, corpora: Sequence[str], seed: int, directory: Path) -> None:
    """Scores every corpus with the diarizer that did not see it: score files, one "arm" a corpus, and the table."""
    trained = directory.parents[1] / "diarizer"
    labels, seen = _arm("ours", trained / "ours", settings.record_directories)
    rows = []
    for corpus in corpora:
        others, own = hold_out(settings.record_directories, corpus)
        _, arm = _arm(corpus, trained / f"without-{corpus}", others)
        manifest = merge_manifests([read_manifest(path) for path in own])
        splits = [split for split, content in manifest["splits"].items() if content.get("records")]
        found = {split: _heard(arm, labels, open_records(own, split)) for split in splits}
        whole = _joined(arm, list(found.values()))
        arm_scores(whole, seed, FAMILY).save(directory)
        both = None
        if "test" in found:
            both = found["test"], _heard(seen, labels, open_records(own, "test"))
        rows.append([corpus, *_cells(whole, others, both)])
    note = (
        "All clips of a corpus, heard by a diarizer that was trained and tuned on the other corpora. Difference: its EDER on "
        "the test split less that of the arm ours, which had the corpus in training. 95% intervals over voices, then clips. "
        "An emotion that no other corpus has can't be named."
    )
    save_table(directory, FAMILY, "Corpora left out of training", COLUMNS, rows, note)


def _arm(name: str, workdir: Path, directories: Sequence[str]) -> tuple[tuple[str, ...], Arm]:
    """A trained diarizer's labels, and what the validation splits of `directories` make of it."""
    model = SEDTalker.load(workdir)
    model.temperature = 1.0
    valid = list(open_records(directories, "valid"))
    clips = [emotion_clip(record, model.labels) for record in valid]
    return model.labels, Arm.fit(name, functools.partial(whole_tracks, model), valid, clips)


def _heard(arm: Arm, labels: Sequence[str], reader: Iterable[Record]) -> ArmResult:
    """What an arm says of records, a few of which are in memory at a time."""
    records, parts = iter(reader), []
    while some := list(itertools.islice(records, _AT_A_TIME)):
        parts.append(ArmResult.of(arm, some, [emotion_clip(record, labels) for record in some]))
    return _joined(arm, parts)


def _joined(arm: Arm, parts: Sequence[ArmResult]) -> ArmResult:
    clips, tracks, decided = ([x for part in parts for x in getattr(part, name)] for name in ("clips", "tracks", "decided"))
    return ArmResult(arm, clips, tracks, decided)


def _cells(whole: ArmResult, others: Sequence[str], both: tuple[ArmResult, ArmResult] | None) -> list[Cell]:
    """The cells of COLUMNS; `both`: the test split, heard without and with the corpus in training."""
    clips, labels, confusion = whole.clips, whole.clips[0].labels, whole.confusion()
    known = merge_manifests([read_manifest(path) for path in others])["splits"]["train"]["frames"]
    frames = confusion.sum(axis=1)
    lacking = float(sum(frames[k] for k, name in enumerate(labels) if not known.get(name)) / max(frames.sum(), 1))
    commonest = max(labels, key=lambda name: known.get(name, 0))
    seconds = np.array([clip.duration for clip in clips])
    constant = [error_rate(clip, track) for clip, track in zip(clips, constant_tracks(clips, commonest), strict=True)]
    bootstrap = HierarchicalBootstrap([clip.speaker for clip in clips])
    rate = bootstrap.mean(whole.error_rates(), seconds)
    cells: list[Cell] = [len(clips), bootstrap.num_speakers, lacking, rate.value, rate.low, rate.high]
    cells += [float(metrics.frame_accuracy(confusion)), float(np.average(constant, weights=seconds))]
    if both is None:
        return [*cells, *[None] * 5]
    test = both[0].clips
    bootstrap, seconds = HierarchicalBootstrap([clip.speaker for clip in test]), np.array([clip.duration for clip in test])
    cost = bootstrap.paired_mean_difference(both[0].error_rates(), both[1].error_rates(), seconds)
    return [*cells, *(result.error_rate() for result in both), cost.value, cost.low, cost.high]
