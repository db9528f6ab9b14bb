"""Builds the built-in world into a record directory.

    python -m sedtalker_jax.data.synthetic --rules configs/world_rules.toml --out runs/world-demo --subset demo --workers 2

Interrupted, it goes on where it stopped: finished shards are kept when they belong to the same world and subset. The
bytes of the shards do not depend on the number of workers, nor on where it was interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from sedtalker_jax.data import records
from sedtalker_jax.data.building import RecordBuild, plan_shards, total_up
from sedtalker_jax.data.world.clip import World, make_record, plan_clip, sample_rig, speak
from sedtalker_jax.data.world.faces import FaceCast
from sedtalker_jax.data.world.pool import WorldPool
from sedtalker_jax.data.world.rules import SPLITS, Rules, load_rules, parse_rules
from sedtalker_jax.data.world.text import voices
from sedtalker_jax.errors import UserError, exit_code


def _build_clip(world: World, split: str, index: int) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a clip's record, and what the manifest sums up."""
    record = make_record(world, speak(world, plan_clip(world, split, index)))
    frames = {label: int((record["emotion"] == i).sum()) for i, label in enumerate(record["labels"])}
    return records.encode_record(record), {"samples": record["num_samples"], "frames": frames}


def _fit_space(world: World, samples: list, path: str) -> None:
    world.faces.fit_space(samples).save(path)


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
    # A world's hash does not cover the sizes of its subsets, but which voice says what depends on them.
    size = rules["subsets"][subset]
    identity = {"world": rules["name"], "world_hash": rules.world_hash, "subset": subset, "size": size}
    building = RecordBuild(out, identity, overwrite, thing="world or subset")
    if building.finished is not None:
        return building.finished
    counts = size["clips"]
    plan = plan_shards({split: counts[split] for split in SPLITS}, size["clips_per_shard"])
    started = time.perf_counter()
    space_path = out / records.FACE_SPACE
    if not space_path.exists():
        table = rules["face_space"]
        jobs = [(i, table["frames_per_clip"]) for i in range(min(table["fit_clips"], counts["train"]))]
        with WorldPool(workers, rules, subset) as pool:
            samples = list(pool.map(sample_rig, jobs, "face space" if progress else None, chunk=2))
            list(pool.map(_fit_space, [(samples, str(space_path))]))

    with WorldPool(workers, rules, subset, space_path) as pool:
        splits = building.write(
            plan, lambda jobs: pool.map(_build_clip, jobs, f"{rules['name']} {subset}" if progress else None)
        )
    manifest = building.finish(plan, _manifest(rules, subset, splits))
    elapsed = time.perf_counter() - started
    if progress:
        hours = sum(manifest["splits"][split]["hours"] for split in SPLITS)
        name = identity["world_hash"]
        print(f"{out}: {hours:.2f} h in {elapsed:.0f} s with {workers} workers, world {name}", file=sys.stderr)
    return manifest


def _manifest(rules: Rules, subset: str, splits: dict[str, Any]) -> dict[str, Any]:
    """Counts, hours, label balance, voices, heads and rules of a finished build."""
    cast = voices(rules, subset)
    faces = FaceCast(rules, subset)
    for split, content in splits.items():
        total_up(content)
        content["speakers"] = [voice.name for voice in cast[split]]
        content["templates"] = [faces.head_name(split, i) for i in range(faces.num_heads(split))]
    return {
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
    parser = argparse.ArgumentParser(
        prog="python -m sedtalker_jax.data.synthetic", description=__doc__.split("\n\n")[0], allow_abbrev=False
    )
    parser.add_argument("--rules", default="configs/world_rules.toml", help="rules file (default: %(default)s)")
    parser.add_argument("--out", required=True, help="directory to build")
    parser.add_argument("--subset", default="demo", help="a subset of the rules file: demo, full, tiny (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace another world in --out")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    flags = parser.parse_args(arguments)
    return exit_code(
        lambda: build(load_rules(flags.rules), flags.out, flags.subset, flags.workers, not flags.quiet, flags.overwrite)
    )


if __name__ == "__main__":
    sys.exit(main())
