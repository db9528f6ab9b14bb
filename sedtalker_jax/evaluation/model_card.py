"""The model card that travels with a checkpoint: what it learned from, its licences, how well it does, what it is for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from sedtalker_jax.emotion.formats import write_text
from sedtalker_jax.emotion.labels import CANONICAL
from sedtalker_jax.evaluation.table import ScoreTable

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
    facts: Mapping[str, object] | None = None,
) -> None:
    """Writes a Markdown card; an older one is replaced only by a whole one.

    Args:
      path: usually MODEL_CARD.md beside the checkpoint.
      name: of the model.
      labels: emotions that it knows, in its order.
      data: corpus -> facts such as licence, hours, speakers, language, splits; an unknown licence is said to be unknown.
      tables: scores with their intervals.
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
    for table in tables:
        lines += [table.markdown(), ""]
    lines += ["## Intended use", "", _INTENDED_USE, "", "## Not for", "", _OUT_OF_SCOPE, "", "## Limits", "", _LIMITS, ""]
    write_text(path, "\n".join(lines))


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
