"""The stack: padding, causality, conditioning, positions, routing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sedtalker_jax.models.attention import Attention, rotary_angles, rotate_pairs
from sedtalker_jax.models.backbone import Backbone, BackboneConfig
from sedtalker_jax.models.gru import GRUMixer
from sedtalker_jax.models.moe import MixtureOfExperts

SMALL = dict(width=16, state_size=4, num_heads=4, num_kv_heads=2, num_experts=3, dropout=0.0)


def random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def full(batch, length):
    return jnp.ones((batch, length), bool)


def initialised(model, x, seed=1):
    """Its parameters and its compiled forward pass."""
    return jax.jit(model.init)(jax.random.key(seed), x, full(*x.shape[:2])), jax.jit(model.apply)


@pytest.mark.parametrize("pattern", ["M", "E", "A", "G", "MEA"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_clip_alone_equals_the_clip_in_a_padded_batch(pattern, causal):
    model = Backbone(BackboneConfig(pattern=pattern, causal=causal, **SMALL))
    alone = random(1, 13, 16)
    params, apply = initialised(model, alone)
    expected = apply(params, alone, full(1, 13))
    garbage = 1e3 * random(1, 8, 16, seed=2)
    batch = jnp.concatenate([jnp.concatenate([alone, garbage], axis=1), random(1, 21, 16, seed=3)])
    mask = full(2, 21).at[0, 13:].set(False)
    found = apply(params, batch, mask)[:1, :13]
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("pattern", ["M", "A", "G"])
def test_causal_blocks_do_not_see_the_future(pattern):
    model = Backbone(BackboneConfig(pattern=pattern, causal=True, **SMALL))
    x = random(1, 12, 16)
    params, apply = initialised(model, x)
    later = x.at[:, 7:].add(1.0)
    before, after = (apply(params, value, full(1, 12)) for value in (x, later))
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert float(jnp.abs(before[:, 7:] - after[:, 7:]).max()) > 1e-3


@pytest.mark.parametrize("pattern", ["M", "A", "G"])
def test_bidirectional_blocks_see_both_sides(pattern):
    model = Backbone(BackboneConfig(pattern=pattern, **SMALL))
    x = random(1, 12, 16)
    params, apply = initialised(model, x)
    moved = apply(params, x.at[:, 6].add(1.0), full(1, 12)) - apply(params, x, full(1, 12))
    change = jnp.abs(moved).max(axis=(0, 2))
    assert float(change[:6].max()) > 1e-4 and float(change[7:].max()) > 1e-4


def test_windowed_attention_reaches_no_further_than_its_window():
    model = Attention(16, 4, 2, window=2)
    x = random(1, 12, 16)
    params, apply = initialised(model, x)
    moved = apply(params, x.at[:, 6].add(1.0), full(1, 12)) - apply(params, x, full(1, 12))
    change = np.asarray(jnp.abs(moved).max(axis=(0, 2)))
    assert np.all(change[[4, 5, 6, 7, 8]] > 0) and np.all(change[[0, 1, 2, 3, 9, 10, 11]] == 0)


def test_rotary_scores_depend_on_distance_only():
    angles = rotary_angles(30, 8)
    query, key = random(8, seed=4), random(8, seed=5)

    def score(i, j):
        return float(
            rotate_pairs(query, np.sin(angles[i]), np.cos(angles[i])) @ rotate_pairs(key, np.sin(angles[j]), np.cos(angles[j]))
        )

    assert score(3, 7) == pytest.approx(score(20, 24), rel=1e-4)
    assert score(3, 7) != pytest.approx(score(3, 8), rel=1e-3)


def test_learned_rotary_positions_start_as_fixed_ones_on_the_full_width():
    x, mask = random(2, 9, 16), full(2, 9)
    learned = Attention(16, 1, 1, learned_rotary_rank=4)
    params = learned.init(jax.random.key(1), x, mask)
    fixed = Attention(16, 1, 1)
    shared = {name: value for name, value in params["params"].items() if "rotary" not in name}
    # With one head the head's width is the full width, where both forms rotate the same pairs by the same angles.
    np.testing.assert_allclose(learned.apply(params, x, mask), fixed.apply({"params": shared}, x, mask), atol=1e-6)
    assert params["params"]["query_rotary_down"].shape == (16, 4)


def test_experts_outside_the_top_k_do_not_matter_and_gates_sum_to_one():
    x, mask = random(1, 5, 16), full(1, 5)
    model = MixtureOfExperts(16, 8, num_experts=4, top_k=1)
    variables, apply = initialised(model, x, seed=0)
    params = variables["params"]
    chosen = np.argmax(np.asarray(x[0] @ params["router"]), axis=-1)
    whole = apply({"params": params}, x, mask)
    for t in range(5):
        alone = jax.tree.map(lambda p: p, params)
        for name in ("gate", "up", "out"):
            keep = np.zeros((4, 1, 1), np.float32)
            keep[chosen[t]] = 1.0
            alone[name] = params[name] * keep
        np.testing.assert_allclose(apply({"params": alone}, x, mask)[0, t], whole[0, t], atol=1e-6)


def test_balance_loss_is_one_for_even_load_and_ignores_padding():
    model = MixtureOfExperts(4, 8, num_experts=4, top_k=1)
    x = 50.0 * jnp.eye(4)[None]
    params = model.init(jax.random.key(0), x, full(1, 4))["params"]
    params["router"] = jnp.eye(4)

    def balance(x, mask):
        _, sown = model.apply({"params": params}, x, mask, mutable=["losses"])
        return float(sown["losses"]["moe_balance"][0][0])

    assert balance(x, full(1, 4)) == pytest.approx(1.0, abs=1e-4)
    one_sided = jnp.tile(x[:, :1], (1, 4, 1))
    assert balance(one_sided, full(1, 4)) == pytest.approx(4.0, abs=1e-3)
    padded = jnp.concatenate([x, one_sided], axis=1)
    assert balance(padded, jnp.arange(8)[None] < 4) == pytest.approx(1.0, abs=1e-4)


def test_an_unknown_block_letter_is_named():
    with pytest.raises(ValueError, match="pattern='MX'.*'X'"):
        BackboneConfig(pattern="MX")


def test_recurrent_units_agree_with_the_equations_written_out():
    model, L, D = GRUMixer(6, bidirectional=True), 5, 6
    x, mask = random(1, L, D), full(1, L)
    variables, apply = initialised(model, x, seed=3)
    params = variables["params"]

    def run(cell, steps):
        weights = jax.tree.map(lambda p: np.asarray(p, np.float64), cell)

        def gate(name, value):
            return value @ weights[name]["kernel"] + weights[name].get("bias", 0.0)

        state, states = np.zeros(D), {}
        for t in steps:
            value = np.asarray(x[0, t], np.float64)
            reset = 1 / (1 + np.exp(-gate("ir", value) - gate("hr", state)))
            update = 1 / (1 + np.exp(-gate("iz", value) - gate("hz", state)))
            state = (1 - update) * np.tanh(gate("in", value) + reset * gate("hn", state)) + update * state
            states[t] = state
        return np.stack([states[t] for t in range(L)])

    states = [run(params["forward_cell"], range(L)), run(params["backward_cell"], reversed(range(L)))]
    expected = np.concatenate(states, axis=1) @ np.asarray(params["out_proj"]["kernel"])
    np.testing.assert_allclose(apply(variables, x, mask)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(pattern="MA", width=12, num_heads=4), "an even width of a head"),
        (dict(pattern="ME", num_experts=1), "top_k=2 must lie within 1 and num_experts=1"),
        (dict(pattern="ME", top_k=0), "top_k=0 must lie within 1"),
    ],
)
def test_shapes_that_no_block_can_have_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        BackboneConfig(**sizes)
    # Of a kind of block that the stack lacks the sizes don't matter.
    BackboneConfig(**sizes | dict(pattern="M"))
