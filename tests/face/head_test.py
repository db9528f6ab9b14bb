"""Built-in heads: determinism, topology, regions, and what the rig does to lips and lids."""

import subprocess
import sys

import numpy as np
import pytest

from sedtalker_jax.face import anatomy, shape
from sedtalker_jax.face.chart import chart
from sedtalker_jax.face.head import HeadSpec, make_head
from sedtalker_jax.face.regions import head_landmarks, head_regions
from sedtalker_jax.face.rig import ARKIT_NAMES, INDEX, NUM_WEIGHTS, WEIGHT_NAMES, pose, with_correctives
from tests.face.measures import lip_opening

HEAD = make_head(3)
MM = 1000.0


def posed(head, **weights):
    return head.vertices(with_correctives(pose(weights))[None])[0]


def test_same_seed_same_head_in_another_process():
    code = (
        "import hashlib; from sedtalker_jax.face.head import make_head; h = make_head(3);"
        "print(hashlib.sha256(h.template.vertices.tobytes() + h.shapes.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    import hashlib

    assert other == hashlib.sha256(HEAD.template.vertices.tobytes() + HEAD.shapes.tobytes()).hexdigest()


def test_forty_heads_are_distinct_and_of_human_size():
    heads = [make_head(seed).template.vertices for seed in range(40)]
    for k, vertices in enumerate(heads):
        assert np.isfinite(vertices).all()
        height, width = np.ptp(vertices[:, 1]), np.ptp(vertices[:, 0])
        assert 0.24 < height < 0.34 and 0.14 < width < 0.21
        for other in heads[:k]:
            assert np.sqrt(((vertices - other) ** 2).sum(-1).mean()) * MM > 1.0


def test_topology_is_a_mesh():
    c = chart()
    assert 4500 < c.num_vertices < 6000
    assert set(np.unique(c.faces)) == set(range(c.num_vertices)), "every vertex is used"
    edges = np.concatenate([c.faces[:, [0, 1]], c.faces[:, [1, 2]], c.faces[:, [2, 0]]])
    _, counts = np.unique(edges, axis=0, return_counts=True)
    assert counts.max() == 1, "triangles are wound consistently: no directed edge twice"
    v = HEAD.template.vertices
    normal = np.cross(v[c.faces[:, 1]] - v[c.faces[:, 0]], v[c.faces[:, 2]] - v[c.faces[:, 0]])
    centre = v[c.faces].mean(1)
    skin = (c.part[c.faces] == 0).all(1)
    outward = (normal * (centre - np.array([0.0, 0.0, -0.005]))).sum(1)
    assert (outward[skin] > 0).mean() > 0.97, "skin faces outwards"


def test_mean_head_is_symmetric():
    mean = anatomy.build_positions(shape.Identity())
    c = chart()
    grid = c.grid
    left, right = grid[:, grid.shape[1] // 2 :][:, :-1], grid[:, : grid.shape[1] // 2 - 1][:, ::-1]
    np.testing.assert_allclose(mean[left] * [-1, 1, 1], mean[right], atol=1e-9)


def test_regions_are_disjoint_where_meant_and_cover_the_head():
    regions = head_regions()
    apart = ("lips", "nose", "eyes", "brows", "forehead", "cheeks", "jaw", "neck", "eyeballs", "scalp", "ears", "mouth_inner",
             "around_mouth", "around_eyes")  # fmt: skip
    together = np.concatenate([regions[name] for name in apart])
    assert len(together) == len(np.unique(together)) == chart().num_vertices
    for name in ("lips", "upper_lip", "lower_lip", "mouth", "eyes", "brows", "forehead", "eye_region", "upper_face", "nose",
                 "jaw", "cheeks", "neck", "eyeballs"):  # fmt: skip
        assert len(regions[name]) >= 40, name
    assert set(regions["upper_lip"]) | set(regions["lower_lip"]) == set(regions["lips"])
    assert not set(regions["upper_face"]) & (set(regions["mouth"]) | set(regions["eyeballs"]))
    vertices = HEAD.template.vertices
    assert vertices[regions["forehead"], 1].min() > vertices[regions["mouth"], 1].max()
    assert vertices[regions["upper_lip"], 1].mean() > vertices[regions["lower_lip"], 1].mean()


def test_arkit_names():
    assert len(ARKIT_NAMES) == len(set(ARKIT_NAMES)) == 52
    assert WEIGHT_NAMES[:52] == ARKIT_NAMES == HEAD.weight_names[:52]
    assert HEAD.shapes.shape == (NUM_WEIGHTS, chart().num_vertices, 3)
    size = np.sqrt((HEAD.shapes**2).sum(-1)).max(1) * MM
    assert (size > 0.5).all() and (size < 45).all(), dict(zip(WEIGHT_NAMES, size, strict=True))


@pytest.mark.parametrize("name", [n for n in ARKIT_NAMES if n.endswith("Left") and n not in ("jawLeft", "mouthLeft")])
def test_left_shapes_move_the_subjects_left(name):
    """+x is the subject's left."""
    moved = np.sqrt((HEAD.shapes[INDEX[name]] ** 2).sum(-1))
    x = shape.grid_coordinates()[0]
    assert moved[x > 8].sum() > 10 * moved[x < -8].sum()


@pytest.mark.parametrize("seed", [0, 5, 11])
def test_lips_are_closed_at_rest_open_with_the_jaw_and_close_again(seed):
    head = make_head(seed)
    assert lip_opening(head.template.vertices) * MM < 0.01
    for jaw in (0.3, 0.6, 1.0):
        opened = lip_opening(posed(head, jawOpen=jaw)) * MM
        assert opened > 15 * jaw
        assert lip_opening(posed(head, jawOpen=jaw, mouthClose=jaw)) * MM < 0.06 * opened + 0.1
    openings = [lip_opening(posed(head, jawOpen=jaw)) for jaw in np.linspace(0, 1, 11)]
    assert (np.diff(openings) > 0).all()


def test_lower_lip_and_chin_follow_the_jaw_and_the_nose_does_not():
    moved = np.sqrt(((posed(HEAD, jawOpen=1.0) - HEAD.template.vertices) ** 2).sum(-1)) * MM
    marks = head_landmarks()
    assert moved[marks["chin"]] > 18 and moved[marks["lower_inner_lip"]] > 15
    assert moved[marks["nose_tip"]] < 0.5 and moved[marks["upper_inner_lip"]] < 1.0
    assert moved[head_regions()["forehead"]].max() < 0.01


@pytest.mark.parametrize("amount", [0.5, 1.0])
def test_lids_close_over_the_eyeball(amount):
    vertices = posed(HEAD, eyeBlink=amount)
    marks, c = head_landmarks(), chart()
    gap = vertices[marks["eye_upper_left"], 1] - vertices[marks["eye_lower_left"], 1]
    rest = HEAD.template.vertices[marks["eye_upper_left"], 1] - HEAD.template.vertices[marks["eye_lower_left"], 1]
    np.testing.assert_allclose(gap, (1 - amount) * rest, atol=0.06 * rest)
    # No lid vertex within the eye's width may sink into the ball.
    ball = vertices[c.blocks["eyeball_left"]]
    centre = ball[0] - [0, 0, shape.EYEBALL_RADIUS / MM]
    edge = vertices[c.eye_upper[0][2:-2]]
    assert (np.linalg.norm(edge - centre, axis=1) * MM > shape.EYEBALL_RADIUS - 0.35).all()


def test_displacements_are_linear_in_all_weights_and_accept_arkit_alone():
    generator = np.random.default_rng(0)
    weights = generator.random((4, 52)).astype(np.float32)
    full = with_correctives(weights)
    np.testing.assert_allclose(HEAD.displacements(weights), HEAD.displacements(full), atol=1e-7)
    np.testing.assert_allclose(
        HEAD.displacements(full), np.einsum("fw,wvx->fvx", full.astype(float), HEAD.shapes.astype(float)), atol=1e-6
    )


def test_correctives_are_not_linear():
    one, two = pose({"mouthSmile": 1.0}), pose({"jawOpen": 0.5})
    both = with_correctives(one + two)
    assert both[INDEX["smileWithJaw"]] == pytest.approx(0.5)
    assert with_correctives(one)[INDEX["smileWithJaw"]] == with_correctives(two)[INDEX["smileWithJaw"]] == 0
    np.testing.assert_array_equal(with_correctives(with_correctives(both)), both)


def test_identity_parameters_do_what_they_say():
    def mean_with(**identity):
        return make_head(0, HeadSpec(spread=0.0, identity=identity)).template.vertices * MM

    base, marks = mean_with(), head_landmarks()
    wide = mean_with(mouth_width=2.0)
    span = lambda v: v[marks["mouth_corner_left"], 0] - v[marks["mouth_corner_right"], 0]  # noqa: E731
    assert span(wide) > span(base) + 4
    assert mean_with(nose_height=2.0)[marks["nose_tip"], 2] > base[marks["nose_tip"], 2] + 2
    assert mean_with(chin_height=2.0)[marks["chin"], 1] < base[marks["chin"], 1] - 3
