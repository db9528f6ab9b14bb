"""One page of everything that a run of the claims has shown: verdicts, effects, every arm's scores, the jobs' own findings."""

from __future__ import annotations

import base64
import html
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sedtalker_jax.emotion.formats import write_text
from sedtalker_jax.evaluation import report
from sedtalker_jax.evaluation.claims import documents
from sedtalker_jax.evaluation.claims.runner import seed_of
from sedtalker_jax.evaluation.claims.verdicts import DOES_NOT_HOLD, HOLDS, NOT_TESTED

COLOURS = {HOLDS: "#2e7d32", DOES_NOT_HOLD: "#c2571a", NOT_TESTED: "#9aa0a6"}
_GOAL = "#2e7d321f"
_ROW_IN, _GAP_IN = 0.34, 0.62
"""Inches of the forest plot: of a claim, and of the axis under each group."""


def write_page(path: str | os.PathLike, directory: Path, found: Mapping[str, Any]) -> None:
    """Writes the page: one HTML file with everything inside.

    Args:
      directory: results; figures/*.png and tables/*.json of its finished jobs are shown.
      found: `verdicts.results`.

    Raises:
      UserError: the place can't be written.
    """
    parts = [f"<h1>Claims</h1>{_summary(found)}{_facts(found)}{_verdict_table(found)}"]
    tested = [claim for claim in found["claims"] if claim["verdict"] != NOT_TESTED]
    if tested:
        parts.append(_picture("Effects with 95% intervals; the goal is shaded", forest_figure(tested)))
    for family, arms in found["arms"].items():
        parts.append(f"<h2>{html.escape(family)}</h2>")
        shown = list(dict.fromkeys(claim["measure"] for claim in tested if claim["family"] == family))
        if shown:
            parts.append(_picture("Scores of the arms with 95% intervals", bars_figure(arms, shown)))
        parts.append(_arm_table(arms))
        parts += _job_findings(directory, found["families"][family])
    parts.append(_job_table(found))
    head = f"<meta charset='utf-8'><title>Claims</title><style>{report.PAGE_STYLE}{_STYLE}</style>"
    write_text(path, f"<!doctype html>\n<html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>\n")


