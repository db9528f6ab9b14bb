import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from sedtalker_jax.emotion import Segment
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation import emotion_metrics as em

# ---- frames ----


@pytest.mark.parametrize("seed", range(3))
def test_frame_scores_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth, guess = rng.integers(-1, 6, 800), rng.integers(0, 5, 800)  # classes 6 and 7 never occur, 5 is never guessed
    counts = em.confusion_counts(truth, guess, 8)
    y, p = truth[truth >= 0], guess[truth >= 0]
    np.testing.assert_array_equal(counts, sk.confusion_matrix(y, p, labels=range(8)))
    precision, recall, f1, _ = sk.precision_recall_fscore_support(y, p, labels=range(8), zero_division=0)
    for ours, theirs in zip(em.precision_recall_f1(counts), (precision, recall, f1), strict=True):
        np.testing.assert_allclose(ours, theirs)
    assert em.frame_accuracy(counts) == pytest.approx(sk.accuracy_score(y, p))
    assert em.macro_f1(counts) == pytest.approx(sk.f1_score(y, p, average="macro", zero_division=0))
    assert em.weighted_f1(counts) == pytest.approx(sk.f1_score(y, p, average="weighted", zero_division=0))
    normalised = em.row_normalised_confusion(counts)
    np.testing.assert_allclose(normalised[:6], sk.confusion_matrix(y, p, labels=range(8), normalize="true")[:6])
    np.testing.assert_array_equal(normalised[6:], 0)


def test_frame_scores_work_on_stacks_of_counts():
    counts = np.random.default_rng(0).integers(0, 9, (5, 2, 4, 4))
    for score in (em.frame_accuracy, em.macro_f1, em.weighted_f1):
        values = score(counts)
        assert values.shape == (5, 2)
        assert values[3, 1] == pytest.approx(float(score(counts[3, 1])))
    assert np.isnan(em.frame_accuracy(np.zeros((4, 4))))


def test_confusion_refuses_what_does_not_fit():
    with pytest.raises(UserError, match="one label per frame"):
        em.confusion_counts(np.zeros(3, int), np.zeros(4, int), 2)
    with pytest.raises(UserError, match="below 2"):
        em.confusion_counts(np.array([0, 1]), np.array([0, 2]), 2)


# ---- diarization error ----


def exclusive_segments(rng, duration, labels, gaps):
    cuts = np.r_[0, np.sort(rng.uniform(0, duration, rng.integers(1, 12))), duration]
    rows = [(a, b, str(rng.choice(labels))) for a, b in zip(cuts, cuts[1:], strict=False)]
    return [row for row in rows if not gaps or rng.uniform() > 0.3]


def test_eder_of_speechbrains_docstring_example():
    prediction = [(0.2 * i, 0.2 * (i + 1), label) for i, label in enumerate("nnnaaa")]
    result = em.emotion_diarization_error_rate([(0.39, 1.10, "a")], prediction, 1.22)
    assert result.error_rate == pytest.approx(0.2704918032786885, abs=1e-12)
    named = [(a, b, {"n": "neutral", "a": "angry"}[label]) for a, b, label in prediction]
    reference = [(0, 0.39, "neutral"), (0.39, 1.10, "angry"), (1.10, 1.22, "neutral")]
    parts = em.emotion_diarization_error_rate(reference, named, 1.22)
    assert parts.error_rate == pytest.approx(0.2704918032786885, abs=1e-12)
    assert parts.missed * 1.22 == pytest.approx(0.21 + 0.02)
    assert parts.uncovered * 1.22 == pytest.approx(0.02)
    assert parts.false_alarm * 1.22 == pytest.approx(0.10)
    assert (parts.confusion, parts.overlap, parts.duration) == pytest.approx((0.0, 0.0, 1.22))


