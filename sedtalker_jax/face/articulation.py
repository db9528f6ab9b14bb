"""Speech and emotion as rig weights over time: coarticulated, with inertia, and not a sum of the two.

Each sound has a viseme, a target for jaw, lips and tongue. Targets blend by dominance functions (Cohen and Massaro, "Modeling
coarticulation in synthetic visual speech", 1993): every sound pulls with a strength that falls off exponentially with the
distance in time, so that weak sounds take the shape of their neighbours and fast speech undershoots. Jaw and lips then move as
critically damped masses. Lips are forced shut for p, b, m, and onto the teeth for f, v.

Emotion changes how speech moves (anger larger and quicker, sadness small and slow), speech changes what an expression may do
(pressed lips open, a smile gives way to rounding and closures), and some movements need both (anger bares the teeth when the
jaw opens). Blinks are separate, see blinks().
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.signal import lfilter

from sedtalker_jax.emotion.labels import ACTIVE
from sedtalker_jax.face.head import ArticulationStyle, average_style
from sedtalker_jax.face.phonemes import VOWELS, Phoneme, visemes_of
from sedtalker_jax.face.rig import INDEX, NUM_WEIGHTS, pose, weight_indices, with_correctives
from sedtalker_jax.face.rules import DEFAULT_FACE_RULES, face_rules

__all__ = ["ArticulationStyle", "Phoneme", "articulate", "blinks", "expression_weights"]

RATE = 100.0  # Hz of the inner time grid: movements are the same at every frame rate
GROUPS = ("jaw", "lips", "tongue")
_JAW = ("jawOpen", "jawForward")
_TONGUE = ("tongueOut",)
_ROUND = ("mouthFunnel", "mouthPucker")
# Where the visemes of a sound change: a diphthong stays longer on its first vowel.
_EDGES = {1: (0.0, 1.0), 2: (0.0, 0.58, 1.0), 3: (0.0, 0.4, 0.7, 1.0)}
_EYES_AND_BROWS = ("eye", "brow", "cheekSquint", "noseSneer")


def _group_of(name: str) -> int:
    return 0 if name.startswith(_JAW) else 2 if name in _TONGUE else 1


@lru_cache(maxsize=1)
def _default_rules() -> dict[str, Any]:
    return face_rules()


class _Style:
    """A person's visemes and expressions as arrays, made once per person and set of rules."""

    def __init__(self, style: ArticulationStyle, rules: Mapping[str, Any]):
        self.rules = rules
        spread = rules["individual"]
        self.visemes = list(rules["visemes"])
        self.index = {name: k for k, name in enumerate(self.visemes)}
        used: set[int] = set()
        poses = []
        for name in self.visemes:
            target = pose({key: value for key, value in rules["visemes"][name].items() if key != "dominance"})
            target *= np.exp(spread["viseme"] * style.normal(f"viseme {name}", NUM_WEIGHTS))
            # Speech is symmetric: pairs share their draw.
            for key in rules["visemes"][name]:
                if key != "dominance":
                    indices = weight_indices(key)
                    target[indices] = target[indices[0]]
                    used.update(indices)
            poses.append(target)
        self.channels = np.array(sorted(used))
        names = list(INDEX)
        self.group = np.array([_group_of(names[k]) for k in self.channels])
        self.targets = np.stack(poses)[:, self.channels]
        self.dominance = np.array([rules["visemes"][name]["dominance"] for name in self.visemes], float)
        self.dominance *= np.exp(
            0.5 * spread["viseme"] * style.normal("dominance", self.dominance.size).reshape(self.dominance.shape)
        )
        size, speed, emphasis = style.normal("size, speed and emphasis", 3)
        self.emphasis = np.exp(2.0 * spread["size"] * emphasis)
        self.size, self.speed = np.exp(spread["size"] * size), np.exp(spread["speed"] * speed)
        self.opening = style.opening
        self.expressions = np.zeros((len(ACTIVE), NUM_WEIGHTS))
        for k, emotion in enumerate(ACTIVE):
            weights = pose(rules["expressions"].get(emotion, {}))
            draw = spread["expression"] * style.normal(f"expression {emotion}", NUM_WEIGHTS)
            for name, left in INDEX.items():
                right = INDEX.get(f"{name[:-4]}Right") if name.endswith("Left") else None
                if right is not None:
                    draw[right] = draw[left] + spread["asymmetry"] * draw[right] / max(spread["expression"], 1e-9)
            self.expressions[k] = np.clip(weights * np.exp(draw), 0.0, 1.15)
        self.upper = np.array([name.startswith(_EYES_AND_BROWS) for name in INDEX])
        self.gain = np.array([rules["gain"].get(emotion, 1.0) for emotion in ACTIVE]) - 1.0
        self.pace = np.array([rules["speed"].get(emotion, 1.0) for emotion in ACTIVE]) - 1.0
        interplay = rules["interplay"]

        def vector(table: Mapping[str, float]) -> np.ndarray:
            out = np.zeros(NUM_WEIGHTS)
            for name, value in table.items():
                out[weight_indices(name)] = value
            return out

        self.speaking, self.closing = vector(interplay["speaking"]), vector(interplay["closing"])
        self.rounding, self.opened = vector(interplay["rounding"]), vector(interplay["opening"])


