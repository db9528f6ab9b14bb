"""The low-rank space of face motion."""

import os
import stat

import numpy as np
import pytest

from sedtalker_jax.errors import UserError
from sedtalker_jax.face.additivity import babble
from sedtalker_jax.face.articulation import articulate
from sedtalker_jax.face.head import make_head
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.face.template import FaceTemplate
from tests.face.measures import left_by

RNG = np.random.default_rng(0)
FACES = np.array([[0, 1, 2], [2, 3, 4]])
TEMPLATES = [FaceTemplate(f"t{k}", "toy", RNG.random((20, 3)), FACES, {"lips": np.array([1, 2])}) for k in range(2)]
MOTION = (RNG.standard_normal((60, 5)) @ RNG.standard_normal((5, 60))).reshape(60, 20, 3) * 0.01


def fit(rank=5, motion=MOTION):
    return FaceSpace.fit(motion, rank, topology="toy", faces=FACES, templates=TEMPLATES, fps=30, head_seeds=[4, 7])


def test_rows_are_orthonormal_and_low_rank_motion_is_exact():
    space = fit()
    np.testing.assert_allclose(space.basis @ space.basis.T, np.eye(5), atol=1e-6)
    coefficients = space.coefficients(MOTION)
    np.testing.assert_allclose(space.displacements(coefficients), MOTION, atol=1e-6)
    np.testing.assert_allclose(space.vertices(TEMPLATES[0], coefficients), TEMPLATES[0].vertices + MOTION, atol=1e-6)
    assert space.residual < 1e-8


def test_squared_errors_of_coefficients_are_those_of_vertices():
    space = fit()
    a, b = RNG.standard_normal((2, 7, 5)).astype(np.float32)
    of_vertices = ((space.displacements(a) - space.displacements(b)) ** 2).sum((-1, -2))
    np.testing.assert_allclose(of_vertices, ((a - b) ** 2).sum(-1), rtol=1e-5)


def test_truncation_is_optimal_and_its_residual_is_reported():
    space = fit(rank=3)
    singular = np.linalg.svd(MOTION.reshape(60, -1), compute_uv=False)
    expected = np.sqrt((singular[3:] ** 2).sum() / (60 * 20))
    assert space.residual == pytest.approx(expected, rel=1e-6)
    assert left_by(space, MOTION) == pytest.approx(expected, rel=1e-4)


def test_fit_is_deterministic_and_survives_a_file(tmp_path):
    space = fit()
    assert space.basis.tobytes() == fit().basis.tobytes()
    space.save(tmp_path / "face_space.npz")
    back = FaceSpace.load(tmp_path / "face_space.npz")
    for name in ("topology", "template_names", "fps", "head_seeds", "residual"):
        assert getattr(back, name) == getattr(space, name)
    for name in ("faces", "basis", "templates"):
        np.testing.assert_array_equal(getattr(back, name), getattr(space, name))
    np.testing.assert_array_equal(back.regions["lips"], [1, 2])
    np.testing.assert_array_equal(back.template("t1").vertices, TEMPLATES[1].vertices)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_a_saved_space_follows_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        fit().save(tmp_path / "space.npz")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "space.npz").stat().st_mode) == mode


def test_rank_48_holds_the_motion_of_unseen_heads():
    def motion(seed):
        head = make_head(seed)
        generator = np.random.default_rng(seed)
        activation = np.zeros((70, 7))
        activation[:, generator.integers(7)] = generator.random()
        return head.displacements(articulate(babble(seed), 70, 30.0, activation, head.style))

    space = FaceSpace.fit(
        np.concatenate([motion(s) for s in range(10)])[::3], 48, topology="x", faces=make_head(0).template.faces
    )
    unseen = motion(77)
    size = np.sqrt((unseen.astype(float) ** 2).sum(-1).mean())
    assert space.residual < 5e-5, "0.05 mm"
    assert left_by(space, unseen) < 0.2 * size


def test_errors(tmp_path):
    space = fit()
    with pytest.raises(UserError, match="at least as many samples"):
        fit(rank=61)
    with pytest.raises(UserError, match="fewer than 6 dimensions"):
        fit(rank=6)
    with pytest.raises(UserError, match="not finite"):
        fit(motion=MOTION * np.nan)
    with pytest.raises(UserError, match="no template 'x'"):
        space.template("x")
    with pytest.raises(UserError, match="5 vertices"):
        space.vertices(FaceTemplate("small", "toy", np.zeros((5, 3)), FACES), np.zeros((1, 5)))
    with pytest.raises(UserError, match="no face space at"):
        FaceSpace.load(tmp_path / "no.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UserError, match="cannot read"):
        FaceSpace.load(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(UserError, match="lacks"):
        FaceSpace.load(tmp_path / "other.npz")