def forest_figure(claims: Sequence[Mapping[str, Any]]) -> Figure:
    """Effects and intervals of tested claims; those of one family and measure share an axis, on which the goal is shaded."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for claim in claims:
        key = (claim["family"], claim["measure"], claim["quantity"], claim["low"], claim["high"])
        groups.setdefault(key, []).append(claim)
    heights = [_ROW_IN * len(rows) + _GAP_IN for rows in groups.values()]
    figure = report.new_figure(10.5, sum(heights) + 0.2)
    panels = np.atleast_1d(figure.subplots(len(groups), 1, height_ratios=heights))
    for axes, (family, measure, quantity, low, high), rows in zip(panels, groups, groups.values(), strict=True):
        for place, claim in enumerate(rows):
            effect = claim["effect"]
            colour = COLOURS[claim["verdict"]]
            axes.plot([effect["low"], effect["high"]], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
            axes.plot(effect["value"], place, "o", color=colour, markersize=6)
        marked = [bound for bound in (low, high) if bound is not None]
        # The bounds are in view, and so is what lies just beyond them.
        ends = [claim["effect"][end] for claim in rows for end in ("low", "high")] + marked
        margin = 0.08 * ((max(ends) - min(ends)) or abs(max(ends)) or 1.0)
        left, right = min(ends) - margin, max(ends) + margin
        axes.axvspan(left if low is None else low, right if high is None else high, color=_GOAL, linewidth=0)
        for bound in marked:
            axes.axvline(bound, color="#5f6368", linewidth=0.9, linestyle="--")
        axes.set_xlim(left, right)
        axes.set_yticks(range(len(rows)), [documents.arms(claim) for claim in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(labelsize=8)
        word = {"difference": "difference of ", "ratio": "ratio of ", "value": ""}[quantity]
        axes.set_xlabel(f"{family}: {word}{measure.replace('_', ' ')}", fontsize=8.5)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    return figure


def bars_figure(arms: Mapping[str, Mapping[str, Any]], measures: Sequence[str]) -> Figure:
    """One panel for each measure, one bar with its interval for each arm that has it."""
    columns = min(len(measures), 3)
    rows = math.ceil(len(measures) / columns)
    most = max(sum(measure in scores for scores in arms.values()) for measure in measures)
    figure = report.new_figure(3.7 * columns, (0.8 + 0.3 * most) * rows)
    panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes in panels[len(measures) :]:
        axes.set_axis_off()
    for axes, measure in zip(panels, measures, strict=False):
        known = {arm: scores[measure] for arm, scores in arms.items() if measure in scores}
        for place, score in enumerate(known.values()):
            axes.barh(place, score["value"], color="#8ab4d8", height=0.7)
            if score["low"] is not None:
                axes.plot([score["low"], score["high"]], [place, place], color="#202124", linewidth=1.4)
        axes.set_yticks(range(len(known)), list(known))
        axes.set_ylim(len(known) - 0.4, -0.6)
        axes.tick_params(labelsize=8)
        axes.set_title(measure.replace("_", " "), fontsize=9)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure


def combined_table(tables: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """One table of a job's tables under several seeds: means of numbers that all have, other cells as under the first seed.

    Tables of other rows or columns under other seeds can't be averaged: the first one is kept, and says so in its note.
    """
    first = tables[0]
    if len(tables) == 1:
        return first

    def heads(table):
        return table["columns"], [row[0] for row in table["rows"]]

    if any(heads(table) != heads(first) for table in tables):
        return {**first, "note": f"{first.get('note', '')} Of the first seed.".strip()}
    rows = []
    for same in zip(*(table["rows"] for table in tables), strict=True):
        cells = []
        for values in zip(*(row[1:] for row in same), strict=True):
            numbers = all(isinstance(value, (int, float)) for value in values)
            cells.append(float(np.mean(values)) if numbers and len(set(values)) > 1 else values[0])
        rows.append([same[0][0], *cells])
    return {**first, "rows": rows, "note": f"{first.get('note', '')} Mean of {len(tables)} seeds.".strip()}


def _summary(found: Mapping[str, Any]) -> str:
    verdicts = [claim["verdict"] for claim in found["claims"]]
    counts = [f"{verdicts.count(name)} {text}" for name, text in ((HOLDS, "hold"), (DOES_NOT_HOLD, "do not"))]
    counts.append(f"{verdicts.count(NOT_TESTED)} were not tested")
    warning = "<p class='warning'>A smoke run: its numbers mean nothing.</p>" if found["info"]["smoke"] else ""
    return f"<p class='summary'>Of {len(verdicts)} claims {', '.join(counts)}.</p>{warning}"


def _facts(found: Mapping[str, Any]) -> str:
    info = found["info"]
    shown = {
        "command": info["command"],
        "world": info["world_hash"] or info["data"],
        "other world": info["other_world_hash"] or "none",
        "seeds": ", ".join(map(str, info["seeds"])) or "none",
        "commit": ", ".join(filter(None, info["commits"])) or "unknown",
        "jax": ", ".join(info["jax"]),
        "cost": f"{info['cost_minutes']:.0f} minutes, one job at a time",
        "intervals": f"95%, {info['resamples']:,} resamples of seeds, voices and clips; verdicts after Holm's correction",
    }
    return "<dl>" + "".join(f"<dt>{k}</dt><dd>{html.escape(str(v))}</dd>" for k, v in shown.items()) + "</dl>"


def _verdict_table(found: Mapping[str, Any]) -> str:
    rows = []
    for claim in found["claims"]:
        statement = html.escape(claim["statement"]) + (" †" if claim["changed_after_start"] else "")
        colour = COLOURS[claim["verdict"]]
        verdict = f"<b style='color:{colour}'>{claim['verdict']}</b>"
        verdict += f"<br><small>{html.escape(claim['remark'])}</small>" if claim["remark"] else ""
        p = "" if claim["p_holm"] is None else f"{claim['p_holm']:.3f}"
        cost = "" if claim["cost_minutes"] is None else f"{claim['cost_minutes']:.0f}"
        cells = (
            f"{statement}<br><small>{html.escape(claim['source'])}</small>",
            html.escape(documents.arms(claim)),
            documents.effect(claim),
        )
        cells += (claim["goal"], p, verdict, cost)
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = ("claim", "arms", "effect [95% interval]", "goal", "p (Holm)", "verdict", "min")
    head = "".join(f"<th>{name}</th>" for name in heads)
    note = (
        "Refuted: the whole interval misses the goal. Estimate misses: its interval still reaches it. Undecided: the other way "
        "round. Lost to Holm's correction: the interval meets the goal, which among so many claims is no proof. "
        "min: minutes of all jobs of the claim's family, counted in every claim that they serve."
    )
    if any(claim["changed_after_start"] for claim in found["claims"]):
        note += " † added or changed after the run began."
    return f"<table class='verdicts'><tr>{head}</tr>{''.join(rows)}</table><p class='note'>{note}</p>"


def _arm_table(arms: Mapping[str, Mapping[str, Any]]) -> str:
    measures = list(dict.fromkeys(measure for scores in arms.values() for measure in scores))
    rows = []
    for measure in measures:
        cells = [documents.effect({"effect": scores.get(measure)}) for scores in arms.values()]
        rows.append([measure, *cells])
    return _table("All scores, with 95% intervals", list(arms), rows)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> str:
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in ("", *columns))
    body = "".join("<tr>" + "".join(f"<td>{html.escape(_cell(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    note = f"<p class='note'>{html.escape(note)}</p>" if note else ""
    return f"<table><caption>{html.escape(title)}</caption><tr>{head}</tr>{body}</table>{note}"


def _cell(cell: Any) -> str:
    if cell is None:
        return ""
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def _job_findings(directory: Path, jobs: Sequence[str]) -> Iterator[str]:
    """Tables of a family's scoring jobs over seeds, and figures of the first seed."""
    places = [directory / name for name in sorted(jobs, key=seed_of)]
    for name in dict.fromkeys(path.name for place in places for path in sorted((place / "tables").glob("*.json"))):
        tables = [json.loads((place / "tables" / name).read_text()) for place in places if (place / "tables" / name).exists()]
        shown = combined_table(tables)
        yield _table(shown["title"], shown["columns"], shown["rows"], shown.get("note", ""))
    for picture in sorted((places[0] / "figures").glob("*.png")):
        caption = f"{picture.stem.replace('-', ' ').replace('_', ' ')}, {sorted(jobs, key=seed_of)[0].partition('/')[0]}"
        yield _embedded(caption, picture.read_bytes())


