"""IEMOCAP: ten actors in five dyadic sessions, labels by listeners' majority (Busso et al. 2008).

Layout: Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav with the labels in
Session1/dialog/EmoEvaluation/Ses01F_impro01.txt and the words in Session1/dialog/transcriptions/Ses01F_impro01.txt.
Traps: the speaker is the session and the letter of the TURN, after the dialogue's name; the letter in "Ses01F" says who wore
the markers. Dialogue names may end in a, b or _1b, so the letter is not at a fixed place. The only corpus with frustration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from sedtalker_jax.data.corpora.corpus import Choices, Licence, Skipped
from sedtalker_jax.data.corpora.speech import SpeechCorpus, Utterance, wrong_root
from sedtalker_jax.emotion.labels import corpus_words

_TURN = re.compile(r"(Ses0([1-5])[FM]_(?:impro|script)\d{2}(?:_\d)?[ab]?)_([FM])(?:XX)?\d{1,3}")
_LABEL_LINE = re.compile(r"\[[\d.]+ - [\d.]+\]\s+(\S+)\s+(\w+)\s+\[([\d.]+), ([\d.]+), ([\d.]+)\]")
_WORDS_LINE = re.compile(r"(\S+) \[[\d.]+-[\d.]+\]:\s*(.*)")


class Iemocap(SpeechCorpus):
    """Fold k leaves a session out: fold 0 tests session 5 and validates on session 4."""

    name = "iemocap"
    licence = Licence("SAIL/USC release form", False, "sail.usc.edu/iemocap", "signed form, no redistribution")
    layout = "Session1 ... Session5 with dialog/EmoEvaluation/Ses01F_impro01.txt and sentences/wav (IEMOCAP_full_release)"
    official_clips = 10_039
    groups = [[f"Ses0{session}F", f"Ses0{session}M"] for session in (5, 4, 3, 2, 1)]
    folds = 5
    label_kind = "perceived"

    def utterances(self, root: Path, choices: Choices) -> Iterator[Utterance | Skipped]:
        """See SpeechCorpus."""
        tables = sorted(_home(root).glob("Session[1-5]/dialog/EmoEvaluation/Ses*.txt"))
        if not tables:
            raise wrong_root(root, self.name, self.layout)
        for table in tables:
            session = table.parents[2]
            words = _read_words(session / "dialog" / "transcriptions" / table.name)
            for line in table.read_text(encoding="latin-1").splitlines():
                if match := _LABEL_LINE.match(line):
                    yield self._utterance(root, session, words, *match.groups())

    def _utterance(
        self, root: Path, session: Path, words: Mapping[str, str], turn: str, word: str, *ratings: str
    ) -> Utterance | Skipped:
        match = _TURN.fullmatch(turn)
        if match is None or word not in corpus_words(self.name):
            return Skipped(turn, "label line that does not follow the layout", word)
        path = session / "sentences" / "wav" / match[1] / f"{turn}.wav"
        if not path.exists():
            return Skipped(turn, "in the tables, but its sound file is missing", path.relative_to(root).as_posix())
        fields = {
            "sentence": words.get(turn, ""),
            "sex": "female" if match[3] == "F" else "male",
            "language": "en-US",
            "ratings": dict(zip(("valence", "arousal", "dominance"), map(float, ratings), strict=True)),
        }
        return Utterance(turn, path.relative_to(root).as_posix(), f"Ses0{match[2]}{match[3]}", word, fields)


def _home(root: Path) -> Path:
    """The folder that holds the sessions: the root or, as unpacked, IEMOCAP_full_release in it."""
    inner = root / "IEMOCAP_full_release"
    return inner if inner.is_dir() else root


def _read_words(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    lines = path.read_text(encoding="latin-1").splitlines()
    return {match[1]: match[2].strip() for line in lines if (match := _WORDS_LINE.match(line))}


CORPUS = Iemocap()
