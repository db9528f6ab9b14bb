"""The op under pmap, shard_map and a sharded jit, in a process of its own: it needs four fake devices."""

import os
import subprocess
import sys
import textwrap

import pytest

_PREAMBLE = """
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from kernels.selective_scan import selective_scan
    from kernels.selective_scan.arg_specs import ArgSpec
    arrays, options = ArgSpec("sharded", 8, 40, 16, 4, initial_state=True, mask=True, reset=True).concrete()
    flags = {k: arrays[k] for k in ("mask", "reset")}
    floats = {k: v for k, v in arrays.items() if k not in flags}

    def value(floats, flags):
        y, h = selective_scan(**floats, **flags, **options, return_final_state=True)
        return jnp.sum(y**2) + jnp.sum(h**2)

    def same(a, b):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), a, b)

    expected = jax.jit(jax.value_and_grad(value))(floats, flags)
"""

_AUTO = """
    for shape, names in (((4,), ("data",)), ((2, 2), ("data", "model")), ((2, 2), ("data", "fsdp"))):
        mesh = jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))
        batch = tuple(n for n in names if n != "model")
        with jax.set_mesh(mesh):
            def put(x):
                return jax.device_put(x, NamedSharding(mesh, P(batch) if x.shape[0] == 8 else P()))
            placed = jax.tree.map(put, (floats, flags))
            compiled = jax.jit(jax.value_and_grad(value)).lower(*placed).compile()
            same(compiled(*placed), expected)
            # Every array with a batch stays where it is; only gradients of shared parameters are reduced.
            assert "all-gather" not in compiled.as_text(), names
            assert "all-to-all" not in compiled.as_text(), names
"""

_PMAP = """
    def split(x):
        return x.reshape(4, 2, *x.shape[1:]) if x.shape[0] == 8 else jnp.broadcast_to(x, (4, *x.shape))
    parts = jax.tree.map(split, (floats, flags))
    values, grads = jax.pmap(jax.value_and_grad(value))(*parts)
    np.testing.assert_allclose(values.sum(), expected[0], rtol=1e-5)
    for name, g in grads.items():
        whole = g.reshape(8, *g.shape[2:]) if floats[name].shape[0] == 8 else g.sum(0)
        same(whole, expected[1][name])
"""

_SHARD_MAP = """
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    specs = jax.tree.map(lambda x: P("data") if x.shape[0] == 8 else P(), (floats, flags))
    def local(floats, flags):
        return jax.lax.psum(value(floats, flags), "data")
    mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)
    same(jax.jit(jax.value_and_grad(mapped))(floats, flags), expected)
"""

_SEQUENCE = """
    mesh = jax.make_mesh((4,), ("time",), axis_types=(AxisType.Auto,))
    stepwise = ("u", "delta", "B", "C", "z", "mask", "reset")
    whole = {**floats, **flags}
    for reverse in (False, True):
        used = {k: v for k, v in whole.items() if not (reverse and k == "reset")}

        def both(used, axis):
            y, h = selective_scan(**used, **{**options, "reverse": reverse}, return_final_state=True, sequence_axis=axis)
            return y, h

        def total(used, run):
            y, h = run(used)
            return jnp.sum(y**2) + jnp.sum(h**2)

        specs = ({k: P(None, "time") if k in stepwise else P() for k in used},)
        split = jax.shard_map(
            lambda used: both(used, "time"), mesh=mesh, in_specs=specs, out_specs=(P(None, "time"), P()), check_vma=False
        )
        numbers = {k: v for k, v in used.items() if k not in flags}
        rest = {k: v for k, v in used.items() if k in flags}
        for run, name in ((split, "split"), (lambda used: both(used, None), "whole")):
            got = jax.jit(jax.value_and_grad(lambda n: total({**n, **rest}, run)))(numbers)
            first = got if name == "split" else first
        same(first, got)
"""


@pytest.mark.parametrize("body", [_AUTO, _PMAP, _SHARD_MAP, _SEQUENCE], ids=["auto_mesh", "pmap", "shard_map", "sequence"])
def test_on_four_devices(body):
    code = textwrap.dedent(_PREAMBLE) + textwrap.dedent(body)
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
