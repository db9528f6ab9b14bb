"""Measures of the way of an edit, on motion whose answer is known."""

import numpy as np
import pytest

from sedtalker_jax.evaluation.claims.editing import way_measures
from sedtalker_jax.evaluation.editing_evaluation import ALPHAS

RNG = np.random.default_rng(0)
TRUE = RNG.normal(size=(9, 4))
GRAM = np.diag([1.0, 2.0, 0.5, 1.5])


def test_a_straight_way_of_half_the_size_rises_evenly_to_one_half():
    start = RNG.normal(size=(10, 4))
    motion = start + 0.5 * ALPHAS[:, None, None] * np.pad(TRUE, ((0, 1), (0, 0)))
    found = way_measures(motion, TRUE, GRAM, ALPHAS - 0.5)
    expected = {"monotone": 1.0, "rising_steps": 1.0, "boundary_step": 1.0, "largest_step": 1.0, "amplitude": 0.5}
    assert found == pytest.approx(expected)
    assert np.isnan(way_measures(motion, TRUE, GRAM, np.full(21, np.nan))["boundary_step"])


def test_against_a_truth_that_does_not_move_nothing_is_measured():
    motion = ALPHAS[:, None, None] * TRUE
    found = way_measures(motion, None, GRAM, ALPHAS - 0.5)
    assert found.keys() == way_measures(motion, TRUE, GRAM, ALPHAS - 0.5).keys()
    assert np.isnan(list(found.values())).all()
