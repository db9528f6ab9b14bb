"""What a style is worth: unseen heads of a built-in world, before and after one was fitted to a capture of each.

    python -m sedtalker_jax.evaluation.style_evaluation --checkpoint runs/demo --data runs/world-demo

Of every head that training did not see, each second clip, voices and sentences joined, is the capture (as much of it as
--seconds says), under its face's true emotion, or with `--captures heard` under what the diarizer hears in it. The others are
scored, driven by what the diarizer hears and by their own true emotion.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from sedtalker_jax import axes
from sedtalker_jax.allocator import keep_freed_memory
from sedtalker_jax.axes import VertexSequence, WaveformArray
from sedtalker_jax.data.faces.motion_code import true_vertices
from sedtalker_jax.data.records import FACE_SPACE, RecordReader
from sedtalker_jax.emotion.labels import ACTIVE, NEUTRAL
from sedtalker_jax.errors import UserError, about, exit_code
from sedtalker_jax.evaluation import animation_metrics as metrics
from sedtalker_jax.evaluation.bootstrap import HierarchicalBootstrap
from sedtalker_jax.evaluation.table import ScoreRow, ScoreTable
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.style_fit import MIN_CAPTURE_S, fit_style

NOBODYS = "nobody's style"
TRUE_TRACK = "true_track_"
EYES = ("eye_region", "forehead")

Record = Mapping[str, Any]
Measure = Callable[[VertexSequence, VertexSequence], float]


def joined(
    records: Sequence[Record], space: FaceSpace, seconds: float
) -> tuple[WaveformArray, VertexSequence, Float[np.ndarray, "F K-1"]]:
    """Voice [S], face [F, V, 3] and true emotion of consecutive clips of one head, as one capture of at most so many seconds.

    A clip's sound is cut, or filled up with silence, to where its last frame ends.
    """
    fps, frames, sound, faces, felt = float(records[0]["fps"]), 0, [], [], []
    for record in records:
        take = min(len(record["motion"]), int(seconds * fps) - frames)
        if take <= 0:
            break
        first, last = (round(frame / fps * axes.SAMPLE_RATE) for frame in (frames, frames + take))
        waveform = np.asarray(record["waveform"], np.float32)[: last - first]
        sound.append(np.pad(waveform, (0, last - first - len(waveform))))
        faces.append(true_vertices(record, space)[:take])
        felt.append(np.asarray(record["activation"], np.float32)[:take])
        frames += take
    return np.concatenate(sound), np.concatenate(faces), np.concatenate(felt)


def evaluate_styles(
    model: SEDTalker,
    directory: str | Path,
    *,
    split: str = "test",
    seconds: Sequence[float] = (10.0, 30.0, 60.0),
    heard: bool = False,
) -> ScoreTable:
    """Errors of the scored clips in nobody's style and in styles fitted to so many seconds of their heads.

    heard: captures are fitted under what the diarizer hears instead of their true emotion.

    Raises:
      UserError: no built-in world, a head whose clips give no capture, or as `fit_style`.
    """
    space = FaceSpace.load(Path(directory) / FACE_SPACE)
    measures = _measures(space)
    reader = RecordReader(directory, split)
    heads: dict[str, list[Record]] = {}
    for record in (reader[row] for row in range(len(reader))):
        heads.setdefault(record["template"], []).append(record)
    systems = (NOBODYS, *(f"fitted to {value:g} s" for value in seconds))
    columns = [ACTIVE.index(name) for name in model.labels if name != NEUTRAL]
    errors: dict[str, dict[str, list[float]]] = {}
    groups = []
    progress = tqdm(heads.items(), desc="styles", unit="head", mininterval=2.0)
    for name, records in progress:
        if sum(len(record["motion"]) for record in records[1::2]) < MIN_CAPTURE_S * model.fps:
            raise UserError(f"{directory}: the clips of {name} are too few to fit a style to some and score others")
        face = model.template(space.template(name))
        moved = {NOBODYS: model}
        for system, value in zip(systems[1:], seconds, strict=True):
            waveform, vertices, felt = joined(records[1::2], space, value)
            track = model.diarize(waveform) if heard else felt[:, columns]
            moved[system] = model.with_style(fit_style(model, waveform, vertices, face, track, quiet=True).style)
        for record in records[::2]:
            waveform, truth = record["waveform"], true_vertices(record, space)
            windows = model.hear(waveform, to_animate=True)
            frames = axes.num_animation_frames(len(waveform), model.fps)
            true = np.zeros((frames, len(columns)), np.float32)
            true[: len(truth)] = np.asarray(record["activation"])[:frames, columns]
            groups.append(name)
            for condition, felt in (("", model.activations(model.combine(windows), len(waveform))), (TRUE_TRACK, true)):
                for system, styled in moved.items():
                    guess = model.codec.vertices(face.vertices, styled.motion(waveform, felt, face, heard=windows))
                    for measure, error in measures.items():
                        pairs = errors.setdefault(condition + measure, {system: [] for system in systems})
                        pairs[system].append(error(guess[: len(truth)], truth[: len(guess)]))
    return _table(errors, systems, groups, f"{directory} ({split})")


def lips_and_eyes(space: FaceSpace) -> dict[str, Int[np.ndarray, " v"]]:
    """Vertices of the lips and of eyes and forehead together, by the names that scores begin with.

    Raises:
      UserError: faces without one of these regions.
    """
    missing = [name for name in ("lips", *EYES) if name not in space.regions]
    if missing:
        raise UserError(f"the faces have no region {', '.join(missing)}")
    return {"lip": space.regions["lips"], "eyes_and_forehead": np.unique(np.concatenate([space.regions[n] for n in EYES]))}


def _measures(space: FaceSpace) -> dict[str, Measure]:
    lips, eyes = lips_and_eyes(space).values()
    return {
        "lip_mean_squared_error_mm2": lambda guess, truth: metrics.lip_mean_squared_error_mm2(guess, truth, lips),
        "eyes_and_forehead_mean_squared_error_mm2": lambda guess, truth: metrics.lip_mean_squared_error_mm2(guess, truth, eyes),
        "mean_vertex_error_mm": metrics.mean_vertex_error_mm,
    }


def _table(
    errors: Mapping[str, Mapping[str, Sequence[float]]], systems: Sequence[str], heads: Sequence[str], where: str
) -> ScoreTable:
    """Each error, and below it what share of nobody's is left; intervals over heads, then clips."""
    bootstrap, rows = HierarchicalBootstrap(heads), []
    for name, values in errors.items():
        unit = name.rpartition("_")[2].replace("mm2", "mm²")
        rows.append(ScoreRow(name, {system: bootstrap.mean(np.array(values[system])) for system in systems}, unit, False))
        left = {system: bootstrap.interval(np.stack([values[system], values[NOBODYS]], axis=1)) for system in systems[1:]}
        rows.append(ScoreRow(f"{name.rpartition('_')[0]}_left", left, "", False))
    note = f"{len(heads)} clips of {len(set(heads))} heads of {where}; 95% intervals over heads, then clips."
    return ScoreTable("Faces of unseen heads under styles fitted to captures of them", systems, rows, note)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="workdir of train.py")
    parser.add_argument("--data", required=True, metavar="DIR", help="the built-in world")
    parser.add_argument("--split", default="test", choices=("test", "valid"), help="(default: %(default)s)")
    parser.add_argument(
        "--seconds", nargs="+", type=float, default=[10.0, 30.0, 60.0], help="of the captures (default: 10 30 60)"
    )
    parser.add_argument("--captures", default="true", choices=("true", "heard"), help="emotion of the captures (default: true)")
    options = parser.parse_args(arguments)

    def run() -> None:
        if min(options.seconds) < MIN_CAPTURE_S:
            raise UserError(f"--seconds {min(options.seconds):g}: a capture lasts at least {MIN_CAPTURE_S:g} s")
        model = SEDTalker.load(options.checkpoint)
        with about(options.data):
            given = dict(split=options.split, seconds=options.seconds, heard=options.captures == "heard")
            table = evaluate_styles(model, options.data, **given)
        print(table.plain())

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
