"""One contract, run over every implementation: values and every gradient against the float64 reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.experimental.pallas import tpu as pltpu

from kernels.selective_scan import IMPLEMENTATIONS, ScanConfig, selective_scan, selective_scan_step
from kernels.selective_scan.arg_specs import BENCHMARK, CONTRACT, ArgSpec, named

PURE = [name for name in IMPLEMENTATIONS if not name.startswith("pallas")]


def _split(arrays):
    floats = {k: v for k, v in arrays.items() if v.dtype != jnp.bool_}
    return floats, {k: v for k, v in arrays.items() if v.dtype == jnp.bool_}


def _value(floats, flags, options, implementation, config=None):
    """A random projection of both outputs, so that one gradient covers every cotangent."""
    y, final = selective_scan(
        **floats, **flags, **options, return_final_state=True, implementation=implementation, config=config
    )
    rng = np.random.default_rng(9)
    value = jnp.sum(y * rng.standard_normal(y.shape)) + jnp.sum(final * rng.standard_normal(final.shape))
    return value, {"y": y, "final_state": final}


_value_and_grad = jax.jit(jax.value_and_grad(_value, has_aux=True), static_argnames=("options", "implementation", "config"))


class _Options(dict):
    """Hashable keyword arguments."""

    def __hash__(self):
        return hash(tuple(sorted(self.items())))


def _run(spec, implementation, config=None, exact=False):
    """Outputs and gradients by name, float64 arrays. `exact`: computed in float64."""
    arrays, options = spec.concrete(seed=1)
    floats, flags = _split(arrays)
    with jax.enable_x64(True):
        if exact:
            floats = {k: v.astype(jnp.float64) for k, v in floats.items()}
        (_, outputs), grads = _value_and_grad(floats, flags, _Options(options), implementation, config)
    named_grads = {f"d {k}": v for k, v in grads.items()}
    return {k: np.asarray(v, np.float64) for k, v in (outputs | named_grads).items()}


_EXACT = {}


def assert_contract(spec: ArgSpec, implementation: str | None, config: ScanConfig | None = None):
    """Every output and gradient within a tolerance scaled by dtype and length, relative to the array's largest value."""
    if spec.name not in _EXACT:
        _EXACT[spec.name] = _run(spec, "reference", exact=True)
    exact = _EXACT[spec.name]
    got = _run(spec, implementation, config)
    # Rounding of independent steps adds up as a random walk; bfloat16 results are rounded once, to 8 bits.
    tolerance = 2e-7 * (8 + spec.length**0.5) if spec.dtype == "float32" else 2.0**-7
    assert got.keys() == exact.keys()
    for name, value in exact.items():
        error = np.max(np.abs(got[name] - value)) / np.max(np.abs(value))
        assert error < tolerance, f"{name} is off by {error:.1e}, allowed {tolerance:.1e}"


@pytest.mark.parametrize("spec", CONTRACT, ids=lambda s: s.name)
@pytest.mark.parametrize("implementation", PURE)
def test_contract(spec, implementation):
    assert_contract(spec, implementation)


def _interpreter(implementation):
    if implementation == "pallas_tpu":
        return pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
    if not hasattr(plgpu, "InterpretGPUParams"):
        pytest.skip("the GPU interpreter needs jax >= 0.11.2 (make test-newest)")
    return plgpu.InterpretGPUParams()


@pytest.mark.interpreted
@pytest.mark.parametrize("spec", CONTRACT, ids=lambda s: s.name)
@pytest.mark.parametrize("implementation", ["pallas_tpu", "pallas_gpu"])
def test_contract_of_interpreted_kernels(implementation, spec):
    assert_contract(spec, implementation, ScanConfig(interpret=_interpreter(implementation)))


@pytest.mark.interpreted
@pytest.mark.parametrize("implementation", ["pallas_tpu", "pallas_gpu"])
def test_interpreted_kernels_under_vmap(implementation):
    arrays, options = ArgSpec("mapped", 1, 9, 6, 2).concrete(3)
    options["config"] = ScanConfig(interpret=_interpreter(implementation))

    def value(s, implementation):
        return jnp.sum(selective_scan(**{**arrays, "u": s * arrays["u"]}, **options, implementation=implementation) ** 2)

    scale = jnp.array([0.5, 2.0])
    mapped = jax.vmap(jax.grad(lambda s: value(s, implementation)))(scale)
    np.testing.assert_allclose(mapped, [jax.grad(value)(s, "chunked") for s in scale], rtol=1e-5)


