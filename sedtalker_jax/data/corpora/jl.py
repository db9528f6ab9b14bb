"""JL-Corpus: four New Zealanders, five primary and five secondary emotions, 30 sentences (James, Tian, Watson 2018).

Layout: Raw JL corpus (unchecked and unannotated)/JL(wav+txt)/male2_concerned_6b_1.wav; the fields are speaker, emotion,
sentence, repetition. The secondary emotions (anxious, concerned ...) are none of the eight and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sedtalker_jax.data.corpora.corpus import Choices, Licence, Skipped
from sedtalker_jax.data.corpora.speech import SpeechCorpus, Utterance, matching_files


class JL(SpeechCorpus):
    """Fold k tests one speaker (male2, female2, male1, female1) and validates on the next."""

    name = "jl"
    licence = Licence("CC0-1.0 or ODC-By-1.0", True, "kaggle.com/datasets/tli725/jl-corpus", "sources differ; name the authors")
    layout = "male1_angry_1a_1.wav and so on, in Raw JL corpus (unchecked and unannotated)/JL(wav+txt)"
    official_clips = 2400
    groups = (["male2"], ["female2"], ["male1"], ["female1"])
    folds = 4

    def utterances(self, root: Path, choices: Choices) -> Iterator[Utterance | Skipped]:
        """See SpeechCorpus."""
        for path, match in matching_files(root, (".wav",), r"((?:fe)?male[12])_([a-z]+)_(\d{1,2}[ab])_([12])\.wav"):
            speaker, word, sentence, _ = match.groups()
            name = Path(path).stem
            fields = {"sentence": sentence, "sex": speaker.rstrip("12"), "language": "en-NZ"}
            yield Utterance(name, path, speaker, word, fields)


CORPUS = JL()
