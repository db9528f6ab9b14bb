import numpy as np
import pytest

from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
from sedtalker_jax.face.head import make_head
from sedtalker_jax.face.morph_targets import TOLERANCE, MorphTargets
from sedtalker_jax.face.rig import INDEX, NUM_ARKIT, WEIGHT_NAMES


def distances(a, b):
    return np.sqrt(np.square(a - b).sum(-1))


@pytest.fixture(scope="module")
def talking():
    """A head that opens its mouth, smiles and frowns by sizes of its own, with a bulge that no rig has."""
    head = make_head(5)
    times = np.arange(40) / 30
    weights = np.zeros((40, NUM_ARKIT), np.float32)
    weights[:, INDEX["jawOpen"]] = 0.5 - 0.5 * np.cos(9 * times)
    weights[:, INDEX["mouthSmileLeft"]] = weights[:, INDEX["mouthSmileRight"]] = np.clip(times, 0, 1)
    weights[:, INDEX["browInnerUp"]] = np.clip(1 - times, 0, 1)
    bulge = np.random.default_rng(0).normal(0, 1e-3, head.template.vertices.shape) * np.sin(5 * times)[:, None, None]
    return head, (head.vertices(weights) + bulge).astype(np.float32)


def test_a_rig_and_detail_give_the_motion_within_the_tolerance(talking):
    head, vertices = talking
    rest = head.template.vertices
    made = MorphTargets.of(vertices, rest, BlendshapeBasis.known(head.template))
    assert made.names[: len(WEIGHT_NAMES)] == WEIGHT_NAMES and made.names[len(WEIGHT_NAMES)] == "detail01"
    assert len(made.shapes) == len(made.names) == made.weights.shape[1] == len(set(made.names))
    assert made.weights.min() >= 0 and made.weights.max() <= 1 and made.weights.dtype == made.shapes.dtype == np.float32
    assert distances(made.vertices(), vertices).max() <= 1.01 * TOLERANCE
    # What the rig can say is said by it: without detail a millimetre of bulge and the head's own sizes are missing.
    named = rest + np.tensordot(made.weights[:, : len(WEIGHT_NAMES)], made.shapes[: len(WEIGHT_NAMES)], 1)
    assert TOLERANCE < distances(named, vertices).mean() < 2.5e-3
    assert np.corrcoef(made.weights[:, INDEX["jawOpen"]], 0.5 - 0.5 * np.cos(9 * np.arange(40) / 30))[0, 1] > 0.99


def test_without_a_rig_all_is_detail_and_as_little_as_the_tolerance_allows(talking):
    head, vertices = talking
    rest = head.template.vertices
    made = MorphTargets.of(vertices, rest)
    assert all(name.startswith("detail") for name in made.names)
    assert distances(made.vertices(), vertices).max() <= 1.01 * TOLERANCE
    axes = {name.removesuffix("Reverse") for name in made.names}
    coarse = MorphTargets.of(vertices, rest, tolerance=3e-3)
    assert len({name.removesuffix("Reverse") for name in coarse.names}) < len(axes) < 10
    assert distances(coarse.vertices(), vertices).max() <= 3e-3


def test_frames_that_the_axes_were_not_fitted_to_are_within_the_tolerance_too():
    rng = np.random.default_rng(1)
    rest = rng.normal(size=(50, 3)).astype(np.float32)
    motion = np.zeros((1500, 50, 3), np.float32)
    motion[:, 0, 0] = 0.01 * rng.normal(size=1500)
    motion[777, 1, 1] = 0.02  # a single frame of another kind, which an even choice of frames leaves out
    motion[991, 2, 2] = 0.01
    made = MorphTargets.of(rest + motion, rest)
    assert distances(made.vertices(), rest + motion).max() <= TOLERANCE


@pytest.mark.parametrize("frames", [1, 3])
def test_a_still_face_has_no_detail(frames):
    rest = np.random.default_rng(2).normal(size=(20, 3)).astype(np.float32)
    made = MorphTargets.of(np.repeat(rest[None], frames, axis=0), rest)
    assert made.names == () and made.shapes.shape == (0, 20, 3) and made.weights.shape == (frames, 0)
    np.testing.assert_array_equal(made.vertices(), np.repeat(rest[None], frames, axis=0))


def test_names_of_detail_are_no_names_of_the_basis():
    rng = np.random.default_rng(2)
    rest, shapes = rng.normal(size=(5, 3)), rng.normal(size=(2, 5, 3))
    basis = BlendshapeBasis("own", rest, shapes, ("jawOpen", "detail01"))
    made = MorphTargets.of(rest + rng.normal(0, 0.1, (6, 5, 3)), rest, basis)
    assert made.names[:3] == ("jawOpen", "detail01", "detail_01") and len(set(made.names)) == len(made.names)
