import numpy as np
import pytest

from sedtalker_jax.data.world.rules import load_rules
from sedtalker_jax.data.world.timeline import (
    NEUTRAL,
    Join,
    Part,
    Timeline,
    frame_truth,
    plan_timeline,
    silences,
    voice_curve,
    word_weights,
)
from sedtalker_jax.emotion.labels import CANONICAL

RULES = load_rules("configs/world_rules.toml")
HAPPY, SAD = CANONICAL.index("happy"), CANONICAL.index("sad")


def words_of(num_words, length=0.3, start=0.2):
    begin = start + length * np.arange(num_words)
    return np.stack([begin, begin + length], axis=1)


def timeline(first, second, ramp_words=0, sharp_s=0.2, intensity=(0.8, 0.8)):
    parts = []
    for i, label in enumerate((first, second)):
        level = 0.0 if label == NEUTRAL else intensity[i]
        parts.append(Part(label, level, level, 5 * i, 5 * i + 5))
    return Timeline(tuple(parts), (Join(5, ramp_words, sharp_s, 0.0),))


@pytest.mark.parametrize("seed", range(20))
def test_plans_cover_all_words_once_and_keep_parts_long_enough(seed):
    rng = np.random.default_rng(seed)
    num_words = int(rng.integers(8, 20))
    plan = plan_timeline(RULES, num_words, rng, seed)
    assert plan.parts[0].first_word == 0 and plan.parts[-1].end_word == num_words
    for a, b in zip(plan.parts[:-1], plan.parts[1:], strict=True):
        assert a.end_word == b.first_word
    assert all(p.end_word - p.first_word >= RULES["timeline"]["min_words_per_part"] for p in plan.parts)
    assert all(p.intensity_start == 0.0 for p in plan.parts if p.label == NEUTRAL)
    weights = word_weights(plan, num_words)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    assert weights.min() >= 0.0


def test_joins_are_drawn_alike_with_and_without_a_change():
    pauses, ramps = {True: [], False: []}, {True: [], False: []}
    for index in range(3000):
        plan = plan_timeline(RULES, 16, np.random.default_rng(index), index)
        for join, changed in zip(plan.joins, plan.changes, strict=True):
            pauses[changed].append(join.pause_s)
            ramps[changed].append(join.ramp_words)
    assert min(len(pauses[True]), len(pauses[False])) > 800
    assert abs(np.mean(pauses[True]) - np.mean(pauses[False])) < 0.02
    assert abs(np.mean(ramps[True]) - np.mean(ramps[False])) < 0.12


def test_labels_are_in_balance_within_a_hundred_clips():
    labels = [plan_timeline(RULES, 8, np.random.default_rng(i), i).parts[0].label for i in range(104)]
    counts = np.bincount(labels, minlength=8)
    assert counts.min() >= 10 and counts.max() <= 16


def test_a_change_between_emotions_keeps_intensity_and_lies_half_way():
    curve = voice_curve(timeline(HAPPY, SAD, ramp_words=2), words_of(10))
    times = np.linspace(0.0, 3.4, 3401)
    np.testing.assert_allclose(curve.intensity(times), 0.8, atol=1e-9)
    labels = curve.labels(times, 0.15)
    change = times[np.flatnonzero(np.diff(labels))]
    assert len(change) == 1
    assert abs(change[0] - curve.ramps[0].mean()) < 2e-3
    activation = curve.activation(times)
    assert activation.shape == (3401, 7)
    np.testing.assert_allclose(activation.sum(axis=1), 0.8, atol=1e-9)


def test_an_onset_is_neutral_below_the_threshold_and_has_a_collar():
    curve = voice_curve(timeline(NEUTRAL, HAPPY, sharp_s=1.0), words_of(10))
    words = words_of(10)
    times = np.arange(0.0125, 3.3, 0.02)
    truth = frame_truth(RULES, curve, words, times, 3.4)
    intensity = curve.intensity(times)
    collar = (intensity >= 0.10) & (intensity <= 0.20)
    assert collar.any()
    assert (truth.emotion[collar] == -1).all()
    assert (truth.emotion[intensity < 0.10] == NEUTRAL).all()
    assert (truth.emotion[intensity > 0.20] == HAPPY).all()
    assert [label for _, _, label in truth.segments] == ["neutral", "happy"]
    boundary = truth.segments[0][1]
    assert boundary == truth.segments[1][0]
    assert abs(curve.intensity(np.array([boundary]))[0] - 0.15) < 5e-3


def test_long_pauses_are_silence_and_short_ones_inherit():
    words = words_of(10)
    words[5:] += 0.7
    words[8:] += 0.3
    assert silences(words, 5.0, 0.5) == [(pytest.approx(1.7), pytest.approx(2.4))] + [(pytest.approx(4.2), 5.0)]
    curve = voice_curve(timeline(HAPPY, HAPPY), words)
    times = np.arange(0.0125, 5.0, 0.02)
    truth = frame_truth(RULES, curve, words, times, 5.0)
    quiet = (times > 1.72) & (times < 2.38)
    assert (truth.emotion[quiet] == -1).all() and np.isnan(truth.intensity[quiet]).all()
    short = (times > 3.32) & (times < 3.58)
    assert (truth.emotion[short] == HAPPY).all()
    assert [(round(a, 2), round(b, 2)) for a, b, _ in truth.segments] == [(0.0, 1.7), (2.4, 4.2)]


def test_the_face_leads_and_may_differ_from_the_voice():
    shifts, differs = [], 0
    curve = voice_curve(timeline(HAPPY, SAD, ramp_words=1), words_of(10))
    for seed in range(400):
        face = curve.face(RULES, np.random.default_rng(seed))
        shifts.append(curve.ramps[0].mean() - face.ramps[0].mean())
        differs += [p.label for p in face.parts] != [p.label for p in curve.parts]
        assert face.activation(np.linspace(0, 3, 50)).max() <= 1.0 + 1e-9
    assert abs(np.mean(shifts) - 0.15) < 0.03
    assert 0.08 < np.std(shifts) < 0.18
    assert 0.04 < differs / 400 < 0.2
