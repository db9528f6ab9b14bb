"""The model card that travels with a checkpoint: what it learned from, its licences, how well it does, what it is for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sedtalker_jax.data.records import read_manifest
from sedtalker_jax.emotion.formats import write_text
from sedtalker_jax.emotion.labels import CANONICAL
from sedtalker_jax.evaluation.table import ScoreTable

MODEL_CARD = "MODEL_CARD.md"
"""Name of the card inside a workdir."""

_INTENDED_USE = (
    "Animating faces from speech, research on speech emotion and facial animation, and teaching. Emotion here means acted or "
    "synthesised expression as labelled in the data below, not what a person feels."
)

_OUT_OF_SCOPE = (
    "Judging people: hiring, policing, education, insurance, health or credit. Claims about the emotion of somebody who did "
    "not agree to be analysed. Animating a real person's face without consent."
)

_LIMITS = (
    "Scores are of the data named here: other languages, microphones, ages and cultures are not covered unless they stand in "
    "the tables. Confusions between emotions, and how far intervals reach, stand there too and must be read with every number."
)


def write_model_card(
    path: str | os.PathLike,
    name: str,
    *,
    labels: Sequence[str],
    data: Mapping[str, Mapping[str, object]],
    tables: Sequence[ScoreTable] = (),
    scored: str = "",
    facts: Mapping[str, object] | None = None,
) -> None:
    """Writes a Markdown card; an older one is replaced only by a whole one.

    Args:
      path: usually MODEL_CARD.md beside the checkpoint.
      name: of the model.
      labels: emotions that it knows, in its order.
      data: corpus -> facts such as licence, hours, speakers, language, splits; an unknown licence is said to be unknown.
      tables: scores with their intervals.
      scored: which clips they are of.
      facts: parameters, steps, config, commit, world hash.

    Raises:
      UserError: the place can't be written.
    """
    lines = [f"# {name}", "", "## What it is", ""]
    lines += [f"- {key}: {value}" for key, value in (facts or {}).items()]
    lines.append(f"- emotions: {', '.join(labels)}")
    absent = [label for label in CANONICAL if label not in labels]
    if absent:
        lines.append(f"- emotions it has never seen: {', '.join(absent)}")
    lines += ["", "## Data and licences", ""]
    keys = list(dict.fromkeys(["licence", *(key for entry in data.values() for key in entry)]))
    lines += ["| corpus | " + " | ".join(keys) + " |", "|---|" + "---|" * len(keys)]
    for corpus, entry in data.items():
        cells = [_cell(entry.get(key, "unknown" if key == "licence" else "")) for key in keys]
        lines.append(f"| {_cell(corpus)} | " + " | ".join(cells) + " |")
    lines += ["", "A model may be used only in ways that every licence above allows.", "", "## Scores", ""]
    if not tables:
        lines += ["Not evaluated.", ""]
    elif scored:
        lines += [f"Of {scored}.", ""]
    for table in tables:
        lines += [table.markdown(), ""]
    lines += ["## Intended use", "", _INTENDED_USE, "", "## Not for", "", _OUT_OF_SCOPE, "", "## Limits", "", _LIMITS, ""]
    write_text(path, "\n".join(lines))


def write_run_card(
    workdir: str | os.PathLike,
    meta: Mapping[str, Any],
    directories: Sequence[str],
    step: int,
    tables: Sequence[ScoreTable] = (),
    scored: str = "",
) -> None:
    """The card of a workdir: training writes it before its first checkpoint, evaluation again with the scores.

    Args:
      workdir: of train.py.
      meta: what its checkpoints hold beside the parameters.
      directories: record directories that it was trained on.
      step: training steps of the checkpoint that the scores are of, or that training will end with.
      tables: scores; none = not evaluated.
      scored: which clips they are of: "the test split, all 128 clips".

    Raises:
      UserError: a directory has no manifest, the place can't be written.
    """
    parts = [part for part in ("diarizer", "animator") if meta["model"].get(part)]
    facts: dict[str, object] = {"parts": " and ".join(parts), "training steps": step}
    config = meta["config"]
    for encoder, field, role in (
        ("encoder", "pretrained", "speech encoder"),
        ("content_encoder", "content_pretrained", "encoder of the words"),
    ):
        # A diarizer that reads given embeddings leaves the first one out, whatever the config names.
        if config["model"].get(field) and meta["model"].get(encoder, {}) is not None:
            facts[f"{role} begun from"] = Path(config["model"][field]).name
    if size := (meta["model"].get("diarizer") or {}).get("given_size"):
        facts["emotion read from"] = f"given embeddings of {size} numbers, {Path(config['pipeline']['embeddings']).name}"
    if config["data"].get("held_out"):
        facts["held out of training, for the scores"] = config["data"]["held_out"]
    if meta["world_hash"]:
        facts["built-in world"] = meta["world_hash"]
    data = data_facts(directories)
    write_model_card(
        Path(workdir) / MODEL_CARD,
        f"sedtalker_jax: {Path(workdir).name}",
        labels=meta["labels"],
        data=data,
        tables=tables,
        scored=scored,
        facts=facts,
    )


def data_facts(directories: Sequence[str]) -> dict[str, dict[str, object]]:
    """What a card says of each record directory: corpus -> licence, hours, clips, speakers, licence filter.

    Raises:
      UserError: a directory has no manifest.
    """
    found: dict[str, dict[str, object]] = {}
    for directory in directories:
        manifest = read_manifest(directory)
        train = manifest["splits"].get("train", {})
        unstated = "synthesised by this project" if manifest.get("world") else "unknown"
        entry: dict[str, object] = {
            "licence": manifest.get("licence", {}).get("name", unstated),
            "training hours": round(float(train.get("hours", 0.0)), 2),
            "training clips": train.get("records", 0),
            "training voices": len(train.get("speakers", ())),
        }
        if manifest.get("licence_filter", "any") != "any":
            entry["clips kept"] = f"those that allow {manifest['licence_filter']} use"
        found[str(manifest.get("corpus") or manifest.get("world") or Path(directory).name)] = entry
    return found


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
