"""The judge of expressions: it sees the upper face, reads coefficients that are known, and names faces it never saw."""

import numpy as np
import pytest

from sedtalker_jax.data.world.oracle import FaceOracle
from sedtalker_jax.data.world.rules import load_rules
from sedtalker_jax.emotion.labels import ACTIVE
from sedtalker_jax.evaluation.expression_evaluator import (
    MOUTHLESS,
    ExpressionEvaluator,
    UpperFace,
    edited_truth,
    moves_true_face,
)
from sedtalker_jax.face.rig import ARKIT_NAMES
from sedtalker_jax.face.space import FaceSpace

FRAMES, FPS = 40, 30.0
HEADS = 3


@pytest.fixture(scope="module")
def oracle():
    """Of a space that holds all motion of three heads."""
    oracle = FaceOracle(load_rules("configs/world_rules.toml"), "demo")
    heads = [oracle.faces.head("train", number) for number in range(HEADS)]
    shapes = np.concatenate([head.shapes.reshape(len(head.shapes), -1) for head in heads]).astype(np.float64)
    _, values, basis = np.linalg.svd(shapes, full_matrices=False)
    basis = basis[values > 1e-7 * values[0]].astype(np.float32)
    face = heads[0].template
    names = tuple(oracle.faces.head_name("train", number) for number in range(HEADS))
    templates = np.stack([head.template.vertices for head in heads]).astype(np.float32)
    oracle.faces.space = FaceSpace("world", face.faces, basis, names, templates, face.regions)
    return oracle


def record(oracle, number, emotion=None, level=0.7):
    activation = np.zeros((FRAMES, len(ACTIVE)))
    if emotion:
        activation[:, ACTIVE.index(emotion)] = level
    sounds = (("m", "A:", "b", "u:"), ("s", "aI", "p", "i:"), ("f", "u:", "m", "aI"))[number]
    phonemes = [[symbol, 0.1 + 0.25 * i, 0.35 + 0.25 * i] for i, symbol in enumerate(sounds)]
    return {
        "template": oracle.faces.head_name("train", number), "fps": FPS, "motion": np.zeros((FRAMES, 4)),
        "activation": activation, "phonemes": phonemes, "prosody": {"stress": [s.endswith(":") * 1 for s in sounds]},
    }  # fmt: skip


@pytest.fixture(scope="module")
def evaluator(oracle):
    return ExpressionEvaluator.fit(oracle, [record(oracle, number) for number in (0, 1)], seed=0)


def test_coefficients_of_known_faces_come_back(oracle):
    upper, name = UpperFace(oracle), oracle.faces.head_name("train", 0)
    rng = np.random.default_rng(0)
    wanted = rng.uniform(0.0, 1.0, (5, len(MOUTHLESS)))
    rig = np.zeros((5, len(oracle.faces.head("train", 0).shapes)), np.float32)
    rig[:, [ARKIT_NAMES.index(shape) for shape in MOUTHLESS]] = wanted
    found = upper.coefficients(oracle.coefficients(rig, name), name)
    # The ridge decides between shapes that move the same vertices; what they add up to is known.
    shapes = oracle.faces.head("train", 0).shapes[[ARKIT_NAMES.index(shape) for shape in MOUTHLESS]]
    moved = shapes[:, np.asarray(oracle.faces.space.regions["upper_face"])].reshape(len(MOUTHLESS), -1)
    assert np.linalg.norm((found - wanted) @ moved) < 0.05 * np.linalg.norm(wanted @ moved)
    np.testing.assert_allclose(upper.coefficients(np.zeros((1, oracle.faces.space.rank)), name), 0.0, atol=1e-12)


def test_the_mouth_cannot_tell(oracle):
    upper, name = UpperFace(oracle), oracle.faces.head_name("train", 0)
    assert not any(shape.startswith(("mouth", "jaw")) for shape in MOUTHLESS)
    every = np.eye(len(oracle.faces.head("train", 0).shapes), dtype=np.float32)
    jaw, brow = (oracle.coefficients(every[[ARKIT_NAMES.index(shape)]], name) for shape in ("jawOpen", "browInnerUp"))
    assert np.linalg.norm(jaw) > np.linalg.norm(brow), "a jaw moves much more than a brow"
    assert np.linalg.norm(upper.coefficients(jaw, name)) < 0.1 * np.linalg.norm(upper.coefficients(brow, name))


def test_it_names_the_expressions_of_another_head_and_other_words(oracle, evaluator):
    for emotion in ("angry", "happy", "sad", "surprise"):
        other = record(oracle, 2, emotion, 0.9)
        motion = oracle.coefficients(oracle.rig(other, other["activation"]), other["template"])
        assert evaluator.name(motion, other["template"]) == emotion
    still = record(oracle, 2)
    motion = oracle.coefficients(oracle.rig(still, still["activation"]), still["template"])
    assert evaluator.name(motion, still["template"]) == "neutral"


def test_the_edited_truth_is_what_the_evaluator_names(oracle, evaluator):
    sad = record(oracle, 2, "sad", 0.8)
    truth = edited_truth(oracle, sad, "happy", "sad", 0.8)
    assert evaluator.name(truth, sad["template"]) == "happy"
    nothing = edited_truth(oracle, sad, "happy", "sad", 0.0)
    np.testing.assert_array_equal(nothing, oracle.coefficients(oracle.rig(sad, sad["activation"]), sad["template"]))


def test_a_face_that_shows_the_target_already_is_not_moved(oracle):
    assert moves_true_face(record(oracle, 0, "sad"), "happy", "sad", 0.6)
    assert moves_true_face(record(oracle, 0), "happy", "sad", 0.6)
    full = record(oracle, 0, "happy", level=0.98)
    assert not moves_true_face(full, "happy", "sad", 0.6) and not moves_true_face(full, "happy", None, 0.6)


def test_the_strengths_it_learns_from_depend_on_the_seed_alone(oracle, evaluator):
    again, other = (ExpressionEvaluator.fit(oracle, [record(oracle, n) for n in (0, 1)], seed=seed) for seed in (0, 1))
    weights = [judge.classifier[-1].coef_ for judge in (evaluator, again, other)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.abs(weights[0] - weights[2]).max() > 0
