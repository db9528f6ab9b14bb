"""One evaluation of a workdir: calibrate, score, plot, write."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sedtalker_jax import evaluation as ev
from sedtalker_jax.data.given_embeddings import with_given_embeddings
from sedtalker_jax.data.given_tracks import given_track
from sedtalker_jax.data.mixing import (
    every_record,
    num_records,
    open_records,
    record_identity,
    record_name,
    spread,
    spread_records,
)
from sedtalker_jax.data.records import read_manifest
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.errors import UserError, from_config
from sedtalker_jax.evaluation import report
from sedtalker_jax.evaluation.model_card import write_run_card
from sedtalker_jax.evaluation.table import ScoreTable, write_metrics_json
from sedtalker_jax.inference.editing import fit_edit_dictionary
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.scoring import (
    AnimationScores,
    Predictions,
    fit_temperature,
    group_tables,
    intended_and_perceived,
    predict,
    score_animation,
    score_emotion,
)
from sedtalker_jax.speech import save_audio
from sedtalker_jax.training.checkpoint import CALIBRATION, EDIT_DICTIONARY, read_meta
from sedtalker_jax.training.experiment import shared_space
from sedtalker_jax.training.streams import held_out_directories, streams_of


def evaluate(
    config: ConfigDict,
    workdir: pathlib.Path,
    *,
    split: str = "test",
    max_clips: int | None = None,
    baseline_clips: int = 600,
) -> dict[str, dict]:
    """Scores a workdir's newest checkpoint and writes metrics.json, report.html, plots and an example's sound beside it.

    Before that the temperature is fitted to the validation split, and the edit dictionary's boundaries to clips of the training
    split, its scales to clips of the validation split.

    With `pipeline.tracks` the faces are driven by the tracks of that file, as in training, and not by what the model hears.
    With `pipeline.embeddings` the model reads its file's vectors, as in training.
    With `data.held_out` the emotion is scored on all clips of the corpus that was left out of training. Faces whose expression
    the model's labels lack are left out, as in training. Without a training split there are no baselines that learn from it,
    without a validation split the temperature is 1.

    Of a diarizer alone the emotion is scored, of an animator alone the motion. On other records than the model was trained on
    (`--config.data.directory=DIR`, `--config.data.speech=DIR`; sedtalker_jax.data.mixing.record_identity tells) nothing is
    fitted to the data and the model card stays: the temperature is the one that the model's own validation split gave, and the
    results go to `results_on` them. A part of what the model was trained on counts as other records too.

    Args:
      config: names the data directories.
      workdir: of train.py.
      split: "test" or "valid".
      max_clips: only so many clips of the split, spread evenly over it.
      baseline_clips: training clips for the prosody baselines; 0 leaves them out.

    Returns:
      The content of metrics.json: section -> metric -> systems.

    Raises:
      UserError: no checkpoint, no data; a value that the config can't have, or records of the half that the model lacks; other
        records before the model's own; a corpus to hold out that was trained on; no given track or embedding of a clip; a
        model that reads embeddings and none, or the other way round.
    """
    model = SEDTalker.load(workdir)
    meta, step = read_meta(workdir)
    with from_config():
        streams = streams_of(config.data, config.pipeline)
    parts = {part: stream.directories for stream in streams for part in stream.parts}
    voices = parts.get("speech", ()) if model.model.config.diarizer is not None else ()
    faces = parts.get("face", ()) if model.codec is not None else ()
    if not voices and not faces:
        half, name = ("diarizer", "speech") if model.codec is None else ("animator", "face")
        raise UserError(f"{workdir}: holds a {half} alone, and config.data names nothing to score it on; give data.{name}")
    held_out, embeddings = held_out_directories(config.data), config.pipeline.embeddings
    scored = list(dict.fromkeys(path for stream in streams for path in stream.directories))
    own = trained_on(meta, scored)
    _check_held_out(meta, held_out)
    world_hash = read_manifest((voices or faces)[0]).get("world_hash", "")
    if not own:
        if not (workdir / CALIBRATION).exists() and voices:
            raise UserError(f"{workdir} has no {CALIBRATION} yet: evaluate on the data that it was trained on first")
        workdir = results_on(workdir, scored)
        workdir.mkdir(exist_ok=True)
    elif voices:
        calibrate(model, _validation(voices, embeddings) or (), config.data.valid_clips, workdir)
        _save_edit_dictionary(model, voices, faces, embeddings, workdir)
    info = {
        "step": step,
        "split": split,
        "records": ", ".join(map(record_identity, scored)),
        "trained_on": ", ".join(meta["records"]),
        "world_hash": world_hash,
        "trained_on_world_hash": meta["world_hash"],
        "temperature": round(model.temperature, 4),
        "baseline_clips": baseline_clips,
    }
    if embeddings:
        info["embeddings"] = embeddings
    tables: dict[str, ScoreTable] = {}
    figures: dict[str, report.Figure] = {}
    predictions: Predictions | None = None
    clips = []
    if voices:
        if held_out:
            info |= {"split": "all", "held_out": config.data.held_out}
            reader = with_given_embeddings(every_record(held_out), embeddings)
        else:
            reader = _open(voices, split, embeddings)
        records = spread_records(reader, max_clips)
        clips.append(_scored(config.data.held_out if held_out else f"the {split} split", len(records), len(reader)))
        predictions = predict(model, records, f"diarize {split}")
        emotion = score_emotion(model, predictions, voices, baseline_clips=baseline_clips, workers=os.cpu_count() or 1)
        tables["emotion"] = emotion.table
        if emotion.differences is not None:
            tables["emotion_differences"] = emotion.differences
        tables["per_emotion"] = emotion.per_emotion
        tables |= group_tables(predictions)
        kinds = intended_and_perceived(predictions)
        if kinds is not None:
            tables["intended_and_perceived"] = kinds
        figures |= _emotion_figures(model, predictions, emotion)
        info["clips"] = len(records)
        example = predictions.records[_example(predictions)]
    if faces:
        shared = predictions if faces == voices and not held_out else None
        pairs = _faces_to_score(_open(faces, split, embeddings), model.labels, max_clips, shared)
        if not pairs:
            raise UserError(f"no face of the {split} split of {', '.join(faces)} shows an emotion that the model knows")
        moving = [record for record, _ in pairs]
        if config.pipeline.tracks:
            heard = [given_track(config.pipeline.tracks, record, len(record["motion"])) for record in moving]
            info["tracks"] = config.pipeline.tracks
        else:
            heard = [_heard(model, record, track) for record, track in pairs]
        clips.append(_scored(f"the faces of the {split} split", len(moving), num_records(faces, split)))
        animation = score_animation(model, moving, heard, shared_space(faces))
        tables |= {
            "animation": animation.table,
            "animation_shares": animation.shares,
            "animation_differences": animation.differences,
        }
        figures |= _animation_figures(model, animation)
        info["animated_clips"] = len(moving)
        if not voices:
            example = moving[0]
    info["scored"] = " and ".join(clips)
    write_metrics_json(workdir / "metrics.json", tables, info)
    if own:
        write_run_card(workdir, meta, scored, step, list(tables.values()), info["scored"])
    for name, figure in figures.items():
        report.save_figure(figure, workdir / "plots" / f"{name}.png")
    report.write_report(workdir / "report.html", f"sedtalker_jax: {workdir}", list(tables.values()), figures, info)
    save_audio(workdir / "speech.wav", example["waveform"])
    # No number without the data that it belongs to; recorded corpora have no world.
    print(f"\n{info['split']} split of {config.data.held_out if held_out else info['records']}{_world(world_hash)}")
    print(f"model of step {step}, trained on {info['trained_on']}{_world(meta['world_hash'])}")
    for table in tables.values():
        print("\n" + table.plain())
    print(f"\n{workdir}: metrics.json, report.html, plots/ and speech.wav ({example['id']}) written")
    return {name: table.to_dict() for name, table in tables.items()}


def trained_on(meta: Mapping[str, Any], directories: Sequence[str]) -> bool:
    """Whether record directories are what a checkpoint was trained on: all of it and nothing else, wherever it lies.

    Raises:
      UserError: the checkpoint does not say, or a directory is unfinished.
    """
    if "records" not in meta:
        raise UserError(
            "this checkpoint does not say which records it was trained on, so nothing can be scored; train it again"
        )
    return set(map(record_identity, directories)) == set(meta["records"])


def results_on(workdir: pathlib.Path, directories: Sequence[str | os.PathLike]) -> pathlib.Path:
    """Where the scores on other records go: WORKDIR/on-NAME-DIGEST, with the first digits of record_identity's digest.

    Equal names are no reason to share a directory: another fold, limit or size of a corpus is another data set.

    Raises:
      UserError: a directory is unfinished.
    """
    identities = [record_identity(directory).rpartition(" ") for directory in directories]
    return workdir / f"on-{'+'.join(f'{name}-{digest[:8]}' for name, _, digest in identities)}"


def _open(directories: Sequence[str], split: str, embeddings: str) -> Sequence[Mapping[str, Any]]:
    if not num_records(directories, split):
        raise UserError(f"{', '.join(directories)}: no records of the {split} split; choose other data, or another split")
    return with_given_embeddings(open_records(directories, split), embeddings)


def _validation(directories: Sequence[str], embeddings: str) -> Sequence[Mapping[str, Any]] | None:
    """The validation split; None where there is none, as in a corpus without enough speakers."""
    return _open(directories, "valid", embeddings) if num_records(directories, "valid") else None


def _faces_to_score(
    reader: Any, labels: Sequence[str], max_clips: int | None, heard: Predictions | None
) -> list[tuple[Mapping[str, Any], EmotionTrack | None]]:
    """Records of faces that the labels can name, each with its track where the diarizer has heard the same records."""
    if heard is not None:
        names = {"", *labels}
        pairs = zip(heard.records, heard.tracks, strict=True)
        return [(record, track) for record, track in pairs if record.get("expression", "") in names]
    rows = np.flatnonzero(reader.index().nameable(labels))
    return [(reader[int(row)], None) for row in rows[spread(len(rows), max_clips)]]


def _scored(what: str, count: int, total: int) -> str:
    return f"{what}, all {total} clips" if count == total else f"{what}, {count} of {total} clips"


def _save_edit_dictionary(
    model: SEDTalker, voices: Sequence[str], faces: Sequence[str], embeddings: str, workdir: pathlib.Path
) -> None:
    unseen, moving = _validation(voices, embeddings), _validation(faces, embeddings)
    try:
        fitted = fit_edit_dictionary(model, _open(voices, "train", embeddings), unseen=unseen, faces=moving)
    except UserError as error:
        # Too little data to edit with can still be scored; a dictionary of an earlier checkpoint does not fit this one.
        (workdir / EDIT_DICTIONARY).unlink(missing_ok=True)
        print(f"{workdir / EDIT_DICTIONARY} not written, `edit` will not work: {error}")
    else:
        fitted.save(workdir / EDIT_DICTIONARY)


def _check_held_out(meta: Mapping[str, Any], held_out: Sequence[str]) -> None:
    known = {identity.partition(" ")[0] for identity in meta["records"]}
    seen = known & set(map(record_name, held_out))
    if seen:
        raise UserError(
            f"--config.data.held_out={', '.join(sorted(seen))}: the model was trained on it; "
            "train one with the same flag, or leave it out"
        )


def _world(world_hash: str) -> str:
    return f", world {world_hash}" if world_hash else ""


def _heard(model: SEDTalker, record: Mapping[str, Any], track: EmotionTrack | None = None) -> EmotionTrack | None:
    """The diarizer's track, which may be known, or None where it can't drive this face: no diarizer, or a voice that does not
    tell."""
    if model.model.config.diarizer is None or record.get("condition") == "schedule":
        return None
    return track or model.diarize(record["waveform"], given_embedding=record.get("given_embedding"))


def calibrate(model: SEDTalker, reader: Sequence[Mapping[str, Any]], num_clips: int | None, workdir: pathlib.Path) -> None:
    """Fits the model's temperature to `num_clips` of a validation split (None: all), sets it, writes CALIBRATION.

    It is 1 where no frame of them is labelled.
    """
    model.temperature = 1.0
    predictions = predict(model, spread_records(reader, num_clips), "diarize valid")
    if not any((clip.emotion >= 0).any() for clip in predictions.clips):
        print(f"{workdir / CALIBRATION}: no labelled frame of a validation split to fit to, so the temperature is 1")
    model.temperature = fit_temperature(predictions)
    temporary = workdir / f"{CALIBRATION}.tmp"
    temporary.write_text(json.dumps({"temperature": model.temperature}) + "\n")
    os.replace(temporary, workdir / CALIBRATION)


def _example(predictions: Predictions) -> int:
    """The clip with most emotions, and among these the most strongly felt: the one to show."""

    def interest(index: int) -> tuple[int, float]:
        clip = predictions.clips[index]
        names = {segment[2] for segment in clip.segments}
        return len(names), float((clip.intensity > 0.5).mean())

    return max(range(len(predictions.clips)), key=interest)


def _emotion_figures(model: SEDTalker, predictions: Predictions, emotion: ev.EmotionScores) -> dict[str, report.Figure]:
    example = _example(predictions)
    clip, track = predictions.clips[example], predictions.tracks[example]
    return {
        "confusion": report.confusion_figure(emotion.confusion["model"], model.labels),
        "f1_by_emotion": report.f1_figure(emotion.per_emotion),
        "calibration": report.reliability_figure({"model": emotion.reliability["model"]}),
        "intensity": report.intensity_figure(*emotion.intensity),
        "emotion_over_time": report.emotion_strip_figure(
            {"truth": [tuple(s) for s in clip.segments], "model": track}, clip.duration, f"Emotion over time: {clip.name}"
        ),
    }


def _animation_figures(model: SEDTalker, animation: AnimationScores) -> dict[str, report.Figure]:
    figures = {}
    for number, curve in enumerate(animation.curves):
        shown = {name: curve["lip_distance"][name] for name in ("truth", "model", "mean motion")}
        figures[f"lip_distance_{number}"] = report.lip_distance_figure(
            shown, model.fps, curve["phonemes"], f"Lip distance: {curve['id']}"
        )
    return figures