_cache: dict[tuple, _Style] = {}


def _prepared(style: ArticulationStyle, rules: Mapping[str, Any]) -> _Style:
    # Rules are compared by identity (the cache keeps them alive, so that an id is not used again): do not change them in place.
    key = (style.seed, style.opening.tobytes(), id(rules))
    entry = _cache.get(key)
    if entry is None and not set(DEFAULT_FACE_RULES) <= set(rules):
        raise ValueError("rules must be complete: pass what face_rules(overrides) returns")
    if entry is None or entry.rules is not rules:
        entry = _Style(style, rules)
        if len(_cache) > 256:
            _cache.clear()
        _cache[key] = entry
    return entry


def expression_weights(
    activation: np.ndarray, style: ArticulationStyle | None = None, rules: Mapping[str, Any] | None = None
) -> np.ndarray:
    """Rig weights of a silent expression: activation [..., K-1] (columns emotion.labels.ACTIVE) -> [..., W]."""
    rules = _default_rules() if rules is None else rules
    person = _prepared(style or average_style(), rules)
    return with_correctives(_expression(np.asarray(activation, np.float64), person, rules))


def _expression(activation: np.ndarray, person: _Style, rules: Mapping[str, Any]) -> np.ndarray:
    a = np.clip(activation, 0.0, 1.0)
    upper = (a ** rules["exponent"]["upper"]) @ person.expressions
    lower = (a ** rules["exponent"]["lower"]) @ person.expressions
    return np.clip(np.where(person.upper, upper, lower), 0.0, 1.15)


def _critically_damped(x: np.ndarray, frequency: float) -> np.ndarray:
    """x [n, ...] through a critically damped second-order low-pass of the given natural frequency in Hz, at RATE."""
    pole = np.exp(-2.0 * np.pi * frequency / RATE)
    first = x[0]
    return first + lfilter([(1.0 - pole) ** 2], [1.0, -2.0 * pole, pole * pole], x - first, axis=0)


def _delay(frequency: float) -> float:
    """Group delay at rest, in seconds, of _critically_damped."""
    pole = np.exp(-2.0 * np.pi * frequency / RATE)
    return 2.0 * pole / (1.0 - pole) / RATE


def _segments(phonemes: Sequence[Phoneme], person: _Style, rules: Mapping[str, Any], end: float) -> tuple[np.ndarray, ...]:
    """Sub-segments: viseme index, start, end, gain (stress). Diphthongs become two; time before and after is rest."""
    rest = person.index["rest"]
    first = phonemes[0].start_s if phonemes else end
    rows: list[tuple[int, float, float, float]] = [(rest, min(-0.4, first - 0.4), first, 1.0)]
    last = first
    coarticulation = rules["coarticulation"]
    for sound in phonemes:
        if sound.start_s > last + 0.06:
            rows.append((rest, last, sound.start_s, 1.0))
        names = visemes_of(sound.symbol)
        gain = 1.0
        if names != ("rest",):
            gain = (
                coarticulation["stress_gain"]
                if sound.stress == 1
                else coarticulation["unstressed_gain"]
                if sound.stress == 0
                else 1.0
            )
        edges = _EDGES[len(names)]
        length = max(sound.end_s - sound.start_s, 1e-3)
        for k, name in enumerate(names):
            rows.append(
                (person.index.get(name, rest), sound.start_s + edges[k] * length, sound.start_s + edges[k + 1] * length, gain)
            )
        last = max(last, sound.end_s)
    rows.append((rest, last, max(end, last) + 0.4, 1.0))
    table = np.array(rows)
    return table[:, 0].astype(int), table[:, 1], table[:, 2], table[:, 3]


