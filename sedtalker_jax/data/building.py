"""Builds a record directory shard by shard: restartable, and nothing half-written is ever taken for finished.

While a build runs, its directory holds `.building.json` (what is being built) and one hidden summary beside each finished
shard. A later start of the same build keeps those shards; another build clears them. The manifest is written last, from
the summaries. The built-in world and all corpora are written through here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sedtalker_jax.data import records
from sedtalker_jax.errors import UserError

SAMPLE_RATE = 16_000
_BUILDING = ".building.json"

Built = tuple[bytes | None, dict[str, Any]]
"""A record's bytes (None: left out) and its summary, which `add_up` adds to the shard's."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """Shard `number` of `total` of a split; it holds the clips with these indices of the split."""

    split: str
    number: int
    total: int
    clips: range

    @property
    def name(self) -> str:
        """File name."""
        return records.shard_name(self.split, self.number, self.total)


def plan_shards(counts: Mapping[str, int], per_shard: int) -> list[Shard]:
    """The shards of every split: as even as possible, a function of the counts alone. A split without clips has none."""
    plan = []
    for split, count in counts.items():
        total = -(-count // per_shard)
        edges = [count * i // total for i in range(total + 1)] if total else []
        plan += [Shard(split, i, total, range(edges[i], edges[i + 1])) for i in range(total)]
    return plan


def add_up(total: dict[str, Any], own: Mapping[str, Any]) -> None:
    """Adds a summary to `total` in place: numbers add, lists join, mappings do so key by key."""
    for name, value in own.items():
        if isinstance(value, Mapping):
            add_up(total.setdefault(name, {}), value)
        elif name in total:
            total[name] = total[name] + value
        else:
            total[name] = value


class RecordBuild:
    """One build of a record directory.

    Args:
      out: a new or empty directory, one that an interrupted build of the same identity left, or a finished one.
      identity: what tells this build from another; it opens the manifest. JSON values only.
      overwrite: whether finished records of another identity may be replaced.
      rebuild: whether finished records of this identity are replaced too.
      thing: what the records are, for messages.
      files: names of files beside the shards that belong to the build, such as what was fitted.

    Attributes:
      finished: the manifest when `out` holds this very build, whole; else None.

    Raises:
      UserError: `out` holds something else, or cannot be written.
    """

    def __init__(
        self,
        out: str | Path,
        identity: Mapping[str, Any],
        overwrite: bool = False,
        *,
        rebuild: bool = False,
        thing: str = "data set",
        files: Sequence[str] = (),
    ) -> None:
        self.out = out = Path(out)
        self.identity = json.loads(json.dumps(identity))  # tuples become lists, as they are read back
        self._files = tuple(files)
        self.finished: dict[str, Any] | None = None
        if (out / records.MANIFEST).exists():
            manifest = records.read_manifest(out)
            if self._is_this(manifest) and not rebuild:
                self.finished = manifest
                return
            if not overwrite and not self._is_this(manifest):
                raise UserError(
                    f"{out} holds another {thing} (its {self._difference(manifest)}); "
                    "give another --out, or --overwrite to replace it"
                )
            self.clear()
        elif (out / _BUILDING).exists():
            if not self._is_this(_read_or_nothing(out / _BUILDING)):
                self.clear()  # left by an interrupted build of another identity: nothing in it was ever finished
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} is not empty and no record directory; give another --out")
        try:
            out.mkdir(parents=True, exist_ok=True)
            records.write_json(out / _BUILDING, self.identity)
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror}; choose another --out") from error

    def _is_this(self, found: Mapping[str, Any]) -> bool:
        return all(found.get(key) == value for key, value in self.identity.items())

    def _difference(self, found: Mapping[str, Any]) -> str:
        key = next(key for key, value in self.identity.items() if found.get(key) != value)
        return f"{key} is {_short(found.get(key))}, not {_short(self.identity[key])}"

    def clear(self) -> None:
        """Removes what builds have written here."""
        # The manifest goes first: without one the directory is unfinished, whatever happens next.
        own = (
            records.MANIFEST,
            "*.index.npz",
            "*.arrayrecord",
            ".*.arrayrecord.json",
            ".*.part",
            records.FACE_SPACE,
            *self._files,
            _BUILDING,
        )
        for pattern in own:
            for path in sorted(self.out.glob(pattern)):
                path.unlink()

    def _summary_path(self, shard: Shard) -> Path:
        return self.out / f".{shard.name}.json"

    def write(self, plan: Sequence[Shard], make: Callable[[list[tuple[str, int]]], Iterator[Built]]) -> dict[str, Any]:
        """Writes the shards of `plan` that are not there yet.

        Args:
          plan: all shards of the build.
          make: gives the records of (split, index) jobs in their order; called once, with all jobs that are left.

        Returns:
          split -> {"shards": [{"file", "records", "sha256", ...summary}]}, for every split of the plan.
        """
        missing = [shard for shard in plan if not self._summary_path(shard).exists()]
        if missing:
            stream = make([(shard.split, index) for shard in missing for index in shard.clips])
            for shard in missing:
                summary: dict[str, Any] = {}
                written = records.write_shard(self.out / shard.name, _bytes_of(stream, len(shard.clips), summary))
                records.write_json(self._summary_path(shard), {"file": shard.name, **written, **summary})
            for _ in stream:  # lets a progress bar finish
                pass
        splits: dict[str, Any] = {shard.split: {"shards": []} for shard in plan}
        for shard in plan:
            splits[shard.split]["shards"].append(json.loads(self._summary_path(shard).read_text()))
        return splits

    def finish(self, plan: Sequence[Shard], manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the manifest (the identity is put in front), removes what only builds needed (one that was killed leaves a
        half-written shard under a temporary name), returns the manifest."""
        manifest = {**self.identity, **manifest}
        records.write_json(self.out / records.MANIFEST, manifest)
        for path in [*map(self._summary_path, plan), *self.out.glob(".*.part")]:
            path.unlink()
        (self.out / _BUILDING).unlink(missing_ok=True)
        return manifest


def total_up(split: dict[str, Any]) -> None:
    """Puts a split's totals beside its shards: records, hours, frames per label."""
    split["records"] = sum(shard["records"] for shard in split["shards"])
    split["hours"] = round(sum(shard.get("samples", 0) for shard in split["shards"]) / SAMPLE_RATE / 3600, 4)
    split["frames"] = {}
    for shard in split["shards"]:
        add_up(split["frames"], shard.get("frames", {}))


def _bytes_of(stream: Iterator[Built], count: int, summary: dict[str, Any]) -> Iterator[bytes]:
    for _ in range(count):
        data, own = next(stream)
        add_up(summary, own)
        if data is not None:
            yield data


def _read_or_nothing(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
