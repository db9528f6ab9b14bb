"""Worker processes that each hold a world."""

from __future__ import annotations

from pathlib import Path

from sedtalker_jax.data.pool import WorkerPool
from sedtalker_jax.data.world.rules import Rules


def _make_world(rules: Rules, subset: str, face_space: str | None):
    from sedtalker_jax.data.world.clip import World

    world = World(rules, subset)
    if face_space is not None:
        world.faces.load_space(face_space)
    return world


class WorldPool(WorkerPool):
    """Workers for jobs of the form function(world, *job).

    Args:
      workers: number of processes.
      rules, subset: the world that each worker holds.
      face_space: path of the face space that the world's faces project onto, where that is needed.
    """

    def __init__(self, workers: int, rules: Rules, subset: str, face_space: str | Path | None = None) -> None:
        super().__init__(workers, _make_world, (rules, subset, None if face_space is None else str(face_space)))