def _closure(phonemes: Sequence[Phoneme], viseme: str, times: np.ndarray, fps: float, rules: Mapping[str, Any]) -> np.ndarray:
    """1 while the lips are held for `viseme` sounds, with smooth flanks, [n].

    The hold includes the animation frame nearest to its middle, so that no closure falls between two frames.
    """
    attack, release = rules["coarticulation"]["closure_attack"], rules["coarticulation"]["closure_release"]
    out = np.zeros(len(times))
    for sound in phonemes:
        names = visemes_of(sound.symbol)
        if viseme not in names:
            continue
        length = sound.end_s - sound.start_s
        place = names.index(viseme)
        low = sound.start_s + length * place / len(names)
        high = sound.start_s + length * (place + 1) / len(names)
        begin, finish = low + 0.10 * (high - low), high - 0.25 * (high - low)
        frame = round(0.5 * (begin + finish) * fps) / fps
        begin, finish = min(begin, frame - 1.1 / RATE), max(finish, frame + 1.1 / RATE)
        rise = np.clip((times - begin) / attack + 1.0, 0.0, 1.0)
        fall = np.clip((finish - times) / release + 1.0, 0.0, 1.0)
        held = np.minimum(rise, fall)
        np.maximum(out, held * held * (3.0 - 2.0 * held), out=out)
    return out


def _speech(
    segments: tuple[np.ndarray, ...], person: _Style, rules: Mapping[str, Any], times: np.ndarray, pace: np.ndarray, group: int
) -> np.ndarray:
    """Blended viseme targets of one group of channels before inertia, [n, channels of the group]."""
    viseme, start, stop, gain = segments
    c, name = rules["coarticulation"], GROUPS[group]
    middle, half = 0.5 * (start + stop), 0.5 * c["core"] * (stop - start)
    # Rest holds for its whole length, not only in its middle.
    half = np.where(viseme == person.index["rest"], np.maximum(0.5 * (stop - start) - 0.05, 0.0), half)
    offset = times[:, None] - middle
    distance = np.where(offset > 0, c["rate_after"][name], -c["rate_before"][name]) * offset
    distance -= half * np.where(offset > 0, c["rate_after"][name], c["rate_before"][name])
    np.maximum(distance, 0.0, out=distance)
    distance *= -person.speed * pace[:, None]
    strength = np.exp(distance, out=distance)
    strength *= person.dominance[viseme, group] * gain
    goal = person.targets[viseme][:, person.group == group] * gain[:, None]
    return (strength @ goal) / (strength.sum(1, keepdims=True) + c["rest_pull"])


