"""RAVDESS: 24 actors, two statements, eight emotions, two strengths (Livingstone and Russo 2018, Zenodo 1188976).

Layout: Actor_01/03-01-05-02-01-01-01.wav; the fields are modality, channel, emotion, strength, statement, repetition, actor.
Traps: neutral has no strong version; calm's two strengths are no strengths of an emotion of ours; the song archive uses the
same names with channel 02; the Kaggle archive holds every actor twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sedtalker_jax.data.corpora.corpus import Choices, Licence, Skipped
from sedtalker_jax.data.corpora.speech import SpeechCorpus, Utterance, matching_files
from sedtalker_jax.errors import UserError

_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
_STATEMENTS = ("Kids are talking by the door", "Dogs are sitting by the door")


class Ravdess(SpeechCorpus):
    """Odd actors are male, even ones female. Fold k tests four actors; fold 0 tests 21-24 and validates on 17-20."""

    name = "ravdess"
    licence = Licence("CC-BY-NC-SA-4.0", False, "zenodo.org/records/1188976", "a commercial licence is sold")
    layout = "Actor_01/03-01-01-01-01-01-01.wav and so on (Audio_Speech_Actors_01-24.zip)"
    official_clips = 1440
    groups = [[f"{actor:02d}" for actor in range(last - 3, last + 1)] for last in (24, 20, 16, 12, 8, 4)]
    folds = 6
    options = {"calm": ("leave-out", "what the label calm becomes: leave-out, or neutral")}

    def utterances(self, root: Path, choices: Choices) -> Iterator[Utterance | Skipped]:
        """See SpeechCorpus."""
        calm = choices.options["calm"]
        if calm not in ("leave-out", "neutral"):
            raise UserError(f"--option calm={calm}: give leave-out or neutral")
        pattern = r"(0[123])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])\.wav"
        for path, match in matching_files(root, (".wav",), pattern):
            _, channel, emotion, strength, statement, _, actor = match.groups()
            name = Path(path).stem
            if channel == "02":
                yield Skipped(name, "sung, not spoken")
                continue
            word = _EMOTIONS[int(emotion) - 1]
            fields = {
                "sentence": _STATEMENTS[int(statement) - 1],
                "sex": "male" if int(actor) % 2 else "female",
                "language": "en-US",
            }
            if word not in ("neutral", "calm"):
                fields |= {"level": int(strength) - 1, "level_scale": "ravdess"}
            label = "neutral" if word == "calm" and calm == "neutral" else None
            yield Utterance(name, path, actor, word, fields, label)


CORPUS = Ravdess()
