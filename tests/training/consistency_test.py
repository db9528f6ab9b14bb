"""The emotional consistency loss: what its reader learns, whom it moves, and what it leaves out."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.emotion.labels import ACTIVE
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.models.track_source import EDITED_TRACK, NOISY_TRACK, PREDICTED_TRACK, TRUE_TRACK
from sedtalker_jax.training.experiment import Experiment
from sedtalker_jax.training.losses import JointObjective, LossConfig
from sedtalker_jax.training.motion_readers import FrozenReader, MotionReader, fit_reader
from sedtalker_jax.training.state import TrainState
from sedtalker_jax.training.step import gradients
from tests.support import LABELS, RANK, random_batch, random_params, tiny_model, tiny_objective

SMALL = 18_000
"""Parameters of an animator that leaves its reader a width of 8, as many as there are emotions."""


def faces(seed=0, clips=120, frames=60):
    """Motion that shows its emotion in a fixed direction each, and speech in others."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(np.random.default_rng(7).normal(size=(2 * RANK, 2 * RANK)))[0]
    columns = [ACTIVE.index(name) for name in LABELS[1:]]
    records = []
    for _ in range(clips):
        activation = np.zeros((frames, len(ACTIVE)), np.float32)
        activation[:, rng.choice(columns)] = rng.uniform(0.2, 1.0)
        speech = rng.normal(0, 0.3, (frames, 2 * RANK))
        motion = 2 * activation[:, columns] @ directions[: len(columns)] + speech
        records.append({"motion": motion.astype(np.float32), "activation": activation})
    return records


@functools.cache
def codec():
    """Of faces whose every coordinate is a coefficient of its own."""
    size = 2 * RANK
    space = FaceSpace("toy", np.array([[0, 1, 2]]), np.eye(size, dtype=np.float32), ("a",),
                      np.zeros((1, size // 3, 3), np.float32), {"lips": np.array([0])})  # fmt: skip
    return FaceCodec.fit(space, [record["motion"] for record in faces()], ["a"], 1)


@functools.cache
def random_reader():
    """Of the tiny model's rank, with parameters that were fitted to nothing."""
    params = MotionReader(len(LABELS), 4).init(jax.random.key(0), jnp.zeros((1, 2, RANK)), jnp.ones((1, 2), bool))["params"]
    return FrozenReader(jax.tree.map(np.asarray, params), np.eye(RANK, dtype=np.float32), 0.5, 0.0, 0.0)


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
    """The consistency term alone, on a batch with every track source: its gradient, and (sums, weights) of validation."""
    model = tiny_model(dropout=0.0, scan="reference")
    batch = edited_batch()
    params = random_params(model, batch)
    terms = tiny_objective(model)
    objective = JointObjective(
        model, LossConfig(consistency=1.0), terms.class_weights, terms.face, {"consistency": random_reader()}
    )
    alone = {name: float(name == "consistency") for name in objective.scales}
    objective.scales = alone
    validation = jax.jit(lambda params, batch: (objective.validation_sums(params, batch), objective.weights(batch)))
    return params, batch, jax.jit(functools.partial(gradients, objective=objective)), validation


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_small_reader_tells_every_emotion_of_motion_that_it_has_not_seen(seed):
    reader = fit_reader("consistency", codec(), faces(), LABELS, seed, animator_size=SMALL)
    assert len(reader.params["window"]["bias"]) == 8
    unseen = faces(seed=1)
    motion = np.stack([codec().normalise(record["motion"]) for record in unseen])
    truth = np.stack([record["activation"] for record in unseen])[..., [ACTIVE.index(name) for name in LABELS[1:]]]
    found = np.asarray(reader.strengths(jnp.asarray(motion), jnp.ones(motion.shape[:2], bool)))
    right = found.argmax(-1) == truth.argmax(-1)
    assert np.mean(right) > 0.95
    # Of every emotion: a fit that gives up the hardest one can still be right on average.
    assert min(right[truth.argmax(-1) == k].mean() for k in range(len(LABELS) - 1)) > 0.8
    assert np.sum(np.square(found - truth)) < 0.2 * np.sum(np.square(truth))


def test_the_loss_moves_the_animator_and_leaves_the_emotion_that_it_is_told_alone():
    params, batch, gradient_of, _ = only_consistency()
    gradient, terms = gradient_of(params, batch, 0)
    assert float(terms["consistency"]) > 0
    size = {name: max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree)) for name, tree in gradient.items()}
    assert size["animator"] > 0
    assert size["diarizer"] == size["emotion_layers"] == 0


def test_edited_rows_have_no_truth_and_true_tracks_no_consistency():
    params, batch, _, validation = only_consistency()
    frames = batch["face"]["num_frames"]
    first, weights = validation(params, batch)
    assert float(weights["consistency"]) == frames[2] + frames[3]
    assert float(weights["vertices"]) == frames[:3].sum()
    moved = {**batch, "face": {**batch["face"], "motion": batch["face"]["motion"] + np.eye(4)[3][:, None, None]}}
    second, _ = validation(params, moved)
    for name in ("vertices", "lips", "velocity", "consistency"):
        np.testing.assert_allclose(float(first[name]), float(second[name]), rtol=1e-6)
    further = {**batch, "face": {**batch["face"], "edit_margin": np.full(4, 9.0, np.float32)}}
    assert float(validation(params, further)[0]["consistency"]) != float(first["consistency"])


def test_validation_says_nothing_of_a_term_that_judged_no_frame():
    params, batch, _, validation = only_consistency()
    true_track = {**batch, "face": {**batch["face"], "track_source": np.full(4, TRUE_TRACK, np.int32)}}

    def validate(*batches):
        run = types.SimpleNamespace(_valid_batches=batches, _validation_sums=validation)
        return Experiment.validate(run, types.SimpleNamespace(ema_params=params, frozen=None))

    both, one = validate(true_track, batch), validate(true_track)
    assert set(both) - set(one) == {"consistency"} and both["consistency"] > 0
    sums, weights = validation(params, batch)
    assert both["consistency"] == pytest.approx(float(sums["consistency"] / weights["consistency"]), rel=1e-5)


def test_neither_the_state_nor_a_checkpoint_holds_the_reader():
    params, *_ = only_consistency()
    assert set(params) == {"encoder", "emotion_layers", "diarizer", "content_layers", "animator"}
    state = TrainState.create(params, optax.sgd(0.1))
    names = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert not any("reader" in name or "window" in name for name in names)
