import math

import numpy as np
import pytest

from sedtalker_jax.evaluation.claims.scores import ArmScores
from sedtalker_jax.evaluation.claims.statistics import NUM_RESAMPLES, effect, holm

VOICES, CLIPS = 40, 4


def arm(values, seed=0, name="ours", weights=None, clips=None, voices=None):
    values = np.asarray(values, np.float64)
    clips = clips or tuple(f"clip{index}" for index in range(len(values)))
    voices = voices or tuple(f"voice{index // CLIPS}" for index in range(len(values)))
    return ArmScores("toy", name, seed, clips, voices, {"error": values}, {} if weights is None else {"error": weights})


def world(rng, seeds=5, seed_sd=0.0, voice_sd=1.0, clip_sd=1.0, noise_sd=0.3):
    """Scores [seeds, clips] of mean zero: seeds, voices and clips each have an effect of their own, voices and clips in every
    seed the same."""
    shared = np.repeat(rng.normal(0, voice_sd, VOICES), CLIPS) + rng.normal(0, clip_sd, VOICES * CLIPS)
    return shared + rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, noise_sd, (seeds, VOICES * CLIPS))


def arms(values, name="ours"):
    return [arm(row, seed, name) for seed, row in enumerate(values)]


def test_the_interval_covers_the_mean_in_nineteen_of_twenty_worlds():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        found = effect(arms(world(rng)), [], "error", "value")
        covered += found.low < 0 < found.high
    # The exact figure is 95% but for the voices' finite number, which costs about a point; four standard errors are six points.
    assert 0.88 <= covered / 200 <= 0.99


def test_seeds_that_agree_do_not_narrow_the_interval_over_voices():
    row = world(np.random.default_rng(1), seeds=1)[0]
    one = effect(arms([row]), [], "error", "value")
    five = effect(arms([row] * 5), [], "error", "value")
    assert (five.value, five.low, five.high) == pytest.approx((one.value, one.low, one.high), abs=1e-12)
    assert (five.num_seeds, five.num_voices, five.num_clips) == (5, VOICES, VOICES * CLIPS)
    means = row.reshape(VOICES, CLIPS).mean(axis=1)
    # Voices vary as their means do; clips within a drawn voice vary once more.
    variance = means.var() / VOICES + row.reshape(VOICES, CLIPS).var(axis=1).mean() / (VOICES * CLIPS)
    assert five.high - five.low == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.05)


def test_seeds_that_differ_widen_it():
    rng = np.random.default_rng(2)
    row = world(rng, seeds=1)[0]
    offsets = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    agreeing, differing = (effect(arms(row + s * offsets[:, None]), [], "error", "value") for s in (0.0, 1.0))
    variance = ((agreeing.high - agreeing.low) / 3.92) ** 2 + offsets.var() / 5
    assert differing.high - differing.low == pytest.approx(3.92 * math.sqrt(variance), rel=0.05)


def test_pairing_removes_what_arms_share():
    rng = np.random.default_rng(3)
    base = world(rng, voice_sd=3.0, clip_sd=3.0, seed_sd=1.0, noise_sd=0.0)
    better = base - 0.2 + rng.normal(0, 0.1, base.shape)
    paired = effect(arms(better), arms(base, "other"), "error", "difference", high=0.0)
    assert paired.value == pytest.approx(-0.2, abs=0.02)
    assert -0.25 < paired.low < paired.high < -0.15
    assert paired.p == pytest.approx(2 / (NUM_RESAMPLES + 1))
    alone = effect(arms(better), [], "error", "value")
    assert alone.high - alone.low > 20 * (paired.high - paired.low)
    swapped = effect(arms(base, "other"), arms(better), "error", "difference", high=0.0)
    assert swapped.value == -paired.value and swapped.p == 1.0


def test_clips_are_paired_by_name_and_not_by_place():
    values = np.random.default_rng(4).normal(size=8)
    first = arm(values)
    order = np.random.default_rng(5).permutation(8)
    second = arm(
        values[order] + 1,
        clips=tuple(first.clips[i] for i in order),
        voices=tuple(first.voices[i] for i in order),
        name="other",
    )
    found = effect([first], [second], "error", "difference", high=0.0)
    assert (found.value, found.low, found.high) == pytest.approx((-1, -1, -1))


def test_only_shared_seeds_and_clips_count():
    first = arms(np.zeros((3, 8)))
    second = [arm(np.ones(8), seed=1), arm(np.full(8, 7.0), seed=9)]
    found = effect(first, second, "error", "difference")
    assert (found.value, found.num_seeds) == (-1, 1)
    assert effect(first, [arm(np.ones(8), seed=9)], "error", "difference") is None
    assert effect(first, second, "another", "difference") is None
    assert effect([], [], "error", "value") is None


def test_a_clip_without_a_value_in_either_arm_is_left_out_of_both():
    first, second = np.arange(8.0), np.zeros(8)
    first[0], second[7] = np.nan, np.nan
    found = effect([arm(first)], [arm(second)], "error", "difference")
    assert (found.arm_score, found.against_score, found.num_clips) == (3.5, 0.0, 6)
    assert effect([arm(np.full(8, np.nan))], [arm(second)], "error", "difference") is None
    assert effect([arm(first)], [], "error", "value").arm_score == 4.0


def test_scores_are_weighted_means_of_each_arm():
    weights = np.array([1.0, 3.0, 0.0, 2.0] * 2)
    values = np.array([1.0, 2.0, 100.0, 4.0] * 2)
    found = effect([arm(values, weights=weights)], [arm(2 * values, weights=weights)], "error", "ratio")
    assert (found.arm_score, found.value) == pytest.approx((2.5, 0.5))
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))


def test_a_ratio_to_nothing_has_no_value():
    found = effect([arm(np.ones(8))], [arm(np.zeros(8))], "error", "ratio", high=1.1)
    assert math.isnan(found.value) and math.isnan(found.low) and math.isnan(found.p)
    assert found.to_dict()["p"] is None


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.2, 0.25, 0.3, 0.35, 0.5])
def test_p_is_below_five_percent_exactly_when_the_interval_lies_inside_the_bounds(shift):
    values = world(np.random.default_rng(6)) - shift
    found = effect(arms(values), [], "error", "value", high=0.0)
    assert (found.p < 0.05) == (found.high < 0)
    found = effect(arms(values), [], "error", "value", low=-0.6, high=0.1)
    assert (found.p < 0.05) == (found.low > -0.6 and found.high < 0.1)


def test_no_difference_is_not_a_difference_and_a_reached_goal_is_reached():
    same = [arm(np.ones(8))]
    assert effect(same, same, "error", "difference", high=0.0).p == 1.0
    assert effect(same, [], "error", "value", high=1.0).p < 0.05


def test_holm_on_an_example_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; the last may not fall below the one before.
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_holm_keeps_the_rate_of_any_false_claim():
    rng = np.random.default_rng(7)
    false = [min(holm(dict(enumerate(rng.uniform(size=20)))).values()) < 0.05 for _ in range(2000)]
    assert np.mean(false) < 0.065
