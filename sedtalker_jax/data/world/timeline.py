"""Emotion over a clip: parts joined at words, and the continuous truth that follows once the words have times.

A clip is a row of parts, each with a label and an intensity that may drift. At a join the parts cross-fade: weight
w_i(t) of part i, smooth, summing to one; intensity(t) = sum_i w_i(t) I_i(t), with I = 0 for neutral. So an
emotion -> emotion change does not dip, and lies half-way where both weights are one half.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sedtalker_jax.data.world.rules import Rules
from sedtalker_jax.emotion.labels import CANONICAL

NUM_EMOTIONS = len(CANONICAL)
NEUTRAL = 0


@dataclass(frozen=True)
class Part:
    """Words [first_word, end_word) in one emotion: `label` indexes CANONICAL, intensity runs linearly from start to end."""

    label: int
    intensity_start: float
    intensity_end: float
    first_word: int
    end_word: int


@dataclass(frozen=True)
class Join:
    """Where two parts meet, before word `word`. The ramp takes `ramp_words` words, or `sharp_s` seconds if that is 0."""

    word: int
    ramp_words: int
    sharp_s: float
    pause_s: float

    @property
    def first_ramp_word(self) -> int:
        return self.word - (self.ramp_words + 1) // 2


@dataclass(frozen=True)
class Timeline:
    """What the plan of a clip says about emotion; joins[i] lies between parts[i] and parts[i + 1]."""

    parts: tuple[Part, ...]
    joins: tuple[Join, ...]

    @property
    def changes(self) -> tuple[bool, ...]:
        """For each join, whether the label changes there."""
        return tuple(a.label != b.label for a, b in zip(self.parts[:-1], self.parts[1:], strict=True))


# Irrational steps that are badly approximable: index x step mod 1 fills [0, 1) evenly for every prefix of the clips.
_STEPS = (0.6180339887498949, 0.4142135623730951, 0.7320508075688772)


def plan_timeline(
    rules: Rules, num_words: int, rng: np.random.Generator, index: int, single_label: int | None = None
) -> Timeline:
    """Draws the timeline of clip `index`. `single_label` asks for one part with that label (for calibration).

    Labels are drawn by a low-discrepancy sequence over the clips instead of at random, so that the classes are in balance
    in a hundred clips too.
    """
    table = rules["timeline"]
    weights = np.ones(NUM_EMOTIONS)
    weights[NEUTRAL] = table["neutral_weight"]
    low, high = table["intensity"]

    def draw(place: int, not_label: int | None = None) -> int:
        allowed = weights.copy()
        if not_label is not None:
            allowed[not_label] = 0.0
        u = (0.5 + (index + 1) * _STEPS[place % len(_STEPS)]) % 1.0
        return int(np.searchsorted(np.cumsum(allowed / allowed.sum()), u, side="right").clip(0, NUM_EMOTIONS - 1))

    shares = np.asarray(table["parts"], dtype=float)
    num_parts = 1 + int(rng.choice(len(shares), p=shares / shares.sum()))
    shortest = table["min_words_per_part"]
    num_parts = 1 if single_label is not None else max(1, min(num_parts, num_words // shortest))
    # Cut points: spread what is left over the parts at random.
    spare = num_words - num_parts * shortest
    cuts = np.sort(rng.integers(0, spare + 1, size=num_parts - 1)) + shortest * np.arange(1, num_parts)
    edges = [0, *(int(c) for c in cuts), num_words]
    label = single_label if single_label is not None else draw(0)
    parts, joins = [], []
    for i in range(num_parts):
        if i > 0:
            # Everything about the join is drawn without looking at whether the emotion changes there.
            ramp = np.asarray(table["ramp_words"], dtype=float)
            pause = 0.0
            if rng.random() < table["pause_probability"]:
                pause = float(rng.uniform(*table["pause_s"]))
                if rng.random() < table["long_pause_probability"] / table["pause_probability"]:
                    pause = float(rng.uniform(*table["long_pause_s"]))
            ramp_words = int(rng.choice(len(ramp), p=ramp / ramp.sum()))
            joins.append(Join(edges[i], ramp_words, float(rng.uniform(*table["sharp_ramp_s"])), pause))
            if rng.random() < table["change_probability"]:
                label = draw(i, not_label=label)
        start = float(rng.uniform(low, high))
        end = float(np.clip(start + rng.uniform(-1.0, 1.0) * table["intensity_drift"], low, high))
        if label == NEUTRAL:
            start = end = 0.0
        parts.append(Part(label, start, end, edges[i], edges[i + 1]))
    return Timeline(tuple(parts), tuple(joins))


def word_weights(timeline: Timeline, num_words: int) -> np.ndarray:
    """Weight of each part at each word, [n, parts]; rows sum to one. A ramp of r words rises in r + 1 equal steps."""
    index = np.arange(num_words)
    passed = np.ones((num_words, len(timeline.parts) + 1))
    passed[:, -1] = 0.0
    for i, join in enumerate(timeline.joins):
        rise = (index - join.first_ramp_word + 1) / (join.ramp_words + 1)
        passed[:, i + 1] = np.clip(rise, 0.0, 1.0)
    return passed[:, :-1] - passed[:, 1:]


def word_intensity(timeline: Timeline, num_words: int) -> np.ndarray:
    """Intensity of each part at each word (0 for neutral), [n, parts]."""
    index = np.arange(num_words)
    columns = []
    for part in timeline.parts:
        place = np.clip((index - part.first_word + 0.5) / max(1, part.end_word - part.first_word), 0.0, 1.0)
        columns.append(part.intensity_start + (part.intensity_end - part.intensity_start) * place)
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Curve:
    """A timeline in seconds: `ramps` [joins, 2] begin and end of each cross-fade, `spans` [parts, 2] of each part."""

    parts: tuple[Part, ...]
    ramps: np.ndarray
    spans: np.ndarray

    def weights(self, times: np.ndarray) -> np.ndarray:
        """w_i(t), [len(times), parts], float64; rows sum to one."""
        passed = np.ones((len(times), len(self.parts) + 1))
        passed[:, -1] = 0.0
        for i, (begin, end) in enumerate(self.ramps):
            u = np.clip((times - begin) / max(end - begin, 1e-6), 0.0, 1.0)
            passed[:, i + 1] = u * u * (3.0 - 2.0 * u)
        # A later cross-fade never runs ahead of an earlier one, so weights stay within [0, 1].
        passed = np.minimum.accumulate(passed, axis=1)
        return passed[:, :-1] - passed[:, 1:]

    def part_intensity(self, times: np.ndarray) -> np.ndarray:
        """I_i(t), [len(times), parts], 0 for neutral."""
        columns = []
        for part, (begin, end) in zip(self.parts, self.spans, strict=True):
            place = np.clip((times - begin) / max(end - begin, 1e-6), 0.0, 1.0)
            columns.append(part.intensity_start + (part.intensity_end - part.intensity_start) * place)
        return np.stack(columns, axis=1)

    def activation(self, times: np.ndarray) -> np.ndarray:
        """a_k(t) of every non-neutral emotion in canonical order, [len(times), K - 1], in [0, 1]."""
        contribution = self.weights(times) * self.part_intensity(times)
        result = np.zeros((len(times), NUM_EMOTIONS))
        for column, part in zip(contribution.T, self.parts, strict=True):
            result[:, part.label] += column
        return result[:, 1:]

    def intensity(self, times: np.ndarray) -> np.ndarray:
        """sum_i w_i(t) I_i(t), [len(times)], in [0, 1]."""
        return (self.weights(times) * self.part_intensity(times)).sum(axis=1)

    def labels(self, times: np.ndarray, neutral_below: float) -> np.ndarray:
        """Index into CANONICAL at each time: neutral below the threshold, else the emotion of the largest weight."""
        weights = self.weights(times)
        emotional = np.array([part.label != NEUTRAL for part in self.parts])
        strongest = np.argmax(np.where(emotional, weights, -1.0), axis=1)
        label = np.array([part.label for part in self.parts])[strongest]
        return np.where(self.intensity(times) < neutral_below, NEUTRAL, label)

    def face(self, rules: Rules, rng: np.random.Generator) -> Curve:
        """The face's own curve: earlier by its lead, other ramps, other intensities; some parts show another emotion."""
        table = rules["face"]
        lead = table["lead_s"]
        shift = float(np.clip(rng.normal(lead["mean"], lead["sd"]), *lead["limit"]))
        parts = []
        for part in self.parts:
            gain = float(np.exp(table["gain_log_sd"] * rng.standard_normal()))
            shown = part
            if rng.random() < table["mismatch_probability"]:
                label = int(rng.integers(NUM_EMOTIONS))
                level = float(rng.uniform(*rules["timeline"]["intensity"])) if label != NEUTRAL else 0.0
                shown = replace(part, label=label, intensity_start=level, intensity_end=level)
            start = min(1.0, gain * shown.intensity_start)
            end = min(1.0, gain * shown.intensity_end)
            parts.append(replace(shown, intensity_start=start, intensity_end=end))
        centre = self.ramps.mean(axis=1, keepdims=True) - shift
        half = np.diff(self.ramps, axis=1) / 2.0
        half = half * rng.uniform(*table["ramp_scale"], size=half.shape)
        # An expression may take longer to leave a face than to come onto it.
        level = [max(part.intensity_start, part.intensity_end) for part in parts]
        falls = np.array([[after < before] for before, after in zip(level[:-1], level[1:], strict=True)]).reshape(half.shape)
        half = half * np.where(falls, table.get("fall_scale", 1.0), 1.0)
        ramps = np.concatenate([centre - half, centre + half], axis=1)
        return Curve(tuple(parts), ramps, self.spans - shift)


