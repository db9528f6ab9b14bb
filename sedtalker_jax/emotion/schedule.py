"""Edit schedules: how much of which emotion, when. Constants, key frames, time ranges, words; from code or from a JSON file."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from sedtalker_jax.emotion.formats import read_text
from sedtalker_jax.emotion.keyframes import KeyFrames, range_weight
from sedtalker_jax.emotion.labels import resolve_label
from sedtalker_jax.errors import UserError

LARGEST_ALPHA = 5.0
"""Five times the way from one emotion to another: what lies beyond is a slip of the keyboard."""

DEFAULT_FADE_S = 0.1
"""Seconds over which an edit comes in before its range and goes out after it."""

_EDIT_KEYS = {"emotion", "from", "alpha", "keys", "interpolation", "start", "end", "fade", "word"}


@dataclasses.dataclass(frozen=True)
class Edit:
    """More or less of one emotion.

    Attributes:
      target: emotion to move to.
      alpha: how far (editing.EditDictionary.direction): a number, or key frames over time.
      source: emotion to move from; None = from neutral, along the target's own boundary.
      start, end: seconds of the range; None = without that bound.
      fade: seconds outside the range over which the edit comes and goes.

    Raises:
      UserError: an alpha that is not finite or beyond LARGEST_ALPHA, an empty range, a negative fade.
    """

    target: str
    alpha: float | KeyFrames
    source: str | None = None
    start: float | None = None
    end: float | None = None
    fade: float = DEFAULT_FADE_S

    def __post_init__(self):
        values = self.alpha.values if isinstance(self.alpha, KeyFrames) else np.array([self.alpha], np.float64)
        if values.ndim != 1 or not np.all(np.isfinite(values)) or np.abs(values).max() > LARGEST_ALPHA:
            raise UserError(f"the alpha of '{self.target}' must lie between -{LARGEST_ALPHA:g} and {LARGEST_ALPHA:g}")
        for bound in (self.start, self.end, self.fade):
            if bound is not None and not math.isfinite(bound):
                raise UserError(f"the range of '{self.target}' must be finite")
        range_weight(np.zeros(1), self.start, self.end, self.fade)

    def alpha_at(self, times: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
        """alpha at `times` (seconds): exactly 0 outside the range and its fades."""
        moments = np.asarray(times, np.float64)
        curve = self.alpha.at(moments) if isinstance(self.alpha, KeyFrames) else np.full(len(moments), float(self.alpha))
        return curve * range_weight(moments, self.start, self.end, self.fade)


@dataclasses.dataclass(frozen=True)
class EditSchedule:
    """Edits that act together; their displacements add up."""

    edits: tuple[Edit, ...]

    def __add__(self, other: EditSchedule) -> EditSchedule:
        return EditSchedule(self.edits + other.edits)

    @property
    def emotions(self) -> tuple[str, ...]:
        """Every emotion that is named, in order of appearance."""
        return tuple(dict.fromkeys(name for edit in self.edits for name in (edit.target, edit.source) if name is not None))

    def check(self, labels: Sequence[str], duration: float) -> EditSchedule:
        """The schedule with its names resolved to `labels`.

        Raises:
          UserError: an emotion that `labels` lacks, or a range or key past the end of the recording.
        """
        checked = []
        for edit in self.edits:
            keys = edit.alpha.times if isinstance(edit.alpha, KeyFrames) else np.zeros(0)
            late = [time for time in (edit.start, edit.end, *keys) if time is not None and time > duration + 0.05]
            if late:
                end = f"the recording ends at {duration:.2f} s"
                raise UserError(f"the edit of '{edit.target}' speaks of {late[0]:g} s, but {end}")
            source = None if edit.source is None else resolve_label(edit.source, labels)
            checked.append(dataclasses.replace(edit, target=resolve_label(edit.target, labels), source=source))
        return EditSchedule(tuple(checked))

    @classmethod
    def from_list(cls, edits: Sequence[Mapping], words: Sequence[Sequence] | None = None) -> EditSchedule:
        """Edits like {"emotion": "happy", "alpha": 0.8, "start": 2.0, "end": 4.5}.

        Keys of an edit: "emotion"; "alpha", or "keys": [[time, alpha], ...] with "interpolation"; "from", "start", "end",
        "fade" where wanted; "word" (a word, or its number from 0) in place of start and end.

        Args:
          words: (word, start_s, end_s), an alignment, for edits by word. A word that occurs several times is edited each time.

        Raises:
          UserError: anything missing, unknown, unordered or contradictory, with the number of the edit.
        """
        if not edits:
            raise UserError("the schedule holds no edits")
        result = []
        for number, entry in enumerate(edits, start=1):
            try:
                result += _edits_of(entry, words)
            except UserError as error:
                raise UserError(f"edit {number}: {error}") from error
            except (TypeError, ValueError, ArithmeticError) as error:
                raise UserError(f"edit {number}: malformed ({error})") from error
        return cls(tuple(result))

    @classmethod
    def load(cls, path: str | os.PathLike, words: Sequence[Sequence] | None = None) -> EditSchedule:
        """Reads JSON: {"edits": [...]} with edits as in from_list.

        Raises:
          UserError: missing or malformed file; the message names it.
        """
        text = read_text(path)
        try:
            document = json.loads(text)
        except ValueError as error:  # also a number of thousands of digits
            raise UserError(f"{path}: not JSON ({error}); mend the file") from error
        if not isinstance(document, dict) or not isinstance(document.get("edits"), list):
            raise UserError(f'{path}: an object with a list "edits" is expected')
        try:
            return cls.from_list(document["edits"], words)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def _edits_of(entry: Mapping, words: Sequence[Sequence] | None) -> list[Edit]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("emotion"), str):
        raise UserError('an "emotion" by name is expected')
    unknown = sorted(set(entry) - _EDIT_KEYS)
    if unknown:
        raise UserError(f"unknown key {', '.join(unknown)}; known are {', '.join(sorted(_EDIT_KEYS))}")
    if ("alpha" in entry) == ("keys" in entry):
        raise UserError('either "alpha" or "keys" is expected')
    if "keys" in entry:
        keys = [tuple(float(number) for number in key) for key in entry["keys"]]
        if not keys or any(len(key) != 2 for key in keys):
            raise UserError('"keys" are pairs [time, alpha]')
        times, values = zip(*keys, strict=True)
        alpha: float | KeyFrames = KeyFrames(np.array(times), np.array(values), entry.get("interpolation", "linear"))
    else:
        alpha = float(entry["alpha"])
    if not isinstance(entry.get("from"), str | None):
        raise UserError('"from" is an emotion by name')
    target, source, fade = entry["emotion"], entry.get("from"), float(entry.get("fade", DEFAULT_FADE_S))
    if "word" not in entry:
        bounds = {name: float(entry[name]) for name in ("start", "end") if entry.get(name) is not None}
        return [Edit(target, alpha, source, bounds.get("start"), bounds.get("end"), fade)]
    if "start" in entry or "end" in entry:
        raise UserError('give either "word" or a range, not both')
    ranges = _ranges_of_word(entry["word"], words)
    return [Edit(target, alpha, source, start, end, fade) for start, end in ranges]


def _ranges_of_word(word: str | int, words: Sequence[Sequence] | None) -> list[tuple[float, float]]:
    if not words:
        raise UserError("an edit by word needs an alignment of words with their times")
    if not isinstance(word, int | str):
        raise UserError('"word" is a word, or its number from 0')
    if isinstance(word, int):
        if not 0 <= word < len(words):
            raise UserError(f"there is no word number {word}; the alignment holds {len(words)}, counted from 0")
        return [(float(words[word][1]), float(words[word][2]))]
    ranges = [(float(start), float(end)) for text, start, end, *_ in words if str(text).lower() == word.lower()]
    if not ranges:
        raise UserError(f"the word '{word}' is not in the alignment")
    return ranges
