"""What the speech corpora share: finding official files, one label per clip, sound into a record."""

from __future__ import annotations

import abc
import csv
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np

from sedtalker_jax.data import activity
from sedtalker_jax.data.corpora.corpus import Choices, Clip, Corpus, LeftOutError, Listing, Skipped
from sedtalker_jax.data.corpora.splits import Groups, split_of
from sedtalker_jax.data.world.clock import SAMPLE_RATE, num_speech_frames, speech_frame_times
from sedtalker_jax.emotion.labels import CANONICAL, corpus_label, corpus_words
from sedtalker_jax.errors import UserError
from sedtalker_jax.folders import files_below
from sedtalker_jax.speech.audio import encode_flac, load_audio

OUTSIDE = "label outside the eight emotions"
SECOND_COPY = "second copy of the same recording"
KNOWN_BAD = "known to be bad"
UNKNOWN_WORD = "not a label of the corpus"
TOO_SHORT = "shorter than 0.2 s"
TOO_LONG = "too long for one utterance"
SILENT = "holds no sound"

_MINIMUM_S = 0.2
_SILENT_PEAK = 1e-4
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclasses.dataclass(frozen=True)
class Utterance:
    """A file of the official layout, read from its name and the corpus's tables.

    Attributes:
      id: official name, unique in the corpus.
      path: relative to the root.
      speaker: name of the speaker.
      word: the corpus's own label.
      fields: further record fields.
      label: canonical emotion where it is not the table's (sedtalker_jax.emotion.labels).
    """

    id: str
    path: str
    speaker: str
    word: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    label: str | None = None


class SpeechCorpus(Corpus):
    """A corpus of utterances with one label each.

    Attributes:
      layout: what the official files look like, for the message about a wrong root.
      official_clips: number of sound files of the whole corpus; the manifest puts it beside the number found.
      groups: speakers by group, for leave-groups-out (splits.split_of); `test_groups` of them test.
      known_bad: id -> what is wrong with it.
      label_kind: "intended" where actors were asked for the emotion, "perceived" where listeners named it.
      maximum_seconds: longer clips are left out.
    """

    layout: str
    official_clips: int
    groups: Groups = ()
    test_groups: int = 1
    known_bad: Mapping[str, str] = MappingProxyType({})
    label_kind: str = "intended"
    maximum_seconds: float = 60.0

    @abc.abstractmethod
    def utterances(self, root: Path, choices: Choices) -> Iterator[Utterance | Skipped]:
        """Every recording under `root`; Skipped for files that look like the corpus's but can't be used."""

    def list_clips(self, root: Path, choices: Choices) -> Listing:
        """See Corpus. Left out: known bad files, second copies, words that are no label of the corpus or none of the eight."""
        clips, skipped, seen = [], [], set()
        split = self.splits(choices)
        for found in self.utterances(root, choices):
            if isinstance(found, Skipped):
                skipped.append(found)
                continue
            if found.id in seen:
                skipped.append(Skipped(f"{found.id} ({found.path})", SECOND_COPY))
                continue
            seen.add(found.id)
            if found.word not in corpus_words(self.name):
                skipped.append(Skipped(found.id, UNKNOWN_WORD, found.word))
                continue
            label = found.label or corpus_label(self.name, found.word)
            if found.id in self.known_bad:
                skipped.append(Skipped(found.id, KNOWN_BAD, self.known_bad[found.id]))
            elif label is None:
                skipped.append(Skipped(found.id, OUTSIDE, found.word))
            else:
                fields = {"label": label, "corpus_label": found.word, "label_kind": self.label_kind, **found.fields}
                clips.append(Clip(found.id, found.path, split[found.speaker], found.speaker, fields))
        if not seen:
            raise wrong_root(root, self.name, self.layout)
        return Listing(clips, skipped, {"official_clips": self.official_clips, "found_clips": len(seen), **self.notes(root)})

    def splits(self, choices: Choices) -> Mapping[str, str]:
        """Speaker -> split."""
        return split_of(self.groups, choices.fold, test=self.test_groups)

    def notes(self, root: Path) -> Mapping[str, Any]:
        """What else the manifest should say about the files found."""
        return {}

    def make_record(self, clip: Clip, root: Path, out: Path) -> dict[str, Any]:
        """See Corpus: sound, frame labels, loudness and where the speech is."""
        path = root / clip.path
        try:
            with path.open("rb") as file:
                start = file.read(len(_LFS_POINTER))
        except OSError as error:  # such as a link of git-annex whose file was not fetched
            raise UserError(f"{clip.path}: {error.strerror}") from None
        if start == _LFS_POINTER:
            raise LeftOutError("Git LFS pointer instead of sound", f"{clip.path}: fetch it with `git lfs pull`")
        waveform = load_audio(path)
        duration = len(waveform) / SAMPLE_RATE
        if duration < _MINIMUM_S:
            raise LeftOutError(TOO_SHORT, f"{duration:.3f} s")
        if duration > self.maximum_seconds:
            raise LeftOutError(TOO_LONG, f"{duration:.1f} s")
        if np.abs(waveform).max() < _SILENT_PEAK:
            raise LeftOutError(SILENT, f"its peak is {np.abs(waveform).max():.1e}")
        return speech_record(waveform, self.segments(clip, duration))

    def segments(self, clip: Clip, duration: float) -> list[list]:
        """[start_s, end_s, label] over the whole clip."""
        return [[0.0, round(duration, 4), clip.fields["label"]]]


