"""Files of folders that users name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: str | os.PathLike) -> Iterator[Path]:
    """All files in a folder at any depth, also behind links to other folders, each folder once; no order."""
    seen: set[tuple[int, int]] = set()
    for place, inner, files in os.walk(folder, followlinks=True):
        known = os.stat(place)
        if (known.st_dev, known.st_ino) in seen:
            inner.clear()  # a link back to where the walk has been
            continue
        seen.add((known.st_dev, known.st_ino))
        yield from (Path(place, name) for name in files)
