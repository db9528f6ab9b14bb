import itertools

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from sedtalker_jax.emotion import decoding
from sedtalker_jax.errors import UserError


def random_posteriors(seed, num_frames, num_labels):
    return np.random.default_rng(seed).dirichlet(np.full(num_labels, 0.6), num_frames)


def runs(path):
    edges = np.flatnonzero(np.diff(path)) + 1
    return np.diff(np.r_[0, edges, len(path)])


def path_score(p, path, cost):
    score = np.log(np.maximum(p, 1e-6))[np.arange(len(path)), path].sum()
    return score - cost[path[:-1], path[1:]].sum()


def test_raw_is_argmax():
    p = random_posteriors(0, 20, 4)
    np.testing.assert_array_equal(decoding.decode(p, 50, "raw"), p.argmax(1))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("matrix", [False, True])
def test_viterbi_is_the_best_of_all_paths(seed, matrix):
    p = random_posteriors(seed, 6, 3)
    cost = np.random.default_rng(seed + 9).uniform(0, 2, (3, 3)) if matrix else 1.3 * (1 - np.eye(3))
    found = decoding.decode_viterbi(p, cost if matrix else 1.3)
    best = max(path_score(p, np.array(path), cost) for path in itertools.product(range(3), repeat=6))
    assert path_score(p, found, cost) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("least", [1, 2, 3, 4])
def test_minimum_duration_is_the_best_of_all_allowed_paths(seed, least):
    p = random_posteriors(seed, 8, 3)
    cost = 0.4 * (1 - np.eye(3))
    found = decoding.decode_minimum_duration(p, 50, minimum=least / 50, transition_cost=0.4)
    assert runs(found).min() >= least
    allowed = [np.array(path) for path in itertools.product(range(3), repeat=8) if runs(np.array(path)).min() >= least]
    assert path_score(p, found, cost) == pytest.approx(max(path_score(p, path, cost) for path in allowed))


def test_minimum_duration_of_a_short_recording_is_one_emotion():
    p = random_posteriors(3, 5, 4)
    path = decoding.decode_minimum_duration(p, 50, minimum=1.0)
    assert set(path) == {int(np.log(p).sum(0).argmax())}


@pytest.mark.parametrize("weight", [0.05, 0.3, 1.0, 10.0])
def test_total_variation_solves_its_problem(weight):
    signal = random_posteriors(5, 40, 3)[:, 0]
    # The dual: minimise |y - D^T u|^2 / 2 with |u| <= weight; then x = y - D^T u.
    difference = np.diff(np.eye(len(signal)), axis=0)
    dual = lsq_linear(difference.T, signal, bounds=(-weight, weight), tol=1e-12).x
    np.testing.assert_allclose(decoding._total_variation_1d(signal, weight), signal - difference.T @ dual, atol=1e-6)


def test_total_variation_keeps_steps_and_drops_flicker():
    p = np.full((60, 2), 0.5)
    p[:30] = [0.9, 0.1]
    p[30:] = [0.1, 0.9]
    p[10] = [0.2, 0.8]  # one frame of flicker
    np.testing.assert_array_equal(decoding.decode(p, 50, "total_variation", weight=1.0), np.r_[np.zeros(30), np.ones(30)])
    np.testing.assert_allclose(decoding.total_variation(p, 1.0).sum(1), 1.0)


def test_median_removes_what_is_shorter_than_half_its_window():
    p = np.tile([0.8, 0.2], (50, 1))
    p[20:23] = [0.1, 0.9]
    assert decoding.decode(p, 50, "raw").sum() == 3
    assert decoding.decode(p, 50, "median", window=0.2).sum() == 0


def test_sharpening():
    p = np.array([[0.6, 0.4, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    sharp = decoding.sharpen(p, 4.0)
    np.testing.assert_allclose(sharp.sum(-1), 1.0)
    np.testing.assert_allclose(sharp[0], np.array([0.6**4, 0.4**4, 0]) / (0.6**4 + 0.4**4))
    np.testing.assert_allclose(decoding.sharpen(p, 1.0), p)
    np.testing.assert_allclose(decoding.sharpen(np.array([1e-200, 3e-200]), 3.0), [1 / 28, 27 / 28])


def test_commit_draws_one_emotion_where_doubt_lasts():
    rng = np.random.default_rng(0)
    p = np.full((100, 2), 0.5) + rng.normal(0, 0.02, (100, 1)) * [1, -1]
    p[60:] = [0.05, 0.95]
    path = decoding.decode_viterbi(p)
    committed = decoding.commit(p, path, 50, crossfade=0.2)
    np.testing.assert_allclose(committed.sum(1), 1.0)
    change = np.flatnonzero(np.diff(path))
    assert len(change) <= 1
    away = np.abs(np.arange(100) - (change[0] if len(change) else -99)) > 8
    assert committed[away].max(1).min() == pytest.approx(1.0)
    hard = decoding.commit(p, path, 50, crossfade=0.0)
    assert set(np.unique(hard)) == {0.0, 1.0}


def test_learned_transition_cost_is_the_negative_log_frequency():
    cost = decoding.learn_transition_cost([np.array([0, 0, 0, 1, -1, 0, 0])], 2, pseudo_count=1.0)
    np.testing.assert_allclose(np.exp(-cost), [[4 / 6, 2 / 6], [1 / 2, 1 / 2]])
    assert decoding.decode_viterbi(random_posteriors(0, 9, 2), cost).shape == (9,)


@pytest.mark.parametrize("method", decoding.DECODERS)
def test_every_decoder_takes_one_frame_and_leaves_no_gap(method):
    p = random_posteriors(7, 37, 5)
    assert decoding.decode(p[:1], 50, method).tolist() == [int(p[0].argmax())]
    path = decoding.decode(p, 50, method)
    assert path.shape == (37,) and path.min() >= 0 and path.max() < 5


def test_mistakes_are_named():
    p = random_posteriors(0, 4, 3)
    with pytest.raises(UserError, match="unknown decoder 'hmm'"):
        decoding.decode(p, 50, "hmm")
    with pytest.raises(UserError, match="does not take span"):
        decoding.decode(p, 50, "median", span=3)
    with pytest.raises(UserError, match="finite"):
        decoding.decode_raw(np.array([[0.5, np.nan]]))
    with pytest.raises(UserError, match="transition cost"):
        decoding.decode_viterbi(p, -1.0)
    with pytest.raises(UserError, match="sharpness"):
        decoding.sharpen(p, 0.0)
