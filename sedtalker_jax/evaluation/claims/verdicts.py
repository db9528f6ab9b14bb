"""From the scores of all jobs to a verdict on every claim: claims.json, which the page and the README's table are made of."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sedtalker_jax.emotion.formats import write_text
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.claims import protocol, statistics
from sedtalker_jax.evaluation.claims.jobs import FINISHED
from sedtalker_jax.evaluation.claims.protocol import Claim
from sedtalker_jax.evaluation.claims.scores import ArmScores, load_scores
from sedtalker_jax.evaluation.claims.settings import SETTINGS
from sedtalker_jax.evaluation.claims.statistics import Effect

CLAIMS_JSON = "claims.json"
PROTOCOL = "protocol.json"
"""Digests of the claims when the first job of a run started."""

HOLDS, DOES_NOT_HOLD, NOT_TESTED = "holds", "does not hold", "not tested"
ALPHA = 0.05


def keep_protocol(directory: Path) -> None:
    """Writes down which claims are tested, before anything is: a claim that is changed later will be marked."""
    if not (directory / PROTOCOL).exists():
        write_text(directory / PROTOCOL, json.dumps(protocol.digests(), indent=1) + "\n")


def judge(
    scores: Mapping[tuple[str, str], Sequence[ArmScores]], claims: Sequence[Claim] = protocol.CLAIMS
) -> list[dict[str, Any]]:
    """Effect, corrected p value and verdict of every claim.

    Args:
      scores: (family, arm) -> one entry for each seed.

    Returns:
      One dictionary a claim, of plain values; see docs/claims.md.
    """
    effects = {claim.name: _effect(claim, scores) for claim in claims}
    tested = {name: found.p for name, found in effects.items() if found is not None and not math.isnan(found.p)}
    adjusted = statistics.holm(tested)
    judged = []
    for claim in claims:
        found, p = effects[claim.name], adjusted.get(claim.name)
        verdict = NOT_TESTED if p is None else HOLDS if p < ALPHA else DOES_NOT_HOLD
        judged.append(
            {
                "name": claim.name,
                "statement": claim.statement,
                "source": claim.source,
                "family": claim.family,
                "arm": claim.arm,
                "against": claim.against,
                "measure": claim.measure,
                "quantity": claim.quantity,
                "low": claim.low if math.isfinite(claim.low) else None,
                "high": claim.high if math.isfinite(claim.high) else None,
                "goal": claim.goal,
                "refuted_by": claim.refuted_by,
                "digest": claim.digest,
                "verdict": verdict,
                "remark": remark(claim, found, verdict),
                "p_holm": p,
                "effect": found.to_dict() if found is not None else None,
            }
        )
    return judged


def remark(claim: Claim, found: Effect | None, verdict: str) -> str:
    """What "does not hold" leaves open.

    Returns:
      "refuted": the whole interval misses the goal. "estimate misses": the effect does, its interval reaches the goal.
      "undecided": the effect meets the goal, its interval reaches beyond. "lost to Holm's correction": the interval meets the
      goal, but among so many claims that is no proof. Empty for other verdicts.
    """
    if verdict != DOES_NOT_HOLD or found is None:
        return ""
    if found.p < ALPHA:
        return "lost to Holm's correction"
    if found.low > claim.high or found.high < claim.low:
        return "refuted"
    if claim.low < found.value < claim.high:
        return "undecided"
    return "estimate misses"


def results(directory: str | os.PathLike) -> dict[str, Any]:
    """Everything that the jobs of a directory have shown, as plain values; the content of claims.json.

    Raises:
      UserError: no run of the claims has begun there, or a file is damaged.
    """
    root = Path(directory)
    settings, first_digests = _read(root / SETTINGS), _read(root / PROTOCOL)
    by_job = load_scores(root)
    jobs = {str(path.parent.relative_to(root)): _read(path) for path in sorted(root.glob(f"seed*/**/{FINISHED}"))}
    scores: dict[tuple[str, str], list[ArmScores]] = {}
    families: dict[str, set[str]] = {}
    for job, own in by_job.items():
        for entry in own:
            others = scores.setdefault((entry.family, entry.arm), [])
            if any(other.seed == entry.seed for other in others):
                raise ValueError(f"{entry.family}/{entry.arm} was scored twice under seed {entry.seed}")
            others.append(entry)
            families.setdefault(entry.family, set()).add(job)
    judged = judge(scores)
    for claim in judged:
        claim["cost_minutes"] = cost_minutes(families.get(claim["family"], ()), jobs) if claim["effect"] else None
        claim["changed_after_start"] = first_digests.get(claim["name"]) != claim["digest"]
    seeds = sorted({entry.seed for own in by_job.values() for entry in own})
    return {
        "info": {
            "command": command(settings, len(seeds)),
            **settings,
            "seeds": seeds,
            "commits": sorted({job["commit"] for job in jobs.values()}),
            "jax": sorted({job["jax"] for job in jobs.values()}),
            "resamples": statistics.NUM_RESAMPLES,
            "confidence": statistics.CONFIDENCE,
            "cost_minutes": round(sum(job["seconds"] for job in jobs.values()) / 60, 1),
        },
        "claims": judged,
        "arms": _arm_scores(scores),
        "families": {family: sorted(own) for family, own in families.items()},
        "jobs": {name: job["seconds"] for name, job in jobs.items()},
    }


def command(settings: Mapping[str, Any], num_seeds: int) -> str:
    """The command that makes these results."""
    parts = ["python -m sedtalker_jax.evaluation.claims", f"--seeds {num_seeds}", f"--data {settings['data']}"]
    parts.append(f"--other-data {settings['other_data']}" if settings["other_data"] else "--other-data ''")
    return " ".join(parts + (["--smoke"] if settings["smoke"] else []))


def cost_minutes(scoring: Sequence[str] | set[str], jobs: Mapping[str, Mapping[str, Any]]) -> float:
    """Minutes that scoring jobs took with all that they require; what two families share counts in both."""
    needed, waiting = set(), list(scoring)
    while waiting:
        name = waiting.pop()
        if name not in needed and name in jobs:
            needed.add(name)
            waiting += jobs[name]["requires"]
    return round(sum(jobs[name]["seconds"] for name in needed) / 60, 1)


def write_claims_json(path: str | os.PathLike, found: Mapping[str, Any]) -> None:
    """Writes what `results` gave; appears whole or not at all."""
    write_text(path, json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def _effect(claim: Claim, scores: Mapping[tuple[str, str], Sequence[ArmScores]]) -> Effect | None:
    arm = scores.get((claim.family, claim.arm), ())
    against = scores.get((claim.family, claim.against), ())
    return statistics.effect(arm, against, claim.measure, claim.quantity, claim.low, claim.high)


def _arm_scores(scores: Mapping[tuple[str, str], Sequence[ArmScores]]) -> dict[str, dict[str, dict[str, Any]]]:
    table: dict[str, dict[str, dict[str, Any]]] = {}
    # In the order of the claims, the arm under test first.
    order = list(dict.fromkeys((claim.family, arm) for claim in protocol.CLAIMS for arm in (claim.arm, claim.against)))
    families = list(dict.fromkeys(claim.family for claim in protocol.CLAIMS))

    def place(key: tuple[str, str]):
        family = families.index(key[0]) if key[0] in families else len(families)
        return family, key[0], order.index(key) if key in order else len(order), key[1]

    for family, arm in sorted(scores, key=place):
        entries = scores[family, arm]
        for measure in dict.fromkeys(name for entry in entries for name in entry.measures):
            found = statistics.effect(entries, (), measure, "value")
            if found is not None:
                values = {k: v for k, v in found.to_dict().items() if k not in ("p", "arm_score", "against_score")}
                table.setdefault(family, {}).setdefault(arm, {})[measure] = values
    return table


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: no run of the claims has begun in {path.parent}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run the claims again") from error