def test_contract_of_the_default():
    assert_contract(named("odd_reverse"), None)


@pytest.mark.parametrize("chunk", [1, 7, 67, 100])
def test_the_chunk_changes_nothing(chunk):
    assert_contract(named("odd"), "chunked", ScanConfig(chunk=chunk))


@pytest.mark.parametrize("name", ["odd", "odd_reverse"])
def test_steps_written_out_change_nothing(name):
    assert_contract(named(name), "chunked", ScanConfig(unroll=3))


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        (dict(chunk=0), "chunk = 0, expected 1 or more"),
        (dict(time_splits=0), "time_splits = 0"),
        (dict(unroll=-1), "unroll = -1"),
        (dict(channel_tile=100), "channel_tile = 100, expected a multiple of 128 up to 1,024"),
        (dict(channel_tile=2048), "channel_tile = 2048"),
    ],
)
def test_a_knob_out_of_range_is_named(knobs, expected):
    with pytest.raises(ValueError, match=expected):
        ScanConfig(**knobs)


@pytest.mark.parametrize("name", ["odd", "odd_reverse", "plain"])
def test_pieces_at_the_same_time_change_nothing(name):
    assert_contract(named(name), "chunked", ScanConfig(time_splits=4))


def test_reference_is_the_recurrence():
    # Independent of JAX: the equation in a NumPy loop over scalars.
    spec = ArgSpec("loop", 2, 6, 3, 2, initial_state=True, mask=True, reset=True)
    arrays, options = spec.concrete(3)
    a = {k: np.array(v, None if v.dtype == bool else np.float64) for k, v in arrays.items()}
    a["reset"][0, 3] = a["reset"][1, 0] = True
    h = a["initial_state"].copy()
    expected = np.zeros((2, 6, 3))
    for b in range(2):
        for t in range(6):
            if a["reset"][b, t]:
                h[b] = 0
            if not a["mask"][b, t]:
                continue
            for e in range(3):
                step = np.log1p(np.exp(a["delta"][b, t, e] + a["delta_bias"][e]))
                y = 0.0
                for n in range(2):
                    h[b, e, n] = np.exp(step * a["A"][e, n]) * h[b, e, n] + step * a["u"][b, t, e] * a["B"][b, t, n]
                    y += h[b, e, n] * a["C"][b, t, n]
                gate = a["z"][b, t, e] / (1 + np.exp(-a["z"][b, t, e]))
                expected[b, t, e] = (y + a["D"][e] * a["u"][b, t, e]) * gate
    with jax.enable_x64(True):
        y, final = selective_scan(**a, **options, return_final_state=True, implementation="reference")
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(final, h, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("implementation", PURE)
def test_reverse_flips_time(implementation):
    arrays, options = ArgSpec("flip", 2, 19, 6, 3, initial_state=True, mask=True).concrete(4)
    y, final = selective_scan(
        **arrays, delta_softplus=True, reverse=True, return_final_state=True, implementation=implementation
    )
    flipped = {k: v[:, ::-1] if k in ("u", "delta", "B", "C", "z", "mask") else v for k, v in arrays.items()}
    y2, final2 = selective_scan(**flipped, delta_softplus=True, return_final_state=True, implementation="reference")
    np.testing.assert_allclose(y, y2[:, ::-1], atol=1e-5)
    np.testing.assert_allclose(final, final2, atol=1e-5)


@pytest.mark.parametrize("implementation", PURE)
@pytest.mark.parametrize("reverse", [False, True])
def test_packed_sequences_equal_separate_ones(implementation, reverse):
    arrays, options = ArgSpec("packed", 2, 31, 6, 3).concrete(5)
    cuts = (0, 11, 24, 31)
    reset = jnp.zeros((2, 31), bool).at[:, jnp.array(cuts[1:-1])].set(True)
    packed = selective_scan(**arrays, delta_softplus=True, reverse=reverse, reset=reset, implementation=implementation)
    for a, b in zip(cuts, cuts[1:], strict=False):
        part = {k: v[:, a:b] if v.ndim == 3 else v for k, v in arrays.items()}
        y = selective_scan(**part, delta_softplus=True, reverse=reverse, implementation="reference")
        np.testing.assert_allclose(packed[:, a:b], y, atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_reset_where_the_scan_starts_discards_the_initial_state(reverse):
    arrays, _ = ArgSpec("first", 2, 9, 6, 3, initial_state=True).concrete(6)
    first = 8 if reverse else 0
    reset = jnp.zeros((2, 9), bool).at[:, first].set(True)
    y = selective_scan(**arrays, delta_softplus=True, reverse=reverse, reset=reset)
    arrays["initial_state"] = 5 + arrays["initial_state"]
    np.testing.assert_array_equal(y, selective_scan(**arrays, delta_softplus=True, reverse=reverse, reset=reset))


def test_padding_passes_the_state_and_hides_its_inputs():
    arrays, _ = ArgSpec("pad", 2, 20, 6, 3, initial_state=True).concrete(7)
    mask = jnp.arange(20) < jnp.array([[13], [20]])
    y, final = selective_scan(**arrays, delta_softplus=True, mask=mask, return_final_state=True)
    short = {k: v[:1, :13] if k in ("u", "delta", "B", "C", "z") else v for k, v in arrays.items()}
    short["initial_state"] = arrays["initial_state"][:1]
    y13, final13 = selective_scan(**short, delta_softplus=True, return_final_state=True)
    np.testing.assert_allclose(y[:1, :13], y13, atol=1e-5)
    np.testing.assert_allclose(final[:1], final13, atol=1e-5)
    assert not np.any(y[0, 13:])


def test_pieces_and_single_steps_equal_the_whole():
    arrays, _ = named("odd").concrete(8)
    whole, final = selective_scan(**arrays, delta_softplus=True, return_final_state=True)
    pieces, state = [], arrays.pop("initial_state")
    steps = ("u", "delta", "B", "C", "z", "mask", "reset")
    for a, b in ((0, 30), (30, 31), (31, 67)):
        part = {k: v[:, a:b] if k in steps else v for k, v in arrays.items()}
        y, state = selective_scan(**part, delta_softplus=True, initial_state=state, return_final_state=True)
        pieces.append(y)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-5)
    np.testing.assert_allclose(state, final, atol=1e-5)

    state = named("odd").concrete(8)[0]["initial_state"]
    one = jax.jit(lambda state, x: selective_scan_step(state, **x, delta_softplus=True))
    for t in range(67):
        y, state = one(state, {k: v[:, t] if k in steps else v for k, v in arrays.items()})
        np.testing.assert_allclose(y, whole[:, t], atol=1e-5)
    np.testing.assert_allclose(state, final, atol=1e-5)


def test_large_steps_do_not_overflow():
    arrays, _ = ArgSpec("large", 1, 9, 4, 3).concrete(2)
    arrays["delta"] = arrays["delta"] + 500.0
    floats, _ = _split(arrays)
    grads = jax.grad(lambda f: jnp.sum(selective_scan(**f, delta_softplus=True)))(floats)
    for name, g in grads.items():
        assert np.all(np.isfinite(g)), name


def test_vmap_equals_a_loop_also_over_shared_arguments():
    arrays, options = ArgSpec("mapped", 2, 10, 6, 3, initial_state=True, mask=True).concrete(3)
    floats, flags = _split(arrays)
    scale = jnp.array([0.5, 1.0, 2.0])

    def value(s, names):
        changed = {k: v * s if k in names else v for k, v in floats.items()}
        return jnp.sum(selective_scan(**changed, **flags, **options) ** 2)

    for names in (("u",), ("u", "A", "D")):
        mapped = jax.vmap(jax.value_and_grad(lambda s, names=names: value(s, names)))(scale)
        for i, s in enumerate(scale):
            v, g = jax.value_and_grad(value)(s, names)
            np.testing.assert_allclose([mapped[0][i], mapped[1][i]], [v, g], rtol=1e-4)


def test_remat_gives_the_same_gradients():
    arrays, options = ArgSpec("remat", 2, 10, 6, 3).concrete(3)

    def value(floats):
        return jnp.sum(selective_scan(**floats, **options) ** 2)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        jax.grad(jax.checkpoint(value))(arrays),
        jax.grad(value)(arrays),
    )


