import numpy as np
import pytest

from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation import animation_metrics as am
from sedtalker_jax.evaluation.animation_evaluation import TRUTH, AnimationEvaluation, AnimationRegions
from sedtalker_jax.face.lip_points import FLAME_LIP_POINTS

FPS, V = 30.0, 30
REGIONS = {
    "lips": np.arange(0, 10),
    "upper_lip": np.arange(0, 5),
    "lower_lip": np.arange(5, 10),
    "eye_region": np.arange(10, 16),
    "forehead": np.arange(16, 20),
    "upper_face": np.arange(10, 20),
}
PHONEMES = [("a", 0.0, 0.5), ("p", 0.5, 0.6), ("a", 0.6, 1.5), ("m", 1.5, 1.6), ("a", 1.6, 3.0)]


def regions():
    return AnimationRegions.from_mapping("toy", REGIONS, V)


def make_clip(seed, frames=90):
    """A mouth that opens and closes (shut in the frames of p and m) under a brow that moves slowly."""
    rng = np.random.default_rng(seed)
    template = rng.normal(0, 0.03, (V, 3))
    time = np.arange(frames) / FPS
    opening = 0.008 + 0.004 * np.sin(2 * np.pi * 1.7 * time + rng.uniform(0, 6))
    for _, start, end in (PHONEMES[1], PHONEMES[3]):
        opening[(time >= start) & (time < end)] = 0.0
    motion = np.zeros((frames, V, 3))
    direction = template[:5].mean(0) - template[5:10].mean(0)
    motion[:, 5:10] = -opening[:, None, None] * direction / np.linalg.norm(direction)
    motion[:, 10:20, 1] = 0.003 * np.sin(2 * np.pi * 0.6 * time + rng.uniform(0, 6))[:, None]
    samples = np.arange(int(frames / FPS * 16_000)) / 16_000
    waveform = np.interp(samples, time, opening) * 30 * np.sin(2 * np.pi * 200 * samples)
    return template, template + motion, waveform


def filled(clips=6):
    evaluation = AnimationEvaluation(regions(), FPS, ["half", "neutral", "exact"])
    for index in range(clips):
        template, target, waveform = make_clip(index)
        predictions = {
            "half": template + 0.5 * (target - template),
            "neutral": np.broadcast_to(template, target.shape),
            "exact": target,
        }
        options = dict(phonemes=PHONEMES, transitions=[1.0], waveform=waveform)
        evaluation.add(f"clip{index}", f"voice{index % 3}", target, template, predictions, **options)
    return evaluation


def values(table, metric):
    (row,) = [row for row in table.rows if row.metric == metric]
    return {system: getattr(value, "value", value) for system, value in row.values.items()}


def test_scores_are_means_of_the_named_metrics():
    evaluation = filled()
    table = evaluation.table(num_resamples=100)
    rooted, fdd, velocity = [], [], []
    for index in range(6):
        template, target, _ = make_clip(index)
        half = template + 0.5 * (target - template)
        rooted.append(am.lip_vertex_error_rooted_mm(half, target, REGIONS["lips"]))
        fdd.append(1e6 * am.upper_face_dynamics_deviation(half, target, template, REGIONS["upper_face"]))
        velocity.append(am.velocity_error_mm_per_s(half, target, FPS))
    assert values(table, "lip_vertex_error_rooted_mm")["half"] == pytest.approx(np.mean(rooted))
    assert values(table, "upper_face_dynamics_deviation_mm2")["half"] == pytest.approx(np.mean(fdd))
    assert values(table, "velocity_error_mm_per_s")["half"] == pytest.approx(np.mean(velocity))
    np.testing.assert_allclose(evaluation.per_clip("lip_vertex_error_rooted_mm", "half"), rooted)
    # Half of the motion: a quarter of the squared error of standing still.
    lve = values(table, "lip_vertex_error_mm2")
    assert lve["half"] == pytest.approx(lve["neutral"] / 4)
    assert values(table, "upper_face_dynamics_deviation_mm2")["neutral"] > 0


