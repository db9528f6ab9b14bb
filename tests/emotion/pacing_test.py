"""Alphas along a line on which what is read changes in one place."""

import numpy as np
import pytest

from sedtalker_jax.emotion.pacing import STEADY, STEPS, Pace

FRAMES = 7
ALPHAS = np.linspace(-1.0, 1.0, 41)


def way(positions, place, sharpness=30.0):
    """Two strengths that take turns at a place of each frame's own; [..., 2]."""
    rising = 1.0 / (1.0 + np.exp(-sharpness * (positions - place)))
    return np.stack([0.7 * rising, 0.4 * (1.0 - rising)], axis=-1)


@pytest.fixture
def places():
    return np.random.default_rng(0).uniform(0.2, 0.8, FRAMES)


@pytest.fixture
def pace(places):
    shares = np.linspace(0.0, 1.0, STEPS + 1)
    return Pace.of(way(shares[None], places[:, None]), way(shares[None], 1.0 - places[:, None]))


def test_equal_steps_of_alpha_change_what_is_read_equally(pace, places):
    positions = np.stack([pace.positions(np.full(FRAMES, alpha)) for alpha in np.linspace(0.0, 1.0, 11)])
    steps = np.abs(np.diff(way(positions, places), axis=0)).sum(axis=-1)
    straight = np.abs(np.diff(way(np.linspace(0.0, 1.0, 11)[:, None], places), axis=0)).sum(axis=-1)
    # A strength of 1.1 in ten steps, of which those where it changes cover what STEADY leaves. Between two of the STEPS
    # positions the heads are not asked, and a sigmoid bends there.
    assert (steps.max(axis=0) < 1.3 * 0.11 / (1 - STEADY)).all() and (straight.max(axis=0) > 4 * 0.11).all()


def test_positions_rise_with_alpha_and_never_jump(pace):
    fine = np.linspace(-1.0, 1.0, 4001)
    positions = np.stack([pace.positions(np.full(FRAMES, alpha)) for alpha in fine])
    steps = np.diff(positions, axis=0)
    assert (steps > 0).all() and steps.max() <= (fine[1] - fine[0]) / STEADY * (1 + 1e-9)


def test_the_ends_stay_and_so_does_what_lies_beyond(pace):
    for alpha in (-3.0, -1.0, 0.0, 1.0, 1.7):
        np.testing.assert_array_equal(pace.positions(np.full(FRAMES, alpha)), alpha)
    for near in (1 - 1e-9, -1 + 1e-9, 1e-9, -1e-9):
        np.testing.assert_allclose(pace.positions(np.full(FRAMES, near)), round(near), atol=1e-7)


def test_every_frame_has_its_own_way(pace, places):
    half = pace.positions(np.full(FRAMES, 0.5))
    np.testing.assert_allclose(half, places, atol=0.05)
    np.testing.assert_allclose(pace.positions(np.full(FRAMES, -0.5)), places - 1.0, atol=0.05)


def test_where_nothing_changes_alpha_counts_distance():
    still = Pace.of(*np.full((2, FRAMES, STEPS + 1, 3), 0.4))
    for alpha in ALPHAS:
        np.testing.assert_allclose(still.positions(np.full(FRAMES, alpha)), alpha, atol=1e-12)
