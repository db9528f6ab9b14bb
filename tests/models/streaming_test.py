"""A causal animator takes a recording piece by piece: the pieces are the whole, and padding leaves no trace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sedtalker_jax.models.attention import rotary_angles, rotary_angles_at
from sedtalker_jax.models.backbone import Backbone, BackboneConfig
from sedtalker_jax.models.sedtalker import SEDTalkerModel
from sedtalker_jax.training.experiment import model_config
from tests.models.sedtalker_test import LABELS, joint_batch, row
from tests.support import random_params

WINDOW, RESIDUAL = 5, 8


def causal_model(pattern: str, *, stacking: int = 1, learned: int = 0, window: int | None = WINDOW) -> SEDTalkerModel:
    sizes = dict(width=16, state_size=4, num_heads=4, num_kv_heads=2, num_experts=3, scan_implementation="reference")
    backbone = dict(pattern=pattern, causal=True, window=window, learned_rotary_rank=learned, **sizes)
    config = dict(
        labels=LABELS,
        encoder=dict(
            conv_dim=(8, 8), conv_kernel=(80, 6), conv_stride=(64, 5), hidden_size=16, num_hidden_layers=1,
            num_attention_heads=2, intermediate_size=16, num_conv_pos_embeddings=8,
        ),
        diarizer=dict(embedding_size=RESIDUAL, backbone=None),
        animator=dict(condition_width=8, frame_stacking=stacking, condition_reach=4, motion_reach=3, backbone=backbone),
    )  # fmt: skip
    return SEDTalkerModel(model_config(config, dict(rank=6, template_size=3)))


def parameters(model: SEDTalkerModel) -> dict:
    return {"params": random_params(model, row(joint_batch([8_000], padded=8_000), 0))}


def frames(num_rows: int, count: int, seed: int = 0) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Content, activations, residual, template code."""
    rng = np.random.default_rng(seed)
    shapes = (num_rows, count, 16), (num_rows, count, len(LABELS) - 1), (num_rows, count, RESIDUAL), (num_rows, 3)
    content, activations, residual, code = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    return content, jnp.abs(activations) % 1.0, residual, code


def whole_pass(model, params, inputs, mask) -> np.ndarray:
    content, activations, residual, code = inputs

    def method(m):
        return m.animator(content, mask, activations, residual, code)

    return np.asarray(jax.jit(lambda p: model.apply(p, method=method))(params))


def streamed(model, params, inputs, mask, size: int):
    """Motion of consecutive pieces of `size` frames, the last one padded, and the final state."""
    *sequences, code = inputs
    step = jax.jit(lambda *arguments: model.apply(params, *arguments, method=SEDTalkerModel.animate_piece))
    state, motions, total = model.initial_state(len(mask)), [], mask.shape[1]
    for start in range(0, total, size):
        missing = max(0, start + size - total)
        # What fills up the last piece must not matter.
        piece = [jnp.pad(x[:, start : start + size], ((0, 0), (0, missing), (0, 0)), constant_values=9.0) for x in sequences]
        valid = jnp.pad(mask[:, start : start + size], ((0, 0), (0, missing)))
        motion, state = step(*piece, code, valid, state)
        motions.append(np.asarray(motion))
    return np.concatenate(motions, axis=1)[:, :total], state


@pytest.mark.parametrize("stacking", [1, 2, 3])
def test_a_causal_animator_hears_a_frame_no_further_than_to_the_end_of_its_step(stacking):
    model = causal_model("MA", stacking=stacking)
    params, inputs, mask = parameters(model), frames(1, 12), jnp.ones((1, 12), bool)
    before = whole_pass(model, params, inputs, mask)
    for changed in (6, 7, 8):
        content = inputs[0].at[:, changed].add(1.0)
        moved = np.abs(whole_pass(model, params, (content, *inputs[1:]), mask) - before).max(axis=(0, 2)) > 1e-6
        assert np.flatnonzero(moved)[0] == changed // stacking * stacking