@pytest.mark.parametrize("seed", range(25))
def test_eder_equals_pyannotes_identification_error(seed):
    core = pytest.importorskip("pyannote.core")
    identification = pytest.importorskip("pyannote.metrics.identification")
    rng = np.random.default_rng(seed)
    labels = ["neutral", "angry", "happy", "sad", "surprise"]
    duration = rng.uniform(2, 20)
    reference = exclusive_segments(rng, duration, labels, gaps=False)
    hypothesis = exclusive_segments(rng, duration, labels, gaps=seed % 2 == 1)

    def annotation(rows):
        result = core.Annotation()
        for index, (start, end, label) in enumerate(rows):
            result[core.Segment(start, end), index] = label
        return result

    whole = core.Timeline([core.Segment(0, duration)])
    measure = identification.IdentificationErrorRate()
    parts = measure(annotation(reference), annotation(hypothesis), uem=whole, detailed=True)
    ours = em.emotion_diarization_error_rate(reference, hypothesis, duration)
    assert ours.error_rate == pytest.approx(parts["identification error rate"], abs=1e-6)
    # pyannote's confusion has no notion of neutral: it is our false alarms, confusions and misses that were given a label.
    assert ours.uncovered * duration == pytest.approx(parts["missed detection"], abs=1e-5)
    named = ours.false_alarm + ours.confusion + ours.missed - ours.uncovered
    assert named * duration == pytest.approx(parts["confusion"], abs=1e-5)


def test_eder_of_frames_equals_frame_error():
    rng = np.random.default_rng(1)
    names = np.array(["neutral", "happy", "sad"])
    truth, guess = rng.integers(0, 3, 200), rng.integers(0, 3, 200)

    def frames(path):
        return [(0.02 * t, 0.02 * (t + 1), names[k]) for t, k in enumerate(path)]

    result = em.emotion_diarization_error_rate(frames(truth), frames(guess), 4.0)
    assert result.error_rate == pytest.approx(np.mean(truth != guess))
    assert result.false_alarm == pytest.approx(np.mean((truth == 0) & (guess > 0)))
    assert result.missed == pytest.approx(np.mean((truth > 0) & (guess == 0)))
    assert result.confusion == pytest.approx(np.mean((truth > 0) & (guess > 0) & (truth != guess)))


def test_extra_labels_are_overlap_errors_counted_once():
    reference = [(0, 4, "happy")]
    hypothesis = [(0, 4, "happy"), (1, 2, "sad"), (1.5, 3, "angry")]
    result = em.emotion_diarization_error_rate(reference, hypothesis, 4.0)
    assert (result.overlap, result.error_rate) == pytest.approx((0.5, 0.5))
    wrong = em.emotion_diarization_error_rate(reference, [(0, 4, "sad"), (0, 4, "angry")], 4.0)
    assert (wrong.confusion, wrong.error_rate) == pytest.approx((1.0, 1.0))


def test_eder_without_silence():
    reference = [(0, 1, "neutral"), (1, 3, "happy"), (3, 5, "neutral")]
    hypothesis = [(0, 3, "happy"), (3, 5, "angry")]
    everything = em.emotion_diarization_error_rate(reference, hypothesis, 5.0)
    speech = em.emotion_diarization_error_rate(reference, hypothesis, 5.0, scored_regions=[(0, 3.5)])
    assert everything.error_rate == pytest.approx(3 / 5)
    assert (speech.error_rate, speech.duration) == pytest.approx((1.5 / 3.5, 3.5))
    with pytest.raises(UserError, match="no time is left"):
        em.emotion_diarization_error_rate(reference, hypothesis, 5.0, scored_regions=[(7, 8)])


def test_eder_per_file_mean_and_pooled():
    good = em.emotion_diarization_error_rate([(0, 9, "sad")], [(0, 9, "sad")], 9.0)
    bad = em.emotion_diarization_error_rate([(0, 1, "sad")], [(0, 1, "happy")], 1.0)
    assert em.mean_diarization_error([good, bad]).error_rate == pytest.approx(0.5)
    assert em.pool_diarization_errors([good, bad]).error_rate == pytest.approx(0.1)
    assert em.pool_diarization_errors([good, bad]).confusion == pytest.approx(0.1)
    with pytest.raises(UserError, match="no recordings"):
        em.mean_diarization_error([])


