"""Builds the built-in world into a record directory.

    python -m sedtalker_jax.data.synthetic --rules configs/world_rules.toml --out runs/world-demo --subset demo --workers 2

Interrupted, it goes on where it stopped: finished shards are kept when they belong to the same world and subset. The
bytes of the shards do not depend on the number of workers, nor on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sedtalker_jax.data import records
from sedtalker_jax.data.world.clip import World, make_record, plan_clip, sample_rig, speak
from sedtalker_jax.data.world.faces import FaceCast
from sedtalker_jax.data.world.pool import WorldPool
from sedtalker_jax.data.world.rules import SPLITS, Rules, load_rules, parse_rules
from sedtalker_jax.data.world.text import voices
from sedtalker_jax.errors import UserError


def _build_clip(world: World, split: str, index: int) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a clip's record, and what the manifest sums up."""
    record = make_record(world, speak(world, plan_clip(world, split, index)))
    frames = {label: int((record["emotion"] == i).sum()) for i, label in enumerate(record["labels"])}
    return records.encode_record(record), {"samples": record["num_samples"], "frames": frames}


def _fit_space(world: World, samples: list, path: str) -> None:
    world.faces.fit_space(samples).save(path)


def _shards(total: int, per_shard: int) -> list[range]:
    """Clip indices of each shard: as even as possible, a function of the counts alone."""
    number = max(1, -(-total // per_shard))
    edges = [total * i // number for i in range(number + 1)]
    return [range(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def build(
    rules: Rules, out: str | Path, subset: str = "demo", workers: int = 2, progress: bool = True, overwrite: bool = False
) -> dict[str, Any]:
    """Builds a subset of a world into the directory `out` and returns its manifest.

    Args:
      rules: from load_rules.
      out: a new directory, one that an interrupted build of the same world left, or a finished one of the same world
        (which is then returned as it is).
      workers: processes; they change the speed and nothing else.
      overwrite: whether the shards of another world may be replaced.

    Raises:
      UserError: when `out` holds another world, or cannot be written.
    """
    out = Path(out)
    if subset not in rules["subsets"]:
        raise UserError(f"{rules.path} has no subset {subset!r}; it has {', '.join(rules['subsets'])}")
    if workers < 1:
        raise UserError(f"--workers must be at least 1, not {workers}")
    identity = {"world": rules["name"], "world_hash": rules.world_hash, "subset": subset}
    finished = _check_directory(out, identity, overwrite)
    if finished is not None:
        return finished
    counts = rules["subsets"][subset]["clips"]
    plan = [
        (split, shard, len(_shards(counts[split], rules["subsets"][subset]["clips_per_shard"])), indices)
        for split in SPLITS
        for shard, indices in enumerate(_shards(counts[split], rules["subsets"][subset]["clips_per_shard"]))
    ]
    started = time.perf_counter()
    space_path = out / records.FACE_SPACE
    if not space_path.exists():
        table = rules["face_space"]
        jobs = [(i, table["frames_per_clip"]) for i in range(min(table["fit_clips"], counts["train"]))]
        with WorldPool(workers, rules, subset) as pool:
            samples = list(pool.map(sample_rig, jobs, "face space" if progress else None, chunk=2))
            list(pool.map(_fit_space, [(samples, str(space_path))]))

    splits: dict[str, Any] = {split: {"shards": []} for split in SPLITS}
    missing = [entry for entry in plan if not _sidecar(out, entry).exists()]
    with WorldPool(workers, rules, subset, space_path) as pool:
        jobs = [(split, index) for split, _, _, indices in missing for index in indices]
        stream = pool.map(_build_clip, jobs, f"{rules['name']} {subset}" if progress else None)
        for entry in missing:
            split, shard, number, indices = entry
            name = records.shard_name(split, shard, number)
            summary: dict[str, Any] = {"samples": 0, "frames": {}}
            written = records.write_shard(out / name, _collect(stream, len(indices), summary))
            records.write_json(_sidecar(out, entry), {"file": name, **written, **summary})
        for _ in stream:  # lets the progress bar finish
            pass
    for entry in plan:
        splits[entry[0]]["shards"].append(json.loads(_sidecar(out, entry).read_text()))
    manifest = _manifest(rules, subset, identity, splits)
    records.write_json(out / records.MANIFEST, manifest)
    for entry in plan:
        _sidecar(out, entry).unlink()
    (out / _BUILDING).unlink(missing_ok=True)
    elapsed = time.perf_counter() - started
    if progress:
        hours = sum(manifest["splits"][split]["hours"] for split in SPLITS)
        name = identity["world_hash"]
        print(f"{out}: {hours:.2f} h in {elapsed:.0f} s with {workers} workers, world {name}", file=sys.stderr)
    return manifest


_BUILDING = ".building.json"


def _sidecar(out: Path, entry: tuple) -> Path:
    """Where a finished shard's summary lies until the manifest takes it over."""
    split, shard, number, _ = entry
    return out / f".{records.shard_name(split, shard, number)}.json"


def _check_directory(out: Path, identity: dict[str, str], overwrite: bool) -> dict[str, Any] | None:
    """The manifest when `out` is this world, finished; prepares the directory for a build otherwise."""

    def same(found: dict) -> bool:
        return all(found.get(key) == value for key, value in identity.items())

    if (out / records.MANIFEST).exists():
        manifest = records.read_manifest(out)
        if same(manifest):
            return manifest
        if not overwrite:
            raise UserError(f"{out} holds another world or subset; give another --out, or --overwrite to replace it")
        _clear(out)
    elif (out / _BUILDING).exists():
        if not same(json.loads((out / _BUILDING).read_text())):
            _clear(out)  # left by an interrupted build of other rules: nothing in it was ever finished
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty and no record directory; give another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        records.write_json(out / _BUILDING, identity)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; give another --out") from error
    return None


def _clear(out: Path) -> None:
    """Removes what a build makes, and nothing else; the manifest first, so that no moment shows a false whole."""
    (out / records.MANIFEST).unlink(missing_ok=True)
    for pattern in ("*.arrayrecord", ".*.arrayrecord.json", ".*.part", records.FACE_SPACE, _BUILDING):
        for path in out.glob(pattern):
            path.unlink()


def _collect(stream: Iterator, count: int, summary: dict[str, Any]) -> Iterator[bytes]:
    """Passes on the bytes of `count` clips and sums their summaries."""
    for _ in range(count):
        data, own = next(stream)
        summary["samples"] += own["samples"]
        for label, frames in own["frames"].items():
            summary["frames"][label] = summary["frames"].get(label, 0) + frames
        yield data


def _manifest(rules: Rules, subset: str, identity: dict[str, str], splits: dict[str, Any]) -> dict[str, Any]:
    """Counts, hours, label balance, voices, heads and rules of a finished build."""
    cast = voices(rules, subset)
    faces = FaceCast(rules, subset)
    for split, content in splits.items():
        content["records"] = sum(shard["records"] for shard in content["shards"])
        content["hours"] = round(sum(shard["samples"] for shard in content["shards"]) / 16_000 / 3600, 4)
        content["frames"] = {}
        for shard in content["shards"]:
            for label, count in shard["frames"].items():
                content["frames"][label] = content["frames"].get(label, 0) + count
        content["speakers"] = [voice.name for voice in cast[split]]
        content["templates"] = [faces.head_name(split, i) for i in range(faces.num_heads(split))]
    return {
        **identity,
        "format": 1,
        "fps": rules.fps,
        "rank": rules["face_space"]["rank"],
        "seed": rules.seed,
        "splits": splits,
        "rules": rules.text,
    }


def rules_of(manifest: dict[str, Any]) -> Rules:
    """The rules that a built directory was made with."""
    return parse_rules(manifest["rules"], "manifest.json")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sedtalker_jax.data.synthetic", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rules", default="configs/world_rules.toml", help="rules file (default: %(default)s)")
    parser.add_argument("--out", required=True, help="directory to build")
    parser.add_argument("--subset", default="demo", help="a subset of the rules file: demo, full, tiny (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace another world in --out")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    flags = parser.parse_args(arguments)
    try:
        build(load_rules(flags.rules), flags.out, flags.subset, flags.workers, not flags.quiet, flags.overwrite)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
