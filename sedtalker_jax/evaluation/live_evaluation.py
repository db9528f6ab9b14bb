"""What it costs not to wait: a built-in world's unseen clips animated live, by lookahead, beside the whole recording at once.

    python -m sedtalker_jax.evaluation.live_evaluation --checkpoint runs/demo --data runs/world-demo

Each clip is pushed through a LiveSession as a microphone would, and scored against its true face and emotion. `jerk` is a
region's mean jerk as a share of the truth's. The table's note says what a step takes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sedtalker_jax.allocator import keep_freed_memory
from sedtalker_jax.axes import SAMPLE_RATE, VertexSequence
from sedtalker_jax.data.faces.motion_code import true_vertices
from sedtalker_jax.data.mixing import spread
from sedtalker_jax.data.records import FACE_SPACE, RecordReader
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.errors import UserError, about, exit_code
from sedtalker_jax.evaluation import animation_metrics as metrics
from sedtalker_jax.evaluation.bootstrap import HierarchicalBootstrap
from sedtalker_jax.evaluation.style_evaluation import lips_and_eyes
from sedtalker_jax.evaluation.table import ScoreRow, ScoreTable
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.inference.baselines import record_labels
from sedtalker_jax.inference.live import STEP_S, LivePiece, LiveSession
from sedtalker_jax.inference.pipeline import SEDTalker

WHOLE = "whole recording"


def evaluate_live(
    model: SEDTalker,
    directory: str | Path,
    *,
    lookaheads: Sequence[float] = (0.0, 0.1, 0.2, 0.4),
    step_s: float = STEP_S,
    split: str = "test",
    num_clips: int = 64,
) -> ScoreTable:
    """Errors of clips that are spread evenly over a split, animated whole and live.

    Args:
      model: with diarizer and animator.
      directory: of the built-in world.
      lookaheads: seconds; one column each.
      step_s: seconds of sound between two steps.
      split: of the world.
      num_clips: how many clips, or all.

    Raises:
      UserError: no built-in world, or as LiveSession.
    """
    space = FaceSpace.load(Path(directory) / FACE_SPACE)
    regions = lips_and_eyes(space)
    reader = RecordReader(directory, split)
    systems = (WHOLE, *(f"lookahead {value:g} s" for value in lookaheads))
    pairs: dict[str, dict[str, list[tuple[float, float]]]] = {}
    speakers, seconds = [], []
    for index in tqdm(spread(len(reader), num_clips), desc="live", unit="clip", mininterval=2.0):
        record = reader[int(index)]
        waveform, truth = record["waveform"], true_vertices(record, space)
        face = model.template(space.template(record["template"]))
        whole = model.animate(waveform, template=face)
        made = {WHOLE: (whole.vertices, whole.track)}
        for system, lookahead in zip(systems[1:], lookaheads, strict=True):
            session = LiveSession(model, template=face, lookahead_s=lookahead, step_s=step_s)
            live = session.animation(_timed(session, waveform, seconds))
            made[system] = live.vertices, live.track
        speakers.append(record["speaker"])
        for system, (vertices, track) in made.items():
            for name, pair in _scores(vertices, track, truth, record, regions, model.fps).items():
                pairs.setdefault(name, {}).setdefault(system, []).append(pair)
    bootstrap = HierarchicalBootstrap(speakers)
    rows = [
        ScoreRow(
            name,
            {system: bootstrap.interval(np.array(values)) for system, values in by_system.items()},
            "mm²" if name.endswith("mm2") else "",
            {"mm2": False, "accuracy": True}.get(name.rpartition("_")[2]),
        )
        for name, by_system in pairs.items()
    ]
    median, slow = 1e3 * np.percentile(seconds, [50, 95]) if seconds else (np.nan, np.nan)
    note = (
        f"{len(speakers)} clips of {len(set(speakers))} voices of {directory} ({split}); steps of {step_s:g} s, of which one "
        f"takes {median:.1f} ms here (95%: {slow:.1f} ms); 95% intervals over voices, then clips."
    )
    return ScoreTable("Live animation, unseen voices, sentences and heads", systems, rows, note)


def _timed(session: LiveSession, waveform, seconds: list[float]) -> list[LivePiece]:
    """The pieces of a recording that comes a step at a time; what each step took is added to `seconds`."""
    size, pieces = max(1, round(session.step_s * SAMPLE_RATE)), []
    if not seconds:
        session.warm_up()
    for first in range(0, len(waveform), size):
        start = time.perf_counter()
        made = session.push(waveform[first : first + size])
        if made:
            seconds.append(time.perf_counter() - start)
        pieces += made
    return pieces + session.finish()


def _scores(
    vertices: VertexSequence,
    track: EmotionTrack,
    truth: VertexSequence,
    record: Mapping[str, Any],
    regions: Mapping[str, np.ndarray],
    fps: float,
) -> dict[str, tuple[float, float]]:
    """(numerator, denominator) of each score of one clip."""
    frames = min(len(vertices), len(truth))
    guess, truth = vertices[:frames], truth[:frames]
    scores = {}
    for name, points in regions.items():
        scores[f"{name}_mean_squared_error_mm2"] = (frames * metrics.lip_mean_squared_error_mm2(guess, truth, points), frames)
    for name, points in regions.items():
        jerk, true = (metrics.mean_jerk_m_per_s3(motion, fps, points) for motion in (guess, truth))
        scores[f"{name}_jerk_ratio"] = (jerk, true)
    labels = record_labels(record, track.labels)
    found = track.probabilities.argmax(axis=1)[: len(labels)]
    known = labels[: len(found)] >= 0
    scores["emotion_accuracy"] = (float((found == labels[: len(found)])[known].sum()), float(known.sum()))
    return scores


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="workdir of train.py")
    parser.add_argument("--data", required=True, metavar="DIR", help="the built-in world")
    parser.add_argument("--split", default="test", choices=("test", "valid"), help="(default: %(default)s)")
    parser.add_argument("--clips", type=int, default=64, help="how many clips (default: %(default)s)")
    parser.add_argument(
        "--lookaheads", nargs="+", type=float, default=[0.0, 0.1, 0.2, 0.4], metavar="SECONDS", help="(default: 0 0.1 0.2 0.4)"
    )
    parser.add_argument("--step", type=float, default=STEP_S, metavar="SECONDS", help="(default: %(default)s)")
    options = parser.parse_args(arguments)

    def run() -> None:
        if options.clips < 1:
            raise UserError(f"--clips {options.clips}: at least one is needed")
        model = SEDTalker.load(options.checkpoint)
        with about(options.data):
            given = dict(lookaheads=options.lookaheads, step_s=options.step, split=options.split, num_clips=options.clips)
            print(evaluate_live(model, options.data, **given).plain())

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