def test_eder_takes_track_segments_and_refuses_nonsense():
    segments = [Segment(0.0, 1.0, "happy", 0.4), Segment(1.0, 2.0, "neutral", 0.0)]
    assert em.emotion_diarization_error_rate(segments, segments, 2.0).error_rate == 0.0
    assert em.emotion_diarization_error_rate(segments, [], 2.0).error_rate == 1.0
    with pytest.raises(UserError, match="duration"):
        em.emotion_diarization_error_rate(segments, segments, 0.0)
    with pytest.raises(UserError, match="overlap at 0.5 s"):
        em.emotion_diarization_error_rate([(0, 1, "sad"), (0.5, 2, "happy")], [], 2.0)
    with pytest.raises(UserError, match="start before its end"):
        em.emotion_diarization_error_rate([], [(2, 1, "sad")], 2.0)


# ---- boundaries ----


def test_boundaries_leave_out_edges_and_joins():
    rows = [(0, 1, "neutral"), (1, 2, "neutral"), (2, 3, "happy"), (3, 4, "happy"), (4, 5, "sad")]
    np.testing.assert_allclose(em.segment_boundaries(rows, 5.0), [2, 4])
    # gaps are neutral: the emotion ends at 1 and begins at 2; nothing changes where a gap meets neutral
    np.testing.assert_allclose(em.segment_boundaries([(0, 1, "happy"), (2, 3, "sad"), (3.5, 4, "neutral")], 5.0), [1, 2, 3])
    np.testing.assert_allclose(em.segment_boundaries([(1, 2, "happy")], 3.0), [1, 2])
    np.testing.assert_allclose(em.segment_boundaries([(1, 2, "neutral")], 3.0), [])
    assert em.segment_boundaries([(0, 3, "happy")], 3.0).size == 0
    assert em.segment_boundaries([], 3.0).size == 0
    # Times that were rounded on their way through a file make no boundaries.
    rounded = [(0.001, 1.5, "happy"), (1.504, 2.999, "sad")]
    np.testing.assert_allclose(em.segment_boundaries(rounded, 3.0005), [1.504])


def largest_matching(a, b, tolerance):
    best = 0
    for size in range(1, min(len(a), len(b)) + 1):
        for rows in itertools.combinations(range(len(a)), size):
            for columns in itertools.permutations(range(len(b)), size):
                if all(abs(a[i] - b[j]) <= tolerance for i, j in zip(rows, columns, strict=True)):
                    best = size
    return best


@pytest.mark.parametrize("seed", range(12))
def test_boundary_matching_is_the_largest_one_to_one(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0, 3, rng.integers(0, 5)), rng.uniform(0, 3, rng.integers(0, 5))
    for tolerance in em.BOUNDARY_TOLERANCES_S:
        assert em.match_boundaries(a, b, tolerance).matched == largest_matching(a, b, tolerance)


def test_boundary_scores_never_exceed_one():
    match = em.match_boundaries(np.array([1.0, 1.1, 1.2]), np.array([1.1]), 0.5)
    assert (match.precision, match.recall, match.f1) == pytest.approx((1.0, 1 / 3, 0.5))
    total = match + em.match_boundaries(np.array([]), np.array([5.0]), 0.5)
    assert (total.matched, total.reference, total.hypothesis) == (1, 3, 2)
    assert np.isnan(em.match_boundaries([], [], 0.5).f1)


def test_false_alarms_on_joins_ignore_explained_boundaries():
    joins, reference = np.array([2.0, 5.0, 8.0]), np.array([5.2])
    hypothesis = np.array([5.1, 8.1])  # the first explains the true change beside the join, the second is a false alarm
    assert em.join_false_alarms(joins, reference, hypothesis, 0.25) == (1, 3)
    assert em.join_false_alarms(joins, np.array([]), hypothesis, 0.25) == (2, 3)
    assert em.join_false_alarms(joins, reference, np.array([]), 0.25) == (0, 3)


