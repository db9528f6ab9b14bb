"""Edits inside the training step: where they move an embedding and what they leave alone."""

import jax.numpy as jnp
import numpy as np

from sedtalker_jax.models.emotion_condition import class_normal_projection
from sedtalker_jax.models.emotion_edit import move_across_boundary

B, T, C, K = 3, 20, 10, 5


def setup():
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(B, T, C)).astype(np.float32)
    kernel, bias = rng.normal(size=(C, K)).astype(np.float32), rng.normal(size=K).astype(np.float32)
    mask = np.arange(T)[None, :] < np.array([20, 12, 7])[:, None]
    return embedding, mask, kernel, bias, np.array([0, 3, 4]), np.array([0.0, 2.0, 5.0], np.float32)


def lead(embedding, kernel, bias, target):
    logits = embedding @ kernel + bias
    return (logits[..., target] - logits.mean(axis=-1)) * K / (K - 1)


def move(span, times=None):
    embedding, mask, *rest = setup()
    times = np.arange(T) * 0.1 if times is None else times
    arguments = [jnp.asarray(value) for value in (embedding, mask, *rest, span, times)]
    return embedding, mask, *rest, np.asarray(move_across_boundary(*arguments))


def test_the_mean_of_a_clip_comes_to_lie_at_the_margin_and_the_movement_in_it_stays():
    embedding, mask, kernel, bias, target, margin, moved = move(np.tile([[0.0, 9.0]], (B, 1)))
    for row in range(B):
        valid = mask[row]
        np.testing.assert_allclose(lead(moved[row, valid], kernel, bias, target[row]).mean(), margin[row], atol=1e-4)
        step = moved[row] - embedding[row]
        np.testing.assert_allclose(step, np.broadcast_to(step[0], step.shape), atol=1e-5)


def test_frames_outside_the_span_stay_as_they_are():
    embedding, _, _, _, _, _, moved = move(np.array([[0.5, 1.0], [0.0, 0.3], [9.0, 9.5]]))
    times = np.arange(T) * 0.1
    inside = (times >= 0.5) & (times <= 1.0)
    np.testing.assert_array_equal(moved[0, ~inside], embedding[0, ~inside])
    assert np.abs(moved[0, inside] - embedding[0, inside]).min(axis=1).max() > 0
    np.testing.assert_array_equal(moved[2], embedding[2])


def test_the_residual_that_carries_style_does_not_move():
    embedding, _, kernel, _, _, _, moved = move(np.tile([[0.0, 9.0]], (B, 1)))
    projection = np.asarray(class_normal_projection(jnp.asarray(kernel)))
    np.testing.assert_allclose(moved @ projection, embedding @ projection, atol=1e-4)
    assert np.abs(moved - embedding).max() > 0.1
