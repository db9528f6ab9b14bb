"""The conditions of the animation arms, their scores, and inference in batches."""

import numpy as np
import pytest

from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.emotion.labels import ACTIVE, CANONICAL
from sedtalker_jax.evaluation import animation_metrics as metrics
from sedtalker_jax.evaluation.claims import batches
from sedtalker_jax.evaluation.claims.animation import controls
from sedtalker_jax.evaluation.claims.animation_tracks import (
    as_on_unseen_clips,
    frame_accuracy,
    segmented,
    utterance,
)
from sedtalker_jax.evaluation.claims.face_scores import FaceScores
from sedtalker_jax.face.articulation import expression_weights
from tests.inference.talker import noise, tiny_talker

T = 60


def track(seed: int, truth=None, accuracy: float = 1.0, confidence: float = 0.7) -> EmotionTrack:
    """Runs of ten frames with one likely emotion: the true one in about `accuracy` of the runs."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.integers(len(CANONICAL), size=T // 10), 10) if truth is None else truth
    said = truth.copy()
    for start in range(0, T, 10):
        if rng.random() > accuracy:
            said[start : start + 10] = (truth[start] + 1) % len(CANONICAL)
    probabilities = np.full((T, len(CANONICAL)), (1 - confidence) / (len(CANONICAL) - 1), np.float32)
    probabilities[np.arange(T), said] = confidence
    return EmotionTrack(CANONICAL, probabilities, rng.random(T).astype(np.float32), duration=T * 0.02 + 0.01)


def truth_of(seed: int) -> np.ndarray:
    return np.repeat(np.random.default_rng(seed).integers(len(CANONICAL), size=T // 10), 10)


def tracks(first: int, accuracy: float, n: int = 200):
    truth = [truth_of(first + i) for i in range(n)]
    return [track(first + i, truth[i], accuracy) for i in range(n)], truth


def joined(made) -> np.ndarray:
    return np.concatenate([one.probabilities for one in made])


def test_tracks_of_seen_clips_get_as_often_wrong_as_those_of_unseen_ones():
    seen, seen_truth = tracks(0, 0.95)
    unseen, unseen_truth = tracks(1000, 0.6)
    goal = frame_accuracy(joined(unseen), np.concatenate(unseen_truth))
    made = as_on_unseen_clips(seen, seen_truth, unseen, unseen_truth, seed=3)
    assert frame_accuracy(joined(made), np.concatenate(seen_truth)) == pytest.approx(goal, abs=0.01)
    again = as_on_unseen_clips(seen, seen_truth, unseen, unseen_truth, seed=3)
    np.testing.assert_array_equal(joined(again), joined(made))
    before, after, truth = joined(seen), joined(made), np.concatenate(seen_truth)
    np.testing.assert_allclose(after.sum(axis=1), 1.0, atol=1e-5)
    wrong = before.argmax(axis=1) != truth
    np.testing.assert_array_equal(after[wrong], before[wrong])
    np.testing.assert_array_equal(
        np.concatenate([one.intensity for one in made]), np.concatenate([one.intensity for one in seen])
    )
    moved = (after - before).max(axis=1) > 1e-6
    # On the unseen clips an emotion is always taken for the next one, but for the one count that every pair is given.
    gained = (after - before)[moved].argmax(axis=1)
    assert (gained == (truth[moved] + 1) % len(CANONICAL)).mean() > 0.6


def test_tracks_that_are_no_better_on_seen_clips_stay_as_they_are():
    seen, seen_truth = tracks(0, 0.5)
    unseen, unseen_truth = tracks(1000, 0.9)
    made = as_on_unseen_clips(seen, seen_truth, unseen, unseen_truth, seed=3)
    np.testing.assert_allclose(joined(made), joined(seen), atol=1e-3)


def test_utterance_and_segments():
    one = track(1)
    held = utterance(one)
    assert held.num_frames == T and np.ptp(held.probabilities, axis=0).max() == 0 and np.ptp(held.intensity) == 0
    np.testing.assert_allclose(held.probabilities[0], one.probabilities.mean(axis=0), rtol=1e-5)
    cut = segmented(one)
    assert cut.num_frames == T and set(np.unique(cut.probabilities)) == {0.0, 1.0}
    inner = np.arange(12, 18)
    np.testing.assert_array_equal(cut.path()[inner], one.path()[inner])
    for segment in cut.segments():
        inside = (one.times > segment.start) & (one.times < segment.end)
        assert cut.intensity[inside].std() < 1e-6


def test_controls_are_another_clips_track_and_a_late_one():
    rng = np.random.default_rng(0)
    given = [rng.random((n, 7)).astype(np.float32) for n in (40, 50, 60, 70)]
    made = controls(given, 30.0)
    assert [len(one) for one in made["other-clip"]] == [40, 50, 60, 70]
    np.testing.assert_array_equal(made["other-clip"][0][[0, -1]], given[2][[0, -1]])
    np.testing.assert_array_equal(made["shifted"][1][15:], given[1][:-15])
    np.testing.assert_array_equal(made["shifted"][1][:15], np.repeat(given[1][:1], 15, axis=0))


def test_expression_coefficients_read_what_a_head_feels(tiny_world):
    scorer = FaceScores(tiny_world)
    faces, template = scorer.oracle.faces, "test-head-000"
    head = faces.head(*faces.find_head(template))
    silent = expression_weights(np.eye(len(ACTIVE)), head.style, faces.face_rules).astype(np.float32)
    motion = scorer.oracle.coefficients(silent, template)
    read = scorer.expression(motion, template)
    # The space of this world is fitted to a dozen clips: what it can't say is missing from the coefficients.
    assert read.argmax(axis=1).tolist() == list(range(len(ACTIVE)))
    np.testing.assert_allclose(np.diag(read), 1.0, atol=0.25)
    assert scorer.expression_error(motion, motion, template) == 0
    still = np.zeros_like(motion)
    assert scorer.expression_error(motion, still, template) > 0.1
    assert scorer.lip_error_mm(motion, still) > 1.0 and scorer.lip_distance_error_mm(motion, motion, template) == 0
    rest = scorer.space.template(template).vertices
    full = rest + scorer.space.displacements(motion)
    lips = scorer.space.regions["lips"]
    assert scorer.lip_error_mm(motion, still) == pytest.approx(
        metrics.lip_vertex_error_rooted_mm(full, np.broadcast_to(rest, full.shape), lips), rel=1e-4
    )


def test_scores_of_moving_emotion_are_those_of_the_metrics(tiny_world):
    scorer = FaceScores(tiny_world)
    rng = np.random.default_rng(0)
    guess, truth = (np.cumsum(rng.normal(0, 2e-4, (60, scorer.space.rank)), axis=0) for _ in range(2))
    found = scorer.moving_emotion(guess, truth, "train-head-001", [1.0])
    rest = scorer.space.template("train-head-001").vertices
    pair = [rest + scorer.space.displacements(motion) for motion in (guess, truth)]
    region = np.union1d(scorer.space.regions["eye_region"], scorer.space.regions["forehead"])
    squared = metrics.emotional_vertex_error(*pair, region) * 1e6
    assert found["emotional_vertex_error_mm2"] == pytest.approx(squared, rel=1e-4)
    # float32 positions lose what third differences need: the scorer's displacements are the more exact ones.
    ratio = metrics.transition_jerk_ratio(*pair, 30.0, [1.0], vertices=region)
    assert found["transition_jerk_ratio"] == pytest.approx(ratio, rel=0.05)
    # Two changes far from each other: no third difference spans the frames between.
    apart = [0.3, 1.7]
    truth_m = np.asarray(pair[1], np.float64)[:, region]
    third = np.linalg.norm(np.diff(truth_m, n=3, axis=0), axis=-1).mean(axis=1) * 30.0**3
    times = (np.arange(57) + 1.5) / 30.0
    near = np.abs(times[:, None] - apart).min(axis=1) <= 0.5
    found = scorer.moving_emotion(guess, truth, "train-head-001", apart)
    assert found["true_transition_jerk"] == pytest.approx(third[near].mean(), rel=0.05)


def test_clips_animated_together_move_as_alone(monkeypatch):
    monkeypatch.setattr(batches, "BATCH_SIZE", 4)
    monkeypatch.setattr(batches, "PAD_TO_S", 1.0)
    talker = tiny_talker()
    waveforms = [noise(seconds, seed=i) for i, seconds in enumerate((0.5, 0.9, 0.7))]
    rng = np.random.default_rng(2)
    given = [rng.random((round(len(w) / 16_000 * 30), 7)).astype(np.float32) for w in waveforms]
    names = talker.templates()
    codes = np.stack([talker.codec.template_code(talker.template(name).vertices) for name in names[:3]])
    together = batches.animate(talker, waveforms, given, codes)
    for i in range(3):
        alone = talker.motion(waveforms[i], given[i], talker.template(names[i]))
        metres = alone * talker.codec.motion_std + talker.codec.motion_mean
        assert together[i].shape == metres.shape
        np.testing.assert_allclose(together[i], metres, atol=2e-5 * np.abs(metres).max())
