"""Metrics to a JSON-lines file and to TensorBoard events."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping

import tensorboardX


class MetricsWriter:
    """Appends one JSON object per logged step to workdir/metrics.jsonl, and the same numbers to TensorBoard events.

    A resumed run continues the file from its checkpoint's step: later lines, which belong to steps that will be taken
    again, are removed first.
    """

    def __init__(self, workdir: str | os.PathLike, first_step: int, *, enabled: bool = True):
        """Args: workdir; first_step: the first step that this run will log; enabled: False in all processes but the first."""
        self._file, self._events = None, None
        if not enabled:
            return
        workdir = pathlib.Path(workdir)
        path = workdir / "metrics.jsonl"
        _drop_from(path, first_step)
        self._file = path.open("a")
        self._events = tensorboardX.SummaryWriter(str(workdir / "events"), purge_step=first_step or None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the numbers of one step. JSON keeps every bit of a float, so that two runs can be compared exactly."""
        if self._file is None or self._events is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both files."""
        if self._file is not None and self._events is not None:
            self._file.close()
            self._events.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _drop_from(path: pathlib.Path, first_step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            # A killed run may leave half a line at the end.
            continue
        # A validation at step n looks at the state before step n is taken, which the checkpoint of step n already holds.
        validation = any(name.startswith("valid/") for name in record)
        if record["step"] < first_step + validation:
            kept.append(line + "\n")
    temporary = path.with_suffix(".jsonl.tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)


def read_metrics(path: str | os.PathLike) -> list[dict[str, float]]:
    """All complete lines of a metrics.jsonl."""
    lines = pathlib.Path(path).read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]
