"""One evaluation of a workdir: calibrate, score, plot, write."""

from __future__ import annotations

import json
import os
import pathlib

from ml_collections import ConfigDict

from sedtalker_jax.data.records import FACE_SPACE, RecordReader, read_manifest
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation import report
from sedtalker_jax.evaluation.table import write_metrics_json
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.scoring import Predictions, fit_temperature, predict, score_animation, score_emotion
from sedtalker_jax.speech import save_audio
from sedtalker_jax.training.checkpoint import read_meta


def evaluate(
    config: ConfigDict,
    workdir: pathlib.Path,
    *,
    split: str = "test",
    max_clips: int | None = None,
    baseline_clips: int = 600,
) -> dict[str, dict]:
    """Scores a workdir's newest checkpoint and writes metrics.json, report.html, plots and speech.wav beside it.

    On another world than the model was trained on (`--config.data.directory=DIR`) nothing is fitted to the data: the
    temperature stays the one that the model's own validation split gave, and the results go to WORKDIR/on-WORLD.

    Args:
      config: names the data directory.
      workdir: of train.py.
      split: "test" or "valid".
      max_clips: only the first clips of the split.
      baseline_clips: training clips for the prosody baselines.

    Returns:
      The content of metrics.json: section -> metric -> systems.

    Raises:
      UserError: no checkpoint, no data; another world before the model's own.
    """
    directory = pathlib.Path(config.data.directory)
    model = SEDTalker.load(workdir)
    meta, step = read_meta(workdir)
    manifest = read_manifest(directory)
    world_hash = manifest.get("world_hash", "")
    if world_hash == meta["world_hash"]:
        _calibrate(model, RecordReader(directory, "valid"), config.data.valid_clips, workdir)
    else:
        if not (workdir / "calibration.json").exists():
            raise UserError(f"{workdir} has no calibration.json yet: evaluate on the data that it was trained on first")
        workdir = workdir / f"on-{manifest.get('world') or directory.name}"
        workdir.mkdir(exist_ok=True)

    predictions = predict(model, RecordReader(directory, split), max_clips)
    emotion = score_emotion(model, predictions, directory, baseline_clips=baseline_clips, workers=os.cpu_count() or 1)
    animation = score_animation(model, predictions, FaceSpace.load(directory / FACE_SPACE))
    info = {
        "step": step,
        "split": split,
        "clips": len(predictions.records),
        "world_hash": world_hash,
        "trained_on": meta["world_hash"],
        "temperature": round(model.temperature, 4),
        "baseline_clips": baseline_clips,
    }
    tables = {"emotion": emotion.table, "animation": animation.table, "animation_shares": animation.shares}
    if emotion.differences is not None:
        tables["emotion_differences"] = emotion.differences
    tables["animation_differences"] = animation.differences
    tables["per_emotion"] = emotion.per_emotion
    write_metrics_json(workdir / "metrics.json", tables, info)
    figures = _figures(model, predictions, emotion, animation)
    for name, figure in figures.items():
        report.save_figure(figure, workdir / "plots" / f"{name}.png")
    report.write_report(workdir / "report.html", f"sedtalker_jax: {workdir}", list(tables.values()), figures, info)
    example = _example(predictions)
    save_audio(workdir / "speech.wav", predictions.records[example]["waveform"])
    for table in tables.values():
        print("\n" + table.plain())
    name = predictions.clips[example].name
    print(f"\n{workdir}: metrics.json, report.html, plots/ and speech.wav ({name}) written")
    return {name: table.to_dict() for name, table in tables.items()}


def _calibrate(model: SEDTalker, reader: RecordReader, num_clips: int, workdir: pathlib.Path) -> None:
    """Fits the model's temperature on a validation split, sets it and writes calibration.json."""
    model.temperature = 1.0
    model.temperature = fit_temperature(predict(model, reader, num_clips))
    temporary = workdir / "calibration.json.tmp"
    temporary.write_text(json.dumps({"temperature": model.temperature}) + "\n")
    os.replace(temporary, workdir / "calibration.json")


def _example(predictions: Predictions) -> int:
    """The clip with most emotions, and among these the most strongly felt: the one to show."""

    def interest(index: int) -> tuple[int, float]:
        clip = predictions.clips[index]
        names = {segment[2] for segment in clip.segments}
        return len(names), float((clip.intensity > 0.5).mean())

    return max(range(len(predictions.clips)), key=interest)


def _figures(model: SEDTalker, predictions: Predictions, emotion, animation) -> dict[str, report.Figure]:
    labels = model.labels
    example = _example(predictions)
    clip, track = predictions.clips[example], predictions.tracks[example]
    figures = {
        "confusion": report.confusion_figure(emotion.confusion["model"], labels),
        "calibration": report.reliability_figure({"model": emotion.reliability["model"]}),
        "intensity": report.intensity_figure(*emotion.intensity),
        "emotion_over_time": report.emotion_strip_figure(
            {"truth": [tuple(s) for s in clip.segments], "model": track}, clip.duration, f"Emotion over time: {clip.name}"
        ),
    }
    for number, curve in enumerate(animation.curves):
        shown = {name: curve["lip_distance"][name] for name in ("truth", "model", "mean motion")}
        figures[f"lip_distance_{number}"] = report.lip_distance_figure(
            shown, model.fps, curve["phonemes"], f"Lip distance: {curve['id']}"
        )
    return figures
