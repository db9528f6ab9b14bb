"""Worker processes that each hold a world, and compute alike however many they are."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sedtalker_jax.data.world.rules import Rules

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_world = None  # of a worker process
_failure: Exception | None = None


def _start(rules: Rules, subset: str, face_space: str | None) -> None:
    global _world, _failure
    from sedtalker_jax.data.world.clip import World

    try:
        _world = World(rules, subset)
        if face_space is not None:
            _world.faces.load_space(face_space)
    except Exception as error:
        # Raised with the first job: a pool starts workers that fail here again, without end.
        _failure = error


def _call(task: tuple[Callable, tuple]) -> Any:
    if _failure is not None:
        raise _failure
    function, job = task
    return function(_world, *job)


class WorldPool:
    """Workers for jobs of the form function(world, *job); results come in the order of the jobs.

    The processes are spawned with one thread each, whatever the parent has set: linear algebra with another number of
    threads rounds otherwise, and a fork of a process that runs JAX may hang.

    Args:
      workers: number of processes.
      rules, subset: the world that each worker holds.
      face_space: path of the face space that the world's faces project onto, where that is needed.
    """

    def __init__(self, workers: int, rules: Rules, subset: str, face_space: str | Path | None = None) -> None:
        saved = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
        os.environ.update({name: "1" for name in _THREAD_VARIABLES})
        try:
            context = multiprocessing.get_context("spawn")
            arguments = (rules, subset, None if face_space is None else str(face_space))
            self._pool = context.Pool(workers, initializer=_start, initargs=arguments)
        finally:
            for name, value in saved.items():
                if value is None:
                    os.environ.pop(name)
                else:
                    os.environ[name] = value

    def map(self, function: Callable, jobs: Sequence[tuple], title: str | None = None, chunk: int = 4) -> Iterator[Any]:
        """function(world, *job) of every job, in order, as they become ready; `title` shows a progress bar under it.

        function is a module's own (it travels by name).
        """
        from tqdm import tqdm

        stream = self._pool.imap(_call, [(function, job) for job in jobs], chunksize=chunk)
        return iter(tqdm(stream, total=len(jobs), desc=title, unit="clip", disable=title is None, smoothing=0.05))

    def __enter__(self) -> WorldPool:
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self._pool.close()
        else:
            self._pool.terminate()
        self._pool.join()