def voice_curve(timeline: Timeline, words: np.ndarray) -> Curve:
    """Places a timeline on word spans [n, 2] in seconds."""
    ramps = np.zeros((len(timeline.joins), 2))
    for i, join in enumerate(timeline.joins):
        if join.ramp_words > 0:
            first = join.first_ramp_word
            ramps[i] = words[first, 0], words[first + join.ramp_words - 1, 1]
        else:
            # A sharp change lies in the middle of the gap between the words, if there is one.
            centre = 0.5 * (words[join.word - 1, 1] + words[join.word, 0])
            ramps[i] = centre - 0.5 * join.sharp_s, centre + 0.5 * join.sharp_s
    spans = np.array([[words[part.first_word, 0], words[part.end_word - 1, 1]] for part in timeline.parts])
    return Curve(timeline.parts, ramps, spans)


def silences(words: np.ndarray, duration_s: float, inherit_pause_s: float) -> list[tuple[float, float]]:
    """Gaps between words, and before and after them, that are too long to inherit a label: [(start_s, end_s)]."""
    edges = [(0.0, float(words[0, 0]))]
    edges += [(float(a), float(b)) for a, b in zip(words[:-1, 1], words[1:, 0], strict=True)]
    edges += [(float(words[-1, 1]), duration_s)]
    return [(a, b) for a, b in edges if b - a > inherit_pause_s]


