import numpy as np
import pytest

from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.bootstrap import HierarchicalBootstrap, ratio_of_sums
from sedtalker_jax.evaluation.emotion_metrics import confusion_counts, macro_f1


def test_independent_clips_give_the_normal_interval():
    rng = np.random.default_rng(0)
    values = rng.normal(3.0, 2.0, 400)
    found = HierarchicalBootstrap(np.arange(400), num_resamples=4_000).mean(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert (found.num_clips, found.num_speakers) == (400, 400)


def test_coverage_where_speakers_differ():
    """True mean 0, speakers spread by 1, clips within them by 1: a 95% interval must hold 0 about 95 times in 100."""
    rng = np.random.default_rng(1)
    speakers = np.repeat(np.arange(25), 8)
    hierarchical = flat = 0
    trials = 200
    for trial in range(trials):
        values = rng.normal(size=25)[speakers] + rng.normal(size=200)
        for pooled in (False, True):
            groups = np.arange(200) if pooled else speakers
            interval = HierarchicalBootstrap(groups, num_resamples=400, seed=trial).mean(values)
            covered = interval.low <= 0 <= interval.high
            flat, hierarchical = flat + (pooled and covered), hierarchical + (not pooled and covered)
    assert 0.91 <= hierarchical / trials <= 0.99
    assert flat / trials < 0.70  # what ignoring speakers would claim


def test_draws_follow_the_hierarchy():
    speakers = np.array(["a"] * 2 + ["b"] * 6)
    counts = HierarchicalBootstrap(speakers, num_resamples=2_000).counts
    times_a, times_b = counts[:, :2].sum(1) / 2, counts[:, 2:].sum(1) / 6
    np.testing.assert_array_equal(times_a + times_b, 2)  # two speakers in every resample, each with all its clips' worth
    assert set(np.unique(times_a)) == {0, 1, 2}
    assert np.mean(times_a) == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(counts.mean(0), 1.0, atol=0.1)


def test_equals_resampling_by_hand():
    rng = np.random.default_rng(2)
    boot = HierarchicalBootstrap(["a", "a", "b", "c"], num_resamples=100)
    clips = [confusion_counts(rng.integers(0, 3, 30), rng.integers(0, 3, 30), 3) for _ in range(4)]
    scores = boot.scores(np.stack(clips), macro_f1)
    for row, score in zip(boot.counts[:10], scores, strict=False):
        assert score == pytest.approx(float(macro_f1(sum(n * clip for n, clip in zip(row, clips, strict=True)))))
    assert boot.interval(np.stack(clips), macro_f1).value == pytest.approx(float(macro_f1(sum(clips))))


def test_pairing_removes_what_clips_share():
    rng = np.random.default_rng(3)
    speakers = np.repeat(np.arange(30), 5)
    difficulty = rng.normal(0, 10, 150)
    first, second = difficulty + rng.normal(0.5, 0.5, 150), difficulty + rng.normal(0, 0.5, 150)
    boot = HierarchicalBootstrap(speakers)
    paired = boot.paired_mean_difference(first, second)
    assert paired.excludes_zero and paired.value == pytest.approx(np.mean(first - second))
    alone = boot.mean(first)
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)
    ones = np.ones(150)
    same = boot.paired_difference(np.stack([first, ones], -1), np.stack([second, ones], -1), ratio_of_sums)
    assert (same.value, same.low, same.high) == pytest.approx((paired.value, paired.low, paired.high))
    assert not boot.paired_mean_difference(first, first).excludes_zero


def test_scores_that_are_not_sums():
    rng = np.random.default_rng(4)
    values = rng.normal(size=60)
    boot = HierarchicalBootstrap(np.arange(60), num_resamples=300)
    by_index = boot.of_clips(lambda clips: float(values[clips].mean()))
    by_sums = boot.mean(values)
    assert (by_index.value, by_index.low, by_index.high) == pytest.approx((by_sums.value, by_sums.low, by_sums.high))


def test_unknown_values_and_weights():
    boot = HierarchicalBootstrap(["a", "b", "c", "d"])
    assert boot.mean([1.0, np.nan, 3.0, np.nan]).value == pytest.approx(2.0)
    assert boot.mean([1.0, 3.0, 0.0, 0.0], weights=[1, 3, 0, 0]).value == pytest.approx(2.5)
    assert np.isnan(boot.mean([np.nan] * 4).value)


def test_one_clip_has_no_interval_and_one_speaker_resamples_clips():
    alone = HierarchicalBootstrap(["a"]).mean([2.0])
    assert alone.value == 2.0 and np.isnan(alone.low) and not alone.excludes_zero
    one_voice = HierarchicalBootstrap(["a"] * 50).mean(np.random.default_rng(5).normal(size=50))
    assert one_voice.low < one_voice.value < one_voice.high and one_voice.num_speakers == 1


def test_the_same_seed_gives_the_same_draws():
    first, second, other = (HierarchicalBootstrap(["a", "b", "b"], seed=seed).counts for seed in (1, 1, 2))
    assert (first == second).all() and (first != other).any()


def test_mistakes_are_named():
    with pytest.raises(UserError, match="no clips"):
        HierarchicalBootstrap([])
    with pytest.raises(UserError, match="100 resamples"):
        HierarchicalBootstrap(["a"], num_resamples=10)
    with pytest.raises(UserError, match="3 clips do not belong"):
        HierarchicalBootstrap(["a", "b"]).mean([1.0, 2.0, 3.0])
