"""Tables made of data and never written by hand: the README's verdicts of claims.json, the claims of docs/claims.md.

python -m sedtalker_jax.evaluation.claims.documents docs/claims.md      # after a claim was added
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sedtalker_jax.emotion.formats import read_text, write_text
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.claims import protocol
from sedtalker_jax.evaluation.claims.verdicts import CLAIMS_JSON, NOT_TESTED, write_claims_json

START, END = "<!-- claims -->", "<!-- /claims -->"
"""Lines of the README between which the table stands."""


def write_readme(readme: str | Path, found: Mapping[str, Any]) -> None:
    """Puts the table between the README's markers, and claims.json into docs/ beside it.

    Args:
      found: `verdicts.results`.

    Raises:
      UserError: a README without the markers, or results of a smoke run.
    """
    if found["info"]["smoke"]:
        raise UserError("results of --smoke mean nothing and don't go into a README")
    path = Path(readme)
    _replace_table(path, markdown(found))
    write_claims_json(path.parent / "docs" / CLAIMS_JSON, found)


def write_protocol(document: str | Path) -> None:
    """Puts the table of all claims between a document's markers.

    Raises:
      UserError: a document without the markers.
    """
    _replace_table(Path(document), protocol_markdown())


def protocol_markdown() -> str:
    """One row for each claim: what it is, where it stands, how it is tested and refuted."""
    lines = ["| claim | stands in | family: arms | measure | goal | refuted by |", "|---|---|---|---|---|---|"]
    for claim in protocol.CLAIMS:
        compared = f"{claim.family}: {arms({'arm': claim.arm, 'against': claim.against, 'quantity': claim.quantity})}"
        cells = (claim.statement, claim.source, compared, f"`{claim.measure}`", claim.goal, claim.refuted_by)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _replace_table(path: Path, table: str) -> None:
    text = read_text(path)
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise UserError(f"{path}: no place for the table; add the lines {START} and {END} around it")
    write_text(path, f"{text[: text.index(START)]}{START}\n{table}\n{text[text.index(END) :]}")


def table_in(readme: str) -> str:
    """The table between the markers of a README's text; empty without them."""
    if START not in readme or END not in readme:
        return ""
    return readme[readme.index(START) + len(START) : readme.index(END)].strip("\n")


def markdown(found: Mapping[str, Any]) -> str:
    """One row for each claim, null results and untested claims too, under a line that says what was run."""
    info, claims = found["info"], found["claims"]
    lines = ["| claim | arms | effect [95% interval] | goal | verdict | min |", "|---|---|---:|---|---|---:|"]
    for claim in claims:
        verdict = f"**{claim['verdict']}**" if claim["verdict"] != NOT_TESTED else NOT_TESTED
        remark = f" ({claim['remark']})" if claim["remark"] else ""
        changed = " †" if claim["changed_after_start"] else ""
        cost = "" if claim["cost_minutes"] is None else f"{claim['cost_minutes']:.0f}"
        cells = (claim["statement"] + changed, arms(claim), effect(claim), claim["goal"], verdict + remark, cost)
        lines.append("| " + " | ".join(cells) + " |")
    world = f"world `{info['world_hash']}`" if info["world_hash"] else f"data {info['data']}"
    seeds = f"{len(info['seeds'])} seed{'s' if len(info['seeds']) != 1 else ''}"
    what = f"{world}, {seeds}, {info['cost_minutes']:.0f} minutes in all: `{info['command']}`"
    lines += ["", f"{what[0].upper()}{what[1:]}. Protocol: [docs/claims.md](docs/claims.md)."]
    if any(claim["changed_after_start"] for claim in claims):
        lines[-1] += " † added or changed after the run began."
    return "\n".join(lines)


def arms(claim: Mapping[str, Any]) -> str:
    """What is compared: "predicted - none", "swapped / unswapped", or the arm alone."""
    sign = {"difference": f" - {claim['against']}", "ratio": f" / {claim['against']}", "value": ""}[claim["quantity"]]
    return claim["arm"] + sign


def effect(claim: Mapping[str, Any]) -> str:
    """The effect with its interval in print, with digits as its size asks for; empty without one."""
    found = claim["effect"]
    if found is None or found["value"] is None:
        return ""
    values = [found[name] for name in ("value", "low", "high") if found[name] is not None]
    largest = max(abs(value) for value in values)
    digits = 3 if largest == 0 else min(max(2 - math.floor(math.log10(largest)), 0), 5)
    value, *bounds = (f"{number:.{digits}f}" for number in values)
    return f"{value} [{', '.join(bounds)}]" if len(bounds) == 2 else value


if __name__ == "__main__":
    write_protocol(sys.argv[1])
