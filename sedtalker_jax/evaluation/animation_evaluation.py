"""Scores a test set of moving faces clip by clip, keeping only numbers, and gives a table with intervals over speakers."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Int

from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation import animation_metrics as metrics
from sedtalker_jax.evaluation import lip_metrics
from sedtalker_jax.evaluation.bootstrap import HierarchicalBootstrap
from sedtalker_jax.evaluation.table import ScoreRow, ScoreTable

TRUTH = "truth"
"""Column for scores that the true motion has too, such as the share of its own p, b, m that close."""


@dataclasses.dataclass(frozen=True, eq=False)
class AnimationRegions:
    """The sets of vertices that scores are taken over; their sizes are printed with every table.

    Attributes:
      name: of the region files or topology.
      lips: for LVE and lip intensity.
      emotional: for EVE: the eye region and the forehead; None leaves EVE out.
      upper_face: for FDD; None leaves it out.
      upper_lip, lower_lip: vertices whose middles are the two points of the lip distance; None leaves out what needs it.
      num_vertices: of the topology.
    """

    name: str
    lips: Int[np.ndarray, " lips"]
    emotional: Int[np.ndarray, " eyes"] | None
    upper_face: Int[np.ndarray, " upper"] | None
    upper_lip: Int[np.ndarray, " u"] | None
    lower_lip: Int[np.ndarray, " l"] | None
    num_vertices: int

    def __post_init__(self):
        for name in ("lips", "emotional", "upper_face", "upper_lip", "lower_lip"):
            indices = getattr(self, name)
            if indices is None and name != "lips":
                continue
            indices = np.asarray(indices)
            if not len(indices) or indices.min() < 0 or indices.max() >= self.num_vertices:
                mesh = f"its mesh of {self.num_vertices} vertices"
                raise UserError(f"{self.name}: region {name} is empty or reaches outside {mesh}")
        if (self.upper_lip is None) != (self.lower_lip is None):
            raise UserError(f"{self.name}: a lip distance needs both lips")

    @classmethod
    def from_mapping(
        cls,
        name: str,
        regions: Mapping[str, Int[np.ndarray, " v"]],
        num_vertices: int,
        *,
        lips: Sequence[str] = ("lips",),
        emotional: Sequence[str] | None = ("eye_region", "forehead"),
        upper_face: Sequence[str] | None = ("upper_face",),
        upper_lip: Sequence[str] | None = ("upper_lip",),
        lower_lip: Sequence[str] | None = ("lower_lip",),
        lip_points: tuple[int, int] | None = None,
    ) -> AnimationRegions:
        """Takes each set as the union of named regions; nothing stands in for a region that is missing.

        Args:
          emotional, upper_face, upper_lip, lower_lip: None leaves out the scores that need the set, as the fields of this
            class do.
          lip_points: vertices of the upper and the lower lip between which the lip distance is measured (inner points in the
            middle are best); they take the place of the regions upper_lip and lower_lip.

        Raises:
          UserError: a region is missing or empty, or reaches outside the mesh.
        """

        def union(wanted: Sequence[str]) -> np.ndarray:
            missing = [region for region in wanted if region not in regions]
            if missing:
                raise UserError(f"{name}: no region {', '.join(missing)}; it has {', '.join(sorted(regions)) or 'none'}")
            return np.unique(np.concatenate([np.asarray(regions[region], np.int64) for region in wanted]))

        if lip_points is None:
            upper, lower = (None if wanted is None else union(wanted) for wanted in (upper_lip, lower_lip))
        else:
            upper, lower = (np.array([point], np.int64) for point in lip_points)
        emotional_set, upper_set = (None if wanted is None else union(wanted) for wanted in (emotional, upper_face))
        return cls(name, union(lips), emotional_set, upper_set, upper, lower, num_vertices)

    def describe(self) -> str:
        """Name and sizes, for the note under a table."""
        named = {"lips": self.lips, "eyes and forehead": self.emotional, "upper face": self.upper_face}
        sizes = ", ".join(f"{name} {'not given' if indices is None else len(indices)}" for name, indices in named.items())
        return f"vertex sets of {self.name}: {sizes} of {self.num_vertices} vertices"


@dataclasses.dataclass(frozen=True)
class _Column:
    """How one per-clip number is printed: unit, direction, decimals, and whether systems are compared on it."""

    unit: str
    higher_is_better: bool | None
    digits: int = 3
    compared: bool = False


_COLUMNS: dict[str, _Column] = {
    "lip_vertex_error_mm2": _Column("mm²", False, 3, True),
    "lip_vertex_error_rooted_mm": _Column("mm", False, 3, True),
    "lip_vertex_error_mean_mm": _Column("mm", False),
    "lip_mean_squared_error_mm2": _Column("mm²", False),
    "lip_vertex_error_meshtalk_mm": _Column("mm", False),
    "emotional_vertex_error_mm2": _Column("mm²", False, 3, True),
    "mean_vertex_error_mm": _Column("mm", False, 3, True),
    "upper_face_dynamics_deviation_mm2": _Column("mm²", None, 4),
    "upper_face_dynamics_deviation_absolute_mm2": _Column("mm²", False, 4),
    "velocity_error_mm_per_s": _Column("mm/s", False, 2, True),
    "mean_jerk_ratio": _Column("prediction/truth", None),
    "transition_jerk_ratio": _Column("prediction/truth", None),
    "lip_distance_error_mm": _Column("mm", False),
    "diversity_mm": _Column("mm", None),
    "mean_temporal_misalignment_ms": _Column("ms", False, 1),
    "envelope_correlation": _Column("", True),
    "envelope_lag_frames": _Column("frames", None, 2),
    "expression_coefficient_error": _Column("", False, 4, True),
}


class AnimationEvaluation:
    """Collects per-clip scores of several systems; `add` one clip at a time, then ask for `table`.

    Motion is forgotten after `add`, so a test set of any size fits.

    Args:
      regions: sets of vertices.
      fps: animation frames per second of all clips.
      systems: their names; the first is the system under test.
      closed_distance_m: distance of the two lip points when the mouth is shut, subtracted to give the opening; by default
        the template's, whose mouth is taken to be shut.
      shapes: blendshapes [W, V, 3] for the expression-coefficient error, or None.
      expression_columns: which weights belong to the expression; all by default.
      sample_rate: of the waveforms, Hz.
    """

    def __init__(
        self,
        regions: AnimationRegions,
        fps: float,
        systems: Sequence[str],
        *,
        closed_distance_m: float | None = None,
        shapes: Float[np.ndarray, "W V 3"] | None = None,
        expression_columns: Int[np.ndarray, " w"] | None = None,
        sample_rate: float = 16_000,
    ):
        if not systems or TRUTH in systems or len(set(systems)) != len(systems):
            raise UserError(f"give at least one system, each once, none called '{TRUTH}': {', '.join(systems)}")
        if fps <= 0:
            raise UserError(f"fps must be positive, not {fps}")
        self.regions, self.fps, self.systems, self.sample_rate = regions, float(fps), list(systems), sample_rate
        self.closed_distance_m, self.shapes, self.expression_columns = closed_distance_m, shapes, expression_columns
        self.names: list[str] = []
        self.speakers: list[str] = []
        self.num_frames: list[int] = []
        self.values: dict[str, list[dict[str, float]]] = {system: [] for system in (TRUTH, *systems)}
        self.closures: dict[str, list[tuple[int, int]]] = {system: [] for system in (TRUTH, *systems)}
        self.loudness: list[float] = []
        self.lip_movement: dict[str, list[float]] = {system: [] for system in (TRUTH, *systems)}

    def add(
        self,
        name: str,
        speaker: str,
        target: Float[np.ndarray, "F V 3"],
        template: Float[np.ndarray, "V 3"] | None,
        predictions: Mapping[str, Float[np.ndarray, "F V 3"] | Sequence[Float[np.ndarray, "F V 3"]]],
        *,
        phonemes: Sequence[Sequence] = (),
        transitions: Sequence[float] = (),
        waveform: Float[np.ndarray, " S"] | None = None,
        shapes: Float[np.ndarray, "W V 3"] | None = None,
    ) -> None:
        """Scores one clip of every system.

        Args:
          name, speaker: identify it; intervals are made over speakers.
          target, predictions: vertex positions in metres; they may differ in length by one frame.
            A list holds several predictions of the clip (one per speaking style, or samples): their scores are averaged and
            their diversity is measured.
          template: the neutral face in metres; None leaves out what needs it (dynamics deviation, expression coefficients).
          phonemes: (symbol, start_s, end_s), for the closures.
          transitions: seconds at which the face's emotion changes, for the jerk there.
          waveform: mono at `sample_rate`, for the correlation of mouth opening with loudness.
          shapes: blendshapes of this clip's head, in place of the common ones.

        Raises:
          UserError: systems, topology or length that do not fit; the message names the clip.
        """
        if set(predictions) != set(self.systems):
            raise UserError(f"clip {name}: predictions of {', '.join(predictions)}, expected {', '.join(self.systems)}")
        if np.ndim(target) != 3 or np.shape(target)[1:] != (self.regions.num_vertices, 3):
            raise UserError(f"clip {name}: {np.shape(target)} is no sequence of {self.regions.num_vertices} vertices")
        samples = {system: list(p) if isinstance(p, (list, tuple)) else [p] for system, p in predictions.items()}
        target = np.asarray(target)
        frames = min([len(target), *(len(motion) for motions in samples.values() for motion in motions)])
        closed = self._closed_distance(name, template, phonemes)
        # The curve of the truth's first frames; a prediction is cut to the same ones.
        true_distance = None if self.regions.upper_lip is None else self.lip_distance(target[:frames])
        envelope = None if waveform is None else lip_metrics.speech_envelope(waveform, self.sample_rate, self.fps, frames)
        rig = self.shapes if shapes is None else shapes
        truth = (target, template, true_distance, envelope, transitions, rig)
        # Each prediction in a thread of its own: almost all of the time is numpy's, which lets other threads run meanwhile.
        scored: dict[str, list[dict[str, float]]] = {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            begun = {
                system: [pool.submit(self._scores, np.asarray(motion), frames, *truth) for motion in motions]
                for system, motions in samples.items()
            }
            for system, scores in begun.items():
                try:
                    scored[system] = [one.result() for one in scores]
                except UserError as error:
                    raise UserError(f"clip {name}, system {system}: {error}") from error
        # Everything is known to fit: only now is the clip entered, so that a refused one leaves no half of it behind.
        self.names.append(name)
        self.speakers.append(speaker)
        self.num_frames.append(frames)
        self.loudness.append(float("nan") if waveform is None else float(np.sqrt(np.mean(np.square(waveform)))))
        self._add_mouth(TRUTH, [target[:frames]], closed, phonemes)
        self.values[TRUTH].append({} if true_distance is None else self._envelope_scores(true_distance, envelope))
        for system, motions in samples.items():
            cut = [np.asarray(motion)[:frames] for motion in motions]
            scores = {metric: float(np.mean([one[metric] for one in scored[system]])) for metric in scored[system][0]}
            if len(cut) > 1:
                scores["diversity_mm"] = metrics.diversity(np.stack(cut)) * metrics.MILLIMETRES
            self.values[system].append(scores)
            self._add_mouth(system, cut, closed, phonemes)

    def per_clip(self, metric: str, system: str) -> Float[np.ndarray, " clips"]:
        """One number per clip, in the order of `names`; NaN where it was not defined."""
        return np.array([scores.get(metric, np.nan) for scores in self.values[system]], np.float64)

    def table(self, title: str = "Animation", *, num_resamples: int = 1_000, seed: int = 0) -> ScoreTable:
        """All scores with 95% intervals: means over clips of equal weight, and LVE weighted by frames too.

        Raises:
          UserError: no clip was added.
        """
        bootstrap = self._bootstrap(num_resamples, seed)
        rows = []
        for metric, column in _COLUMNS.items():
            numbers = {system: self.per_clip(metric, system) for system in (*self.systems, TRUTH)}
            if any(np.isfinite(values).any() for values in numbers.values()):
                if not np.isfinite(numbers[TRUTH]).any():
                    del numbers[TRUTH]  # an error of the truth against itself says nothing
                means = {system: bootstrap.mean(values) for system, values in numbers.items()}
                rows.append(ScoreRow(metric, means, column.unit, column.higher_is_better, column.digits))
        frames = np.asarray(self.num_frames, np.float64)
        weighted = {s: bootstrap.mean(self.per_clip("lip_vertex_error_mm2", s), frames) for s in self.systems}
        rows.insert(1, ScoreRow("lip_vertex_error_frame_weighted_mm2", weighted, "mm²", False))
        columns = [*self.systems, TRUTH]
        if np.sum([total for _, total in self.closures[TRUTH]]):
            recalls = {system: bootstrap.interval(np.array(self.closures[system], np.float64)) for system in columns}
            rows.append(ScoreRow("bilabial_closure_recall", recalls, "", True))
        if np.isfinite(self.loudness).sum() >= 3:
            correlations = {}
            for system in columns:
                correlations[system] = lip_metrics.speech_lip_intensity_correlation(
                    np.array(self.loudness), np.array(self.lip_movement[system]), self.speakers
                )
            rows.append(ScoreRow("speech_lip_intensity_correlation", correlations, "", None))
        note = (
            f"{len(self.names)} clips of {bootstrap.num_speakers} speakers, {sum(self.num_frames)} frames at {self.fps:g} fps; "
            f"{self.regions.describe()}; no alignment or scaling; "
            f"95% intervals: {num_resamples} resamples of speakers, then clips."
        )
        used = columns if any(TRUTH in row.values for row in rows) else self.systems
        return ScoreTable(title, used, rows, note)

    def differences(self, title: str = "Animation", *, num_resamples: int = 1_000, seed: int = 0) -> ScoreTable:
        """First system minus each other one, paired by clip, with 95% intervals.

        Raises:
          UserError: no clip was added, or there is no second system.
        """
        first, *others = self.systems
        if not others:
            raise UserError("a comparison needs at least two systems")
        bootstrap = self._bootstrap(num_resamples, seed)
        rows = []
        for metric, column in _COLUMNS.items():
            if column.compared and np.isfinite(self.per_clip(metric, first)).any():
                own = self.per_clip(metric, first)
                values = {s: bootstrap.paired_mean_difference(own, self.per_clip(metric, s)) for s in others}
                rows.append(ScoreRow(metric, values, column.unit, column.higher_is_better, column.digits))
        return ScoreTable(f"{title}: {first} minus ...", others, rows, "Paired by clip on the same draws.")

    def _bootstrap(self, num_resamples: int, seed: int) -> HierarchicalBootstrap:
        if not self.names:
            raise UserError("no clips were scored")
        return HierarchicalBootstrap(self.speakers, num_resamples, seed)

    def _scores(self, prediction, frames, target, template, true_distance, envelope, transitions, rig) -> dict[str, float]:
        regions, milli = self.regions, metrics.MILLIMETRES
        prediction, target = metrics.cut_to_shorter(prediction, target)
        prediction, target = prediction[:frames], target[:frames]
        lips = metrics.vertex_distances(prediction, target, regions.lips) * milli
        jerk = metrics.mean_jerk_m_per_s3(target, self.fps, regions.lips)
        scores = {
            "lip_vertex_error_mm2": float(np.square(lips.max(axis=1)).mean()),
            "lip_vertex_error_rooted_mm": float(lips.max(axis=1).mean()),
            "lip_vertex_error_mean_mm": float(lips.mean()),
            "lip_mean_squared_error_mm2": float(np.square(lips).mean()),
            "lip_vertex_error_meshtalk_mm": metrics.lip_vertex_error_meshtalk(prediction, target, regions.lips) * milli,
            "mean_vertex_error_mm": metrics.mean_vertex_error_mm(prediction, target),
            "velocity_error_mm_per_s": metrics.velocity_error_mm_per_s(prediction, target, self.fps),
            "mean_jerk_ratio": metrics.mean_jerk_m_per_s3(prediction, self.fps, regions.lips) / jerk if jerk else np.nan,
        }
        if regions.emotional is not None:
            scores["emotional_vertex_error_mm2"] = (
                metrics.emotional_vertex_error(prediction, target, regions.emotional) * milli**2
            )
        if true_distance is not None:
            scores |= self._mouth_scores(self.lip_distance(prediction), true_distance, envelope)
        if template is not None and regions.upper_face is not None:
            deviation = metrics.upper_face_dynamics_deviation(prediction, target, template, regions.upper_face) * milli**2
            scores["upper_face_dynamics_deviation_mm2"] = deviation
            scores["upper_face_dynamics_deviation_absolute_mm2"] = abs(deviation)
        if len(transitions) and regions.emotional is not None:
            scores["transition_jerk_ratio"] = metrics.transition_jerk_ratio(
                prediction, target, self.fps, transitions, vertices=regions.emotional
            )
        if rig is not None and template is not None:
            guess, truth = (metrics.expression_coefficients(motion - template, rig) for motion in (prediction, target))
            scores["expression_coefficient_error"] = metrics.expression_coefficient_error(guess, truth, self.expression_columns)
        return scores

    def _mouth_scores(self, distance, true_distance, envelope) -> dict[str, float]:
        shift = lip_metrics.mean_temporal_misalignment(distance, true_distance)
        return self._envelope_scores(distance, envelope) | {
            "lip_distance_error_mm": lip_metrics.lip_distance_error(distance, true_distance) * metrics.MILLIMETRES,
            "mean_temporal_misalignment_ms": shift / self.fps * 1_000,
        }

    def _envelope_scores(self, distance, envelope) -> dict[str, float]:
        if envelope is None:
            return {}
        lag, correlation = lip_metrics.envelope_lag(distance, envelope)
        return {
            "envelope_correlation": correlation,
            "envelope_lag_frames": float(lag) if np.isfinite(correlation) else float("nan"),
        }

    def _closed_distance(self, name: str, template, phonemes) -> float:
        if self.closed_distance_m is not None:
            return self.closed_distance_m
        if self.regions.upper_lip is None:
            return 0.0
        if template is not None:
            return float(self.lip_distance(np.asarray(template)[None])[0])
        if len(phonemes):
            raise UserError(f"clip {name}: closures need the template, or the lip distance of a shut mouth")
        return 0.0

    def lip_distance(self, motion: Float[np.ndarray, "F V 3"]) -> Float[np.ndarray, " F"]:
        """Distance between the two lip points per frame, in metres.

        Raises:
          UserError: the regions name no lip points.
        """
        if self.regions.upper_lip is None or self.regions.lower_lip is None:
            raise UserError(f"{self.regions.name}: no lip points are given, so there is no lip distance")
        return lip_metrics.lip_distance(motion, self.regions.upper_lip, self.regions.lower_lip)

    def _add_mouth(self, system: str, motions: list[np.ndarray], closed_distance: float, phonemes: Sequence[Sequence]) -> None:
        # Each face is measured by its own median opening: a closure is a dip of this mouth, and a still face has none.
        measured = motions if self.regions.upper_lip is not None else []
        closures = [
            lip_metrics.bilabial_closures(self.lip_distance(motion), self.fps, phonemes, closed_distance=closed_distance)
            for motion in measured
        ]
        self.closures[system].append((sum(closed for closed, _ in closures), sum(total for _, total in closures)))
        movement = [lip_metrics.lip_movement_rms(motion, self.regions.lips) for motion in motions if len(motion) > 1]
        self.lip_movement[system].append(float(np.mean(movement)) if movement else float("nan"))
