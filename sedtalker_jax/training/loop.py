"""The training loop: evaluate, save, read, step, log; and nothing else."""

from __future__ import annotations

import functools
import pathlib
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from sedtalker_jax.emotion.formats import write_text
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.model_card import write_run_card
from sedtalker_jax.training.checkpoint import FITTED_AFTERWARDS, Checkpointer, read_meta
from sedtalker_jax.training.experiment import Experiment
from sedtalker_jax.training.logging import MetricsWriter
from sedtalker_jax.training.state import TrainState
from sedtalker_jax.training.step import train_step

PATIENCE = 100
"""Skipped steps in a row after which a run ends."""


class _StopRequest:
    """Turns SIGTERM into a flag that the loop reads between steps, so that a stopped run loses no work.

    Of several processes one alone must not stop: there JAX's own handler tells all of them, and Checkpointer.reached_preemption
    names the step at which all stop.
    """

    def __init__(self):
        self.received = False
        self._previous: Any = None

    def __enter__(self):
        if jax.process_count() == 1:
            self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def _receive(self, *_):
        self.received = True

    def __exit__(self, *_):
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._previous)


class _Timed:
    """Batches, and for how many seconds they were waited for since the last call of `take`."""

    def __init__(self, batches: Iterator):
        self._batches, self._waited = batches, 0.0

    def __next__(self):
        start = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self._waited += time.perf_counter() - start

    def take(self) -> float:
        waited, self._waited = self._waited, 0.0
        return waited

    def close(self):
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()


def train(experiment: Experiment, workdir: str) -> dict[str, float]:
    """Trains until `experiment.num_steps`, resuming from workdir's newest checkpoint if there is one.

    Args:
      experiment: model, objective, optimizer and data, built from a config.
      workdir: directory of checkpoints, metrics.jsonl, events and config.json.

    Returns:
      The last logged metrics; "stopped_early" is 1 if SIGTERM ended the run (a checkpoint was then saved).

    Raises:
      UserError: the batch can't be shared out among devices, or the workdir's checkpoint is of other data, another model or a
        later step.
    """
    parallel = experiment.parallel
    share, size = jax.device_count() * experiment.accumulation, experiment.pipeline.batch_size
    if size % share:
        raise UserError(f"pipeline.batch_size={size}: must be a multiple of devices x accumulation = {share}")
    is_first = jax.process_index() == 0
    abstract = jax.eval_shape(experiment.create_state)
    shardings = parallel.state_shardings(abstract)
    step_fn = parallel.wrap_step(
        functools.partial(
            train_step,
            objective=experiment.objective,
            optimizer=experiment.optimizer,
            clip_norm=experiment.optim.clip_norm,
            ema_decay=experiment.optim.ema_decay,
            accumulation=experiment.accumulation,
        ),
        abstract,
    )
    num_steps = experiment.num_steps
    with Checkpointer(workdir, experiment.checkpoint, last_step=num_steps) as checkpointer, _StopRequest() as stop:
        newest = checkpointer.latest_step()
        if newest is not None and newest > num_steps:
            raise UserError(
                f"config.num_steps={num_steps}: {workdir} holds a checkpoint of step {newest} already; "
                "give at least as many, or another --workdir"
            )
        if newest is None:
            state, next_batch = experiment.load_pretrained(parallel.create_state(experiment.create_state)), 0
        else:
            target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
            _check_same(read_meta(workdir)[0], experiment.meta, workdir)
            state, next_batch = checkpointer.restore(target)
        first = int(jax.device_get(state.step))
        if is_first and first:
            print(f"{workdir}: resuming at step {first}", file=sys.stderr)
        if is_first and first < num_steps:
            # A run that goes on has no scores yet, and what evaluation fitted to its last checkpoint does not fit the next; one
            # that has ended keeps both.
            for name in FITTED_AFTERWARDS:
                (pathlib.Path(workdir) / name).unlink(missing_ok=True)
            directories = list(dict.fromkeys(path for stream in experiment.streams for path in stream.directories))
            write_run_card(workdir, experiment.meta, directories, num_steps)
            write_text(pathlib.Path(workdir) / "config.json", experiment.config.to_json_best_effort(indent=2) + "\n")
        batches = _Timed(experiment.train_batches(next_batch, next_batch + num_steps - first))
        bar = tqdm(total=num_steps, initial=first, desc="train", unit="step", disable=not is_first, mininterval=2.0)
        with MetricsWriter(workdir, first, enabled=is_first) as writer, bar:
            last = _run(experiment, checkpointer, writer, bar, step_fn, state, shardings, batches, first, stop)
    return last