# ---- intensity ----


def test_intensity_correlation_is_within_emotion():
    # Across emotions the guess looks perfect, within each it is reversed.
    labels = ["happy"] * 6 + ["sad"] * 8 + ["neutral"] * 9 + ["fear"] * 2
    truth = np.r_[np.linspace(0.1, 0.3, 6), np.linspace(0.7, 0.9, 8), np.zeros(9), [0.2, 0.4]]
    guess = np.r_[np.linspace(0.3, 0.1, 6), np.linspace(0.9, 0.7, 8), np.linspace(0, 1, 9), [0.2, 0.4]]
    mean, per_emotion = em.intensity_rank_correlation(labels, truth, guess)
    assert per_emotion == {"happy": (pytest.approx(-1.0), 6), "sad": (pytest.approx(-1.0), 8)}
    assert mean == pytest.approx(-1.0)
    guess[0] = np.nan
    assert em.intensity_rank_correlation(labels, truth, guess)[1]["happy"][1] == 5
    constant, _ = em.intensity_rank_correlation(labels, truth, np.ones(25))
    assert constant == 0.0
    assert np.isnan(em.intensity_rank_correlation(["neutral"], [0.1], [0.1])[0])


def test_segment_means():
    times, values = np.arange(10) / 10, np.arange(10, dtype=float)
    values[1] = np.nan
    means = em.segment_means([(0.0, 0.3, "x"), (0.5, 0.6, "y"), (2.0, 3.0, "z")], times, values)
    np.testing.assert_allclose(means, [1.0, 5.0, np.nan])


def test_ordinal_levels_and_error():
    levels = em.intensity_levels(np.array([0.1, 0.4, 0.5, 0.9]), (0.4, 0.7))
    np.testing.assert_array_equal(levels, [0, 1, 1, 2])
    mean, macro = em.ordinal_error(np.array([0, 0, 0, 2]), np.array([0, 0, 0, 0]))
    assert (mean, macro) == pytest.approx((0.5, 1.0))
    with pytest.raises(UserError, match="must rise"):
        em.intensity_levels(np.array([0.1]), (0.7, 0.4))


# ---- calibration ----


def test_brier_score_equals_scikit_learn():
    rng = np.random.default_rng(0)
    p, truth = rng.dirichlet(np.ones(5), 300), rng.integers(-1, 5, 300)
    kept = truth >= 0
    expected = sk.brier_score_loss(truth[kept], p[kept], labels=list(range(5)), scale_by_half=False)
    assert em.brier_score(truth, p) == pytest.approx(expected)


def test_calibration_error_of_known_cases():
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(4), 60_000)
    truth = (p.cumsum(1) < rng.uniform(size=(60_000, 1))).sum(1).clip(0, 3)
    assert em.expected_calibration_error(truth, p) < 0.01  # labels drawn from p: calibrated by construction
    sure = np.tile([0.9, 0.1], (100, 1))
    truth = np.r_[np.zeros(60, int), np.ones(40, int)]
    assert em.expected_calibration_error(truth, sure) == pytest.approx(0.3)
    bins = em.reliability(truth, sure, num_bins=10)
    assert bins.count.sum() == 100 and bins.count[8] == 100 and bins.accuracy[8] == pytest.approx(0.6)
    with pytest.raises(UserError, match="no labelled frames"):
        em.brier_score(np.array([-1]), np.array([[1.0, 0.0]]))


def test_rank_correlation_equals_scipys():
    rng = np.random.default_rng(3)
    truth, guess = rng.integers(0, 6, 40) / 6, rng.uniform(size=40)
    mean, per_emotion = em.intensity_rank_correlation(["sad"] * 40, truth, guess)
    assert mean == pytest.approx(stats.spearmanr(truth, guess)[0]) and per_emotion["sad"][1] == 40
