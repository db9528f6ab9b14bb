"""ZED: 180 real utterances with one annotated emotional event each; a test set only (Wang et al. 2023).

Layout: ZED.json, id -> {"wav": "datafolder/...", "duration", "emotion": [{"emo", "start", "end"}], "transcription"}, where
datafolder stands for the root. Outside the event the speech is neutral. The speaker is the folder of the sound file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from sedtalker_jax.data.corpora.corpus import Choices, Clip, Licence, Skipped
from sedtalker_jax.data.corpora.speech import SpeechCorpus, Utterance, find_table, wrong_root
from sedtalker_jax.emotion.labels import NEUTRAL, corpus_label, corpus_words
from sedtalker_jax.errors import UserError


class Zed(SpeechCorpus):
    """Everything is test; the clip's label is its event's."""

    name = "zed"
    licence = Licence("CC-BY-NC-4.0", False, "DATA_LICENSE of github.com/BenoitWang/Speech_Emotion_Diarization")
    layout = "ZED.json and the sound files that it names"
    official_clips = 180
    label_kind = "perceived"

    def utterances(self, root: Path, choices: Choices) -> Iterator[Utterance | Skipped]:
        """See SpeechCorpus."""
        table = find_table(root, "ZED.json")
        if table is None:
            raise wrong_root(root, self.name, self.layout)
        for name, entry in sorted(_read(table).items()):
            try:
                path = table.parent / entry["wav"].removeprefix("datafolder").lstrip("/")
                events = [(event["emo"].lower(), float(event["start"]), float(event["end"])) for event in entry["emotion"]]
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise UserError(
                    f'{table}: entry {name} lacks "wav" or its "emotion" with "emo", "start" and "end" ({error!r}); '
                    "get the corpus again"
                ) from error
            unknown = [word for word, _, _ in events if word not in corpus_words(self.name)]
            if unknown or not events:
                yield Skipped(name, "no event with a known label", ", ".join(unknown))
            elif not path.exists():
                yield Skipped(name, "in the table, but its sound file is missing", entry["wav"])
            else:
                folder = path.parent.relative_to(table.parent).as_posix()
                fields = {
                    "sentence": entry.get("transcription", ""),
                    "language": "en",
                    "events": [[start, end, corpus_label(self.name, word)] for word, start, end in sorted(events, key=_start)],
                }
                speaker = name if folder == "." else folder
                yield Utterance(name, path.relative_to(root).as_posix(), speaker, events[0][0], fields)

    def splits(self, choices: Choices) -> dict[str, str]:
        """Speaker -> "test"."""
        return _AllTest()

    def segments(self, clip: Clip, duration: float) -> list[list]:
        """Neutral, the events, neutral; an event that reaches beyond the sound ends with it."""
        segments: list[list] = []
        at = 0.0
        for start, end, label in clip.fields["events"]:
            start, end = max(at, min(start, duration)), min(end, duration)
            if start > at:
                segments.append([round(at, 4), round(start, 4), NEUTRAL])
            if end > start:
                segments.append([round(start, 4), round(end, 4), label])
            at = max(at, end)
        if at < duration or not segments:
            segments.append([round(at, 4), round(duration, 4), NEUTRAL])
        return segments


class _AllTest(dict):
    def __missing__(self, speaker: str) -> str:
        return "test"


def _start(event: tuple[str, float, float]) -> float:
    return event[1]


def _read(table: Path) -> dict:
    try:
        entries = json.loads(table.read_text(encoding="utf-8"))
    except ValueError as error:  # also bytes that are no UTF-8
        raise UserError(f"{table}: damaged ({error}); get the corpus again") from error
    if not isinstance(entries, dict):
        raise UserError(f"{table}: holds a {type(entries).__name__} instead of entries by name; get the corpus again")
    return entries


CORPUS = Zed()
