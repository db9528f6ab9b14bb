"""What the votes of a study say: preferences, strengths, emotions that were recognised, agreement between raters."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.bootstrap import HierarchicalBootstrap, Interval
from sedtalker_jax.evaluation.study.trials import CATCH_QUESTION, FACE, KEY, UNSURE, VOICE
from sedtalker_jax.evaluation.table import ScoreRow, ScoreTable

MIN_CATCH_SHARE = 0.75
"""A rater who is right in a smaller share of catch trials is left out."""

PRIOR_VOTES = 0.5
"""Added both ways to each compared pair, so that a system that was never beaten gets a finite strength."""

_ITERATIONS = 500


@dataclasses.dataclass(frozen=True)
class Vote:
    """One answer: of a pair the preferred system, otherwise an emotion. For a catch trial `answer` is "right" or "wrong"."""

    rater: str
    trial: str
    question: str
    answer: str


def read_study(directory: str | Path) -> dict[str, Any]:
    """The key of a study that `study make` wrote.

    Raises:
      UserError: there is none.
    """
    path = Path(directory) / KEY
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no key of a study ({error}); name the directory that `study make` wrote") from error


def read_votes(paths: Iterable[str | Path], key: Mapping[str, Any]) -> list[Vote]:
    """Votes of all files; a rater's last answer to a question counts.

    Raises:
      UserError: a file that is no export of the page, of another study, or with answers that its trials don't have.
    """
    votes: dict[tuple[str, str, str], Vote] = {}
    for path in paths:
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            study, rater, entries = content["study"], str(content["rater"]), list(content["votes"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a file that the study's page saved ({error!r})") from error
        if study != key["study"]:
            raise UserError(f"{path}: votes of study {study}, not of {key['study']}: score them with their own key")
        for entry in entries:
            vote = _vote(path, rater, entry, key)
            votes[rater, vote.trial, vote.question] = vote
    return list(votes.values())


def _vote(path, rater: str, entry: Mapping[str, Any], key: Mapping[str, Any]) -> Vote:
    try:
        name, question, answer = entry["trial"], entry["question"], entry["answer"]
        trial = key["trials"][name]
        if trial["kind"] in (VOICE, FACE):
            key["emotions"].index(answer)
            (trial["kind"],).index(question)
        else:
            place = trial["videos"].index(answer)
            trial["questions"].index(question)
            # Of a catch trial, the first video's words are played.
            answer = ("right", "wrong")[place] if trial["kind"] == "catch" else trial["systems"][place]
        return Vote(rater, name, question, answer)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: an answer that is none of the study's ({entry})") from error


def catch_counts(votes: Sequence[Vote], key: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Rater -> (right, all) catch trials, judged by CATCH_QUESTION; see `left_out`."""
    counts = {vote.rater: (0, 0) for vote in votes}
    for vote in votes:
        trial = key["trials"][vote.trial]
        if trial["kind"] == "catch" and vote.question == CATCH_QUESTION:
            right, asked = counts[vote.rater]
            counts[vote.rater] = (right + (vote.answer == "right"), asked + 1)
    return counts


def left_out(counts: Mapping[str, tuple[int, int]]) -> list[str]:
    """Raters whose share of right catch trials is below MIN_CATCH_SHARE."""
    return sorted(rater for rater, (right, asked) in counts.items() if asked and right / asked < MIN_CATCH_SHARE)


def wilson(successes: int, total: int, num_raters: int) -> Interval:
    """A share with Wilson's 95% interval. It takes votes for independent: with few raters it is too narrow."""
    if not total:
        return Interval(math.nan, math.nan, math.nan, 0, num_raters)
    bounds = stats.binomtest(successes, total).proportion_ci(method="wilson")
    return Interval(successes / total, float(bounds.low), float(bounds.high), total, num_raters)


def bradley_terry(wins: Float[np.ndarray, "*B n n"]) -> Float[np.ndarray, "*B n"]:
    """Strengths of n systems on the logit scale, with mean zero: P(i preferred to j) = sigmoid(s_i - s_j).

    Maximum likelihood by the MM iteration of D. R. Hunter (Annals of Statistics 32, 2004), with PRIOR_VOTES.

    Args:
      wins: how often row was preferred to column.
    """
    wins = np.asarray(wins, np.float64)
    compared = (wins + np.swapaxes(wins, -1, -2)) > 0
    wins = wins + PRIOR_VOTES * compared
    games, won = wins + np.swapaxes(wins, -1, -2), wins.sum(axis=-1)
    strength = np.ones(wins.shape[:-1])
    for _ in range(_ITERATIONS):
        expected = (games / (strength[..., :, None] + strength[..., None, :])).sum(axis=-1)
        strength = np.where(expected > 0, won / np.where(expected > 0, expected, 1.0), 1.0)
        strength /= np.exp(np.log(strength).mean(axis=-1, keepdims=True))
    return np.log(strength)


def krippendorff_alpha(ratings: Sequence[Mapping[str, str]]) -> float:
    """Krippendorff's alpha of nominal ratings: 1 is perfect agreement, 0 what chance gives; NaN where nothing can disagree.

    alpha = 1 - (observed disagreement) / (expected disagreement), from the coincidences of values within units (K.
    Krippendorff, "Computing Krippendorff's alpha-reliability", 2011). Ours, because the packages that have it are under the GPL
    or bring a whole statistics library.

    Args:
      ratings: one mapping rater -> value for each unit; raters may be missing. Units with one rating don't count.
    """
    units = [list(unit.values()) for unit in ratings if len(unit) > 1]
    values = sorted({value for unit in units for value in unit})
    coincidences = np.zeros((len(values), len(values)))
    for unit in units:
        counts = np.array([unit.count(value) for value in values], np.float64)
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    totals = coincidences.sum(axis=0)
    n = totals.sum()
    if len(values) < 2:
        return math.nan
    observed = n - np.trace(coincidences)
    expected = (n**2 - (totals**2).sum()) / (n - 1)
    return float(1 - observed / expected)


