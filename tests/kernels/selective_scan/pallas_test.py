"""The Pallas kernels under interpreters on the CPU. That they compile is shown by `kernels.aot`, not here.

The TPU interpreter fills memory with NaN and looks for races between copies and computation. The GPU interpreter exists from
jax 0.11.2 on.
"""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.experimental.pallas import tpu as pltpu

from kernels.selective_scan import ScanConfig, chunked, pallas_gpu, pallas_tpu, selective_scan
from kernels.selective_scan.arg_specs import ArgSpec, named
from kernels.selective_scan.arguments import ScanArgs, ScanOptions, balanced_chunk, step_flags
from kernels.selective_scan.pallas_tpu import layout

needs_gpu_interpreter = pytest.mark.skipif(
    not hasattr(plgpu, "InterpretGPUParams"), reason="the GPU interpreter needs jax >= 0.11.2 (make test-newest)"
)
# Small, but with padded channels, padded steps, several chunks and every feature.
FULL = ArgSpec("full", 1, 13, 20, 1, initial_state=True, mask=True, reset=True)
CASES = [
    FULL,
    dataclasses.replace(FULL, name="full_reverse", reverse=True, dtype="bfloat16"),
    ArgSpec("bare", 2, 40, 128, 3, softplus=False, D=False, z=False, bias=False),
]


def _interpreters(name):
    if name == "pallas_gpu":
        return plgpu.InterpretGPUParams()
    return pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")


