import numpy as np
import pytest

from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation import animation_metrics as am

LIPS, UPPER = np.array([1, 3]), np.array([0, 4])


def golden_vector():
    t, v = np.meshgrid(np.arange(4.0), np.arange(5.0), indexing="ij")
    target = np.stack([0.01 * np.sin(t + v), 0.01 * np.cos(t * v), 0.001 * (t - v)], axis=-1)
    error = np.stack([0.001 * (t + 1) * (v + 1), 0.002 * v, np.zeros_like(t)], axis=-1)
    return target + error, target


def random_clip(seed=0, frames=12, vertices=9):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.01, (frames, vertices, 3)), rng.normal(0, 0.01, (frames, vertices, 3))


@pytest.mark.parametrize(
    "metric, arguments, expected",
    [
        (am.lip_vertex_error, (LIPS,), 1.56e-4),
        (am.lip_vertex_error_mm2, (LIPS,), 156.0),
        (am.lip_vertex_error_rooted, (LIPS,), 1.1928879476640446e-2),
        (am.lip_vertex_error_rooted_mm, (LIPS,), 11.928879476640446),
        (am.lip_vertex_error_mean, (LIPS,), 8.698355944734955e-3),
        (am.lip_vertex_error_meshtalk, (LIPS,), 3.2855455831773874e-3),
        (am.emotional_vertex_error, (UPPER,), 2.515e-4),
        (am.mean_vertex_error, (), 8.753840369336876e-3),
        (am.mean_vertex_error_mm, (), 8.753840369336876),
        (am.upper_face_dynamics_deviation, (np.zeros((5, 3)), UPPER), -1.6210565518513415e-4),
        (am.upper_face_dynamics_deviation_absolute, (np.zeros((5, 3)), UPPER), 1.6210565518513415e-4),
        (am.velocity_error, (), 3.0e-3),
        (am.velocity_error_mm_per_s, (30.0,), 90.0),
    ],
)
def test_golden_vector(metric, arguments, expected):
    prediction, target = golden_vector()
    assert metric(prediction, target, *arguments) == pytest.approx(expected, rel=1e-12)


def test_definitions_against_plain_loops():
    p, t = random_clip(1)
    frames, vertices = p.shape[:2]
    distance = [[sum((p[f, v, c] - t[f, v, c]) ** 2 for c in range(3)) ** 0.5 for v in range(vertices)] for f in range(frames)]
    assert am.max_vertex_error(p, t) == pytest.approx(np.mean([max(row) ** 2 for row in distance]))
    assert am.mean_vertex_error(p, t, LIPS) == pytest.approx(np.mean([[row[1], row[3]] for row in distance]))
    d = p - t
    for order, metric in ((1, am.velocity_error), (2, am.acceleration_error), (3, am.jerk_error)):
        binomials = {1: [-1, 1], 2: [1, -2, 1], 3: [-1, 3, -3, 1]}[order]
        rows = [sum(b * d[f + i] for i, b in enumerate(binomials)) for f in range(frames - order)]
        assert metric(p, t) == pytest.approx(np.mean(np.linalg.norm(rows, axis=-1)))
    whole = [np.sqrt(np.sum((d[f + 1] - d[f]) ** 2)) for f in range(frames - 1)]
    assert am.whole_frame_velocity_error(p, t) == pytest.approx(np.mean(whole))
    assert am.spectral_error(p, t) == pytest.approx(
        sum(np.sum(np.abs(np.fft.rfft(p[:, v, c]) - np.fft.rfft(t[:, v, c])) ** 2) for v in range(vertices) for c in range(3))
        / d.size
    )
    assert am.mean_jerk_m_per_s3(p, 30.0) == pytest.approx(np.mean(np.linalg.norm(np.diff(p, 3, axis=0), axis=-1)) * 27_000)
    assert am.mean_speed(p) == pytest.approx(np.mean(np.linalg.norm(np.diff(p, axis=0), axis=-1)))


def test_lip_vertex_error_equals_torchmetrics():
    torch = pytest.importorskip("torch", reason="torch is a development dependency")
    multimodal = pytest.importorskip("torchmetrics.functional.multimodal", reason="torchmetrics is not installed")
    p, t = random_clip(2)
    theirs = multimodal.lip_vertex_error(torch.tensor(p), torch.tensor(t), LIPS.tolist())
    assert am.lip_vertex_error(p, t, LIPS) == pytest.approx(float(theirs), rel=1e-6)


def test_dynamics_deviation_is_positive_for_a_still_face():
    _, target = random_clip(3)
    template = target.mean(axis=0)
    still = np.broadcast_to(template, target.shape)
    assert am.upper_face_dynamics_deviation(still, target, template, UPPER) > 0
    assert am.upper_face_dynamics_deviation(target, still, template, UPPER) < 0
    assert am.upper_face_dynamics_deviation_absolute(target, still, template, UPPER) > 0
    # Units: squared displacement, so doubling the face quadruples it.
    once = am.motion_dynamics(target, template, UPPER)
    assert am.motion_dynamics(2 * target, 2 * template, UPPER) == pytest.approx(4 * once)


