"""The convolution against its definition, a float64 loop in NumPy, and its gradients against the float64 reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.causal_conv1d import IMPLEMENTATIONS, causal_conv1d, causal_conv1d_step


def _problem(seed=0, batch=3, length=23, channels=5, width=4):
    rng = np.random.default_rng(seed)
    floats = {
        "x": rng.standard_normal((batch, length, channels)),
        "weight": rng.standard_normal((width, channels)),
        "bias": rng.standard_normal(channels),
        "initial_state": rng.standard_normal((batch, width - 1, channels)),
    }
    flags = {
        "mask": np.arange(length) < rng.integers(length // 2, length + 1, (batch, 1)),
        "reset": rng.random((batch, length)) < 0.2,
    }
    return {k: v.astype(np.float32) for k, v in floats.items()}, flags


def _loop(x, weight, bias, initial_state, mask, reset):
    """By the definition: walk back from t until a reset or the window's end."""
    width = len(weight)
    y = np.zeros(x.shape)
    for b, t in np.argwhere(mask):
        y[b, t] = bias
        for back in range(width):
            s = t - back
            if s >= 0:
                y[b, t] += weight[width - 1 - back] * x[b, s] * mask[b, s]
                if reset[b, s]:
                    break
            else:
                y[b, t] += weight[width - 1 - back] * initial_state[b, s + width - 1]
    return y


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("width", [1, 2, 4, 7])
def test_values_follow_the_definition(implementation, width):
    floats, flags = _problem(width=width)
    y = causal_conv1d(**floats, **flags, implementation=implementation)
    expected = _loop(**{k: v.astype(np.float64) for k, v in floats.items()}, **flags)
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("flagged", [False, True])
def test_gradients_and_final_state_match_the_float64_reference(reverse, activation, flagged):
    floats, flags = _problem(1)
    flags = flags if flagged else {}
    rng = np.random.default_rng(5)
    wy, ws = rng.standard_normal((3, 23, 5)), rng.standard_normal((3, 3, 5))

    def value(floats, implementation):
        y, state = causal_conv1d(
            **floats, **flags, activation=activation, reverse=reverse, return_final_state=True, implementation=implementation
        )
        return jnp.sum(y * wy) + jnp.sum(state * ws), state

    with jax.enable_x64(True):
        exact = jax.grad(value, has_aux=True)({k: v.astype(np.float64) for k, v in floats.items()}, "reference")
    got = jax.jit(jax.grad(value, has_aux=True), static_argnums=1)(floats, "shifts")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), got, exact)


def test_reverse_is_the_flipped_convolution_of_flipped_sequences():
    floats, flags = _problem(2)
    flags.pop("reset")
    flipped = {**floats, "x": floats["x"][:, ::-1], "mask": flags["mask"][:, ::-1]}
    np.testing.assert_allclose(causal_conv1d(**floats, **flags, reverse=True), causal_conv1d(**flipped)[:, ::-1], atol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_packed_sequences_equal_separate_ones(reverse):
    floats, _ = _problem(3, length=20)
    floats.pop("initial_state")
    reset = np.zeros((3, 20), bool)
    reset[:, [7, 12]] = True
    packed = causal_conv1d(**floats, reset=reset, reverse=reverse)
    x = floats.pop("x")
    parts = [causal_conv1d(x[:, a:b], **floats, reverse=reverse) for a, b in ((0, 7), (7, 12), (12, 20))]
    np.testing.assert_allclose(packed, np.concatenate(parts, axis=1), atol=1e-6)


def test_pieces_and_single_steps_equal_the_whole():
    floats, flags = _problem(4)
    whole, final = causal_conv1d(**floats, **flags, return_final_state=True)
    x, state = floats.pop("x"), floats.pop("initial_state")
    # The mask is a prefix, so a piece that is all padding hands the state on.
    pieces = []
    for a, b in ((0, 2), (2, 13), (13, 23)):
        cut = {k: v[:, a:b] for k, v in flags.items()}
        y, state = causal_conv1d(x[:, a:b], **floats, **cut, initial_state=state, return_final_state=True)
        pieces.append(y)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-6)
    np.testing.assert_allclose(state, final, atol=1e-6)
    state = _problem(4)[0]["initial_state"]
    for t in range(23):
        y, state = causal_conv1d_step(state, x[:, t], **floats, mask=flags["mask"][:, t], reset=flags["reset"][:, t])
        np.testing.assert_allclose(y, whole[:, t], atol=1e-5)
    np.testing.assert_allclose(state, final, atol=1e-6)


def test_bfloat16_is_rounded_once():
    floats, _ = _problem(6)
    low = {k: jnp.asarray(v, jnp.bfloat16) for k, v in floats.items()}
    y = causal_conv1d(**low)
    exact = causal_conv1d(**{k: v.astype(jnp.float32) for k, v in low.items()})
    assert y.dtype == jnp.bfloat16
    # Half a unit in the last of bfloat16's eight places.
    np.testing.assert_allclose(y.astype(np.float32), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": np.zeros((4, 6), np.float32)}, r"weight has shape \(4, 6\), expected \[W, E\] with E = 5"),
        ({"initial_state": np.zeros((3, 4, 5), np.float32)}, r"initial_state has shape \(3, 4, 5\)"),
        ({"mask": np.zeros((3, 22), bool)}, r"mask has shape \(3, 22\)"),
        ({"activation": "relu"}, "activation 'relu'"),
        ({"implementation": "cuda"}, "implementation 'cuda'"),
    ],
)
def test_a_mistake_names_the_argument(change, message):
    floats, _ = _problem()
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**{**floats, **change})


def test_masks_and_arrays_of_the_wrong_dtype_are_refused():
    floats, flags = _problem()
    with pytest.raises(TypeError, match="mask has dtype float32"):
        causal_conv1d(**floats, mask=flags["mask"].astype(np.float32))
    with pytest.raises(TypeError, match="x has dtype int32"):
        causal_conv1d(**{**floats, "x": np.zeros((3, 23, 5), np.int32)})