def _call(spec, config):
    """ScanArgs, options, and random cotangents of y and the final state."""
    arrays, switches = spec.concrete(3)
    valid, keep = step_flags(arrays.get("mask"), arrays.get("reset"), spec.reverse, jnp.float32)
    batch, length, channels, state = spec.shape
    initial = arrays.get("initial_state", jnp.zeros((batch, channels, state)))
    picked = (arrays.get(k) for k in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias"))
    args = ScanArgs(*picked, initial, valid, keep)
    options = ScanOptions(switches["delta_softplus"], spec.reverse, balanced_chunk(length, 8), config)
    rng = np.random.default_rng(4)
    dy = jnp.asarray(rng.standard_normal(args.u.shape), args.u.dtype)
    return args, options, dy, jnp.asarray(rng.standard_normal(initial.shape), jnp.float32)


def _assert_same(got, exact, dtype):
    for name, value in exact.items():
        if value is None:
            assert got[name] is None
            continue
        assert got[name].shape == value.shape and got[name].dtype == value.dtype, name
        a, b = np.asarray(got[name], np.float64), np.asarray(value, np.float64)
        error = np.max(np.abs(a - b)) / np.max(np.abs(b))
        # float32 sums in another order, or one step of bfloat16's eight bits.
        assert error < (3e-6 if dtype == "float32" else 2.0**-7), f"{name} is off by {error:.1e}"


# The TPU interpreter takes its time, so it has one case per dtype.
@pytest.mark.parametrize(
    ("name", "spec"),
    [("pallas_tpu", spec) for spec in CASES[:2]]
    + [pytest.param("pallas_gpu", spec, marks=needs_gpu_interpreter) for spec in CASES],
    ids=lambda x: getattr(x, "name", x),
)
def test_forward_and_backward_equal_the_chunked_form(name, spec):
    # The chunked form itself is held to the float64 reference by the contract.
    module = {"pallas_tpu": pallas_tpu, "pallas_gpu": pallas_gpu}[name]
    args, options, dy, dfinal = _call(spec, ScanConfig(interpret=_interpreters(name)))
    y, final, entering = chunked.forward(args, options, loop_over_batch=True)
    got = module.forward(args, options)
    assert got[2].shape == entering.shape
    _assert_same({"y": got[0], "final": got[1]}, {"y": y, "final": final}, spec.dtype)
    exact = chunked.backward(args, entering, dy, dfinal, options, loop_over_batch=True)
    grads = module.backward(args, got[2], dy, dfinal, options)
    _assert_same(grads._asdict(), exact._asdict(), spec.dtype)
    if name == "pallas_tpu":
        from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter

        assert not interpreter.races.races_found


@pytest.mark.parametrize(
    ("name", "knobs"),
    [("pallas_tpu", dict(unroll=5, channel_tile=128)), pytest.param("pallas_gpu", dict(unroll=4), marks=needs_gpu_interpreter)],
    ids=["pallas_tpu", "pallas_gpu"],
)
def test_steps_written_out_and_smaller_tiles_change_nothing(name, knobs):
    # 13 steps in chunks of 7, which no number of steps that are written out divides; two tiles of channels.
    module = {"pallas_tpu": pallas_tpu, "pallas_gpu": pallas_gpu}[name]
    spec = ArgSpec("knobs", 1, 13, 150, 1, reset=True)
    args, options, dy, dfinal = _call(spec, ScanConfig(interpret=_interpreters(name), **knobs))
    y, final, entering = chunked.forward(args, options, loop_over_batch=True)
    got = module.forward(args, options)
    _assert_same({"y": got[0], "final": got[1]}, {"y": y, "final": final}, "float32")
    exact = chunked.backward(args, entering, dy, dfinal, options, loop_over_batch=True)
    _assert_same(module.backward(args, got[2], dy, dfinal, options)._asdict(), exact._asdict(), "float32")


@pytest.mark.parametrize(
    ("length", "chunk", "reverse", "limit"),
    [(38, 19, False, 640), (38, 19, True, 24), (17, 3, True, 640)],
    ids=["one_block", "two_blocks_reverse", "chunks_of_padding"],
)
def test_blocks_of_several_chunks_end_with_the_last_step(monkeypatch, length, chunk, reverse, limit):
    # 38 steps are two chunks of 19, which take 24 places each, 16 + 8 and 14 in one block. 17 steps are six chunks of 3, which
    # take 8 places each: the last three hold padding only.
    monkeypatch.setattr(importlib.import_module("kernels.selective_scan.pallas_tpu.forward"), "STEPS_LIMIT", limit)
    spec = ArgSpec("chunks", 1, length, 20, 2, reset=True, reverse=reverse)
    args, options, dy, dfinal = _call(spec, ScanConfig(interpret=_interpreters("pallas_tpu")))
    options = dataclasses.replace(options, chunk=chunk)
    y, final, entering = chunked.forward(args, options, loop_over_batch=True)
    got = pallas_tpu.forward(args, options)
    _assert_same({"y": got[0], "final": got[1]}, {"y": y, "final": final}, "float32")
    assert got[2].shape == entering.shape
    if chunk < layout.SUBLANES:
        exact = chunked.backward(args, entering, dy, dfinal, options, loop_over_batch=True)
        _assert_same(pallas_tpu.backward(args, got[2], dy, dfinal, options)._asdict(), exact._asdict(), "float32")


@needs_gpu_interpreter
def test_gradients_through_the_public_function():
    arrays, options = named("tiny").concrete(1)
    config = ScanConfig(interpret=plgpu.InterpretGPUParams(), chunk=6)

    def value(arrays, implementation, config):
        return jnp.sum(selective_scan(**arrays, **options, implementation=implementation, config=config) ** 2)

    got = jax.grad(value)(arrays, "pallas_gpu", config)
    exact = jax.grad(value)(arrays, "reference", None)
    _assert_same(got, exact, "float32")


def _lowered_gradient(platform: str, **choice) -> str:
    # Lowered on a CPU host: a choice by jax.default_backend() would hold the CPU form.
    arrays, options = ArgSpec("picked", 2, 32, 256, 4).abstract()
    function = jax.jit(jax.grad(lambda a: jnp.sum(selective_scan(**a, **options, **choice))))
    return function.trace(arrays).lower(lowering_platforms=(platform,)).as_text()


def test_a_program_for_another_platform_traces_no_tpu_kernel(monkeypatch):
    # A kernel whose loops are written out takes seconds to trace.
    def refuse(*_, **__):
        raise AssertionError("traced")

    monkeypatch.setattr(pallas_tpu, "forward", refuse)
    arrays, options = ArgSpec("traced_once", 1, 9, 5, 3).abstract()
    traced = jax.jit(lambda arrays: selective_scan(**arrays, **options)).trace(arrays)
    assert "while" in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "while" in traced.lower(lowering_platforms=("cuda",)).as_text()
    with pytest.raises(AssertionError, match="traced"):
        traced.lower(lowering_platforms=("tpu",))


def test_the_platform_lowered_for_picks_the_kernel():
    text = _lowered_gradient("tpu")
    assert "tpu_custom_call" in text
    assert "stablehlo.while" not in text


def test_rematerialisation_runs_the_forward_kernel_once_more():
    # The interpreters' effects can't pass through jax.checkpoint, so this looks at the program.
    arrays, options = ArgSpec("picked", 2, 32, 256, 4).abstract()
    calls = []
    for wrap in (lambda function: function, jax.checkpoint):
        function = jax.jit(jax.value_and_grad(wrap(lambda a: jnp.sum(jnp.sin(selective_scan(**a, **options))))))
        text = function.trace(arrays).lower(lowering_platforms=("tpu",)).as_text()
        assert 'kernel_name = "selective_scan_fwd"' in text
        # The kernel stands in the program once, in a function that is called.
        calls.append([text.count(f"call @_run_{name}") for name in ("forward", "backward")])
    assert calls == [[1, 1], [2, 1]]


def test_a_kernel_that_is_no_default_is_reached_by_name_alone():
    assert "mosaic_gpu" not in _lowered_gradient("cuda")
    text = _lowered_gradient("cuda", implementation="pallas_gpu")
    assert "mosaic_gpu" in text
    assert "stablehlo.while" not in text


@pytest.mark.parametrize("name", ["pallas_tpu", "pallas_gpu"])
def test_a_named_kernel_that_cannot_run_says_why(name):
    arrays, options = ArgSpec("large", 1, 8, 8, 80).abstract()
    with pytest.raises(ValueError, match=rf"{name}' does not support N = 80"):
        jax.eval_shape(lambda a: selective_scan(**a, **options, implementation=name), arrays)
    with jax.enable_x64(True):
        arrays = {k: jnp.zeros(v.shape, jnp.float64) for k, v in named("tiny").abstract()[0].items()}
        with pytest.raises(ValueError, match=rf"{name}' does not support float64"):
            selective_scan(**arrays, implementation=name)