def _job_table(found: Mapping[str, Any]) -> str:
    totals: dict[str, list[float]] = {}
    for name, seconds in found["jobs"].items():
        totals.setdefault(name.partition("/")[2], []).append(seconds)
    rows = [[name, len(seconds), f"{np.mean(seconds) / 60:.1f}"] for name, seconds in totals.items()]
    return "<h2>Cost</h2>" + _table("Jobs", ["seeds", "mean minutes"], rows)


def _picture(caption: str, figure: Figure) -> str:
    return _embedded(caption, report.figure_png(figure))


def _embedded(caption: str, png: bytes) -> str:
    text = html.escape(caption, quote=True)
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f"<figure><img alt='{text}' src='{source}'><figcaption>{text}</figcaption></figure>"


_STYLE = (
    "table.verdicts{display:table;font-size:13.5px}.verdicts td{vertical-align:top;padding:.3em .6em}"
    ".verdicts td:first-child{font:inherit;white-space:normal;min-width:26em;line-height:1.35}"
    ".verdicts td:nth-child(2){white-space:normal;min-width:8em}"
    ".verdicts :is(td,th):is(:nth-child(2),:nth-child(4),:nth-child(6)){text-align:left}small{color:#5f6368}"
    ".summary{font-size:1.15em}.warning{color:#c2571a;font-weight:600}td:nth-child(2){font-weight:inherit}"
)
