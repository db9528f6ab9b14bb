"""What a speech synthesiser of the world takes and gives, whichever it is."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class SpokenWord:
    """One word and its prosody: semitones above the voice's own pitch, octaves of range and rate, the pause after it.

    phrase: words of one phrase are neighbours, and share their range.
    """

    text: str
    pitch_st: float
    range_log2: float
    rate_log2: float
    pause_s: float = 0.0
    phrase: int = 0


@dataclass(frozen=True)
class Phone:
    """One phoneme: `symbol` as espeak names it, without stress marks, "_" silent; `stress` 0 none, 1 primary, 2 secondary.

    Times in seconds; word: index of its word, -1 in silence.
    """

    symbol: str
    start_s: float
    end_s: float
    stress: int
    word: int


@dataclass(frozen=True)
class Speech:
    """What was said: waveform [S] float32 in [-1, 1] at sample_rate, word spans [n, 2] seconds, phonemes without gaps."""

    waveform: np.ndarray
    sample_rate: int
    words: np.ndarray
    phones: tuple[Phone, ...]


class Synthesiser(Protocol):
    """Speaks word lists. Every answer is a function of its request alone, whatever was said before."""

    def say(self, words: list[SpokenWord], voice: str, words_per_minute: int) -> Speech:
        """Speaks the words in one breath, without a splice.

        Args:
          words: what to say and how.
          voice: a voice of this synthesiser.
          words_per_minute: the voice's own rate.

        Raises:
          UserError: when it does not know the voice, or says nothing.
        """

    def close(self) -> None:
        """Ends its program; later calls do nothing."""


_CLASSES = {
    "espeak-ng": ("sedtalker_jax.data.world.espeak", "Espeak"),
    "flite": ("sedtalker_jax.data.world.flite", "Flite"),
}


def load(name: str) -> type[Synthesiser]:
    """The class behind the name that a rules file gives (a key of frozen.SYNTHESISERS)."""
    module, kind = _CLASSES[name]
    return getattr(importlib.import_module(module), kind)


def start(name: str) -> Synthesiser:
    """Starts a synthesiser.

    Raises:
      UserError: when it is not installed here.
    """
    return load(name)()


def word_spans(phones: tuple[Phone, ...], num_words: int, total_s: float) -> np.ndarray:
    """Spans [num_words, 2] in seconds that hold the phonemes of each word.

    A word without a phoneme (swallowed) gets an empty span where its neighbour begins.
    """
    words = np.full((num_words, 2), np.nan)
    for phone in phones:
        if phone.word >= 0:
            words[phone.word, 0] = np.nanmin([words[phone.word, 0], phone.start_s])
            words[phone.word, 1] = np.nanmax([words[phone.word, 1], phone.end_s])
    following = total_s
    for i in range(num_words - 1, -1, -1):
        if np.isnan(words[i, 0]):
            words[i] = following
        following = words[i, 0]
    return words