def score_votes(votes: Sequence[Vote], key: Mapping[str, Any]) -> tuple[list[ScoreTable], dict[str, Any]]:
    """Tables of preference, strength, emotion and agreement, and who was left out.

    Raises:
      UserError: no vote of a careful rater.
    """
    if not votes:
        raise UserError("there are no votes in these files")
    catch = catch_counts(votes, key)
    excluded = left_out(catch)
    kept = [vote for vote in votes if vote.rater not in excluded]
    if not kept:
        raise UserError("no votes are left: every rater failed the catch trials")
    raters = sorted({vote.rater for vote in kept})
    pairs = [vote for vote in kept if key["trials"][vote.trial]["kind"] == "pair"]
    tables = [_preferences(pairs, key), _strengths(pairs, key), _emotions(kept, key), _agreement(kept, key)]
    facts = {
        "study": key["study"],
        "raters": raters,
        "left_out": excluded,
        "catch_trials": {rater: {"right": right, "asked": asked} for rater, (right, asked) in catch.items()},
        "votes": len(kept),
    }
    return [table for table in tables if table.rows], facts


def _preferences(votes: Sequence[Vote], key: Mapping[str, Any]) -> ScoreTable:
    cells: dict[str, dict[str, Interval]] = {}
    questions = list(dict.fromkeys(vote.question for vote in votes))
    compared = {vote: tuple(sorted(key["trials"][vote.trial]["systems"])) for vote in votes}
    for first, second in sorted(set(compared.values())):
        for question in questions:
            own = [vote for vote, pair in compared.items() if vote.question == question and pair == (first, second)]
            share = wilson(sum(v.answer == first for v in own), len(own), len({v.rater for v in own}))
            cells.setdefault(f"{first} over {second}", {})[question] = share
    rows = [ScoreRow(name, values) for name, values in cells.items()]
    return ScoreTable("Share that preferred the first", questions, rows, "Wilson intervals, 95%; one half is no preference.")


def _strengths(votes: Sequence[Vote], key: Mapping[str, Any]) -> ScoreTable:
    systems = sorted({name for vote in votes for name in key["trials"][vote.trial]["systems"]})
    rows = []
    for question in dict.fromkeys(vote.question for vote in votes):
        own = [vote for vote in votes if vote.question == question]
        wins = np.zeros((len(own), len(systems), len(systems)))
        for index, vote in enumerate(own):
            (loser,) = set(key["trials"][vote.trial]["systems"]) - {vote.answer}
            wins[index, systems.index(vote.answer), systems.index(loser)] = 1
        bootstrap = HierarchicalBootstrap([vote.rater for vote in own])
        values = {
            name: bootstrap.interval(wins, lambda sums, place=place: bradley_terry(sums)[..., place])
            for place, name in enumerate(systems)
        }
        rows.append(ScoreRow(question, values, higher_is_better=True))
    note = "Bradley-Terry, logits around their mean; 95% intervals over raters, then votes."
    return ScoreTable("Strength", systems, rows, note)


def _emotions(votes: Sequence[Vote], key: Mapping[str, Any]) -> ScoreTable:
    heard = {}
    for vote in votes:
        trial = key["trials"][vote.trial]
        if trial["kind"] == VOICE:
            heard[vote.rater, trial["clip"], trial["start"], trial["end"]] = vote.answer
    counts: dict[str, dict[str, list[tuple[bool, str]]]] = {
        "emotion is as labelled": {},
        "face is as that rater heard the voice": {},
    }
    for vote in votes:
        trial = key["trials"][vote.trial]
        if trial["kind"] not in (VOICE, FACE):
            continue
        column = VOICE if trial["kind"] == VOICE else trial["systems"][0]
        if trial["truth"]:
            known = counts["emotion is as labelled"].setdefault(column, [])
            known.append((vote.answer == trial["truth"], vote.rater))
        own = heard.get((vote.rater, trial["clip"], trial["start"], trial["end"]))
        # A rater who couldn't tell the voice's emotion can't find it in the face.
        if trial["kind"] == FACE and own not in (None, UNSURE):
            counts["face is as that rater heard the voice"].setdefault(column, []).append((vote.answer == own, vote.rater))
    columns = list(dict.fromkeys(column for row in counts.values() for column in row))
    rows = []
    for name, row in counts.items():
        shares = {
            column: wilson(sum(right for right, _ in found), len(found), len({rater for _, rater in found}))
            for column, found in row.items()
        }
        if shares:
            rows.append(ScoreRow(name, shares, higher_is_better=True))
    return ScoreTable("Emotions that were recognised", columns, rows, "Wilson intervals, 95%.")


def _agreement(votes: Sequence[Vote], key: Mapping[str, Any]) -> ScoreTable:
    units: dict[str, dict[str, dict[str, str]]] = {}
    for vote in votes:
        trial = key["trials"][vote.trial]
        if trial["kind"] != "catch":
            # Of a pair, the place: with the systems' names as values, chance would be taken to choose among all systems.
            value = str(trial["systems"].index(vote.answer)) if trial["kind"] == "pair" else vote.answer
            units.setdefault(vote.question, {}).setdefault(vote.trial, {})[vote.rater] = value
    rows = [ScoreRow(question, {"alpha": krippendorff_alpha(list(own.values()))}) for question, own in units.items()]
    return ScoreTable("Agreement between raters (Krippendorff's alpha)", ["alpha"], rows)
