"""Speech from espeak-ng with word and phoneme times, through the espeak_server program."""

from __future__ import annotations

import atexit
import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sedtalker_jax.errors import UserError

# espeak's pitch parameter against semitones above its default of 50, measured with DIO on en-us+m3 (all variants
# scale alike, for the parameter is a factor on the voice's own pitch).
_PITCH_PARAMETER = np.array([20.0, 35.0, 50.0, 65.0, 80.0, 90.0, 100.0])
_PITCH_SEMITONES = np.array([-3.4, -2.16, 0.0, 2.6, 5.27, 7.27, 9.08])
# A wider range also raises the mean, by this many semitones per unit of the range parameter.
_SEMITONES_PER_RANGE_UNIT = 0.047


@dataclass(frozen=True)
class Phone:
    """One phoneme as espeak names it: `symbol` without stress marks, `stress` 0 none, 1 primary, 2 secondary; seconds."""

    symbol: str
    start_s: float
    end_s: float
    stress: int
    word: int


@dataclass(frozen=True)
class Speech:
    """What espeak said: waveform [S] float32 in [-1, 1] at sample_rate, word spans [n, 2] seconds, phonemes."""

    waveform: np.ndarray
    sample_rate: int
    words: np.ndarray
    phones: tuple[Phone, ...]


@dataclass(frozen=True)
class SpokenWord:
    """One word with its prosody: semitones above the voice's own pitch, octaves of range and rate, and a pause after it."""

    text: str
    pitch_st: float
    range_log2: float
    rate_log2: float
    pause_s: float = 0.0


def _pitch_parameters(word: SpokenWord) -> tuple[int, int]:
    """(pitch, range) parameters of espeak, 0..100, for a word."""
    range_parameter = float(np.clip(50.0 * 2.0**word.range_log2, 2.0, 100.0))
    semitones = word.pitch_st - (range_parameter - 50.0) * _SEMITONES_PER_RANGE_UNIT
    pitch_parameter = float(np.interp(semitones, _PITCH_SEMITONES, _PITCH_PARAMETER))
    return int(round(pitch_parameter)), int(round(range_parameter))


def build_ssml(words: list[SpokenWord]) -> tuple[str, list[int]]:
    """SSML of a word list, and the position of each word's first character in it.

    Every word carries its own <prosody>, and no two neighbours carry the same one: espeak puts a command between words
    only where a value changes, and the command costs a few milliseconds, which would tell where an emotion changes.
    """
    text = "<speak>"
    positions: list[int] = []
    previous = None
    for word in words:
        pitch, pitch_range = _pitch_parameters(word)
        if previous == pitch:
            pitch += 1 if pitch < 100 else -1
        previous = pitch
        rate = int(round(100.0 * 2.0**word.rate_log2))
        text += f'<prosody pitch="{2 * (pitch - 50):+d}%" range="{2 * pitch_range}%" rate="{rate}%">'
        positions.append(len(text))
        text += f"{word.text}</prosody> "
        if word.pause_s > 0.0:
            text += f'<break time="{int(round(1000.0 * word.pause_s))}ms"/> '
    return text.rstrip() + "</speak>", positions


class Espeak:
    """A running espeak_server. Closes with the interpreter, or as a context manager."""

    def __init__(self) -> None:
        if importlib.util.find_spec("espeakng_loader") is None:
            raise UserError("the built-in world speaks with espeak-ng: install it with `pip install -r requirements-world.txt`")
        self._process = subprocess.Popen(
            # By path and with -P: it needs nothing of this package, which need not be installed for it to start.
            [sys.executable, "-P", str(Path(__file__).with_name("espeak_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        atexit.register(self.close)

    def close(self) -> None:
        """Ends the program; later calls do nothing."""
        if self._process.poll() is None:
            self._process.stdin.close()
            self._process.wait(timeout=10)
            self._process.stdout.close()

    def __enter__(self) -> Espeak:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def say(self, words: list[SpokenWord], voice: str, words_per_minute: int) -> Speech:
        """Speaks the words in one call, without a splice.

        Args:
          words: what to say and how.
          voice: an espeak voice such as "en-us+f3".
          words_per_minute: the voice's own rate.

        Raises:
          UserError: when espeak-ng does not know the voice or says nothing.
        """
        ssml, positions = build_ssml(words)
        request = {"voice": voice, "ssml": ssml, "rate": words_per_minute, "pitch": 50, "range": 50}
        self._process.stdin.write((json.dumps(request) + "\n").encode())
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise UserError("the espeak-ng process ended; `python -m sedtalker_jax.data.world.espeak_server` shows why")
        header = json.loads(line)
        if "error" in header:
            raise UserError(f"{header['error']} (voice {voice!r}); check [voices] in the rules file")
        pcm = np.frombuffer(self._process.stdout.read(header["num_bytes"]), dtype="<i2")
        return _speech(pcm.astype(np.float32) / 32768.0, header["sample_rate"], header["events"], positions)


_SYMBOLS = {"IR": "3:"}  # the Scottish vowel of "bird", under the name that the face's phoneme table has
_PALATAL = ";"  # a mark on the sound before it, no sound of its own


def _split_stress(name: str) -> tuple[str, int]:
    """ "'aI" -> ("aI", 1): espeak writes stress as leading ' (primary), , (secondary), % and = (none)."""
    stress = 0
    while name and name[0] in "',%=":
        stress = {"'": 1, ",": 2}.get(name[0], stress)
        name = name[1:]
    return name, stress


def _speech(waveform: np.ndarray, sample_rate: int, events: list[list], positions: list[int]) -> Speech:
    """Turns events into phonemes with ends, and word spans that hold the phonemes of each word."""
    starts = np.asarray(positions)
    total_s = len(waveform) / sample_rate
    marks: list[tuple[float, str, int, int]] = []
    for kind, text_position, sample, name in events:
        if kind != 7:
            continue
        symbol, stress = _split_stress(name)
        if symbol == _PALATAL:
            continue
        symbol = _SYMBOLS.get(symbol, symbol)
        # text_position counts from 1; a phoneme belongs to the last word that begins at or before it.
        word = int(np.searchsorted(starts, text_position - 1, side="right")) - 1
        silent = symbol == "" or symbol.startswith("_")
        marks.append((sample / sample_rate, "_" if silent else symbol, stress, -1 if silent else max(word, 0)))
    phones = []
    for i, (start, symbol, stress, word) in enumerate(marks):
        end = marks[i + 1][0] if i + 1 < len(marks) else total_s
        if end > start:
            phones.append(Phone(symbol, start, end, stress, word))
    words = np.full((len(positions), 2), np.nan)
    for phone in phones:
        if phone.word >= 0:
            words[phone.word, 0] = np.nanmin([words[phone.word, 0], phone.start_s])
            words[phone.word, 1] = np.nanmax([words[phone.word, 1], phone.end_s])
    # A word that espeak swallowed has no phoneme: it gets an empty span where its neighbour begins.
    following = total_s
    for i in range(len(words) - 1, -1, -1):
        if np.isnan(words[i, 0]):
            words[i] = following
        following = words[i, 0]
    return Speech(waveform, sample_rate, words, tuple(phones))