def speech_record(waveform: np.ndarray, segments: list[list]) -> dict[str, Any]:
    """The fields that come from the sound: audio, frame labels (-1 in silence longer than 0.5 s), loudness, speech span."""
    levels = activity.frame_levels(waveform)
    active = activity.active_frames(levels)
    times = speech_frame_times(num_speech_frames(len(waveform)))
    # The last segment ends where the sound does; rounding must not leave its last frame out.
    closed = [*segments[:-1], [segments[-1][0], np.inf, segments[-1][2]]]
    emotion = activity.segment_frames(closed, CANONICAL, times)
    emotion[activity.long_silence(active)] = -1
    return {
        "audio": encode_flac(waveform),
        "num_samples": len(waveform),
        "labels": list(CANONICAL),
        "segments": segments,
        "emotion": emotion,
        "intensity": np.full(len(times), np.nan, np.float16),
        "loudness_db": round(activity.loudness(levels, active), 2),
        "speech_span": [round(t, 4) for t in activity.speech_span(active, len(waveform))],
    }


def official_files(root: Path, suffixes: Sequence[str]) -> list[str]:
    """Paths relative to `root` of all files with these suffixes (any case), sorted: short paths first, so that of two
    copies the outer one is taken. Hidden files, as macOS leaves them ("._x.wav"), and hidden folders are not seen."""
    found = (path.relative_to(root) for path in files_below(root) if path.suffix.lower() in suffixes)
    visible = (path.as_posix() for path in found if not any(part.startswith((".", "__MACOSX")) for part in path.parts))
    return sorted(visible, key=lambda path: (path.count("/"), path))


def matching_files(root: Path, suffixes: Sequence[str], pattern: str) -> Iterator[tuple[str, re.Match]]:
    """(path, match) of the official files whose path relative to the root matches `pattern` at a folder's edge.

    The pattern meets the suffix in small letters, however the file has it.
    """
    compiled = re.compile(rf"(?:^|.*/){pattern}$")
    for path in official_files(root, suffixes):
        suffix = PurePosixPath(path).suffix
        if match := compiled.match(path.removesuffix(suffix) + suffix.lower()):
            yield path, match


def wrong_root(root: Path, name: str, layout: str) -> UserError:
    """The error of a root that is not the corpus."""
    entries = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in root.iterdir())
    shown = ", ".join(entries[:5]) + (f" and {len(entries) - 5} more" if len(entries) > 5 else "")
    return UserError(f"{root}: not the {name} corpus; expected {layout}; found {shown or 'an empty folder'}")


def find_table(root: Path, name: str) -> Path | None:
    """The outermost file of this name under `root`."""
    found = sorted((p for p in files_below(root) if p.name == name), key=lambda path: (len(path.parts), str(path)))
    return found[0] if found else None


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Rows of a CSV file with a header; cells stripped, undecodable bytes replaced.

    Raises:
      UserError: a column is missing.
    """
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        lacking = [column for column in columns if column not in (reader.fieldnames or ())]
        if lacking:
            raise UserError(
                f"{path}: no column {lacking[0]!r}; it has {', '.join(reader.fieldnames or ['none'])}; get it again"
            )
        return [{key: (value or "").strip() for key, value in row.items() if key is not None} for row in reader]