@pytest.mark.parametrize(("pattern", "stacking", "learned"), [("MEAG", 1, 4), ("GAEM", 2, 0)])
def test_the_pieces_of_a_recording_are_the_whole(pattern, stacking, learned):
    model = causal_model(pattern, stacking=stacking, learned=learned)
    params, inputs = parameters(model), frames(1, 41)
    mask = jnp.ones((1, 41), bool)
    whole = whole_pass(model, params, inputs, mask)
    assert np.abs(whole).max() > 0.3
    # Pieces shorter than the attention's window, of another phase, and one that holds nearly everything.
    for size in (2, 14, 40):
        pieces, _ = streamed(model, params, inputs, mask, size)
        np.testing.assert_allclose(pieces, whole, atol=1e-4, rtol=0, err_msg=f"pieces of {size}")


def test_what_came_before_a_piece_matters():
    model = causal_model("MA")
    params, inputs, mask = parameters(model), frames(1, 20), jnp.ones((1, 20), bool)
    whole, _ = streamed(model, params, inputs, mask, 10)
    alone, _ = streamed(model, params, [*(x[:, 10:] for x in inputs[:3]), inputs[3]], mask[:, 10:], 10)
    assert np.abs(whole[:, 10:] - alone).max() > 1e-2


@pytest.mark.parametrize("pattern", ["MA", "GE"])
def test_a_row_that_ends_sooner_is_the_row_alone_and_its_state_stands_still(pattern):
    model = causal_model(pattern, stacking=2)
    params, inputs = parameters(model), frames(2, 24)
    mask = jnp.arange(24)[None, :] < jnp.array([[24], [9]])
    together, state = streamed(model, params, inputs, mask, 8)
    # Alone, the second row ends within its second piece; together with the first it is padding all through the third.
    short = [*(x[1:, :16] for x in inputs[:3]), inputs[3][1:]]
    alone, ended = streamed(model, params, short, mask[1:, :16], 8)
    np.testing.assert_allclose(together[1, :9], alone[0, :9], atol=1e-5)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(ended), strict=True):
        np.testing.assert_allclose(one[1], other[0], atol=1e-5)


def test_the_state_keeps_its_shapes_and_formats():
    model = causal_model("MEAG")
    before = model.initial_state(3)

    def step(state):
        *sequences, code = frames(3, 7)
        params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        mask = jnp.ones((3, 7), bool)
        return model.apply(params, *sequences, code, mask, state, method=SEDTalkerModel.animate_piece)[1]

    shapes = {"params": jax.eval_shape(model.init, jax.random.key(0), row(joint_batch([8_000], padded=8_000), 0))["params"]}
    assert jax.tree.map(lambda x: (x.shape, x.dtype), jax.eval_shape(step, before)) == jax.tree.map(
        lambda x: (x.shape, x.dtype), before
    )


@pytest.mark.parametrize("dim", [4, 32])
def test_angles_far_into_a_recording_are_exact(dim):
    positions = np.array([0, 1, 29, 4_097, 108_000, 1_234_567, 2_000_000_000])
    wanted = positions[:, None] * rotary_angles(2, dim)[1]
    found = np.asarray(rotary_angles_at(jnp.asarray(positions, jnp.int32), dim), np.float64)
    np.testing.assert_allclose(np.sin(found), np.sin(wanted), atol=2e-6)
    np.testing.assert_allclose(np.cos(found), np.cos(wanted), atol=2e-6)


def test_stacks_that_cannot_stream_say_why():
    with pytest.raises(ValueError, match="causal is False"):
        Backbone(BackboneConfig(pattern="MA")).initial_state(1)
    with pytest.raises(ValueError, match="window is None"):
        causal_model("MA", window=None).initial_state(1)
    # Without attention there is nothing for a window to limit.
    causal_model("ME", window=None).initial_state(1)
