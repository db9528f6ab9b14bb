"""How well emotion edits do what they say, on a built-in world, where the truth of an edit can be rendered.

    python -m sedtalker_jax.evaluation.editing_evaluation --checkpoint runs/demo --data runs/world-demo

Every clip is edited from its own emotion to another one that the seed picks. The truth of alpha = 1 is that emotion on the
same speech, at the mean strength that faces of the training split have in it: that is what the editor's unit means.

Scores (E. Jiang et al., arXiv 2601.10000, name the properties; the definitions are ours):
    monotone               the projection of the expression change on the truth's rises at every one of 20 steps, alpha 0 to 1
    largest fall           of that projection between two steps, as a share of its whole rise
    boundary step          the step in which the clip's mean embedding crosses the boundary, over the clip's median step
    amplitude              the projection at alpha = 1, as a share of the true change: 1 is right, a still face has 0
    amplitude, true activation    the same when the animator is given the true activation before and after: what is lost in it
    target heard           share of frames in which the diarizer's heads name the target after the edit
    lip error ratio        largest lip error per frame against the edited truth, over that of the unedited clip against its own
    the same, replaced     against the truth in which the clip's own emotion gives way to the target, whether it was named or
                           not; where it is not, the first truth shows both at once
    closure recall change  of p, b, m, edited minus unedited
    leak                   largest motion of any vertex further than 0.3 s from an edit of the middle third
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from sedtalker_jax import axes
from sedtalker_jax.allocator import keep_freed_memory
from sedtalker_jax.data.mixing import spread
from sedtalker_jax.data.records import FACE_SPACE, RecordReader
from sedtalker_jax.data.world.oracle import FaceOracle
from sedtalker_jax.data.world.oracle import edited as edited_activation
from sedtalker_jax.emotion import Edit, EditSchedule
from sedtalker_jax.emotion.labels import ACTIVE, NEUTRAL
from sedtalker_jax.errors import UserError, exit_code
from sedtalker_jax.evaluation import lip_metrics
from sedtalker_jax.evaluation.animation_metrics import MILLIMETRES, vertex_distances
from sedtalker_jax.evaluation.bootstrap import HierarchicalBootstrap
from sedtalker_jax.evaluation.expression_evaluator import moves_true_face
from sedtalker_jax.evaluation.table import ScoreRow, ScoreTable
from sedtalker_jax.face.lip_points import lip_points
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.inference.editing import edit, edited_motion
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.windows import HeardWindow

ALPHAS = np.linspace(0.0, 1.0, 21)
MARGIN_S = 0.3
"""Seconds beyond an edit in which the face may move."""

FROM_SOURCE, TARGET_ONLY = "from the clip's emotion", "towards the target"
SYSTEMS = (FROM_SOURCE, TARGET_ONLY)
"""`--happy 1 --from sad`, along the boundary between the two; `--happy 1` alone, along the target's boundary against all."""


@dataclasses.dataclass
class ClipScores:
    """Numbers of one clip under one system; pairs are (numerator, denominator)."""

    projections: Float[np.ndarray, " steps"]
    boundary_step: float
    true_amplitude: float
    heard: float
    clipped: float
    lip_errors: tuple[float, float]
    replaced_lip_error: float
    closures: tuple[int, int]
    unedited_closures: tuple[int, int]
    true_closures: tuple[int, int]
    leak_mm: float
    raw_leak_mm: float