def test_the_exact_face_is_perfect_and_a_still_face_closes_nothing():
    table = filled().table(num_resamples=100)
    perfect = ("lip_vertex_error_mm2", "emotional_vertex_error_mm2", "mean_vertex_error_mm", "mean_temporal_misalignment_ms")
    for metric in perfect:
        assert values(table, metric)["exact"] == pytest.approx(0.0, abs=1e-9), metric
    recall = values(table, "bilabial_closure_recall")
    assert recall[TRUTH] == recall["exact"] == 1.0
    assert recall["neutral"] == 0.0
    assert recall["half"] == 1.0  # smaller, but it shuts where it should
    jerk = values(table, "mean_jerk_ratio")
    assert jerk["exact"] == pytest.approx(1.0) and jerk["half"] == pytest.approx(0.5) and jerk["neutral"] == 0.0
    assert values(table, "transition_jerk_ratio")["half"] == pytest.approx(0.5)
    correlation = values(table, "envelope_correlation")
    assert correlation["exact"] == correlation[TRUTH] > 0.9
    assert TRUTH not in values(table, "lip_vertex_error_mm2")
    assert "toy: lips 10, eyes and forehead 10, upper face 10 of 30 vertices" in table.note


def test_differences_are_paired():
    table = filled().differences(num_resamples=200)
    assert table.systems == ["neutral", "exact"]
    (row,) = [row for row in table.rows if row.metric == "lip_vertex_error_rooted_mm"]
    assert row.values["neutral"].high < 0 < row.values["exact"].low


def test_expression_coefficients_need_a_rig():
    rng = np.random.default_rng(0)
    shapes = rng.normal(0, 0.01, (4, V, 3))
    template = rng.normal(0, 0.03, (V, 3))
    truth = rng.uniform(0, 1, (20, 4))
    wrong = truth.copy()
    wrong[:, 1] = np.clip(wrong[:, 1] + 0.2, 0, 1)
    motion = [template + np.einsum("fw,wvc->fvc", weights, shapes) for weights in (truth, wrong)]
    evaluation = AnimationEvaluation(regions(), FPS, ["ours"], shapes=shapes, expression_columns=np.array([1]))
    evaluation.add("clip", "voice", motion[0], template, {"ours": motion[1]})
    found = values(evaluation.table(num_resamples=100), "expression_coefficient_error")["ours"]
    assert found == pytest.approx(np.abs(wrong - truth)[:, 1].mean(), abs=1e-9)
    assert not [row for row in filled().table(num_resamples=100).rows if row.metric == "expression_coefficient_error"]


def test_one_frame_more_or_less_is_fine():
    template, target, _ = make_clip(0)
    evaluation = AnimationEvaluation(regions(), FPS, ["ours"])
    evaluation.add("clip", "voice", target, template, {"ours": target[:-1]})
    assert evaluation.num_frames == [89]
    with pytest.raises(UserError, match="clip long, system ours: .*is the fps right"):
        evaluation.add("long", "voice", target, template, {"ours": np.repeat(target, 2, axis=0)})


def test_regions_and_mistakes():
    with pytest.raises(UserError, match="no region forehead; it has eye_region"):
        AnimationRegions.from_mapping("toy", {k: v for k, v in REGIONS.items() if k != "forehead"}, V)
    with pytest.raises(UserError, match="outside its mesh of 15"):
        AnimationRegions.from_mapping("toy", REGIONS, 15)
    with pytest.raises(UserError, match="none called 'truth'"):
        AnimationEvaluation(regions(), FPS, ["truth"])
    template, target, _ = make_clip(0)
    evaluation = AnimationEvaluation(regions(), FPS, ["ours"])
    with pytest.raises(UserError, match="no clips"):
        evaluation.table()
    with pytest.raises(UserError, match="expected ours"):
        evaluation.add("clip", "voice", target, template, {"theirs": target})
    with pytest.raises(UserError, match="clip clip: .* no sequence of 30 vertices"):
        evaluation.add("clip", "voice", target[:, :9], template, {"ours": target})
    assert FLAME_LIP_POINTS == (3546, 3504)


