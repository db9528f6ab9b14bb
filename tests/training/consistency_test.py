"""The emotional consistency loss: what it is fitted to, whom it moves, and what it leaves out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sedtalker_jax.errors import UserError
from sedtalker_jax.models.track_source import EDITED_TRACK, NOISY_TRACK, PREDICTED_TRACK, TRUE_TRACK
from sedtalker_jax.training.consistency import LARGEST_SHARE, Consistency, MotionMapper, mapper_size, mapper_width
from sedtalker_jax.training.losses import JointObjective, LossConfig
from sedtalker_jax.training.state import TrainState
from sedtalker_jax.training.step import gradients
from tests.support import LABELS, RANK, random_batch, random_params, tiny_model, tiny_objective

STRENGTHS = len(LABELS) - 1


@functools.cache
def faces(seed=0, clips=120, frames=60):
    """Motion that shows its emotion in a fixed direction each, and speech in others."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(np.random.default_rng(7).normal(size=(2 * RANK, 2 * RANK)))[0]
    motions, activations = [], []
    for _ in range(clips):
        activation = np.zeros((frames, STRENGTHS), np.float32)
        activation[:, rng.integers(STRENGTHS)] = rng.uniform(0.2, 1.0)
        speech = rng.normal(0, 0.3, (frames, 2 * RANK))
        motions.append((2 * activation @ directions[:STRENGTHS] + speech).astype(np.float32))
        activations.append(activation)
    return motions, activations


@functools.cache
def fitted():
    return Consistency.fit(*faces(), width=8, seed=0)


@functools.cache
def random_consistency():
    """Of the tiny model's rank, with parameters that were fitted to nothing."""
    mapper = MotionMapper(4, STRENGTHS)
    params = mapper.init(jax.random.key(0), jnp.zeros((1, 2, RANK)), jnp.ones((1, 2), bool))["params"]
    return Consistency(jax.tree.map(np.asarray, params), 0.5)


def edited_batch():
    """Four rows, one of every track source."""
    batch = random_batch(4)
    batch["face"] |= dict(
        track_source=np.array([TRUE_TRACK, NOISY_TRACK, PREDICTED_TRACK, EDITED_TRACK], np.int32),
        edit_target=np.array([1, 2, 3, 4], np.int32),
        edit_margin=np.full(4, 3.0, np.float32),
        edit_span=np.tile(np.array([[0.0, 2.0]], np.float32), (4, 1)),
    )
    return batch


@functools.cache
def only_consistency():
    """Gradient of the consistency term alone, on a batch with every track source."""
    model = tiny_model(dropout=0.0, scan="reference")
    batch = edited_batch()
    params = random_params(model, batch)
    terms = tiny_objective(model)
    objective = JointObjective(model, LossConfig(consistency=1.0), terms.class_weights, terms.face, random_consistency())
    alone = {name: float(name == "consistency") for name in objective.scales}
    objective.scales = alone
    return model, params, batch, objective, jax.jit(functools.partial(gradients, objective=objective))


def test_a_fitted_mapper_reads_the_emotion_of_motion_that_it_has_not_seen():
    motions, activations = faces(seed=1)
    motion, truth = np.stack(motions), np.stack(activations)
    found = np.asarray(fitted().strengths(jnp.asarray(motion), jnp.ones(motion.shape[:2], bool)))
    assert np.mean(found.argmax(-1) == truth.argmax(-1)) > 0.9
    assert np.sum(np.square(found - truth)) < 0.2 * np.sum(np.square(truth))


def test_the_fit_depends_on_its_seed_alone_and_survives_its_file(tmp_path):
    again, other = (Consistency.fit(*faces(), width=8, seed=seed) for seed in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, again.params, fitted().params)
    assert not np.array_equal(other.params["strengths"]["kernel"], fitted().params["strengths"]["kernel"])
    again.save(tmp_path / "mapper.npz")
    loaded = Consistency.load(tmp_path / "mapper.npz")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, again.params)
    assert loaded.mean_square == again.mean_square
    (tmp_path / "mapper.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="mapper.npz: not a motion mapper"):
        Consistency.load(tmp_path / "mapper.npz")


def test_faces_that_nobody_labelled_are_left_out_and_refused_when_there_are_no_others():
    motions, activations = faces()
    unknown = [np.full_like(activations[0], np.nan)]
    some = Consistency.fit([*motions, motions[0]], [*activations, *unknown], width=8, seed=0)
    jax.tree.map(np.testing.assert_array_equal, some.params, fitted().params)
    with pytest.raises(UserError, match="loss.consistency: no training face says"):
        Consistency.fit(motions[:1], unknown, width=8, seed=0)


def test_padding_adds_nothing():
    motion = np.stack(faces()[0][:2])
    mask = np.ones(motion.shape[:2], bool)
    padded = np.pad(motion, ((0, 0), (0, 9), (0, 0)), constant_values=50.0)
    found = fitted().strengths(jnp.asarray(padded), jnp.asarray(np.pad(mask, ((0, 0), (0, 9)))))
    alone = fitted().strengths(jnp.asarray(motion), jnp.asarray(mask))
    np.testing.assert_allclose(np.asarray(found)[:, : motion.shape[1]], alone, atol=1e-6)


@pytest.mark.parametrize("animator_size", [30_000, 521_536])
def test_the_mapper_keeps_to_a_twentieth_of_the_animator(animator_size):
    width = mapper_width(animator_size, 64, STRENGTHS)
    params = MotionMapper(width, STRENGTHS).init(jax.random.key(0), jnp.zeros((1, 2, 64)), jnp.ones((1, 2), bool))
    size = sum(x.size for x in jax.tree.leaves(params))
    assert size == mapper_size(width, 64, STRENGTHS) <= LARGEST_SHARE * animator_size
    with pytest.raises(UserError, match="make the animator larger"):
        mapper_width(1_000, 64, STRENGTHS)


def test_the_loss_moves_the_animator_and_leaves_the_emotion_that_it_is_told_alone():
    _, params, batch, _, gradient_of = only_consistency()
    gradient, terms = gradient_of(params, batch, 0)
    assert float(terms["consistency"]) > 0
    size = {name: float(optax.tree.norm(tree)) for name, tree in gradient.items()}
    assert size["animator"] > 0
    assert size["diarizer"] == size["emotion_layers"] == 0


def test_edited_rows_have_no_truth_and_true_tracks_no_consistency():
    _, params, batch, objective, gradient_of = only_consistency()
    frames = batch["face"]["num_frames"]
    weights = objective.weights(batch)
    assert float(weights["consistency"]) == frames[2] + frames[3]
    assert float(weights["vertices"]) == frames[:3].sum()
    sums = jax.jit(objective.validation_sums)
    moved = {**batch, "face": {**batch["face"], "motion": batch["face"]["motion"] + np.eye(4)[3][:, None, None]}}
    first, second = sums(params, batch), sums(params, moved)
    for name in ("vertices", "lips", "velocity", "consistency"):
        np.testing.assert_allclose(float(first[name]), float(second[name]), rtol=1e-6)
    further = {**batch, "face": {**batch["face"], "edit_margin": np.full(4, 9.0, np.float32)}}
    assert float(sums(params, further)["consistency"]) != float(first["consistency"])


def test_neither_the_state_nor_a_checkpoint_holds_the_mapper():
    model, params, _, _, _ = only_consistency()
    assert set(params) == {"encoder", "emotion_layers", "diarizer", "content_layers", "animator"}
    state = TrainState.create(params, optax.sgd(0.1))
    names = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert not any("mapper" in name or "dynamics" in name for name in names)