def mean_strength(directory: str | Path, num_clips: int = 400) -> dict[str, float]:
    """Mean activation of each emotion in the faces of training segments that carry its name.

    Raises:
      UserError: an emotion that none of the clips has.
    """
    reader = RecordReader(directory, "train", decode_audio=False)
    found: dict[str, list[float]] = {name: [] for name in ACTIVE}
    for index in range(0, len(reader), max(1, len(reader) // num_clips)):
        record = reader[index]
        times = np.arange(len(record["activation"])) / record["fps"]
        for start, end, name in record["segments"]:
            inside = (times >= start) & (times < end)
            if name != NEUTRAL and inside.any():
                found[name].append(float(record["activation"][inside, ACTIVE.index(name)].astype(np.float64).mean()))
    missing = [name for name, values in found.items() if not values]
    if missing:
        raise UserError(f"{directory}: no training clip with {', '.join(missing)} among {num_clips}")
    return {name: float(np.mean(values)) for name, values in found.items()}


def clip_emotion(record: Mapping[str, Any]) -> str:
    """The emotion of a record's longest segment."""
    return str(max(record["segments"], key=lambda segment: segment[1] - segment[0])[2])


def targets(record: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """Emotions that a record can be edited to: those of `known` that no part of it has yet."""
    present = {segment[2] for segment in record["segments"]}
    return [name for name in ACTIVE if name in known and name not in present]


def step_over_median(projections: Float[np.ndarray, " alphas"], distances: Float[np.ndarray, " alphas"]) -> float:
    """Size of the step that crosses the boundary, over the median step; NaN where none does.

    Args:
      projections: at each alpha.
      distances: from the boundary (EditDictionary.distance) at each alpha; NaN where a way has none.
    """
    steps = np.abs(np.diff(projections))
    crossing = np.flatnonzero((distances[:-1] < 0) & (distances[1:] >= 0))
    median = float(np.median(steps))
    return float(steps[crossing[0]] / median) if len(crossing) and median > 0 else float("nan")


class EditingEvaluation:
    """Edits of a world's clips beside their rendered truth.

    Args:
      model: with an edit dictionary.
      directory: of the built-in world.

    Raises:
      UserError: no built-in world, another world than this code's, or faces that move at another rate than the model's.
    """

    def __init__(self, model: SEDTalker, directory: str | Path):
        self.model, self.directory = model, Path(directory)
        self.oracle = FaceOracle.from_directory(directory)
        self.truth = FaceSpace.load(self.directory / FACE_SPACE)
        if self.truth.fps != model.fps:
            raise UserError(f"{directory}: faces move at {self.truth.fps:g} fps and the model's at {model.fps:g}")
        self.strength = mean_strength(directory)
        points = lip_points(self.truth.topology)
        if points is None:
            raise UserError(f"{directory}: no lip points are known for topology {self.truth.topology}")
        self.lip_points = points
        self.lips = self.truth.regions["lips"]

    def clip(self, record: Mapping[str, Any], target: str) -> dict[str, ClipScores]:
        """Scores of every system on one clip; empty where an edit would not move the true face (`moves_true_face`)."""
        model, waveform = self.model, record["waveform"]
        source, strength = clip_emotion(record), self.strength[target]
        starts = {FROM_SOURCE: source, TARGET_ONLY: None}
        if not all(moves_true_face(record, target, start, strength) for start in starts.values()):
            return {}
        face = model.template(self.truth.template(record["template"]))
        heard = model.hear(waveform)
        unedited = model.motion(waveform, model.activations(model.combine(heard), len(waveform)), face)
        vertices = model.codec.vertices(face.vertices, unedited)
        true = self._true(record, EditSchedule(()))[: len(vertices)]
        edited = {
            system: self._true(record, EditSchedule((Edit(target, strength, start),)))[: len(vertices)]
            for system, start in starts.items()
        }
        return {
            system: self._scores(record, target, start, heard, unedited, face, (true, edited[system]), edited[FROM_SOURCE])
            for system, start in starts.items()
        }

    def _true(self, record: Mapping[str, Any], schedule: EditSchedule) -> Float[np.ndarray, "F V 3"]:
        return self.oracle.render_edit(dict(record), schedule)

    def _scores(self, record, target, source, heard: Sequence[HeardWindow], unedited, face, truth, replaced) -> ClipScores:
        model, waveform = self.model, record["waveform"]
        vertices = model.codec.vertices(face.vertices, unedited)
        wanted = (truth[1] - truth[0]).astype(np.float64)
        # The projection is taken in the basis of the model's motion: its vertices differ by displacements in that basis only.
        in_basis = model.codec.space.coefficients(wanted) * model.codec.motion_std
        projections, distances, motion, last = [], [], unedited, None
        direction = model.edit_dictionary.direction(target, source)
        for alpha in ALPHAS:
            last = edit(model, waveform, EditSchedule((Edit(target, float(alpha), source),)), heard=heard)
            motion = edited_motion(model, waveform, last, face, unedited=unedited)
            projections.append(float(np.vdot((motion - unedited)[: len(wanted)], in_basis) / np.vdot(wanted, wanted)))
            distances.append(model.edit_dictionary.distance(last.after, direction))
        assert last is not None
        edited = model.codec.vertices(face.vertices, motion)
        names = np.asarray(last.track.labels)[last.track.probabilities.argmax(axis=1)]
        return ClipScores(
            projections=np.array(projections),
            boundary_step=step_over_median(np.array(projections), np.array(distances)),
            true_amplitude=float(np.vdot(self._true_motion(record, target, source, face)[: len(wanted)], in_basis))
            / float(np.vdot(wanted, wanted)),
            heard=float((names == target).mean()),
            clipped=float(last.clipped.mean()),
            lip_errors=(self._lip_error(edited, truth[1]), self._lip_error(vertices, truth[0])),
            replaced_lip_error=self._lip_error(edited, replaced),
            closures=self._closures(edited, face, record),
            unedited_closures=self._closures(vertices, face, record),
            true_closures=self._closures(truth[1], face, record),
            leak_mm=self._leak(record, target, source, heard, unedited, face, faded=True),
            raw_leak_mm=self._leak(record, target, source, heard, unedited, face, faded=False),
        )

    def _true_motion(self, record, target, source, face) -> Float[np.ndarray, "F R"]:
        """What the model's own animator makes of the true change of activation."""
        schedule = EditSchedule((Edit(target, self.strength[target], source),))
        F = axes.num_animation_frames(len(record["waveform"]), self.model.fps)
        motions = []
        for edits in (schedule, EditSchedule(())):
            true = edited_activation(record["activation"], edits, np.arange(len(record["activation"])) / self.model.fps)
            padded = np.pad(true, ((0, max(0, F - len(true))), (0, 0)), mode="edge")[:F]
            motions.append(self.model.motion(record["waveform"], padded.astype(np.float32), face))
        return motions[0] - motions[1]

    def _lip_error(self, guess, truth) -> float:
        frames = min(len(guess), len(truth))
        return float(vertex_distances(guess[:frames], truth[:frames], self.lips).max(axis=1).mean() * MILLIMETRES)

    def _closures(self, vertices, face, record) -> tuple[int, int]:
        closed = float(lip_metrics.lip_distance(face.vertices[None], *self.lip_points)[0])
        distance = lip_metrics.lip_distance(vertices, *self.lip_points)
        return lip_metrics.bilabial_closures(distance, self.model.fps, record["phonemes"], closed_distance=closed)

    def _leak(self, record, target, source, heard, unedited, face, *, faded: bool) -> float:
        model, waveform = self.model, record["waveform"]
        duration = len(waveform) / axes.SAMPLE_RATE
        start, end = duration / 3, 2 * duration / 3
        schedule = EditSchedule((Edit(target, 1.0, source, start, end),))
        edited = edit(model, waveform, schedule, heard=heard)
        options: dict[str, Any] = {} if faded else {"reach": None}
        motion = edited_motion(model, waveform, edited, face, unedited=unedited, **options)
        times = np.arange(len(motion)) / model.fps
        outside = (times < start - MARGIN_S) | (times > end + MARGIN_S)
        moved = model.codec.vertices(face.vertices, motion[outside]) - model.codec.vertices(face.vertices, unedited[outside])
        return float(np.linalg.norm(moved, axis=-1).max(initial=0.0) * MILLIMETRES)


def score_table(scores: Mapping[str, Sequence[ClipScores]], speakers: Sequence[str], note: str) -> ScoreTable:
    """One column for each system; 95% intervals over speakers, then clips."""
    bootstrap = HierarchicalBootstrap(speakers)
    rows: dict[str, dict[str, Any]] = {}

    def put(metric: str, system: str, value) -> None:
        rows.setdefault(metric, {})[system] = value

    for system, clips in scores.items():
        projections = np.stack([clip.projections for clip in clips])
        steps, rise = np.diff(projections, axis=1), projections.max(axis=1) - projections.min(axis=1)
        median = np.median(np.abs(steps), axis=1)
        put("monotone", system, bootstrap.mean((steps > 0).all(axis=1).astype(float)))
        put("largest_fall_of_rise", system, bootstrap.mean(np.maximum(-steps.min(axis=1), 0.0) / np.maximum(rise, 1e-9)))
        put("boundary_step_over_median", system, bootstrap.mean(np.array([clip.boundary_step for clip in clips])))
        put("largest_step_over_median", system, bootstrap.mean(np.abs(steps).max(axis=1) / np.maximum(median, 1e-9)))
        put("amplitude", system, bootstrap.mean(projections[:, -1]))
        fitting = (projections[:, -1] >= 0.7) & (projections[:, -1] <= 1.3)
        put("amplitude_from_0.7_to_1.3", system, bootstrap.mean(fitting.astype(float)))
        put("amplitude_true_activation", system, bootstrap.mean(np.array([clip.true_amplitude for clip in clips])))
        put("target_heard", system, bootstrap.mean(np.array([clip.heard for clip in clips])))
        put("held_back_at_bound", system, bootstrap.mean(np.array([clip.clipped for clip in clips])))
        put("lip_error_ratio", system, bootstrap.interval(np.array([clip.lip_errors for clip in clips])))
        replaced = [(clip.replaced_lip_error, clip.lip_errors[1]) for clip in clips]
        put("lip_error_ratio_replaced", system, bootstrap.interval(np.array(replaced)))
        pairs = [
            np.array([getattr(clip, name) for clip in clips], np.float64)
            for name in ("closures", "unedited_closures", "true_closures")
        ]
        put("closure_recall_change", system, bootstrap.paired_difference(pairs[0], pairs[1]))
        put("closure_recall_of_edited_truth", system, bootstrap.interval(pairs[2]))
        put("largest_leak", system, max(clip.leak_mm for clip in clips))
        put("largest_leak_unfaded", system, max(clip.raw_leak_mm for clip in clips))
    better = {"monotone": True, "target_heard": True, "amplitude_from_0.7_to_1.3": True, "closure_recall_change": True}
    lower = {
        name: False
        for name in rows
        if name.startswith("largest") or name in ("boundary_step_over_median", "lip_error_ratio", "lip_error_ratio_replaced")
    }
    units = {"largest_leak": "mm", "largest_leak_unfaded": "mm"}
    table = [ScoreRow(name, values, units.get(name, ""), (better | lower).get(name)) for name, values in rows.items()]
    return ScoreTable("Emotion edits at alpha = 1, unseen voices, sentences and heads", list(scores), table, note)


def evaluate_editing(
    model: SEDTalker, directory: str | Path, *, split: str = "test", num_clips: int = 28, seed: int = 0
) -> ScoreTable:
    """Edits clips that are spread evenly over a split; see the module for the scores.

    Args:
      model: with an edit dictionary.
      directory: of the built-in world.
      split: of the world.
      num_clips: how many clips, or all.
      seed: of the target emotions.

    Raises:
      UserError: as EditingEvaluation.
    """
    evaluation = EditingEvaluation(model, directory)
    reader, rng = RecordReader(directory, split), np.random.default_rng(seed)
    scores: dict[str, list[ClipScores]] = {system: [] for system in SYSTEMS}
    speakers, unchanged = [], 0
    for index in tqdm(spread(len(reader), num_clips), desc="edit", unit="clip", mininterval=2.0):
        record = reader[int(index)]
        others = targets(record, model.edit_dictionary.labels)
        scored = evaluation.clip(record, str(rng.choice(others))) if others else {}
        if not scored:
            unchanged += 1
            continue
        for system, clip in scored.items():
            scores[system].append(clip)
        speakers.append(record["speaker"])
    strengths = ", ".join(f"{name} {value:.2f}" for name, value in evaluation.strength.items())
    note = (
        f"{len(speakers)} clips of {len(set(speakers))} voices of {directory} ({split}), seed {seed}, whole clips edited; "
        f"truth at alpha 1: {strengths}; 95% intervals over voices, then clips."
        + (f" Left out: {unchanged} whose true face no edit, or not this one, would move." if unchanged else "")
    )
    return score_table(scores, speakers, note)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        epilog=(__doc__ or "").split("\n\n", 3)[-1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="workdir of train.py that evaluate.py has scored")
    parser.add_argument("--data", required=True, metavar="DIR", help="the built-in world")
    parser.add_argument("--split", default="test", choices=("test", "valid"), help="(default: %(default)s)")
    parser.add_argument("--clips", type=int, default=28, help="how many clips (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the target emotions (default: %(default)s)")
    options = parser.parse_args(arguments)

    def run() -> None:
        if options.clips < 1:
            raise UserError(f"--clips {options.clips}: at least one is needed")
        model = SEDTalker.load(options.checkpoint)
        table = evaluate_editing(model, options.data, split=options.split, num_clips=options.clips, seed=options.seed)
        print(table.plain())

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
