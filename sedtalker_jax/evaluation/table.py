"""Tables of scores: every system beside its baselines, each number with its interval; as text, Markdown, HTML and JSON."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sedtalker_jax.emotion.formats import write_text
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.bootstrap import Interval


@dataclasses.dataclass(frozen=True)
class ScoreRow:
    """One metric of several systems.

    Attributes:
      metric: its name in code (lip_vertex_error_rooted_mm), so that the definition can be looked up.
      values: system -> Interval, or a bare number where no interval can be given.
      unit: printed after the name; empty for shares and correlations.
      higher_is_better: True, False, or None where neither is (a signed deviation).
      digits: decimals in print; JSON keeps them all.
    """

    metric: str
    values: Mapping[str, Interval | float]
    unit: str = ""
    higher_is_better: bool | None = None
    digits: int = 3


@dataclasses.dataclass(frozen=True)
class ScoreTable:
    """Rows of metrics, columns of systems; the first system is the one under test, the others stand for comparison.

    Raises:
      UserError: a row names a system that is not a column.
    """

    title: str
    systems: Sequence[str]
    rows: Sequence[ScoreRow]
    note: str = ""

    def __post_init__(self):
        unknown = {system for row in self.rows for system in row.values} - set(self.systems)
        if unknown:
            raise UserError(f"table '{self.title}' has values of {', '.join(sorted(unknown))}, which are not among its systems")

    def cells(self) -> list[list[str]]:
        """Header and rows as text; a system without a value gets an empty cell."""
        lines = [["metric", *self.systems]]
        for row in self.rows:
            arrow = {True: " ↑", False: " ↓", None: ""}[row.higher_is_better]
            name = f"{row.metric} [{row.unit}]" if row.unit else row.metric
            lines.append([name + arrow, *(format_score(row.values.get(system), row.digits) for system in self.systems)])
        return lines

    def plain(self) -> str:
        """Aligned columns for a terminal."""
        cells = self.cells()
        widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
        text = []
        for name, *scores in cells:
            aligned = [score.rjust(width) for score, width in zip(scores, widths[1:], strict=True)]
            text.append("  ".join([name.ljust(widths[0]), *aligned]))
        text.insert(1, "-" * len(text[0]))
        return "\n".join([self.title, *(line.rstrip() for line in text), *([self.note] if self.note else [])])

    def markdown(self) -> str:
        """A GitHub table under a bold title."""
        header, *body = self.cells()
        lines = [f"**{self.title}**", "", "| " + " | ".join(header) + " |", "|---|" + "---:|" * len(self.systems)]
        lines += ["| " + " | ".join(line) + " |" for line in body]
        return "\n".join(lines + (["", self.note] if self.note else []))

    def html(self) -> str:
        """A <table> element with its caption."""
        header, *body = self.cells()
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in body)
        note = f"<p class='note'>{html.escape(self.note)}</p>" if self.note else ""
        return f"<table><caption>{html.escape(self.title)}</caption><tr>{head}</tr>{rows}</table>{note}"

    def to_dict(self) -> dict[str, Any]:
        """metric -> {"unit", "higher_is_better", "systems": {system: {"value", "low", "high", ...}}}."""
        result = {}
        for row in self.rows:
            systems = {}
            for system, value in row.values.items():
                systems[system] = value.to_dict() if isinstance(value, Interval) else {"value": value}
            result[row.metric] = {"unit": row.unit, "higher_is_better": row.higher_is_better, "systems": systems}
        return result


def format_score(score: Interval | float | None, digits: int = 3) -> str:
    """`0.412 [0.380, 0.441]`, a bare number without an interval, or `n/a` where the score is not defined."""
    if score is None:
        return ""
    if not isinstance(score, Interval):
        return "n/a" if math.isnan(score) else f"{score:.{digits}f}"
    if math.isnan(score.value):
        return "n/a"
    if math.isnan(score.low):
        return f"{score.value:.{digits}f}"
    return f"{score.value:.{digits}f} [{score.low:.{digits}f}, {score.high:.{digits}f}]"


def write_metrics_json(
    path: str | os.PathLike, tables: Mapping[str, ScoreTable], info: Mapping[str, Any] | None = None
) -> None:
    """Writes {"info": ..., section: {metric: {"unit", "systems": {system: {"value", "low", "high", ...}}}}} in one piece.

    Undefined numbers become null: NaN is not JSON, and readers that are strict refuse it.

    Args:
      tables: section name ("emotion", "animation") -> table.
      info: whatever identifies the run: checkpoint, data, world hash, seeds, fps, region files.
    """
    document = {
        "info": plain_values(dict(info or {})),
        **{name: plain_values(table.to_dict()) for name, table in tables.items()},
    }
    write_text(path, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def plain_values(value: Any) -> Any:
    """The same with JSON's types only: arrays as lists, undefined numbers as null."""
    if isinstance(value, Mapping):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain_values(value.tolist())
    if isinstance(value, np.generic):
        return plain_values(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