def test_several_predictions_of_a_clip_are_averaged():
    template, target, _ = make_clip(0)
    styles = [template + share * (target - template) for share in (0.5, 0.8)]
    evaluation = AnimationEvaluation(regions(), FPS, ["ours"])
    evaluation.add("clip", "voice", target, template, {"ours": styles}, phonemes=PHONEMES)
    table = evaluation.table(num_resamples=100)
    each = [am.lip_vertex_error_rooted_mm(style, target, REGIONS["lips"]) for style in styles]
    assert values(table, "lip_vertex_error_rooted_mm")["ours"] == pytest.approx(np.mean(each))
    assert values(table, "diversity_mm")["ours"] == pytest.approx(1000 * am.diversity(np.stack(styles)))
    assert evaluation.closures["ours"] == [(4, 4)]


def test_without_a_template_what_needs_it_is_left_out():
    template, target, _ = make_clip(0)
    evaluation = AnimationEvaluation(regions(), FPS, ["ours"])
    with pytest.raises(UserError, match="closures need the template"):
        evaluation.add("clip", "voice", target, None, {"ours": target}, phonemes=PHONEMES)
    assert evaluation.names == []
    evaluation.add("clip", "voice", target, None, {"ours": target})
    names = {row.metric for row in evaluation.table(num_resamples=100).rows}
    assert "lip_vertex_error_mm2" in names and "upper_face_dynamics_deviation_mm2" not in names


def test_a_refused_clip_leaves_nothing_behind():
    template, target, _ = make_clip(0)
    evaluation = AnimationEvaluation(regions(), FPS, ["ours", "theirs"])
    with pytest.raises(UserError, match="system theirs"):
        evaluation.add("clip", "voice", target, template, {"ours": target, "theirs": target[:, :9]})
    assert evaluation.names == [] and evaluation.values["ours"] == [] and evaluation.closures[TRUTH] == []


def test_lip_points_take_the_place_of_lip_regions():
    without = {name: region for name, region in REGIONS.items() if not name.endswith("_lip")}
    chosen = AnimationRegions.from_mapping("toy", without, V, lip_points=(2, 7))
    assert (chosen.upper_lip.tolist(), chosen.lower_lip.tolist()) == ([2], [7])


def test_scores_whose_regions_are_not_given_are_left_out():
    template, target, waveform = make_clip(0)
    only_lips = AnimationRegions("lips only", REGIONS["lips"], None, None, None, None, V)
    evaluation = AnimationEvaluation(only_lips, FPS, ["ours"])
    options = dict(phonemes=PHONEMES, waveform=waveform, transitions=[1.0])
    evaluation.add("clip", "voice", target, template, {"ours": 0.5 * (target + template)}, **options)
    table = evaluation.table(num_resamples=100)
    names = {row.metric for row in table.rows}
    assert "lip_vertex_error_mm2" in names and "mean_jerk_ratio" in names
    left_out = ("emotional_vertex_error_mm2", "lip_distance_error_mm", "bilabial_closure_recall", "transition_jerk_ratio")
    assert not names & {*left_out, "upper_face_dynamics_deviation_mm2", "envelope_correlation"}
    assert "eyes and forehead not given" in table.note
    with pytest.raises(UserError, match="no lip points"):
        evaluation.lip_distance(target)
    with pytest.raises(UserError, match="needs both lips"):
        AnimationRegions("half", REGIONS["lips"], None, None, np.array([1]), None, V)


def test_lip_mean_squared_error():
    prediction, target = np.zeros((2, V, 3)), np.zeros((2, V, 3))
    prediction[0, 3, 1] = 0.002
    assert am.lip_mean_squared_error_mm2(prediction, target, REGIONS["lips"]) == pytest.approx(4.0 / 20)
    assert am.lip_vertex_error_mm2(prediction, target, REGIONS["lips"]) == pytest.approx(2.0)
