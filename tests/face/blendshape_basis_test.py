import numpy as np
import pytest

from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation import expression_coefficients
from sedtalker_jax.face.blendshape_basis import BlendshapeBasis, bounded_least_squares
from sedtalker_jax.face.head import HeadSpec, make_head
from sedtalker_jax.face.rig import ARKIT_NAMES, INDEX, NUM_ARKIT, WEIGHT_NAMES, with_correctives
from sedtalker_jax.face.template import FaceTemplate


def test_bounded_least_squares_agrees_with_the_active_set_method():
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(5, 12, 3))
    moved = np.einsum("fw,wvx->fvx", rng.uniform(-0.5, 1.5, (30, 5)), shapes) + 0.1 * rng.normal(size=(30, 12, 3))
    flat = shapes.reshape(5, -1)
    found = bounded_least_squares(flat @ flat.T, moved.reshape(30, -1) @ flat.T)
    np.testing.assert_allclose(found, expression_coefficients(moved, shapes), atol=1e-6)
    assert (found == 0).any() and (found == 1).any()


def poses(count=12, seed=0):
    """Weights of mouths, brows and lids as faces have them: a few shapes at a time, opposites never together."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((count, NUM_ARKIT))
    for row in weights:
        groups = [("jawOpen",), ("mouthSmileLeft", "mouthSmileRight"), ("browInnerUp",), ("eyeBlinkLeft", "eyeBlinkRight")]
        groups += [("mouthPucker",), ("browDownLeft", "browDownRight"), ("noseSneerLeft", "noseSneerRight"), ("cheekPuff",)]
        for group in rng.permutation(len(groups))[:4]:
            row[[INDEX[name] for name in groups[group]]] = rng.uniform(0.1, 1.0)
    return with_correctives(weights)


def test_weights_of_a_built_in_head_are_found_again_correctives_and_all():
    # Without sizes of its own, which the rig doesn't know.
    head = make_head(3, HeadSpec(shape_variation=0.0, asymmetry=0.0))
    basis = BlendshapeBasis.known(head.template)
    assert basis.shape_names == WEIGHT_NAMES
    weights = poses()
    motion = np.tensordot(weights, basis.shapes, 1)
    found = basis.weights(motion)
    np.testing.assert_allclose(found, weights, atol=0.02)
    np.testing.assert_array_equal(found, with_correctives(found))
    assert found.min() >= 0 and found[:, :NUM_ARKIT].max() <= 1
    # A head that moves by its own sizes is explained to fractions of a millimetre.
    own = make_head(3).displacements(weights.astype(np.float32))
    assert basis.residual(own, basis.weights(own)) < 0.5 < 2.0 < basis.residual(own)


def test_weights_of_shapes_that_have_no_correctives_are_bounded_least_squares():
    rng = np.random.default_rng(1)
    shapes = rng.normal(size=(4, 30, 3))
    basis = BlendshapeBasis("toy", np.zeros((30, 3)), shapes, tuple("abcd"))
    weights = rng.uniform(0, 1, (6, 4))
    np.testing.assert_allclose(basis.weights(np.tensordot(weights, shapes, 1)), weights, atol=1e-3)
    with pytest.raises(UserError, match="30 vertices, the face 29"):
        basis.weights(np.zeros((2, 29, 3)))


def test_arkits_weights_pose_the_shapes_that_have_their_names():
    rig, weights = BlendshapeBasis.known(make_head(3).template), poses()
    expected = rig.mean + np.tensordot(weights, rig.shapes, 1)
    weights = weights[:, :NUM_ARKIT]
    np.testing.assert_allclose(rig.posed(weights), expected, atol=1e-12)
    shapes = np.random.default_rng(4).normal(size=(2, 5, 3))
    basis = BlendshapeBasis("toy", np.zeros((5, 3)), shapes, ("own", "jawOpen"))
    np.testing.assert_allclose(basis.posed(weights), weights[:, INDEX["jawOpen"], None, None] * shapes[1])
    with pytest.raises(UserError, match="none of its 1 shapes"):
        BlendshapeBasis("toy", np.zeros((5, 3)), shapes[:1], ("own",)).posed(weights)


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_a_file_names_its_shapes_or_has_arkits(tmp_path):
    rng = np.random.default_rng(2)
    mean, shapes = rng.normal(size=(7, 3)), rng.normal(size=(52, 7, 3))
    arkit = BlendshapeBasis.load(save(tmp_path / "arkit.npz", meanshape=mean.ravel(), blendshape=shapes.reshape(52, -1)))
    assert arkit.shape_names == ARKIT_NAMES
    np.testing.assert_array_equal(arkit.shapes, shapes)
    few = dict(mean=mean, shapes=shapes[:2])
    named = BlendshapeBasis.load(save(tmp_path / "named.npz", **few, names=np.array(["jawOpen", "smile"])))
    assert named.shape_names == ("jawOpen", "smile")
    plain = BlendshapeBasis.load(save(tmp_path / "plain.npz", **few))
    assert plain.shape_names == ("shape000", "shape001")
    with pytest.raises(UserError, match="'names' must name its 2 shapes"):
        BlendshapeBasis.load(save(tmp_path / "twice.npz", **few, names=np.array(["a", "a"])))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mean": np.zeros(0)}, r"a basis needs 'mean' \[V, 3\] and 'shapes' \[W, V, 3\].*it has mean \[0\]"),
        ({"mean": np.zeros(10)}, "a basis needs"),
        ({"shapes": np.zeros((2, 6, 3))}, "a basis needs"),
        ({"shapes": np.array(["a", "b"])}, "a basis needs"),
        ({"shapes": np.full((2, 7, 3), np.nan)}, "must be finite"),
        ({"shapes": np.zeros((2, 7, 3))}, "not all shapes zero"),
    ],
)
def test_a_file_that_holds_no_basis_is_named(tmp_path, changes, message):
    arrays = dict(mean=np.ones((7, 3)), shapes=np.ones((2, 7, 3))) | changes
    with pytest.raises(UserError, match=f"basis.npz: .*{message}"):
        BlendshapeBasis.load(save(tmp_path / "basis.npz", **arrays))


def test_shapes_go_to_another_face_of_the_same_vertices_and_unit():
    rng = np.random.default_rng(3)
    mean = rng.uniform(0, 0.25, (9, 3))
    basis = BlendshapeBasis("toy", mean, rng.normal(size=(2, 9, 3)), ("a", "b"))
    face = FaceTemplate("other", "mesh-9", (mean + 0.01).astype(np.float32), np.array([[0, 1, 2]], np.int32), {})
    np.testing.assert_array_equal(basis.on(face).mean, face.vertices)
    with pytest.raises(UserError, match="must be in metres"):
        BlendshapeBasis("mm", 1000 * mean, basis.shapes, ("a", "b")).on(face)
    fewer = FaceTemplate("fewer", "mesh-8", face.vertices[:8], face.faces, {})
    with pytest.raises(UserError, match="9 vertices, the face 8"):
        basis.on(fewer)
    assert BlendshapeBasis.known(face) is None
