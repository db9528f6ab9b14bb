import pickle

import numpy as np
import pytest
from scipy import sparse
from scipy.spatial.transform import Rotation

from sedtalker_jax.data.faces import flame
from sedtalker_jax.data.faces.flame import Flame
from sedtalker_jax.errors import UserError
from tests.data.faces.trees import flame_arrays, write_flame

V = 40


@pytest.fixture
def model(tmp_path):
    return Flame.load(write_flame(tmp_path / "flame", V))


def one_vertex(model, v, shape, expression, pose):
    """The definition, vertex by vertex and joint by joint, with 4 x 4 matrices."""
    rest = model.template + model.shape_directions @ shape + model.expression_directions @ expression
    joints = model.joint_regressor @ rest
    rotations = [Rotation.from_rotvec(vector).as_matrix() for vector in pose]
    feature = np.concatenate([(rotation - np.eye(3)).ravel() for rotation in rotations[1:]])
    world = []
    for joint, parent in enumerate(model.parents):
        local = np.eye(4)
        local[:3, :3] = rotations[joint]
        local[:3, 3] = joints[joint] - (joints[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    blended = np.zeros((4, 4))
    for joint in range(5):
        back = np.eye(4)
        back[:3, 3] = -joints[joint]
        blended += model.weights[v, joint] * world[joint] @ back
    posed = rest[v] + model.pose_directions[v] @ feature
    return (blended @ np.append(posed, 1.0))[:3]


def test_vertices_follow_the_definition(model):
    rng = np.random.default_rng(0)
    shape, expression = rng.normal(size=300), rng.normal(size=(2, 100))
    pose = rng.normal(0, 0.4, (2, 5, 3))
    found = model.vertices(shape, expression, pose[:, 2], neck=pose[:, 1], eyes=pose[:, 3:].reshape(2, 6), root=pose[:, 0])
    for f in range(2):
        wanted = np.stack([one_vertex(model, v, shape, expression[f], pose[f]) for v in range(V)])
        np.testing.assert_allclose(found[f], wanted, atol=1e-7)


def test_rest_pose_is_the_neutral_face_and_blocks_do_not_show(model, monkeypatch):
    rng = np.random.default_rng(1)
    shape, expression, jaw = rng.normal(size=10), rng.normal(size=(7, 50)), rng.normal(0, 0.2, (7, 3))
    np.testing.assert_allclose(model.vertices(shape, np.zeros((1, 100)), np.zeros((1, 3)))[0], model.neutral(shape), atol=1e-7)
    whole = model.vertices(shape, expression, jaw)
    monkeypatch.setattr(flame, "_FRAMES_AT_ONCE", 2)
    np.testing.assert_allclose(model.vertices(shape, expression, jaw), whole, atol=1e-8)


def test_the_root_turns_the_whole_head_rigidly(model):
    rng = np.random.default_rng(2)
    shape, expression, jaw = rng.normal(size=300), rng.normal(size=(1, 100)), rng.normal(0, 0.2, (1, 3))
    still = model.vertices(shape, expression, jaw)[0]
    turned = model.vertices(shape, expression, jaw, root=np.array([[0.3, -0.5, 0.2]]))[0]
    distances = [np.linalg.norm(head[:, None] - head[None], axis=-1) for head in (still, turned)]
    np.testing.assert_allclose(*distances, atol=1e-7)


@pytest.mark.parametrize("kind", ["npz", "pkl"])
def test_model_files(tmp_path, kind):
    arrays = flame_arrays(V)
    path = tmp_path / f"generic_model.{kind}"
    if kind == "npz":
        np.savez(path, **arrays)
    else:
        path.write_bytes(pickle.dumps({**arrays, "J_regressor": sparse.csc_matrix(arrays["J_regressor"])}, protocol=2))
    model = Flame.load(path)
    np.testing.assert_array_equal(model.joint_regressor, arrays["J_regressor"])
    assert model.parents.tolist() == [-1, 0, 1, 1, 1]


def test_wrong_models_are_explained(tmp_path):
    with pytest.raises(UserError, match="flame.is.tue.mpg.de"):
        Flame.load(tmp_path)
    arrays = flame_arrays(V)
    np.savez(tmp_path / "flame.npz", **{name: value for name, value in arrays.items() if name != "posedirs"})
    with pytest.raises(UserError, match="lacks 'posedirs'"):
        Flame.load(tmp_path)
    np.savez(tmp_path / "flame.npz", **{**arrays, "shapedirs": arrays["shapedirs"][..., :150]})
    with pytest.raises(UserError, match=r"shape_directions has shape \[40, 3, 150\]"):
        Flame.load(tmp_path)
