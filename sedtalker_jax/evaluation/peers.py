"""Scores motion that other systems wrote: files as VOCA, FaceFormer, CodeTalker, SelfTalk, EmoTalk, JambaTalk and EmoVOCA leave
them, against references, in one table.

A directory holds `<clip>.npy`, `<clip>_condition_<subject>.npy` (one per speaking style: scores are averaged per clip), or
folders `<clip>/` of PLY or OBJ frames. Arrays are [F, V, 3], flat [F, 3 V], with a leading batch axis of one, or blendshape
weights [F, W] together with a basis.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from sedtalker_jax.errors import UNREADABLE_ARRAYS, UserError
from sedtalker_jax.evaluation import animation_metrics as metrics
from sedtalker_jax.evaluation.animation_evaluation import AnimationEvaluation, AnimationRegions
from sedtalker_jax.evaluation.table import ScoreTable
from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
from sedtalker_jax.face.mesh_files import MESH_SUFFIXES, mesh_vertices

CONDITION = "_condition_"


@dataclasses.dataclass(frozen=True, eq=False)
class PeerScores:
    """Scores of directories of files.

    Attributes:
      table: all systems, with intervals.
      differences: first system minus each other one, paired; None with one system.
      per_clip: metric -> system -> one number per clip, in the order of `clips`.
      clips: their names.
      vertex_error_mm: system -> mean error of every vertex [V], for a heat map.
      error_curves_m2: system -> largest squared lip error per frame of `curve_clip`.
      lip_distance_m: system (and "truth") -> lip distance per frame of `curve_clip`; empty without lip points.
      curve_clip: the clip that the curves show: the first one.
    """

    table: ScoreTable
    differences: ScoreTable | None
    per_clip: Mapping[str, Mapping[str, Float[np.ndarray, " clips"]]]
    clips: list[str]
    vertex_error_mm: Mapping[str, Float[np.ndarray, " V"]]
    error_curves_m2: Mapping[str, Float[np.ndarray, " F"]]
    lip_distance_m: Mapping[str, Float[np.ndarray, " F"]]
    curve_clip: str


def score_directories(
    predictions: Mapping[str, str | os.PathLike],
    references: str | os.PathLike,
    regions: AnimationRegions,
    *,
    fps: float = 30.0,
    reference_fps: float | None = None,
    prediction_fps: Mapping[str, float] | None = None,
    templates: Mapping[str, Float[np.ndarray, "V 3"]] | None = None,
    basis: BlendshapeBasis | None = None,
    metres_per_unit: float = 1.0,
    num_resamples: int = 1_000,
    seed: int = 0,
) -> PeerScores:
    """Scores every clip for which all systems and the references have files.

    Args:
      predictions: system name -> directory; the first is the system under test.
      references: directory of true motion.
      regions: vertex sets of the topology (AnimationRegions.from_mapping; lists from read_vertex_list).
      fps: at which clips are scored.
      reference_fps, prediction_fps: of the files, when it is another: a whole multiple of `fps` is decimated (VOCASET's 60 to
        30 by [::2], as the peers do).
      templates: subject -> neutral vertices (read_templates); without them FDD is left out.
      basis: for files of blendshape weights.
      metres_per_unit: of all files; 0.001 for millimetres.

    Raises:
      UserError: missing or empty directories, no clip in common, files of another topology, lengths that do not fit.
    """
    files = {name: find_motion_files(directory) for name, directory in predictions.items()}
    truth_files = find_motion_files(references)
    clips = sorted(set(truth_files).intersection(*files.values()))
    if not clips:
        example = next(iter(next(iter(files.values()))))
        raise UserError(
            f"{references}: no clip in common with the predictions; they hold '{example}', "
            f"the references '{next(iter(truth_files))}' (names before '{CONDITION}' must agree)"
        )
    loader = _Loader(regions.num_vertices, fps, basis, metres_per_unit)
    evaluation = AnimationEvaluation(regions, fps, list(predictions))
    vertex_error = {name: np.zeros(regions.num_vertices) for name in predictions}
    curves: dict[str, np.ndarray] = {}
    distances: dict[str, np.ndarray] = {}
    for clip in clips:
        target = loader.load(truth_files[clip][0], reference_fps or fps)
        motions = {}
        for name in predictions:
            rate = (prediction_fps or {}).get(name, fps)
            motions[name] = [loader.load(path, rate) for path in files[name][clip]]
            for path, motion in zip(files[name][clip], motions[name], strict=True):
                _check_lengths(path, motion, target)
        subject = subject_of(clip, templates)
        template = None if templates is None else _template(templates, subject, clip, regions.num_vertices) * metres_per_unit
        evaluation.add(clip, subject, target, template, motions)
        for name, several in motions.items():
            for motion in several:
                frames = min(len(motion), len(target))
                error = metrics.vertex_distances(motion[:frames], target[:frames]).mean(axis=0)
                vertex_error[name] += metrics.MILLIMETRES * error / len(several) / len(clips)
        if clip == clips[0]:
            has_lips = regions.upper_lip is not None
            if has_lips:
                distances["truth"] = evaluation.lip_distance(target)
            for name, several in motions.items():
                frames = min(len(several[0]), len(target))
                curves[name] = metrics.max_squared_error_per_frame(several[0][:frames], target[:frames], regions.lips)
                if has_lips:
                    distances[name] = evaluation.lip_distance(several[0])
    options = dict(num_resamples=num_resamples, seed=seed)
    table = evaluation.table("Animation", **options)
    note = [table.note, *_coverage(files, truth_files, clips)]
    if basis is not None:
        note.append(f"blendshape weights went through the basis {basis.name} ({len(basis.shapes)} shapes)")
    table = dataclasses.replace(table, note="; ".join(note))
    differences = evaluation.differences("Animation", **options) if len(predictions) > 1 else None
    measured = [row.metric for row in table.rows]
    per_clip = {
        metric: {name: evaluation.per_clip(metric, name) for name in predictions}
        for metric in measured
        if any(metric in scores for scores in evaluation.values[next(iter(predictions))])
    }
    return PeerScores(table, differences, per_clip, clips, vertex_error, curves, distances, clips[0])


def find_motion_files(directory: str | os.PathLike) -> dict[str, list[Path]]:
    """Clip name -> its files, one per condition, sorted: .npy files, or folders of mesh frames.

    Raises:
      UserError: no such directory, or nothing in it that could be motion.
    """
    root = Path(directory)
    if not root.is_dir():
        raise UserError(f"{root}: no such directory; give one with .npy files or folders of .ply frames")
    found: dict[str, list[Path]] = {}
    for path in sorted(root.iterdir()):
        if path.name.startswith("."):
            continue
        is_sequence = path.is_dir() and any(frame.suffix.lower() in MESH_SUFFIXES for frame in path.iterdir())
        if path.suffix == ".npy" or is_sequence:
            stem = path.stem if path.suffix == ".npy" else path.name
            found.setdefault(stem.split(CONDITION)[0], []).append(path)
    if not found:
        raise UserError(f"{root}: holds neither .npy files nor folders of .ply or .obj frames")
    return found


def subject_of(clip: str, templates: Mapping[str, object] | None = None) -> str:
    """The subject in a clip's name: the longest template name that it begins with, else what comes before the sentence.

    FaceTalk_170809_00138_TA_sentence21 -> FaceTalk_170809_00138_TA; F2_e37 -> F2.
    """
    known = [name for name in templates or () if clip == name or clip.startswith(f"{name}_")]
    if known:
        return max(known, key=len)
    for sentence in (r"(.+?)_sentence\d+(?:_|$)", r"(.+?)_e\d+(?:_|$)", r"(.+)_[^_]+$"):
        match = re.match(sentence, clip)
        if match:
            return match[1]
    return clip


def _with_numbers(path: Path) -> list[tuple[int, str]]:
    """Sorts frame 2 before frame 10: the runs of digits in a name as numbers."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if number % 2 else (0, part) for number, part in enumerate(parts)]