def test_backward_never_stores_the_states():
    # [B, L, E, N] in float32 is 16 MiB here; the chunked form must stay far below it, forward and backward.
    arrays, options = ArgSpec("memory", 2, 512, 256, 16).concrete()
    floats, _ = _split(arrays)
    grad = jax.jit(jax.grad(lambda f: jnp.sum(selective_scan(**f, **options))))
    temporary = grad.lower(floats).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 0.6 * 2 * 512 * 256 * 16 * 4


@pytest.mark.parametrize("implementation", ["chunked", "associative"])
def test_products_are_not_rounded_where_devices_round_by_default(implementation):
    # Both accelerators multiply float32 matrices in fewer bits unless told otherwise.
    arrays, options = ArgSpec("lowered", 2, 24, 8, 4).abstract()
    scan = jax.grad(lambda a: jnp.sum(selective_scan(**a, **options, implementation=implementation)))
    now = {k: jax.ShapeDtypeStruct((2, v.shape[2]), v.dtype) if len(v.shape) == 3 else v for k, v in arrays.items()}
    state = jax.ShapeDtypeStruct((2, 8, 4), jnp.float32)
    traced = (jax.jit(scan).trace(arrays), jax.jit(lambda h, a: selective_scan_step(h, **a)).trace(state, now))
    texts = [x.lower(lowering_platforms=("cuda",)).as_text() for x in traced]
    for text in texts:
        products = [line for line in text.splitlines() if "dot_general" in line]
        assert products
        assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