def articulate(
    phonemes: Sequence[Phoneme],
    num_frames: int,
    fps: float,
    activation: np.ndarray,
    style: ArticulationStyle | None = None,
    rules: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Rig weights of a person who says `phonemes` while feeling `activation`.

    phonemes: in order of time; gaps between them are rest. activation: [F, K-1] in [0, 1], columns emotion.labels.ACTIVE, at
    the frames f / fps. style: a head's own (Head.style), else the average person. rules: from face_rules(), else the defaults.
    Returns [F, W] float32 with correctives, without blinks. Deterministic.

    Raises:
      ValueError: when activation is not [num_frames, K-1] or not finite.
    """
    activation = np.asarray(activation, np.float64)
    if activation.shape != (num_frames, len(ACTIVE)) or not np.isfinite(activation).all():
        raise ValueError(f"activation must be finite and [{num_frames}, {len(ACTIVE)}], got {activation.shape}")
    rules = _default_rules() if rules is None else rules
    person = _prepared(style or average_style(), rules)
    c, interplay = rules["coarticulation"], rules["interplay"]

    end = num_frames / fps
    margin = 0.2  # seconds before the first frame, in which the filters settle
    times = np.arange(int(np.ceil((end + margin) * RATE)) + 2) / RATE - margin
    frame_times = np.arange(num_frames) / fps
    position = np.clip(times * fps, 0.0, num_frames - 1)
    left = np.minimum(position.astype(int), max(num_frames - 2, 0))
    part = (position - left)[:, None]
    a = np.clip(activation[left] * (1.0 - part) + activation[np.minimum(left + 1, num_frames - 1)] * part, 0.0, 1.0)
    felt = dict(zip(ACTIVE, a.T, strict=True))

    # Speech: targets are read ahead by the delay of the mass that follows them.
    pace = 1.0 + a @ person.pace
    segments = _segments(phonemes, person, rules, end)
    raw = np.empty((len(times), len(person.channels)))
    for group, frequency in enumerate((c["jaw_frequency"], c["lip_frequency"], c["lip_frequency"])):
        target = _speech(segments, person, rules, times + _delay(frequency), pace, group)
        raw[:, person.group == group] = _critically_damped(target, frequency * person.speed)
    speech = np.zeros((len(times), NUM_WEIGHTS))
    speech[:, person.channels] = raw
    gain = (1.0 + a @ person.gain) * person.size
    lips = gain * (1.0 - interplay["sad_slack"] * felt["sad"])
    jaw_weights = [INDEX[name] for name in _JAW]
    jaw_speech = speech[:, jaw_weights] * gain[:, None]
    speech *= lips[:, None]
    speech[:, jaw_weights] = jaw_speech
    # Large movements saturate softly below 1.
    speech = np.where(speech > 0.6, 0.6 + 0.4 * np.tanh((speech - 0.6) / 0.4), speech)

    # What the mouth is doing, for the expression to give way to.
    spoken = np.array([(p.start_s, p.end_s) for p in phonemes if visemes_of(p.symbol) != ("rest",)]).reshape(-1, 2)
    talking = ((times[:, None] >= spoken[:, 0] - 0.05) & (times[:, None] <= spoken[:, 1] + 0.05)).any(1).astype(float)
    activity = _critically_damped(talking, 3.0)
    closed = _closure(phonemes, "PP", times, fps, rules)
    on_teeth = _closure(phonemes, "FF", times, fps, rules)
    rounded = np.clip(speech[:, [INDEX[n] for n in _ROUND]].sum(1), 0.0, 1.0)
    opened = np.clip(speech[:, INDEX["jawOpen"]] / 0.6, 0.0, 1.0)

    expression = _expression(a, person, rules)
    expression *= 1.0 - person.speaking * activity[:, None]
    smile = expression[:, weight_indices("mouthSmile")].mean(1)
    stretch = expression[:, weight_indices("mouthStretch")].mean(1)
    frown = expression[:, weight_indices("mouthFrown")].mean(1)
    expression *= 1.0 - person.rounding * rounded[:, None]
    expression *= 1.0 - person.opened * opened[:, None]
    expression *= 1.0 - person.closing * np.maximum(closed, 0.6 * on_teeth)[:, None]

    less_round = np.clip(
        1.0 - interplay["smile_against_rounding"] * smile - interplay["stretch_against_rounding"] * stretch, 0.2, 1.0
    )
    for name in _ROUND:
        speech[:, INDEX[name]] *= less_round
    for name in ("mouthSmile", "mouthStretch"):
        speech[:, weight_indices(name)] *= np.clip(1.0 - interplay["frown_against_spreading"] * frown, 0.2, 1.0)[:, None]

    # Either may open the jaw, and together they do not open it further than it goes.
    weights = np.where(
        (speech > 0) & (expression > 0),
        1.0 - (1.0 - np.minimum(speech, 1)) * (1.0 - np.minimum(expression, 1)),
        speech + expression,
    )
    weights = np.clip(weights, 0.0, 1.15)
    held = 1.0 - np.maximum(closed, 0.7 * on_teeth)
    both = opened * held
    for emotion, name, rule in (
        ("angry", "mouthLowerDown", "angry_bares_teeth"),
        ("disgust", "mouthUpperUp", "disgust_lifts_lip"),
        ("fear", "mouthStretch", "fear_stretches"),
        ("happy", "mouthUpperUp", "happy_opens"),
        ("happy", "mouthLowerDown", "happy_opens"),
    ):
        weights[:, weight_indices(name)] += (interplay[rule] * both * felt[emotion])[:, None]
    weights[:, weight_indices("mouthPress")] += (interplay["angry_presses_closure"] * closed * felt["angry"])[:, None]
    weights = np.clip(weights, 0.0, 1.15)

    _emphasise(weights, phonemes, times, felt, person, rules["emphasis"])

    # To the frames; the closure is solved there, so that it is exact at what is seen.
    place = (frame_times - times[0]) * RATE
    low = np.minimum(place.astype(int), len(times) - 2)
    part = (place - low)[:, None]

    def at_frames(x: np.ndarray) -> np.ndarray:
        x = x[:, None] if x.ndim == 1 else x
        return x[low] * (1.0 - part) + x[low + 1] * part

    weights = at_frames(weights)
    closed, on_teeth = at_frames(closed)[:, 0], at_frames(on_teeth)[:, 0]
    return _close_lips(weights, closed, on_teeth, person.opening, c).astype(np.float32)


def _emphasise(weights, phonemes, times: np.ndarray, felt: Mapping[str, np.ndarray], person: _Style, rule) -> None:
    """Brow movements on stressed vowels (in place): aroused people move more, frowning ones knit instead of raising."""
    centres = np.array([0.5 * (p.start_s + p.end_s) for p in phonemes if p.stress == 1 and visemes_of(p.symbol)[0] in VOWELS])
    if not len(centres):
        return
    pulse = np.exp(-(((times[:, None] - centres) / rule["width"]) ** 2)).sum(1)
    aroused = felt["angry"] + felt["happy"] + felt["surprise"] + 0.5 * felt["fear"]
    pulse = (
        np.minimum(pulse, 1.2) * rule["brows"] * person.emphasis * (1.0 + rule["arousal"] * aroused) * (1.0 - 0.6 * felt["sad"])
    )
    frown = np.clip(felt["angry"] + felt["disgust"] + 0.6 * felt["upset"], 0.0, 1.0)
    for name, amount in (("browInnerUp", 0.8 * (1.0 - frown)), ("browOuterUp", 1.0 - frown), ("browDown", frown)):
        indices = weight_indices(name)
        weights[:, indices] = np.minimum(weights[:, indices] + (pulse * amount)[:, None], 1.15)


def _close_lips(
    weights: np.ndarray, closed: np.ndarray, on_teeth: np.ndarray, opening: np.ndarray, c: Mapping[str, Any]
) -> np.ndarray:
    """Solves for the closing weight that leaves (1 - closed) of the opening, and parts lips that would cross; [F, W].

    Correctives bend with the closing weight, hence two rounds.
    """
    jaw, close, drop = INDEX["jawOpen"], INDEX["mouthClose"], weight_indices("mouthLowerDown")
    weights[:, jaw] *= 1.0 - c["closure_jaw"] * np.maximum(closed, 0.6 * on_teeth)
    weights = with_correctives(weights)
    left = np.minimum(1.0 - closed, 1.0 - (1.0 - c["contact_opening"]) * on_teeth)
    wanted = np.maximum(weights @ opening, 0.0) * left
    for _ in range(2):
        weights[:, close] += np.maximum(weights @ opening - wanted, 0.0) / -opening[close]
        weights = with_correctives(weights)
    crossing = np.maximum(-(weights @ opening), 0.0)
    weights[:, drop] += (crossing / opening[drop].sum())[:, None]
    return weights


def blinks(num_frames: int, fps: float, seed: int, rules: Mapping[str, Any] | None = None) -> np.ndarray:
    """A separate track of blinks, [F] in [0, 1], for eyeBlinkLeft and eyeBlinkRight; never part of the truth.

    Intervals are exponential above a minimum, lids close faster than they open.
    """
    rule = (rules or DEFAULT_FACE_RULES)["blink"]
    generator = np.random.default_rng([seed & 0xFFFFFFFF, 0xB11])
    times = np.arange(num_frames) / fps
    out = np.zeros(num_frames)
    at = generator.exponential(rule["interval"] - rule["minimum"])
    while at < num_frames / fps:
        closing = np.clip((times - at) / rule["closing"], 0.0, 1.0)
        opening = np.clip((times - at - rule["closing"] - rule["held"]) / rule["opening"], 0.0, 1.0)
        lid = closing * closing * (3 - 2 * closing) - opening * opening * (3 - 2 * opening)
        np.maximum(out, lid, out=out)
        at += rule["minimum"] + generator.exponential(rule["interval"] - rule["minimum"])
    return out.astype(np.float32)