@dataclass(frozen=True)
class FrameTruth:
    """emotion [T] int8 (index into CANONICAL; -1 in silence and collar), intensity [T] f32 (NaN in silence), segments."""

    emotion: np.ndarray
    intensity: np.ndarray
    segments: list[list]


def frame_truth(rules: Rules, curve: Curve, words: np.ndarray, frame_times: np.ndarray, duration_s: float) -> FrameTruth:
    """The diarizer's truth. Segments [start_s, end_s, label] are exact to a millisecond and cover all but silence."""
    table = rules["labels"]
    silent_spans = silences(words, duration_s, table["inherit_pause_s"])

    def silent(times: np.ndarray) -> np.ndarray:
        inside = np.zeros(len(times), dtype=bool)
        for start, end in silent_spans:
            inside |= (times >= start) & (times < end)
        return inside

    intensity = curve.intensity(frame_times)
    emotion = curve.labels(frame_times, table["neutral_below"]).astype(np.int8)
    low, high = table["collar"]
    # Without an emotional part there is no onset, hence no collar: intensity is exactly 0 there.
    emotion[(intensity >= low) & (intensity <= high)] = -1
    quiet = silent(frame_times)
    emotion[quiet] = -1
    intensity = np.where(quiet, np.nan, intensity).astype(np.float32)

    fine = (np.arange(int(round(duration_s * 1000))) + 0.5) / 1000.0
    codes = np.where(silent(fine), -1, curve.labels(fine, table["neutral_below"]))
    edges = np.flatnonzero(np.diff(codes, prepend=-2, append=-2))
    spans = zip(edges[:-1], edges[1:], strict=True)
    segments = [[int(a) / 1000.0, int(b) / 1000.0, CANONICAL[codes[a]]] for a, b in spans if codes[a] >= 0]
    return FrameTruth(emotion, intensity, segments)