@pytest.mark.parametrize("shape", [(2, 0, 6), (0, 5, 6), (2, 5, 0)])
@pytest.mark.parametrize("config", [None, ScanConfig(time_splits=2)])
def test_nothing_to_scan_returns_the_state(shape, config):
    arrays, options = ArgSpec("empty", *shape, 3, initial_state=True, mask=True).abstract()
    arrays = {name: jnp.ones(x.shape, x.dtype) for name, x in arrays.items()}
    floats, flags = _split(arrays)
    grads, outputs = jax.grad(_value, has_aux=True)(floats, flags, options, None, config)
    assert outputs["y"].shape == shape
    np.testing.assert_array_equal(outputs["final_state"], arrays["initial_state"])
    assert not np.any(grads["A"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"A": np.zeros((7, 3), np.float32)}, ValueError, r"A has shape \(7, 3\), expected \[E, N\] with E = 6"),
        ({"B": np.zeros((2, 9, 4), np.float32)}, ValueError, r"B has shape \(2, 9, 4\), expected \[B, L, N\] = \(2, 9, 3\)"),
        ({"initial_state": np.zeros((2, 3, 6), np.float32)}, ValueError, r"initial_state has shape \(2, 3, 6\)"),
        ({"mask": np.zeros((2, 8), bool)}, ValueError, r"mask has shape \(2, 8\)"),
        ({"mask": np.zeros((2, 9), np.float32)}, TypeError, "mask has dtype float32, expected bool"),
        ({"u": np.zeros((2, 9, 6), np.int32)}, TypeError, "u has dtype int32"),
        ({"A": np.zeros((6, 3), np.complex64)}, TypeError, "A has dtype complex64"),
        ({"D": [1.0] * 6}, TypeError, "D is list, expected an array"),
        ({"C": None}, TypeError, "C is NoneType, expected an array"),
        ({"implementation": "triton"}, ValueError, "implementation 'triton' is none of reference"),
    ],
)
def test_a_mistake_names_the_argument(change, error, message):
    arrays, _ = ArgSpec("wrong", 2, 9, 6, 3).concrete()
    with pytest.raises(error, match=message):
        selective_scan(**{**arrays, **change})


def test_a_step_names_a_state_of_the_wrong_shape():
    arrays, _ = ArgSpec("wrong", 2, 1, 6, 3).concrete()
    now = {k: v[:, 0] if v.ndim == 3 else v for k, v in arrays.items()}
    with pytest.raises(ValueError, match=r"state has shape \(6, 3\), expected \[B, E, N\]"):
        selective_scan_step(jnp.zeros((6, 3)), **now)


def test_every_benchmark_problem_traces():
    for spec in BENCHMARK:
        arrays, options = spec.abstract()
        out = jax.eval_shape(lambda a, o=options: selective_scan(**a, **o), arrays)
        assert out.shape == (spec.batch, spec.length, spec.channels)
