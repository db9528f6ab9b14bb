"""Checkpoints: state, data position and meta saved together, restored on any number of devices and processes."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from sedtalker_jax.errors import UserError
from sedtalker_jax.training.state import combine

CALIBRATION = "calibration.json"
EDIT_DICTIONARY = "edit_dictionary.npz"
FITTED_AFTERWARDS = (CALIBRATION, EDIT_DICTIONARY)
"""Files of a workdir that evaluation fits to its newest checkpoint, and that fit no other."""


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Attributes:
    every_steps: steps between checkpoints; the last step is always saved.
    keep: how many of the latest stay.
    keep_every_steps: checkpoints at multiples of this stay for ever; 0 = none.
    """

    every_steps: int = 500
    keep: int = 2
    keep_every_steps: int = 0

    def __post_init__(self):
        if min(self.every_steps, self.keep) < 1 or self.keep_every_steps < 0:
            raise ValueError(
                f"checkpoint.every_steps={self.every_steps} and keep={self.keep} must be 1 or more, "
                f"keep_every_steps={self.keep_every_steps} 0 or more"
            )


class Checkpointer:
    """Orbax manager over workdir/checkpoints with three items: `state`, `data` and `meta`.

    `data` is JSON with one number, the next global batch, so device, process and worker counts may change between runs.
    `meta` is JSON with what a reader needs to rebuild the model: config, face space, labels, world hash.
    Saving is asynchronous: errors appear at the next call or at `close`, which must be reached (use `with`).
    """

    def __init__(self, workdir: str | pathlib.Path, config: CheckpointConfig, last_step: int | None = None):
        policies = [checkpoint_managers.LatestN(config.keep)]
        if config.keep_every_steps:
            policies.append(checkpoint_managers.EveryNSteps(config.keep_every_steps))
        self.last_step = last_step
        self._manager = ocp.CheckpointManager(
            pathlib.Path(workdir).absolute() / "checkpoints",
            options=ocp.CheckpointManagerOptions(
                save_interval_steps=config.every_steps,
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                enable_async_checkpointing=True,
            ),
            item_names=("state", "data", "meta"),
        )

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Waits for a running save, reports its error if it had one, and releases the manager."""
        try:
            self._manager.wait_until_finished()
        finally:
            self._manager.close()

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    def is_due(self, step: int) -> bool:
        """Whether `save` is to be called: interval, last step, or a preemption notice. Ask at every step, in every process."""
        return self._manager.latest_step() != step and (step == self.last_step or self._manager.should_save(step))

    def save(self, step: int, state: Any, next_batch: int, meta: dict) -> None:
        """Starts to write a checkpoint of a step that is due; the state's arrays are global."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave({"next_batch": next_batch}),
                meta=ocp.args.JsonSave(meta),
            ),
            force=step == self.last_step,
        )

    def reached_preemption(self, step: int) -> bool:
        """Whether the cluster has asked this job to stop (needs jax.distributed.initialize)."""
        return self._manager.reached_preemption(step)

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, int]:
        """Restores (state, next batch).

        Args:
          abstract_state: tree of ShapeDtypeStruct with the shardings to restore to.
          step: which checkpoint; None = the newest.

        Raises:
          UserError: the checkpoint was made by another model (names the first difference that Orbax reports).
        """
        step = self.latest_step() if step is None else step
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state), data=ocp.args.JsonRestore()),
            )
        except ValueError as error:
            reason = " ".join(str(error).split())[:400]
            raise UserError(
                f"{self._manager.directory}/{step}: does not fit the configured model ({reason}); "
                "use the config it was trained with, or another --workdir"
            ) from error
        return restored["state"], int(restored["data"]["next_batch"])


def read_meta(workdir: str | pathlib.Path) -> tuple[dict, int]:
    """Meta of the newest checkpoint under workdir, and its step, without touching arrays.

    Raises:
      UserError: no such directory, no complete checkpoint in it, or its meta is damaged.
    """
    directory = pathlib.Path(workdir).absolute() / "checkpoints"
    if not directory.is_dir():
        raise UserError(
            f"{workdir}: holds no checkpoint (no directory 'checkpoints'); train one with train.py --workdir={workdir}"
        )
    steps = [int(p.name) for p in directory.iterdir() if p.name.isdigit() and (p / "meta" / "metadata").exists()]
    if not steps:
        raise UserError(f"{directory}: holds no finished checkpoint; train one with train.py --workdir={workdir}")
    step = max(steps)
    path = directory / str(step) / "meta" / "metadata"
    try:
        return json.loads(path.read_text()), step
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def load_params(workdir: str | pathlib.Path, item: str = "ema_params", step: int | None = None) -> Any:
    """All parameters of a checkpoint, as numpy arrays: "ema_params" (what evaluation uses) or "params", with the frozen ones.

    Raises:
      UserError: no finished checkpoint there, or a file of its state is missing or damaged.
    """
    if step is None:
        _, step = read_meta(workdir)
    path = pathlib.Path(workdir).absolute() / "checkpoints" / str(step) / "state"
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(path).item_metadata.tree
            wanted = {name: metadata[name] for name in (item, "frozen") if metadata.get(name)}
            target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), wanted)
            restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
            restored = checkpointer.restore(
                path, args=ocp.args.PyTreeRestore(item=target, restore_args=restore_args, partial_restore=True)
            )
    except (OSError, ValueError, KeyError, AttributeError) as error:  # what Orbax raises, depending on the file
        raise _damaged(path, error) from error
    return combine(restored[item], restored.get("frozen", {}))


def _damaged(path: pathlib.Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:160]
    return UserError(f"{path}: damaged or incomplete ({reason}); copy it again from where it was trained")


def read_temperature(workdir: pathlib.Path) -> float:
    """Temperature that evaluation fitted to a workdir's newest checkpoint; 1 where none was fitted.

    Raises:
      UserError: the file is damaged.
    """
    path = workdir / CALIBRATION
    if not path.exists():
        return 1.0
    try:
        return float(json.loads(path.read_text())["temperature"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({error}); evaluate.py writes it again") from error