def _check_same(stored: Mapping[str, Any], configured: Mapping[str, Any], workdir: str) -> None:
    """A run goes on with what it began with. Raises UserError."""
    for name, what in (("records", "other records"), ("labels", "other labels"), ("codec_hash", "another face space")):
        if stored.get(name) != configured.get(name):
            raise UserError(
                f"{workdir}: its checkpoint was trained with {what} ({stored.get(name)}, not {configured.get(name)}); "
                "give them again, or another --workdir"
            )


def _run(
    experiment: Experiment,
    checkpointer: Checkpointer,
    writer: MetricsWriter,
    bar: tqdm,
    step_fn: Any,
    state: TrainState,
    shardings: Any,
    batches: _Timed,
    first: int,
    stop: _StopRequest,
) -> dict[str, float]:
    pending: tuple[int, dict[str, jax.Array]] | None = None
    validated: dict[str, float] = {}
    log = _Log(experiment, writer, bar, batches, first)
    step = first
    # DO NOT CHANGE THE ORDER: a checkpoint holds the state before batch `step` and the number of that batch. Reading the next
    # batch before saving would make a resumed run skip it.
    while True:
        if step > first and (step == experiment.num_steps or step % experiment.eval_every == 0):
            # What validation takes is no part of the steps' time, and what the queued step still takes no part of validation's.
            jax.block_until_ready(state)
            before = time.perf_counter()
            validated = {f"valid/{name}": value for name, value in experiment.validate(state).items()}
            log.leave_out(time.perf_counter() - before)
            writer.write(step, validated)
        stopping = stop.received or checkpointer.reached_preemption(step)
        if stopping:
            checkpointer.last_step = step
        # Asked first: to make a state global copies it, where pmap runs in several processes.
        if step > first and checkpointer.is_due(step):
            saved = experiment.parallel.to_global(state, shardings)
            checkpointer.save(step, saved, next_batch=step, meta=experiment.meta)
        if step == experiment.num_steps or stopping:
            break
        batch = experiment.parallel.place_batch(next(batches))
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = step_fn(state, batch)
        # The previous step's numbers are ready by the time this step is queued, so logging never stalls the device.
        if pending is not None:
            log(*pending)
        pending = (step, metrics)
        step += 1
        bar.update(1)
    if pending is not None:
        log(*pending, force=True)
    batches.close()
    return log.last | validated | {"stopped_early": float(stopping and step < experiment.num_steps)}


class _Log:
    """Writes the numbers of every log_every-th step, and ends a run that does not learn any more."""

    def __init__(self, experiment: Experiment, writer: MetricsWriter, bar: tqdm, batches: _Timed, first: int):
        self.last: dict[str, float] = {}
        self._experiment, self._writer, self._bar, self._batches = experiment, writer, bar, batches
        self._clock, self._step = time.perf_counter(), first
        # Up to this step some of those before were not skipped, as far as is known.
        self._learning, self._skipped = first, None

    def leave_out(self, seconds: float) -> None:
        """Time that is no part of the steps'."""
        self._clock += seconds

    def __call__(self, step: int, metrics: Mapping[str, jax.Array], *, force: bool = False) -> None:
        """Logs a step, if it is its turn or forced.

        Raises:
          UserError: PATIENCE steps in a row were skipped.
        """
        experiment = self._experiment
        if step % experiment.log_every and not force:
            return
        values = {f"train/{name}": float(value) for name, value in jax.device_get(metrics).items()}
        elapsed = time.perf_counter() - self._clock
        steps = max(1, step - self._step)
        values["train/learning_rate"] = float(np.asarray(experiment.schedule(step)))
        values["perf/steps_per_second"] = steps / elapsed
        values["perf/examples_per_second"] = steps * experiment.pipeline.batch_size / elapsed
        # An upper bound of what data cost: the device may have had steps to run while the next batch was waited for.
        values["perf/data_wait_share"] = self._batches.take() / elapsed
        self._writer.write(step, values)
        self._bar.set_postfix(loss=f"{values['train/loss/total']:.4f}", refresh=False)
        skipped = values["train/skipped_steps"]
        if self._skipped is None or skipped - self._skipped < steps:
            self._learning = step
        if step - self._learning >= PATIENCE:
            raise UserError(
                f"no gradient of steps {self._learning + 1} to {step} was finite, so nothing is learned; lower "
                "optim.learning_rate, take a wider model.precision, or look into the data"
            )
        self.last |= values
        self._skipped, self._clock, self._step = skipped, time.perf_counter(), step
