"""What the loop itself measures."""

import time

import pytest

from sedtalker_jax.training.loop import _Timed


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
