"""ESD: ten Mandarin and ten English speakers, 350 parallel sentences in five emotions (Zhou et al. 2022).

Layout: 0011/Angry/0011_000351.wav; older archives put train, evaluation or test between. Traps: the transcripts mix
encodings and separators, so the emotion is the folder's, checked against the file's number (350 numbers per emotion).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sedtalker_jax.data.corpora.corpus import Choices, Licence, Skipped
from sedtalker_jax.data.corpora.speech import SpeechCorpus, Utterance, matching_files
from sedtalker_jax.errors import UserError

_ORDER = ("Neutral", "Angry", "Happy", "Sad", "Surprise")
_PER_EMOTION = 350
_WOMEN = {1, 2, 3, 7, 9, 15, 16, 17, 18, 19}


class ESD(SpeechCorpus):
    """Fold k tests a woman and a man of each language; fold 0 tests 0009, 0010, 0018, 0020."""

    name = "esd"
    licence = Licence(
        "research only, registration",
        False,
        "github.com/HLTSingapore/Emotional-Speech-Data README",
        "the LICENSE file beside it is MIT; the stricter one counts",
    )
    layout = "0001/Angry/0001_000351.wav and so on, for the speakers 0001 to 0020"
    official_clips = 35_000
    groups = (
        ["0009", "0010", "0018", "0020"],
        ["0007", "0008", "0019", "0014"],
        ["0003", "0006", "0017", "0013"],
        ["0002", "0005", "0016", "0012"],
        ["0001", "0004", "0015", "0011"],
    )
    folds = 5
    options = {"language": ("all", "all, en (speakers 0011-0020) or zh (0001-0010)")}

    def utterances(self, root: Path, choices: Choices) -> Iterator[Utterance | Skipped]:
        """See SpeechCorpus."""
        wanted = choices.options["language"]
        if wanted not in ("all", "en", "zh"):
            raise UserError(f"--option language={wanted}: give all, en or zh")
        pattern = r"(00(?:0[1-9]|1\d|20))/(Angry|Happy|Neutral|Sad|Surprise)/(?:(?:train|evaluation|test)/)?\1_(\d{6})\.wav"
        for path, match in matching_files(root, (".wav",), pattern):
            speaker, folder, number = match[1], match[2], int(match[3])
            name = f"{speaker}_{match[3]}"
            language = "zh" if int(speaker) <= 10 else "en"
            if not 1 <= number <= _PER_EMOTION * len(_ORDER) or _ORDER[(number - 1) // _PER_EMOTION] != folder:
                yield Skipped(f"{name} ({folder})", "folder and file number disagree", path)
            elif wanted not in ("all", language):
                yield Skipped(name, "another language was asked for", language)
            else:
                fields = {
                    "sentence": f"{language} {(number - 1) % _PER_EMOTION + 1}",
                    "sex": "female" if int(speaker) in _WOMEN else "male",
                    "language": language,
                }
                yield Utterance(name, path, speaker, folder.lower(), fields)


CORPUS = ESD()
