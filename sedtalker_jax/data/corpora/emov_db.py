"""EmoV-DB: two women and two men read CMU Arctic sentences in five styles (Adigwe et al. 2018, OpenSLR 115).

Layout: bea_Amused/amused_1-15_0001.wav, or sorted bea/Amused/...; the file's fields are style, range of sentences, sentence.
Traps: prefixes differ from the folders' names (anger, sleepiness) and in case (bea's Neutral_...), the range's separator
is - or _; josh has neither Angry nor Disgusted; bea is sampled at 44.1 kHz.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sedtalker_jax.data.corpora.corpus import Choices, Licence, Skipped
from sedtalker_jax.data.corpora.speech import SpeechCorpus, Utterance, matching_files

_PREFIXES = {"amused": "amused", "anger": "angry", "disgust": "disgusted", "neutral": "neutral", "sleepiness": "sleepy"}


class EmovDB(SpeechCorpus):
    """Fold k tests one speaker (bea, sam, jenie, josh) and validates on the next."""

    name = "emov_db"
    licence = Licence(
        "custom, non-commercial",
        False,
        "github.com/numediart/EmoV-DB LICENSE.md",
        "another source says CC-BY-4.0; the stricter one counts",
    )
    layout = "bea_Amused/amused_1-15_0001.wav or bea/Amused/amused_1-15_0001.wav and so on"
    official_clips = 6887
    groups = (["bea"], ["sam"], ["jenie"], ["josh"])
    folds = 4

    def utterances(self, root: Path, choices: Choices) -> Iterator[Utterance | Skipped]:
        """See SpeechCorpus."""
        pattern = (
            r"(?i:(bea|jenie|josh|sam)[/_](amused|angry|disgusted|neutral|sleepy)/"
            r"(?:[^/]+/)?([a-z]+)_(\d+)[-_](\d+)_(\d{4})\.wav)"
        )
        for path, match in matching_files(root, (".wav",), pattern):
            speaker, word, prefix = (match[i].lower() for i in (1, 2, 3))
            name = f"{speaker}_{word}_{match[4]}-{match[5]}_{match[6]}"
            if _PREFIXES.get(prefix) != word:
                yield Skipped(name, "folder and file name disagree", path)
                continue
            fields = {"sentence": f"arctic {match[6]}", "sex": "female" if speaker in ("bea", "jenie") else "male"}
            yield Utterance(name, path, speaker, word, {**fields, "language": "en"})


CORPUS = EmovDB()