class _Loader:
    """Reads one file of motion into float32 [F, V, 3] in metres, at the scored frame rate."""

    def __init__(self, num_vertices: int, fps: float, basis: BlendshapeBasis | None, metres_per_unit: float):
        self.num_vertices, self.fps, self.basis, self.scale = num_vertices, fps, basis, metres_per_unit

    def load(self, path: Path, fps: float) -> Float[np.ndarray, "F V 3"]:
        step = fps / self.fps
        if abs(step - round(step)) > 1e-6 or round(step) < 1:
            raise UserError(f"{path}: {fps:g} fps is no whole multiple of {self.fps:g}; resample the file first")
        motion = self._vertices(path)[:: round(step)]
        if not np.all(np.isfinite(motion)):
            raise UserError(f"{path}: holds numbers that are not finite")
        return (motion * self.scale).astype(np.float32)

    def _vertices(self, path: Path) -> np.ndarray:
        if path.is_dir():
            frames = sorted((f for f in path.iterdir() if f.suffix.lower() in MESH_SUFFIXES), key=_with_numbers)
            meshes = [mesh_vertices(frame) for frame in frames]
            other = next((frame for frame, mesh in zip(frames, meshes, strict=True) if mesh.shape != meshes[0].shape), None)
            if other is not None:
                raise UserError(f"{other}: has another number of vertices than {frames[0].name}; write all frames again")
            array = np.stack(meshes)
        else:
            try:
                array = np.load(path, allow_pickle=False)
            except UNREADABLE_ARRAYS as error:
                raise UserError(f"{path}: not a .npy file of numbers ({error})") from error
        shape = array.shape
        while array.ndim > 2 and array.shape[0] == 1 and array.shape[-2:] != (self.num_vertices, 3):
            array = array[0]
        if array.ndim == 4 and array.shape[0] == 1:
            array = array[0]
        if array.ndim == 3 and array.shape[1:] == (self.num_vertices, 3) and len(array):
            return array
        if array.ndim == 2 and array.shape[1] == 3 * self.num_vertices and len(array):
            return array.reshape(len(array), -1, 3)
        if array.ndim == 2 and self.basis is not None and array.shape[1] == len(self.basis.shapes) and len(array):
            if self.basis.mean.shape[0] != self.num_vertices:
                sizes = f"{len(self.basis.mean)} vertices, the regions {self.num_vertices}"
                raise UserError(f"{self.basis.name}: the basis has {sizes}; use one of the same topology")
            return self.basis.mean + np.einsum("fw,wvc->fvc", array, self.basis.shapes)
        hint = "; give a blendshape basis" if array.ndim == 2 and self.basis is None and array.shape[1] < 400 else ""
        raise UserError(f"{path}: an array of shape {list(shape)} is no motion of {self.num_vertices} vertices{hint}")


