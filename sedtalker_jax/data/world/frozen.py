"""What a world's name stands for: the generating code, and reference clips that prove it unchanged.

    python -m sedtalker_jax.data.world.frozen           after an edit of generating code: are the clips still the same?
    python -m sedtalker_jax.data.world.frozen --renew   the clips were meant to change: another world, with another hash

A world's hash covers its rules and the *generation* of the code, never the wording of the code: a generation is named by the
digest that its sources had when it began, and lasts as long as the reference clips come out the same. Code that was edited and
not checked counts as a generation of its own, so that no number made with it carries the world's name. The references lie in
frozen.json, beside the digest of the sources that they were last checked with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sedtalker_jax.emotion.formats import replace_when_complete
from sedtalker_jax.emotion.labels import CANONICAL
from sedtalker_jax.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[2]
REFERENCES = Path(__file__).with_name("frozen.json")
REFERENCE_SUBSET = "tiny"

# What decides a clip. Reports, statistics, the command line and the file format do not.
_COMMON = (
    "data/world/acoustics.py", "data/world/clip.py", "data/world/clock.py", "data/world/expression.py",
    "data/world/faces.py", "data/world/rules.py", "data/world/speaking.py", "data/world/synthesiser.py", "data/world/text.py",
    "data/world/timeline.py",
    "face/anatomy.py", "face/articulation.py", "face/blendshapes.py", "face/chart.py", "face/head.py",
    "face/phonemes.py", "face/regions.py", "face/rig.py", "face/rules.py", "face/shape.py", "face/space.py",
)  # fmt: skip
SYNTHESISERS: Mapping[str, tuple[str, ...]] = {
    "espeak-ng": ("data/world/espeak.py", "data/world/espeak_server.py"),
    "flite": ("data/world/flite.py", "data/world/flite_server.py"),
}
"""Names that a rules file may give as its `synthesiser`, with the sources that are its own."""

# Another kind of processor may round the last bit of a sample otherwise; more than this is another clip.
_LEVEL_TOLERANCE_DB, _MOTION_TOLERANCE_MM = 0.05, 0.02
_STRETCHES = 12  # of a clip, for whose each a level and a size of motion are kept


def sources(synthesiser: str) -> tuple[str, ...]:
    """Paths, from the package's root, of the modules that decide the clips of a world with that synthesiser."""
    return (*_COMMON, *SYNTHESISERS[synthesiser])


