"""Worker processes that each hold one thing (a world, an open corpus) and compute alike however many they are."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from sedtalker_jax.errors import UserError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_held: Any = None  # of a worker process
_failure: Exception | None = None


def _start(make: Callable, arguments: tuple) -> None:
    global _held, _failure
    # Ctrl-C reaches the whole process group; the parent alone answers it, by ending the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        _held = make(*arguments)
    except Exception as error:
        # Raised with the first job: a pool starts workers that fail here again, without end.
        _failure = error


def _end_with_the_parent() -> None:
    """A parent that is killed can't end its workers, and they would wait for jobs for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _call(task: tuple[Callable, tuple]) -> Any:
    if _failure is not None:
        raise _failure
    function, job = task
    return function(_held, *job)


class WorkerPool:
    """Workers for jobs of the form function(held, *job); results come in the order of the jobs.

    The processes are spawned with one thread each, whatever the parent has set: linear algebra with another number of
    threads rounds otherwise, and a fork of a process that runs JAX may hang.

    Args:
      workers: number of processes.
      make: makes what each worker holds; a module's own function (it travels by name).
      arguments: of `make`.
    """

    def __init__(self, workers: int, make: Callable, arguments: tuple) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(make, arguments))

    def map(
        self, function: Callable, jobs: Sequence[tuple], title: str | None = None, chunk: int = 4, unit: str = "clip"
    ) -> Iterator[Any]:
        """function(held, *job) of every job, in order, as they become ready; `title` shows a progress bar that counts `unit`s.

        function is a module's own (it travels by name).

        Raises:
          UserError: when the results are read and a worker has died (killed for memory, or crashed by a damaged file).
        """
        from tqdm import tqdm

        with _single_threaded():  # map starts the processes
            stream = self._pool.map(_call, [(function, job) for job in jobs], chunksize=chunk)
        return iter(tqdm(_until_broken(stream), total=len(jobs), desc=title, unit=unit, disable=title is None, smoothing=0.05))

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _single_threaded() -> Iterator[None]:
    saved = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update({name: "1" for name in _THREAD_VARIABLES})
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _until_broken(stream: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from stream
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died (killed for want of memory, or crashed by a damaged file); what was finished is kept: "
            "start again, with fewer processes"
        ) from error
