"""The one place where a step meets devices: jax.pmap by default, a sharded jax.jit for pods."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """Attributes:
    mode: "pmap" (state on every device) or "jit" (state sharded by the fsdp axis).
    fsdp: devices that share one copy of the state in mode "jit"; must divide the device count.
    fsdp_min_size: leaves with fewer elements stay on every device.
    """

    mode: str = "pmap"
    fsdp: int = 1
    fsdp_min_size: int = 2**14

    def __post_init__(self):
        if self.mode not in ("pmap", "jit"):
            raise ValueError(f"parallel.mode={self.mode!r}: expected 'pmap' or 'jit'")
        if self.fsdp < 1:
            raise ValueError(f"parallel.fsdp={self.fsdp}: must be 1 or more")
        if self.mode == "pmap" and self.fsdp != 1:
            raise ValueError(f"parallel.fsdp={self.fsdp}: only parallel.mode='jit' shards the state")


def fsdp_spec(shape: tuple[int, ...], fsdp: int, min_size: int) -> P:
    """Shards the largest axis that `fsdp` divides; small leaves are replicated."""
    if fsdp == 1 or np.prod(shape, dtype=int) < min_size:
        return P()
    for axis in sorted(range(len(shape)), key=lambda i: -shape[i]):
        if shape[axis] % fsdp == 0:
            return P(*("fsdp" if i == axis else None for i in range(len(shape))))
    return P()


class Parallel:
    """Places states and batches on devices and wraps the step, in one of the two modes."""

    def __init__(self, config: ParallelConfig):
        self.config = config
        devices = np.asarray(jax.devices())
        if devices.size % config.fsdp:
            raise ValueError(f"parallel.fsdp={config.fsdp} does not divide the {devices.size} devices")
        # Linen and recurrent code need Auto axes; make_mesh would give Explicit ones. pmap's outputs live on a mesh of its one
        # axis: a state that starts on the same mesh is compiled for once, not once for the first step and again for all others.
        names = ("data",) if config.mode == "pmap" else ("data", "fsdp")
        shape = (-1,) if config.mode == "pmap" else (-1, config.fsdp)
        self.mesh = Mesh(devices.reshape(shape), names, axis_types=(AxisType.Auto,) * len(names))
        self.batch_sharding = NamedSharding(self.mesh, P(names))

    def state_shardings(self, abstract_state: Any) -> Any:
        """Sharding of every leaf of a state."""
        fsdp = self.config.fsdp if self.config.mode == "jit" else 1
        return jax.tree.map(
            lambda x: NamedSharding(self.mesh, fsdp_spec(x.shape, fsdp, self.config.fsdp_min_size)), abstract_state
        )

    def create_state(self, create: Callable[[], Any]) -> Any:
        """Runs `create` so that the state is born with its shardings, the same in every process."""
        shardings = self.state_shardings(jax.eval_shape(create))
        # Runs once: on the CPU most of its time is compiling random initialisers, so these are compiled without optimisation.
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        return jax.jit(create, out_shardings=shardings, compiler_options=options)()

    def place_batch(self, batch: Any) -> Any:
        """Puts this process's part of a global batch on its devices.

        Args:
          batch: numpy arrays whose leading axis is this process's share of the examples; it must be a multiple of the
            process's device count.
        """
        if self.config.mode == "pmap":
            count = jax.local_device_count()
            return jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.batch_sharding, x), batch)

    def wrap_step(self, step: Callable[..., tuple[Any, Any]], abstract_state: Any, *, donate: bool = True) -> Callable:
        """Compiles `step(state, batch, axis_name=...)`; the state's buffers are reused for its successor.

        Returns:
          A function of (state, placed batch) that returns (state, metrics), with everything but the batch held globally.
        """
        donated = (0,) if donate else ()
        if self.config.mode == "pmap":
            # in_axes / out_axes None: one logical copy of the state, no stacked replicas.
            return jax.pmap(
                lambda state, batch: step(state, batch, axis_name="data"),
                axis_name="data",
                in_axes=(None, 0),
                out_axes=(None, None),
                donate_argnums=donated,
            )
        shardings = self.state_shardings(abstract_state)
        compiled = jax.jit(
            lambda state, batch: step(state, batch, axis_name=None),
            in_shardings=(shardings, self.batch_sharding),
            out_shardings=(shardings, NamedSharding(self.mesh, P())),
            donate_argnums=donated,
        )

        def call(state, batch):
            with jax.set_mesh(self.mesh):
                return compiled(state, batch)

        return call

    def to_global(self, state: Any, shardings: Any) -> Any:
        """A state as global arrays with the given shardings, which is what checkpoints hold in both modes."""
        return jax.tree.map(_as_global, state, shardings)


def keep_compiled(directory: str | os.PathLike) -> None:
    """Makes programs that take long to compile last from one start of a run to the next; a user's own cache stays.

    A run has one for every length of its batches, and a preempted one would compile all of them again. Not on CPUs: their
    programs are made for the very processor, and the next start may be on another.

    Args:
      directory: of the programs; every process of a run names the same.
    """
    if jax.config.jax_compilation_cache_dir is None and jax.default_backend() != "cpu":
        jax.config.update("jax_compilation_cache_dir", str(directory))


def first_has_written(what: str) -> bool:
    """Waits until the first of several processes has come here too; False, at once, where there is one alone.

    What is fitted before a run becomes a constant of its programs, which must be the same in every process. Each fits it, so
    that all find out about mistakes in the data, but hosts don't agree to the last bit, nor a GPU with itself: all then read
    what the first one wrote.

    Args:
      what: name of the meeting; all processes come to the same ones in the same order.
    """
    if jax.process_count() == 1:
        return False
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(what)
    return True


def mesh_of(tree: Any) -> contextlib.AbstractContextManager:
    """`jax.set_mesh` of the mesh that a tree's arrays lie on, for programs that are jitted for several devices beside the step.

    XLA can't partition a kernel: the scan splits itself, and for that it must see the mesh. It is the arrays' mesh and not the
    run's, since of several processes pmap leaves each a copy on its own devices. Nothing is set for one device.
    """
    mesh = _several_devices(tree)
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def _several_devices(tree: Any) -> Mesh | None:
    mesh = getattr(jax.tree.leaves(tree)[0].sharding, "mesh", None)
    return mesh if mesh is not None and mesh.size > 1 else None


def share_out(tree: Any, batch: Any) -> Any:
    """Shares a batch that every process holds whole out among the devices of the mesh that a tree's arrays lie on.

    jit copies what comes without a sharding to every device, each of which then works on all of it.

    Args:
      tree: as of mesh_of.
      batch: numpy arrays whose leading axis is a multiple of the mesh's devices.
    """
    mesh = _several_devices(tree)
    if mesh is None:
        return batch
    sharding = NamedSharding(mesh, P(mesh.axis_names))
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index]), batch)


def _as_global(x: jax.Array, sharding: NamedSharding) -> jax.Array:
    if isinstance(x.sharding, NamedSharding) and x.sharding.mesh == sharding.mesh:
        return x
    if jax.process_count() == 1:
        return jax.device_put(x, sharding)
    from jax.experimental import multihost_utils

    # Of several processes, pmap gives each a whole copy of its own.
    return multihost_utils.host_local_array_to_global_array(np.asarray(x), sharding.mesh, sharding.spec)
