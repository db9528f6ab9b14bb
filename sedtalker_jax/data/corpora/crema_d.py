"""CREMA-D: 91 actors, 12 sentences, six emotions, one sentence at three strengths, crowd-sourced votes (Cao et al. 2014).

Layout: AudioWAV/1001_DFA_ANG_XX.wav; the fields are actor, sentence, intended emotion, strength. Votes of listeners who
heard the voice only are in processedResults/summaryTable.csv, the actors' sexes in VideoDemographics.csv; both are used
where they are. Traps: strengths exist for sentence IEO only; 1076_MTI_SAD_XX has no sound; files are Git LFS pointers until
fetched; votes tie ("A:D"), and often differ from the intended emotion, so both labels are kept apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sedtalker_jax.data.corpora.corpus import Choices, Licence, Skipped
from sedtalker_jax.data.corpora.speech import SpeechCorpus, Utterance, find_table, matching_files, read_table
from sedtalker_jax.data.corpora.splits import hashed_groups
from sedtalker_jax.emotion.labels import corpus_label

_SENTENCES = {
    "IEO": "It's eleven o'clock",
    "TIE": "That is exactly what happened",
    "IOM": "I'm on my way to the meeting",
    "IWW": "I wonder what this is about",
    "TAI": "The airplane is almost full",
    "MTI": "Maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock",
    "ITH": "I think I have a doctor's appointment",
    "DFA": "Don't forget a jacket",
    "ITS": "I think I've seen this before",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
_LEVELS = ("LO", "MD", "HI")
_VOTES = {"A": "angry", "D": "disgust", "F": "fear", "H": "happy", "N": "neutral", "S": "sad"}
_VOTE_TABLE, _ACTOR_TABLE = "summaryTable.csv", "VideoDemographics.csv"
_SHOWN_LEVELS = (20.0, 50.0, 80.0)


class CremaD(SpeechCorpus):
    """Ten groups of nine or ten actors by the hash of their number: fold k of five tests two groups, one validates."""

    name = "crema_d"
    licence = Licence(
        "ODbL-1.0 and DbCL-1.0", True, "github.com/CheyneyComputerScience/CREMA-D", "share alike, name the source"
    )
    layout = "AudioWAV/1001_DFA_ANG_XX.wav and so on"
    official_clips = 7442
    groups = hashed_groups([str(actor) for actor in range(1001, 1092)], 10)
    folds = 5
    test_groups = 2
    known_bad = {"1076_MTI_SAD_XX": "the recording holds no sound"}

    def utterances(self, root: Path, choices: Choices) -> Iterator[Utterance | Skipped]:
        """See SpeechCorpus."""
        votes, sexes = _read_votes(root), _read_sexes(root)
        actors = {actor for group in self.groups for actor in group}
        pattern = r"(1\d{3})_([A-Z]{3})_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX)\.wav"
        for path, match in matching_files(root, (".wav",), pattern):
            actor, sentence, word, level = match.groups()
            name = Path(path).stem
            if actor not in actors or sentence not in _SENTENCES:
                yield Skipped(name, "unknown actor or sentence in the file name")
                continue
            fields: dict[str, Any] = {"sentence": _SENTENCES[sentence], "sex": sexes.get(actor, ""), "language": "en-US"}
            if level != "XX":
                fields |= {"level": _LEVELS.index(level), "level_scale": "crema_d"}
            if name in votes:
                fields |= _perceived(votes[name], corpus_label(self.name, word), acted_level=level != "XX")
            yield Utterance(name, path, actor, word, fields)

    def notes(self, root: Path) -> Mapping[str, Any]:
        """Which tables were there."""
        return {"tables": {name: find_table(root, name) is not None for name in (_VOTE_TABLE, _ACTOR_TABLE)}}


def _perceived(row: Mapping[str, str], intended: str | None, acted_level: bool) -> dict[str, Any]:
    """The listeners' labels and, where they agree with the actor, how strong they found the emotion.

    The mean rating (0-100) counts only when the intended label won alone: a rating says how strong what was heard is. It
    becomes an ordinal level where the actor was given none; neutral has no strength.
    """
    labels = [_VOTES[letter] for letter in row["VoiceVote"].split(":") if letter in _VOTES]
    if not labels:
        return {}
    found: dict[str, Any] = {"perceived": labels}
    rating = _number(row["VoiceLevel"])
    if labels == [intended] and intended != "neutral" and rating is not None:
        found["perceived_level"] = round(rating / 100.0, 4)
        if not acted_level:
            nearest = min(range(len(_SHOWN_LEVELS)), key=lambda i: abs(_SHOWN_LEVELS[i] - rating))
            found |= {"level": nearest, "level_scale": "crema_d_voice"}
    return found


def _number(cell: str) -> float | None:
    """None for what is no finite number: an empty cell, R's NA, the levels of a tie ("60:40")."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _read_votes(root: Path) -> dict[str, dict[str, str]]:
    table = find_table(root, _VOTE_TABLE)
    if table is None:
        return {}
    return {row["FileName"]: row for row in read_table(table, ("FileName", "VoiceVote", "VoiceLevel"))}


def _read_sexes(root: Path) -> dict[str, str]:
    table = find_table(root, _ACTOR_TABLE)
    if table is None:
        return {}
    return {row["ActorID"]: row["Sex"].lower() for row in read_table(table, ("ActorID", "Sex"))}


CORPUS = CremaD()
