"""From emotion to prosody: the tables of the rules, each voice's own turn of them, and what else moves a voice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sedtalker_jax.data.world.rules import Rules
from sedtalker_jax.data.world.synthesiser import SpokenWord
from sedtalker_jax.data.world.text import Voice
from sedtalker_jax.data.world.timeline import Curve, Timeline, word_intensity, word_weights
from sedtalker_jax.emotion.labels import CANONICAL

PARAMETERS = (
    "pitch_st", "range_oct", "slope_st", "rate_oct", "level_db", "tilt_db", "presence_db", "body_db", "smile",
    "breath", "tremor", "rough",
)  # fmt: skip
"""Names and order of the prosody parameters (P of them); units are in the rules file."""

_WORD_LEVEL = ("pitch_st", "range_oct", "slope_st", "rate_oct")
_INDEX = {name: i for i, name in enumerate(PARAMETERS)}


def _vector(table: dict) -> np.ndarray:
    return np.array([float(table.get(name, 0.0)) for name in PARAMETERS])


def voice_tables(rules: Rules, voice: Voice) -> np.ndarray:
    """How this voice expresses each emotion at intensity 1, [K, P]; row neutral is 0.

    gain_v x (overall x table + voice's own turn); some voices barely express.
    """
    table = rules["expression"]
    rng = rules.generator("expression", voice.name)
    gain = float(np.exp(table["voices"]["gain_log_sd"] * rng.standard_normal()))
    if rng.random() < table["voices"]["barely_probability"]:
        gain = float(table["voices"]["barely_gain"])
    turn = rng.standard_normal((len(CANONICAL), len(PARAMETERS))) * _vector(table["spread_voice"]) * table["spread"]
    means = np.stack([_vector(table[label]) for label in CANONICAL]) * table["overall"]
    result = gain * (means + turn)
    result[0] = 0.0
    return result


@dataclass(frozen=True)
class Delivery:
    """The plan of a clip's prosody.

    parts: [parts, K-row] is folded already: emotion [parts, P] at intensity 1 and offset [parts, P] (not emotion);
    words: the words for espeak; word_level_db [n]: loudness of each word beyond the curve.
    """

    emotion: np.ndarray
    offset: np.ndarray
    words: tuple[SpokenWord, ...]
    word_level_db: np.ndarray

    def parameters(self, curve: Curve, times: np.ndarray) -> np.ndarray:
        """True prosody parameters at each time, [len(times), P]: sum_i w_i(t) (I_i(t) emotion_i + offset_i)."""
        weights = curve.weights(times)
        return (weights * curve.part_intensity(times)) @ self.emotion + weights @ self.offset


def plan_delivery(rules: Rules, voice: Voice, timeline: Timeline, text: list[str], rng: np.random.Generator) -> Delivery:
    """Draws how the words of a clip are spoken."""
    table, distractors = rules["expression"], rules["distractors"]
    num_words, num_parts = len(text), len(timeline.parts)
    emotion = voice_tables(rules, voice)[[part.label for part in timeline.parts]]
    # One clip-wide habit and one per part: joins without a change also shift, so a shift is no proof of a change.
    spread = _vector(table["spread_clip"]) * table["spread"]
    common = rng.standard_normal(len(PARAMETERS))
    own = rng.standard_normal((num_parts, len(PARAMETERS)))
    offset = spread * (np.sqrt(0.5) * common + np.sqrt(0.5) * own)
    if rng.random() < distractors["manner_probability"]:
        sign = rng.choice([-1.0, 1.0], size=2) * (rng.random(2) < 0.6)
        offset[:, _INDEX["rate_oct"]] += sign[0] * distractors["manner"]["rate_oct"]
        offset[:, _INDEX["level_db"]] += sign[1] * distractors["manner"]["level_db"]

    weights = word_weights(timeline, num_words)
    levels = (weights * word_intensity(timeline, num_words)) @ emotion + weights @ offset
    levels = levels + rng.standard_normal(levels.shape) * _vector(table["spread_word"]) * table["spread"]
    extra = np.zeros((num_words, len(PARAMETERS)))
    if rng.random() < distractors["emphasis_probability"]:
        extra[int(rng.integers(num_words))] += _vector(distractors["emphasis"])
    levels += extra
    place = np.zeros(num_words)
    for part in timeline.parts:
        inside = np.arange(part.first_word, part.end_word)
        place[inside] = (inside - part.first_word + 0.5) / len(inside) - 0.5

    pauses = np.zeros(num_words)
    phrases = np.searchsorted([join.word for join in timeline.joins], np.arange(num_words), side="right")
    for join in timeline.joins:
        pauses[join.word - 1] = join.pause_s
    words = []
    for i, word in enumerate(text):
        pitch, width, slope, rate = (levels[i, _INDEX[name]] for name in _WORD_LEVEL)
        words.append(
            SpokenWord(
                text=word,
                pitch_st=float(voice.pitch_st + pitch + slope * place[i]),
                range_log2=float(voice.range_oct + width),
                rate_log2=float(np.clip(rate, -0.8, 0.8)),
                pause_s=float(pauses[i]),
                phrase=int(phrases[i]),
            )
        )
    # The frame curve carries the level of emotion and part; only what belongs to single words is left for here.
    noise = levels - ((weights * word_intensity(timeline, num_words)) @ emotion + weights @ offset)
    return Delivery(emotion, offset, tuple(words), noise[:, _INDEX["level_db"]])
