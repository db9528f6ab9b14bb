"""What the loop itself measures, and what it refuses."""

import json
import shutil
import time
import types

import numpy as np
import pytest

from configs import demo
from sedtalker_jax.errors import UserError
from sedtalker_jax.training import loop
from sedtalker_jax.training.experiment import Experiment
from sedtalker_jax.training.loop import _check_same, _Timed, train


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


def test_fewer_steps_than_the_workdir_has_are_refused_and_leave_it_as_it_was(smoke_checkpoint, tiny_world, tmp_path):
    workdir = shutil.copytree(smoke_checkpoint, tmp_path / "run")
    written = (workdir / "config.json").read_bytes()
    assert json.loads(written)["num_steps"] == 4
    config = demo.get_config("smoke").unlock()
    config.data.directory, config.num_steps = str(tiny_world), 2
    with pytest.raises(UserError, match="config.num_steps=2: .*run holds a checkpoint of step 4 already"):
        train(Experiment(config, workdir), str(workdir))
    assert (workdir / "config.json").read_bytes() == written


def run(step, *, num_steps, lines, batches=None, **changes):
    """The loop itself, round a step function; `lines` takes what is logged."""
    experiment = types.SimpleNamespace(
        num_steps=num_steps,
        schedule=lambda step: 0.1,
        pipeline=types.SimpleNamespace(batch_size=4),
        parallel=types.SimpleNamespace(place_batch=lambda batch: batch),
        **changes,
    )
    checkpointer = types.SimpleNamespace(reached_preemption=lambda step: False, is_due=lambda step: False)
    writer = types.SimpleNamespace(write=lambda step, values: lines.append(values))
    bar = types.SimpleNamespace(update=lambda count: None, set_postfix=lambda **_: None)
    stop = types.SimpleNamespace(received=False)
    batches = _Timed(iter(range(num_steps))) if batches is None else batches
    return loop._run(experiment, checkpointer, writer, bar, step, 0.0, None, batches, 0, stop)


def test_validation_is_no_part_of_the_time_of_steps(monkeypatch):
    """A clock that only batches (0.1 s each) and validation (100 s) move."""
    now, lines = [0.0], []

    def clock():
        now[0] += 1e-6
        return now[0]

    monkeypatch.setattr(loop.time, "perf_counter", clock)

    class Batches:
        def __next__(self):
            now[0] += 0.1

        def take(self):
            return 0.0

        def close(self):
            pass

    def validate(state):
        now[0] += 100.0
        return {"total": 1.0}

    def step(state, batch):
        return state, {"loss/total": 0.5, "skipped_steps": 0.0}

    last = run(step, num_steps=6, lines=lines, batches=Batches(), eval_every=2, log_every=1, validate=validate)
    rates = [line["perf/steps_per_second"] for line in lines if "perf/steps_per_second" in line]
    assert len(rates) == 6 and rates[1:-1] == pytest.approx([10.0] * 4, rel=1e-3) and now[0] > 300
    assert last["valid/total"] == 1.0 and last["train/loss/total"] == 0.5 and last["stopped_early"] == 0.0


@pytest.mark.parametrize(("log_every", "ends_at"), [(1, 139), (10, 140), (30, 180)])
def test_a_run_whose_every_step_is_skipped_ends(log_every, ends_at):
    """Steps 5 to 9 are skipped, and those from 40 on; step n's metrics count those up to n."""
    skips = np.array([5 <= n < 10 or n >= 40 for n in range(400)], float)
    counts, lines = iter(np.cumsum(skips)), []

    def step(state, batch):
        return state, {"loss/total": 0.5, "skipped_steps": next(counts)}

    with pytest.raises(UserError, match=r"no gradient of steps (\d+) to (\d+) was finite") as raised:
        run(step, num_steps=400, lines=lines, eval_every=1_000, log_every=log_every)
    assert lines[-1]["train/skipped_steps"] >= loop.PATIENCE and f"to {ends_at} " in str(raised.value)


def test_a_run_of_which_a_step_in_a_hundred_is_taken_goes_on():
    counts, lines = iter(np.cumsum(np.arange(400) % 99 > 0).astype(float)), []

    def step(state, batch):
        return state, {"loss/total": 0.5, "skipped_steps": next(counts)}

    run(step, num_steps=400, lines=lines, eval_every=1_000, log_every=1, validate=lambda state: {"total": 1.0})
    assert lines[-1]["train/skipped_steps"] > 390