def _check_lengths(path: Path, motion: np.ndarray, target: np.ndarray) -> None:
    if abs(len(motion) - len(target)) <= 1:
        return
    ratio = max(len(motion), len(target)) / max(1, min(len(motion), len(target)))
    hint = ""
    if abs(ratio - round(ratio)) < 0.05 and round(ratio) > 1:
        side = "references" if len(target) > len(motion) else "predictions"
        hint = f"; the {side} seem to have {round(ratio)} times the frame rate: state their fps"
    raise UserError(f"{path}: {len(motion)} frames against {len(target)} of the reference{hint}")


def _template(templates: Mapping[str, np.ndarray], subject: str, clip: str, num_vertices: int) -> np.ndarray:
    if subject not in templates and len(templates) == 1:
        subject = next(iter(templates))
    if subject not in templates:
        raise UserError(f"clip {clip}: no template of subject '{subject}'; there are {', '.join(sorted(templates)[:8])}")
    template = np.asarray(templates[subject], np.float64)
    if template.shape != (num_vertices, 3):
        raise UserError(f"template {subject}: shape {list(template.shape)}, expected [{num_vertices}, 3]")
    return template


def _coverage(files: Mapping[str, Mapping], truth: Mapping, clips: list[str]) -> list[str]:
    notes = []
    if len(clips) < len(truth):
        missing = f"{len(truth) - len(clips)} of {len(truth)} references"
        notes.append(f"{missing} have no prediction of every system and are left out")
    for name, found in files.items():
        extra = sorted(set(found) - set(truth))
        if extra:
            notes.append(f"{name}: {len(extra)} predictions have no reference ({extra[0]} ...)")
        conditions = max(len(found[clip]) for clip in clips)
        if conditions > 1:
            notes.append(f"{name}: up to {conditions} conditions per clip, averaged")
    return notes
