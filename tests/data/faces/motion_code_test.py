import numpy as np
import pytest

from sedtalker_jax.data.faces import motion_code
from sedtalker_jax.data.faces.motion_code import STEP_M, TOLERANCE_M, encode_motion, true_displacements, true_vertices
from sedtalker_jax.data.faces.space_fit import fit_space
from sedtalker_jax.data.faces.surface import Surface
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.template import FaceTemplate
from tests.data.faces import trees

V, F = 200, 20
TEMPLATE = trees.head(V).astype(np.float32)


@pytest.fixture(scope="module")
def space():
    faces = trees.triangles(V, 50)
    surface = Surface("mesh-200", faces, {"lips": np.arange(9)}, {})
    sample = trees.motion(TEMPLATE, 80, seed=5) - TEMPLATE
    return fit_space([sample], 8, surface=surface, templates=[FaceTemplate("head", "mesh-200", TEMPLATE, faces)], fps=30.0)


@pytest.mark.parametrize(
    "scale, noise, kind",
    [
        (0.003, 0.0, "float16"),  # of the space: coefficients alone, short ones
        (0.3, 0.0, "float32"),  # so far that float16 is too coarse
        (0.003, 5e-5, "8 bits"),  # a scan's noise of 0.05 mm, which no space holds
        (0.003, 2e-3, "16 bits"),
    ],
)
def test_what_is_stored_is_within_a_hundredth_of_a_millimetre(space, scale, noise, kind):
    original = trees.motion(TEMPLATE, F, seed=1, scale=scale, noise=noise)
    record = {"template": "head", **encode_motion(space, TEMPLATE, original)}
    error = np.linalg.norm(true_vertices(record, space) - original, axis=-1)
    assert error.max() <= TOLERANCE_M
    found = f"{record['residual_bits']} bits" if "residual" in record else str(record["motion"].dtype)
    assert found == kind
    if "residual" in record:
        assert error.max() <= np.sqrt(3) * STEP_M / 2 + 1e-7
        assert np.linalg.norm(space.displacements(record["motion"]) + TEMPLATE - original, axis=-1).max() > TOLERANCE_M


def test_noise_costs_a_byte_or_less_per_coordinate(space):
    record = encode_motion(space, TEMPLATE, trees.motion(TEMPLATE, 100, seed=2, noise=3e-5))
    assert len(record["residual"]) < 0.8 * 100 * V * 3


def test_a_space_that_leaves_a_residual_still_gives_the_best_coefficients(space):
    original = trees.motion(TEMPLATE, F, seed=3, noise=1e-3)
    record = encode_motion(space, TEMPLATE, original)
    best = space.coefficients((original - TEMPLATE).astype(np.float32))
    np.testing.assert_allclose(record["motion"].astype(np.float32), best, atol=2e-4)
    assert true_displacements(record, space).dtype == np.float32


def test_motion_of_another_face_or_unit_is_refused(space):
    with pytest.raises(UserError, match="are these metres, of this face"):
        encode_motion(space, TEMPLATE, 1000 * trees.motion(TEMPLATE, 3, seed=4))
    broken = trees.motion(TEMPLATE, 3, seed=4)
    broken[1, 2, 0] = np.nan
    with pytest.raises(UserError, match="not finite"):
        encode_motion(space, TEMPLATE, broken)


@pytest.mark.parametrize("noise", [0.0, 5e-5])
def test_blocks_do_not_show(space, monkeypatch, noise):
    original = trees.motion(TEMPLATE, 50, seed=6, noise=noise)
    whole = encode_motion(space, TEMPLATE, original)
    monkeypatch.setattr(motion_code, "_BLOCK_FRAMES", 7)
    record = {"template": "head", **encode_motion(space, TEMPLATE, original)}
    assert ("residual" in record) == (noise > 0)
    np.testing.assert_allclose(record["motion"].astype(np.float32), whole["motion"].astype(np.float32), atol=1e-4)
    assert np.linalg.norm(true_vertices(record, space) - original, axis=-1).max() <= TOLERANCE_M
