"""TESS: two Canadian women of 26 and 64 years, 200 words, seven emotions (Pichora-Fuller and Dupuis 2020).

Layout: OAF_angry/OAF_back_angry.wav. Traps: folder names differ between the speakers in case and wording, so the label is
the file's; one file is misnamed (OA_bite_neutral.wav) and one is sampled at 96 kHz; the Kaggle archive holds all twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sedtalker_jax.data.corpora.corpus import Choices, Licence, Skipped
from sedtalker_jax.data.corpora.speech import SpeechCorpus, Utterance, matching_files


class Tess(SpeechCorpus):
    """Two speakers: fold 0 tests YAF, fold 1 OAF, the other trains; there is nobody left to validate on."""

    name = "tess"
    licence = Licence("CC-BY-NC-ND-4.0", False, "borealisdata.ca, doi 10.5683/SP2/E8H2MF")
    layout = "OAF_angry/OAF_back_angry.wav, YAF_sad/YAF_back_sad.wav and so on"
    official_clips = 2800
    groups = (["YAF"], ["OAF"])
    folds = 2

    def utterances(self, root: Path, choices: Choices) -> Iterator[Utterance | Skipped]:
        """See SpeechCorpus."""
        pattern = r"(?i:(OAF?|YAF)_([a-z]+)_(angry|disgust|fear|happy|neutral|ps|sad)\.wav)"
        for path, match in matching_files(root, (".wav",), pattern):
            speaker = "YAF" if match[1].upper() == "YAF" else "OAF"
            spoken, word = match[2].lower(), match[3].lower()
            fields = {"sentence": f"Say the word {spoken}", "sex": "female", "language": "en-CA"}
            yield Utterance(f"{speaker}_{spoken}_{word}", path, speaker, word, fields)


CORPUS = Tess()
