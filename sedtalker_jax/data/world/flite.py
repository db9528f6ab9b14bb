"""Speech from Flite with word and phoneme times, through the flite_server program."""

from __future__ import annotations

import numpy as np

from sedtalker_jax.data.world.speaking import SpeakingProgram
from sedtalker_jax.data.world.synthesiser import Phone, Speech, SpokenWord, word_spans
from sedtalker_jax.errors import UserError

_INSTALL = "install Flite 2 and its voices: `apt-get install flite` on Debian and Ubuntu, the package of that name elsewhere"
_WORDS_PER_MINUTE = 210.0  # of Flite's voices as they are, pauses left out

# Flite's phones (ARPAbet, CMU lexicon) under espeak's names, so that a record's phonemes mean the same in every world.
_SYMBOLS = {
    "aa": "A:", "ae": "a", "ah": "V", "ao": "O:", "aw": "aU", "ax": "@", "axr": "3", "ay": "aI", "eh": "E", "er": "3:",
    "ey": "eI", "ih": "I", "iy": "i:", "ow": "oU", "oy": "OI", "uh": "U", "uw": "u:", "el": "@L", "em": "@m", "en": "@n",
    "b": "b", "ch": "tS", "d": "d", "dh": "D", "dx": "t#", "f": "f", "g": "g", "hh": "h", "hv": "h", "jh": "dZ", "k": "k",
    "l": "l", "m": "m", "n": "n", "nx": "n", "ng": "N", "p": "p", "r": "r", "s": "s", "sh": "S", "t": "t", "th": "T", "v": "v",
    "w": "w", "y": "j", "z": "z", "zh": "Z", "pau": "_",
}  # fmt: skip
_VOWELS = frozenset("aa ae ah ao aw ax axr ay eh er ey ih iy ow oy uh uw el em en".split())


class Flite(SpeakingProgram):
    """Flite, running. Implements synthesiser.Synthesiser; voices are named as in flite_server.VOICES."""

    def __init__(self) -> None:
        super().__init__("sedtalker_jax.data.world.flite_server")

    def say(self, words: list[SpokenWord], voice: str, words_per_minute: int) -> Speech:
        """Speaks the words; see synthesiser.Synthesiser. Words of a phrase may each have their own range here."""
        request = {
            "voice": voice,
            "stretch": _WORDS_PER_MINUTE / words_per_minute,
            "words": [[word.text, word.pitch_st, word.range_log2, word.rate_log2, word.pause_s] for word in words],
        }
        header, pcm = self.ask(request)
        if "error" in header:
            raise UserError(f"{header['error']} (voice {voice!r}); {_INSTALL}")
        waveform = np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768.0
        total_s = len(waveform) / header["sample_rate"]
        phones = tuple(
            # Flite marks whole syllables; the stress of a word is on its vowels here.
            Phone(_SYMBOLS[name], start, min(end, total_s), stress if name in _VOWELS else 0, word)
            for name, start, end, stress, word in header["events"]
            if start < total_s
        )
        return Speech(waveform, header["sample_rate"], word_spans(phones, len(words), total_s), phones)
