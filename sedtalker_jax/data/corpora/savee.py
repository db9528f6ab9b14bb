"""SAVEE: four British men, seven emotions (Haq and Jackson 2009).

Layout: AudioData/DC/a01.wav, or flat DC_a01.wav (Kaggle). Trap: sa (sad) and su (surprise) begin like a and s.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sedtalker_jax.data.corpora.corpus import Choices, Licence, Skipped
from sedtalker_jax.data.corpora.speech import SpeechCorpus, Utterance, matching_files


class Savee(SpeechCorpus):
    """Fold k tests one speaker (KL, JK, JE, DC) and validates on the next."""

    name = "savee"
    licence = Licence("research only, registration", False, "kahlan.eps.surrey.ac.uk/savee")
    layout = "AudioData/DC/a01.wav or DC_a01.wav and so on, for the speakers DC, JE, JK, KL"
    official_clips = 480
    groups = (["KL"], ["JK"], ["JE"], ["DC"])
    folds = 4

    def utterances(self, root: Path, choices: Choices) -> Iterator[Utterance | Skipped]:
        """See SpeechCorpus."""
        for path, match in matching_files(root, (".wav",), r"(DC|JE|JK|KL)[/_](sa|su|a|d|f|h|n)(\d{2})\.wav"):
            speaker, word, number = match.groups()
            fields = {"sentence": f"{word}{number}", "sex": "male", "language": "en-GB"}
            yield Utterance(f"{speaker}_{word}{number}", path, speaker, word, fields)


CORPUS = Savee()
