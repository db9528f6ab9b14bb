import tracemalloc

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from sedtalker_jax.data.cross_fade import region_masks
from sedtalker_jax.data.faces.space_fit import MotionSketch, fit_space
from sedtalker_jax.data.faces.surface import Surface
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.face.template import FaceTemplate
from tests.data.faces import trees
from tests.face.measures import left_by

V = 60
HEAD = trees.head(V)
FACES = trees.triangles(V, 30)
SURFACE = Surface("mesh-60", FACES, {"lips": np.arange(5)}, {})
TEMPLATES = [FaceTemplate("head", "mesh-60", HEAD, FACES)]


@pytest.fixture(autouse=True)
def one_thread():
    """As prepare fits; small matrices only wait for each other's threads."""
    with threadpool_limits(limits=1):
        yield


def fit(batches, rank):
    return fit_space(batches, rank, surface=SURFACE, templates=TEMPLATES, fps=25.0)


def samples(rows, seed=0, rank=6, noise=1e-4):
    return trees.motion(HEAD, rows, seed, rank=rank, noise=noise) - HEAD


def test_the_stream_spans_what_a_fit_to_all_rows_at_once_spans():
    motion = samples(900)
    streamed = fit(np.array_split(motion, 13), 6)
    direct = FaceSpace.fit(motion, 6, topology="mesh-60", faces=FACES)
    overlap = np.linalg.svd(streamed.basis @ direct.basis.T, compute_uv=False)
    np.testing.assert_allclose(overlap, 1.0, atol=1e-6)
    np.testing.assert_allclose(streamed.residual, direct.residual, rtol=1e-3)
    np.testing.assert_allclose(streamed.basis @ streamed.basis.T, np.eye(6), atol=1e-6)


def test_batch_sizes_do_not_show():
    motion = samples(700)
    one, many = fit([motion], 5), fit((row[None] for row in motion), 5)
    np.testing.assert_array_equal(one.basis, many.basis)


def test_the_rank_is_no_larger_than_needed():
    space = fit([samples(300, rank=4, noise=0.0)], 50)
    assert space.rank == 4 and space.residual < 1e-6
    assert fit([samples(2, rank=4)], 50).rank == 2


def test_memory_does_not_grow_with_the_number_of_rows():
    def peak(rows):
        tracemalloc.start()
        sketch = MotionSketch(3 * V, 32)
        rng = np.random.default_rng(0)
        for _ in range(rows // 100):
            sketch.add(rng.normal(size=(100, 3 * V)))
        value = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return value

    assert peak(6000) < 1.2 * peak(600)


def test_the_basis_holds_what_one_region_does_alone():
    regions = {"upper_face": np.arange(20), "lips": np.arange(30, 40)}
    motion = samples(200, rank=2, noise=0.0)
    plain = fit([motion], 20)
    space = fit_space([motion], 20, surface=Surface("m", FACES, regions, {}), templates=TEMPLATES, fps=25.0)
    masks = region_masks(V, FACES, regions)
    for mask in masks.T:
        alone = motion[50] * mask[:, None]
        assert left_by(space, alone[None]) < 1e-6 < 1e-4 < left_by(plain, alone[None])


def test_still_faces_and_broken_ones_are_explained():
    with pytest.raises(UserError, match="no vertex moves"):
        fit([np.zeros((4, V, 3))], 3)
    broken = samples(4)
    broken[2, 3] = np.inf
    with pytest.raises(UserError, match="not finite"):
        fit([broken], 3)
