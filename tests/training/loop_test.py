"""What the loop itself measures."""

import time

import pytest

from sedtalker_jax.errors import UserError
from sedtalker_jax.training.loop import _check_same, _Timed


def test_waiting_is_counted_between_takes_and_batches_pass_through():
    closed = []

    def slow():
        try:
            for number in range(3):
                time.sleep(0.02)
                yield number
        finally:
            closed.append(True)

    batches = _Timed(slow())
    assert [next(batches), next(batches)] == [0, 1]
    time.sleep(0.1)  # spent elsewhere, which is no waiting
    assert 0.04 <= batches.take()
    assert batches.take() == 0.0
    assert next(batches) == 2 and batches.take() >= 0.02
    with pytest.raises(StopIteration):
        next(batches)
    batches.close()
    assert closed == [True]


@pytest.mark.parametrize("change", [{"records": ["savee 2"]}, {"labels": ["sad", "neutral"]}, {"codec_hash": "b"}])
def test_a_run_goes_on_with_what_it_began_with(change):
    begun = {"records": ["savee 1"], "labels": ["neutral", "sad"], "codec_hash": "a", "config": {}}
    _check_same(begun, begun | {"config": {"num_steps": 9}}, "runs/x")
    with pytest.raises(UserError, match="runs/x: its checkpoint was trained with"):
        _check_same(begun, begun | change, "runs/x")
