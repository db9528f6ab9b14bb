"""Losses of motion: in coefficients as in vertices, masks, gradients, and that what they name falls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sedtalker_jax.data.face_codec import CLOSED_WITHIN_M, FaceCodec
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.models.track_source import EDITED_TRACK, PREDICTED_TRACK, TRUE_TRACK
from sedtalker_jax.training.losses import JointObjective, LossConfig
from sedtalker_jax.training.motion_losses import MOTION_TERMS, FaceLossConstants, motion_sums, motion_weights
from tests.support import LABELS, tiny_model

V, RANK, B, F = 30, 5, 3, 14
POINTS = (7, 21)
REGIONS = {"lips": np.array([6, 7, 8, 20, 21, 22]), "upper_face": np.arange(5)}


@pytest.fixture(scope="module")
def codec():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(3 * V, RANK)))[0].T.astype(np.float32)
    space = FaceSpace("toy", np.array([[0, 1, 2]]), basis, ("a",),
                      rng.normal(0, 0.1, (1, V, 3)).astype(np.float32), REGIONS)  # fmt: skip
    scale = np.array([3.0, 2.0, 1.0, 0.5, 0.2]) * 1e-3
    return FaceCodec.fit(space, [np.cumsum(rng.normal(0, 0.3, (60, RANK)), axis=0) * scale for _ in range(4)], ["a"], 1)


@pytest.fixture
def lips(monkeypatch):
    monkeypatch.setattr("sedtalker_jax.data.face_codec.lip_points", lambda topology: POINTS)


@pytest.fixture
def part():
    rng = np.random.default_rng(1)
    frames = np.array([F, 9, 4], np.int32)
    source = np.array([TRUE_TRACK, EDITED_TRACK, PREDICTED_TRACK], np.int32)
    closed = rng.random((B, F)) < 0.4
    return {"motion": rng.normal(size=(B, F, RANK)), "num_frames": frames, "lips_closed": closed, "track_source": source}


def vertices(codec, normalised):
    """[B, F, V, 3] displacements in metres, from the definition."""
    raw = np.asarray(normalised, np.float64) * codec.motion_std + codec.motion_mean
    return (raw @ codec.space.basis.astype(np.float64)).reshape(*raw.shape[:-1], V, 3)


def reference(codec, part, motion, term):
    """Sum over valid frames of squared vertex errors over the training motion's mean square, in vertices.

    Of rows with an edited emotion only shut lips are known."""
    region, order = MOTION_TERMS[term]
    guess, truth = vertices(codec, motion), vertices(codec, part["motion"])
    training = codec.second_moment if order == 0 else codec.velocity_second_moment
    basis = codec.space.basis.reshape(RANK, V, 3).astype(np.float64)
    if region == "lip_gap":
        upper, lower = POINTS
        guess, truth = (x[..., [upper], :] - x[..., [lower], :] for x in (guess, truth))
        basis = basis[:, [upper]] - basis[:, [lower]]
    elif region != "face":
        guess, truth, basis = guess[..., REGIONS[region], :], truth[..., REGIONS[region], :], basis[:, REGIONS[region]]
    unit = np.einsum("rvc,rq,qvc->", basis, training.astype(np.float64), basis)
    total = count = 0
    for row, frames in enumerate(part["num_frames"]):
        error = np.diff(guess[row, :frames] - truth[row, :frames], n=order, axis=0)
        squared = np.square(error).sum(axis=(1, 2))
        if region == "lip_gap":
            squared = squared[part["lips_closed"][row, :frames]]
        elif part["track_source"][row] == EDITED_TRACK:
            continue
        total, count = total + squared.sum(), count + len(squared)
    return total / unit, count


@pytest.mark.parametrize("term", MOTION_TERMS)
def test_sums_and_weights_are_those_of_the_vertices(codec, part, lips, term):
    motion = np.random.default_rng(2).normal(size=(B, F, RANK))
    constants = FaceLossConstants.of(codec, [term])
    expected, count = reference(codec, part, motion, term)
    found = motion_sums(part, jnp.asarray(motion), constants)
    np.testing.assert_allclose(found[term], expected, rtol=1e-4)
    assert float(motion_weights(part, constants)[term]) == count > 0


def test_a_still_face_has_an_error_of_about_one(codec, lips):
    rng = np.random.default_rng(3)
    raw = rng.multivariate_normal(np.zeros(RANK), codec.second_moment, 4000)
    motion = codec.normalise(raw.astype(np.float32))[None]
    part = {"motion": motion, "num_frames": np.array([4000]), "lips_closed": np.ones((1, 4000), bool)}
    still = np.broadcast_to(codec.normalise(np.zeros((1, RANK), np.float32)), motion.shape)
    constants = FaceLossConstants.of(codec, ["vertices", "lips", "lip_closure"])
    for name, total in motion_sums(part, jnp.asarray(still), constants).items():
        assert float(total) / 4000 == pytest.approx(1.0, abs=0.1), name


def test_gradients_agree_with_finite_differences_and_padding_has_none(codec, part, lips):
    constants = FaceLossConstants.of(codec, MOTION_TERMS)
    motion = np.random.default_rng(4).normal(size=(B, F, RANK))
    part = {**part, "motion": part["motion"].copy()}
    for row, frames in enumerate(part["num_frames"]):
        part["motion"][row, frames:] = np.inf

    def total(x):
        return sum(motion_sums(part, x, constants).values())

    with jax.enable_x64(True):
        gradient = np.asarray(jax.grad(total)(jnp.asarray(motion)))
        direction = np.random.default_rng(5).normal(size=motion.shape)
        step = 1e-4
        ahead, behind = (float(total(jnp.asarray(motion + sign * step * direction))) for sign in (1, -1))
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose((gradient * direction).sum(), (ahead - behind) / (2 * step), rtol=1e-6)
    for row, frames in enumerate(part["num_frames"]):
        assert not gradient[row, frames:].any() and gradient[row, :frames].any()


def test_lips_are_shut_where_they_are_near_the_template(codec, lips):
    template = codec.space.templates[0]
    upper, lower = POINTS
    gap = codec.space.basis.reshape(RANK, V, 3)[:, upper] - codec.space.basis.reshape(RANK, V, 3)[:, lower]
    rest = template[upper] - template[lower]
    outwards = np.linalg.pinv(gap.T) @ (rest / np.linalg.norm(rest))  # coefficients that open the lips by a metre
    openings = np.array([-0.5, 0.0, 0.9, 1.1, 8.0]) * CLOSED_WITHIN_M
    closed = codec.lips_closed(template, (openings[:, None] * outwards).astype(np.float32))
    assert closed.tolist() == [True, True, True, False, False]


def test_without_lip_points_there_is_no_closure_loss(codec):
    assert not codec.lips_closed(codec.space.templates[0], np.zeros((3, RANK), np.float32)).any()
    with pytest.raises(UserError, match="lip_closure.*'toy'"):
        FaceLossConstants.of(codec, ["lip_closure"])


def test_a_term_without_its_matrix_is_refused(codec):
    with pytest.raises(ValueError, match="no Gram matrix for upper_face_acceleration"):
        JointObjective(
            tiny_model(), LossConfig(upper_face_acceleration=1.0), np.ones(len(LABELS)),
            FaceLossConstants.of(codec, ["vertices", "lips", "upper_face", "velocity"]),
        )  # fmt: skip