def test_meshtalk_form_forgives_a_displaced_mouth():
    _, target = random_clip(4)
    assert am.lip_vertex_error_meshtalk(target + [0.01, 0, 0], target, LIPS) == pytest.approx(0, abs=1e-15)
    assert am.lip_vertex_error_rooted_mm(target + [0.01, 0, 0], target, LIPS) == pytest.approx(10.0)


def test_float32_input_is_scored_in_float64():
    p, t = random_clip(5)
    for metric in (am.mean_vertex_error, am.velocity_error, am.max_vertex_error):
        assert metric(p.astype(np.float32), t.astype(np.float32)) == pytest.approx(metric(p, t), rel=1e-5)


def test_sample_scores():
    _, target = random_clip(6)
    samples = np.stack([target + offset for offset in (0.0, 0.001, 0.003)])
    scale = np.sqrt(3)
    assert am.diversity(samples) == pytest.approx(scale * (0.001 + 0.003 + 0.002) / 3)
    assert am.paired_diversity(samples[:2]) == pytest.approx(scale * 0.001)
    assert am.best_sample_lip_error(samples, target, LIPS) == 0.0
    assert am.mean_sample_lip_error(samples, target, LIPS) == pytest.approx(3 * (0.004 / 3) ** 2)
    with pytest.raises(UserError, match="at least two samples"):
        am.diversity(samples[:1])


def test_expression_coefficients_come_back():
    rng = np.random.default_rng(7)
    shapes = rng.normal(size=(6, 40, 3))
    weights = rng.uniform(0, 1, (5, 6))
    weights[:, 2] = 0.0
    motion = np.einsum("fw,wvc->fvc", weights, shapes)
    np.testing.assert_allclose(am.expression_coefficients(motion, shapes), weights, atol=1e-6)
    np.testing.assert_allclose(am.expression_coefficients(motion, shapes, vertices=np.arange(20)), weights, atol=1e-6)
    # A pose outside the box is met by its nearest point inside.
    assert am.expression_coefficients(-shapes[:1], shapes[:1])[0, 0] == pytest.approx(0.0, abs=1e-6)
    noisy = am.expression_coefficients(motion + rng.normal(0, 0.1, motion.shape), shapes)
    assert 0 <= noisy.min() and noisy.max() <= 1
    assert am.expression_coefficient_error(noisy, weights, np.array([2])) == pytest.approx(np.abs(noisy[:, 2]).mean())
    assert am.coefficient_error(weights, np.zeros_like(weights)) == pytest.approx(np.linalg.norm(weights, axis=1).mean())


def test_transition_jerk_ratio_looks_near_transitions_only():
    rng = np.random.default_rng(8)
    target = rng.normal(0, 0.001, (120, 4, 3))
    prediction = target.copy()
    prediction[:30] *= 50  # noise far from the transition at 3 s
    assert am.transition_jerk_ratio(prediction, target, 30.0, [3.0]) == pytest.approx(1.0)
    prediction[80:100] = 2 * target[80:100]
    assert am.transition_jerk_ratio(prediction, target, 30.0, [3.0], window=0.2) == pytest.approx(2.0)
    assert np.isnan(am.transition_jerk_ratio(prediction, target, 30.0, [50.0]))


def test_r_squared():
    _, target = random_clip(9)
    assert am.r_squared(target, target) == 1.0
    assert am.r_squared(np.full_like(target, target.mean()), target) == pytest.approx(0.0)
    assert np.isnan(am.r_squared(np.zeros(3), np.ones(3)))


def test_frame_weighting_equals_joining_the_clips():
    (p1, t1), (p2, t2) = random_clip(10, frames=5), random_clip(11, frames=15)
    joined = am.lip_vertex_error(np.concatenate([p1, p2]), np.concatenate([t1, t2]), LIPS)
    values = [am.lip_vertex_error(p1, t1, LIPS), am.lip_vertex_error(p2, t2, LIPS)]
    assert am.frame_weighted_mean(values, [5, 15]) == pytest.approx(joined)


def test_lengths_may_differ_by_one_frame_only():
    p, t = random_clip(12)
    a, b = am.cut_to_shorter(p[:-1], t)
    assert a.shape == b.shape == (11, 9, 3)
    with pytest.raises(UserError, match="is the fps right"):
        am.cut_to_shorter(p[:-2], t)


@pytest.mark.parametrize(
    "lips, message",
    [
        (np.array([], int), "non-empty"),
        (np.array([0, 99]), "another topology"),
        (np.array([-1]), "another topology"),
        (np.array([0.5]), "whole-number"),
        (np.ones(9, bool), "whole-number"),
    ],
)
def test_regions_are_checked(lips, message):
    p, t = random_clip(13)
    with pytest.raises(UserError, match=message):
        am.lip_vertex_error(p, t, lips)


def test_shapes_are_checked():
    p, t = random_clip(14)
    with pytest.raises(UserError, match="one non-empty shape"):
        am.lip_vertex_error(p[:3], t, LIPS)
    with pytest.raises(UserError, match=r"\[frames, vertices, 3\]"):
        am.mean_vertex_error(p[:, 0], t[:, 0])
    with pytest.raises(UserError, match="template"):
        am.upper_face_dynamics_deviation(p, t, t[0, :4], LIPS)
    with pytest.raises(UserError, match="not of the same vertices"):
        am.expression_coefficients(p, t[:, :4])
