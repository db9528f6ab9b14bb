"""Speech from espeak-ng with word and phoneme times, through the espeak_server program."""

from __future__ import annotations

import importlib.util
import itertools

import numpy as np

from sedtalker_jax.data.world.speaking import SpeakingProgram
from sedtalker_jax.data.world.synthesiser import Phone, Speech, SpokenWord, word_spans
from sedtalker_jax.errors import UserError

# espeak's pitch parameter against semitones above its default of 50, measured with DIO on en-us+m3 (all variants
# scale alike, for the parameter is a factor on the voice's own pitch).
_PITCH_PARAMETER = np.array([20.0, 35.0, 50.0, 65.0, 80.0, 90.0, 100.0])
_PITCH_SEMITONES = np.array([-3.4, -2.16, 0.0, 2.6, 5.27, 7.27, 9.08])
# A wider range also raises the mean, by this many semitones per unit of the range parameter.
_SEMITONES_PER_RANGE_UNIT = 0.047


# espeak-ng 1.52 garbles some texts that change range within a sentence: it rushes through or drops a row of words. Then the
# request is repeated with one range for the whole clip, and with these words per minute added.
_ATTEMPTS = ((0, True), (0, False), (1, False), (-1, False), (2, False), (-2, False))
_SECONDS_PER_LETTER, _SECONDS_PER_LETTER_OF_ALL = 0.016, 0.038  # the usual is 0.066
_TOLERATED = 1  # a single short word can be a phoneme that espeak counts to its neighbour


def _range_parameter(range_log2: float) -> int:
    """espeak's range parameter, 2..100, of a width in octaves above the voice's own."""
    return int(round(float(np.clip(50.0 * 2.0**range_log2, 2.0, 100.0))))


def _pitch_parameter(semitones: float, range_parameter: int) -> int:
    """espeak's pitch parameter, 20..100, of a pitch above the voice's own, against the shift that the range brings."""
    semitones -= (range_parameter - 50) * _SEMITONES_PER_RANGE_UNIT
    return int(round(float(np.interp(semitones, _PITCH_SEMITONES, _PITCH_PARAMETER))))


def build_ssml(words: list[SpokenWord], with_range: bool = True) -> tuple[str, list[int]]:
    """SSML of a word list, and the position of each word's first character in it.

    Every word carries its own pitch and rate, and no two neighbours carry the same pitch: espeak puts a command between
    words only where a value changes, and the command costs a few milliseconds, which would tell where an emotion changes.
    Range is set once per phrase, for the words of one phrase together. `with_range=False` leaves it to the request.
    """
    text = "<speak>"
    positions: list[int] = []
    previous = None
    for _, members in itertools.groupby(words, key=lambda word: word.phrase):
        phrase = list(members)
        range_log2 = float(np.mean([word.range_log2 for word in (phrase if with_range else words)]))
        pitch_range = _range_parameter(range_log2)
        if with_range:
            text += f'<prosody range="{2 * pitch_range}%">'
        for word in phrase:
            pitch = _pitch_parameter(word.pitch_st, pitch_range)
            if previous == pitch:
                pitch += 1 if pitch < 100 else -1
            previous = pitch
            text += f'<prosody pitch="{2 * (pitch - 50):+d}%" rate="{int(round(100.0 * 2.0**word.rate_log2))}%">'
            positions.append(len(text))
            text += f"{word.text}</prosody> "
            if word.pause_s > 0.0:
                text += f'<break time="{int(round(1000.0 * word.pause_s))}ms"/> '
        if with_range:
            text = text.rstrip() + "</prosody> "
    return text.rstrip() + "</speak>", positions


class Espeak(SpeakingProgram):
    """espeak-ng, running. Implements synthesiser.Synthesiser."""

    def __init__(self) -> None:
        if importlib.util.find_spec("espeakng_loader") is None:
            raise UserError("the built-in world speaks with espeak-ng: install it with `pip install -r requirements-world.txt`")
        super().__init__("sedtalker_jax.data.world.espeak_server")

    def say(self, words: list[SpokenWord], voice: str, words_per_minute: int) -> Speech:
        """Speaks the words in one call; see synthesiser.Synthesiser. Voices are named like "en-us+f3"."""
        best: Speech | None = None
        fewest = len(words) + 1
        clip_range = _range_parameter(float(np.mean([word.range_log2 for word in words])))
        for nudge, with_range in _ATTEMPTS:
            ssml, positions = build_ssml(words, with_range)
            pitch_range = 50 if with_range else clip_range
            speech = self._ask(ssml, positions, voice, words_per_minute + nudge, pitch_range)
            swallowed = num_swallowed(words, speech, words_per_minute)
            if swallowed < fewest:
                best, fewest = speech, swallowed
            if swallowed <= _TOLERATED:
                break
        return best

    def _ask(self, ssml: str, positions: list[int], voice: str, words_per_minute: int, pitch_range: int) -> Speech:
        request = {"voice": voice, "ssml": ssml, "rate": words_per_minute, "pitch": 50, "range": pitch_range}
        header, pcm = self.ask(request)
        if "error" in header:
            raise UserError(f"{header['error']} (voice {voice!r}); check [voices] in the rules file")
        samples = np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768.0
        return _speech(samples, header["sample_rate"], header["events"], positions)


def num_swallowed(words: list[SpokenWord], speech: Speech, words_per_minute: int) -> int:
    """How many words of four letters and more are too short to have been said; all, if the whole is far too short."""
    rates = np.array([2.0**word.rate_log2 for word in words]) * words_per_minute / 170.0
    letters = np.array([sum(character.isalpha() for character in word.text) for word in words])
    spoken = sum(phone.end_s - phone.start_s for phone in speech.phones if phone.word >= 0)
    if spoken < _SECONDS_PER_LETTER_OF_ALL * float(np.sum(letters / rates)):
        return len(words)
    lengths = speech.words[:, 1] - speech.words[:, 0]
    return int(np.sum((letters >= 4) & (lengths < _SECONDS_PER_LETTER * letters / rates)))


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
    return Speech(waveform, sample_rate, word_spans(tuple(phones), len(positions), total_s), tuple(phones))