@cache  # the code that runs, even if a file changes meanwhile
def source_digest(synthesiser: str) -> str:
    """sha256 of the emotions in their order and the generating sources, without lines that are blank or only a comment."""
    digest = hashlib.sha256(" ".join(CANONICAL).encode())
    for name in sources(synthesiser):
        lines = (_PACKAGE / name).read_text(encoding="utf-8").splitlines()
        kept = [line.rstrip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        digest.update("\n".join([name, *kept, ""]).encode())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def references() -> dict[str, dict[str, Any]]:
    """frozen.json: world name -> {rules, world_hash, synthesiser, generation, sources, clips}."""
    return json.loads(REFERENCES.read_text(encoding="utf-8"))


def generation(synthesiser: str) -> str:
    """Name of the generation that the running code belongs to: a frozen one's, or the digest of its own sources."""
    digest = source_digest(synthesiser)
    for reference in references().values():
        if reference["synthesiser"] == synthesiser and reference["sources"] == digest:
            return reference["generation"]
    return digest


def clip_references(directory: str | Path) -> dict[str, dict[str, Any]]:
    """What is kept of each clip of a built directory, by the clip's id.

    sha256: of the record's bytes. samples: length at 16 kHz. segments: the voice's truth. level_db, motion_mm: level of the
    sound in dB and size of the motion coefficients in mm (root mean square), of each of _STRETCHES equal parts.
    """
    from sedtalker_jax.data.records import RecordReader
    from sedtalker_jax.data.world.rules import SPLITS

    result = {}
    for split in SPLITS:
        reader = RecordReader(directory, split)
        for i in range(len(reader)):
            record = reader[i]
            sound = np.array_split(record["waveform"].astype(np.float64), _STRETCHES)
            motion = np.array_split(record["motion"].astype(np.float64), _STRETCHES)
            result[record["id"]] = {
                "sha256": hashlib.sha256(reader.read_bytes(i)).hexdigest(),
                "samples": record["num_samples"],
                "segments": record["segments"],
                "level_db": [round(float(10.0 * np.log10(np.mean(part**2) + 1e-7)), 2) for part in sound],
                "motion_mm": [round(float(1e3 * np.sqrt(np.mean(part**2))), 3) for part in motion],
            }
    return result


def differences(made: Mapping[str, dict[str, Any]], wanted: Mapping[str, dict[str, Any]]) -> tuple[list[str], int]:
    """(one line for each clip that is another one, number of clips that differ by rounding only)."""
    problems = [f"clip {name} is missing" for name in wanted if name not in made]
    rounded = 0
    for name in wanted:
        if name not in made or made[name]["sha256"] == wanted[name]["sha256"]:
            continue
        own, other = made[name], wanted[name]
        if own["samples"] != other["samples"] or own["segments"] != other["segments"]:
            problems.append(f"clip {name}: other length or labels")
            continue
        level = np.abs(np.subtract(own["level_db"], other["level_db"])).max()
        motion = np.abs(np.subtract(own["motion_mm"], other["motion_mm"])).max()
        if level > _LEVEL_TOLERANCE_DB or motion > _MOTION_TOLERANCE_MM:
            problems.append(f"clip {name}: the sound differs by up to {level:.2f} dB, the motion by {motion:.3f} mm")
        else:
            rounded += 1
    return problems, rounded


def freeze(rules_path: str, renew: bool = False) -> str:
    """Builds a world's reference clips and records the sources in frozen.json if they are as before (or with `renew`).

    Returns one line that says what was found.

    Raises:
      UserError: the clips changed and `renew` is not given; no rules file, no synthesiser.
    """
    from sedtalker_jax.data.synthetic import build
    from sedtalker_jax.data.world.rules import load_rules  # which imports this module

    rules = load_rules(rules_path)
    name, digest = rules["name"], source_digest(rules.synthesiser)
    with tempfile.TemporaryDirectory() as directory:
        build(rules, Path(directory) / name, REFERENCE_SUBSET, workers=1, progress=False)
        made = clip_references(Path(directory) / name)
    known = dict(references())
    if renew:
        known[name] = {"rules": rules_path, "synthesiser": rules.synthesiser, "generation": digest, "clips": made}
        verdict = f"{len(made)} reference clips of a new generation"
    elif name not in known:
        raise UserError(f"{rules_path}: no clips of {name} are frozen yet; --renew freezes what it makes today")
    else:
        problems, rounded = differences(made, known[name]["clips"])
        if problems:
            raise UserError(f"{name} is no longer the same ({len(problems)} clips; {problems[0]}); --renew if that is meant")
        verdict = f"all {len(made)} reference clips are the same" + (f", {rounded} to within rounding" if rounded else "")
    known[name]["sources"] = digest
    known[name]["world_hash"] = rules.hash_of_generation(known[name]["generation"])
    _write(known)
    references.cache_clear()
    return f"{name} {known[name]['world_hash']}: {verdict}"


def _write(known: Mapping[str, dict[str, Any]]) -> None:
    """frozen.json with one line for each clip, so that a change shows which ones moved."""
    worlds = []
    for name, reference in sorted(known.items()):
        clips = ",\n".join(f"   {json.dumps(clip)}: {json.dumps(kept)}" for clip, kept in reference["clips"].items())
        rest = [f"  {json.dumps(key)}: {json.dumps(reference[key])}" for key in sorted(reference) if key != "clips"]
        worlds.append(f" {json.dumps(name)}: {{\n" + ",\n".join([*rest, '  "clips": {\n' + clips + "\n  }"]) + "\n }")
    with replace_when_complete(REFERENCES) as temporary:
        temporary.write_text("{\n" + ",\n".join(worlds) + "\n}\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sedtalker_jax.data.world.frozen", description=__doc__.split("\n\n")[0], allow_abbrev=False
    )
    parser.add_argument("rules", nargs="*", help="rules files (default: those of every frozen world)")
    parser.add_argument("--renew", action="store_true", help="take the clips as they are made now: another hash")
    flags = parser.parse_args(arguments)
    try:
        for path in flags.rules or [reference["rules"] for reference in references().values()]:
            print(freeze(path, flags.renew))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
