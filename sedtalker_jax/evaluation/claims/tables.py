"""Tables beside the scores of a job: plain numbers that its page shows, one file each."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from sedtalker_jax.emotion.formats import write_text

Cell = float | int | str | None


def save_table(
    job_directory: str | os.PathLike,
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    note: str = "",
) -> None:
    """Writes tables/<name>.json into a job's directory: {"title", "columns", "rows", "note"}.

    Args:
      columns: heads of the cells after the first, which names the row.
      rows: name, then one cell for each column; None or NaN = nothing to say.

    Raises:
      ValueError: a row of another length.
    """
    for row in rows:
        if len(row) != len(columns) + 1:
            raise ValueError(f"{name}: {len(row) - 1} cells in row {row[0]} for {len(columns)} columns")
    plain = [[None if isinstance(cell, float) and cell != cell else cell for cell in row] for row in rows]
    target = Path(job_directory) / "tables" / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, json.dumps({"title": title, "columns": list(columns), "rows": plain, "note": note}, indent=1) + "\n")
