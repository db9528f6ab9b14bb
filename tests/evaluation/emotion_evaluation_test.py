import dataclasses

import numpy as np
import pytest

from sedtalker_jax.emotion import CANONICAL, EmotionTrack
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation import emotion_metrics as em
from sedtalker_jax.evaluation.emotion_evaluation import (
    EmotionClip,
    constant_tracks,
    evaluate_emotion,
    majority_label,
    prior_tracks,
    scores_by_group,
)


def make_clips(seed=0, count=12, frames=150):
    """Two or three emotions per clip, one join inside the first one."""
    rng = np.random.default_rng(seed)
    clips = []
    for index in range(count):
        cuts = [0, *sorted(rng.choice(np.arange(30, frames - 30, 10), 2, replace=False)), frames]
        emotion, intensity = np.zeros(frames, np.int8), np.zeros(frames)
        segments = []
        duration = frames / 50 + 0.005
        names = rng.permutation(8)[:3]
        for a, b, name in zip(cuts, cuts[1:], names, strict=False):
            emotion[a:b] = name
            strength = 0.0 if name == 0 else rng.uniform(0.2, 1.0)
            intensity[a:b] = strength
            start, end = (0.0 if a == 0 else 0.0025 + a / 50), (duration if b == frames else 0.0025 + b / 50)
            segments.append((start, end, CANONICAL[name], strength))
        clips.append(
            EmotionClip(
                f"clip{index}", f"voice{index % 4}", duration, CANONICAL, emotion, intensity, segments, [0.3], [(0.5, 2.5)]
            )
        )
    return clips


def tracks_of(clips, noise=0.0, seed=1):
    rng = np.random.default_rng(seed)
    tracks = []
    for clip in clips:
        p = np.eye(8)[clip.emotion] * (1 - noise) + noise * rng.dirichlet(np.full(8, 0.2), len(clip.emotion))
        strength = np.clip(clip.intensity + noise * rng.normal(0, 0.3, len(clip.emotion)), 0, 1)
        tracks.append(EmotionTrack(CANONICAL, p, strength))
    return tracks


def values(table, system):
    return {row.metric: getattr(row.values[system], "value", row.values[system]) for row in table.rows}


def test_the_truth_scores_perfectly():
    clips = make_clips()
    scores = values(evaluate_emotion(clips, {"truth": tracks_of(clips)}, num_resamples=100).table, "truth")
    for name in ("frame_accuracy", "macro_f1", "weighted_f1", "boundary_f1_0.25s", "intensity_rank_correlation"):
        assert scores[name] == pytest.approx(1.0), name
    zero = ("eder", "eder_pooled", "eder_without_silence", "brier_score", "expected_calibration_error")
    for name in (*zero, "intensity_ordinal_error_3_levels"):
        assert scores[name] == pytest.approx(0.0, abs=1e-5), name
    assert scores["join_false_alarm_rate_0.5s"] == 0.0


def test_table_agrees_with_the_metrics_it_is_made_of():
    clips = make_clips(2)
    tracks = tracks_of(clips, 0.7)
    scores = evaluate_emotion(clips, {"ours": tracks}, decoder="raw", num_resamples=100)
    found = values(scores.table, "ours")
    truth = np.concatenate([clip.emotion for clip in clips])
    p = np.concatenate([track.probabilities for track in tracks])
    counts = em.confusion_counts(truth, p.argmax(1), 8)
    np.testing.assert_array_equal(scores.confusion["ours"], counts)
    assert 0.2 < found["frame_accuracy"] < 0.95
    assert found["frame_accuracy"] == pytest.approx(float(em.frame_accuracy(counts)))
    assert found["macro_f1"] == pytest.approx(float(em.macro_f1(counts)))
    assert found["brier_score"] == pytest.approx(em.brier_score(truth, p))
    assert found["expected_calibration_error"] == pytest.approx(em.expected_calibration_error(truth, p), abs=1e-9)
    assert scores.reliability["ours"].expected_calibration_error == pytest.approx(found["expected_calibration_error"])
    errors = [
        em.emotion_diarization_error_rate(c.segments, dataclasses.replace(t, duration=c.duration).segments(), c.duration)
        for c, t in zip(clips, tracks, strict=True)
    ]
    assert found["eder"] == pytest.approx(em.mean_diarization_error(errors).error_rate)
    assert found["eder_pooled"] == pytest.approx(em.pool_diarization_errors(errors).error_rate)
    parts = sum(found[f"eder_{part}"] for part in ("false_alarm", "missed", "confusion", "overlap"))
    assert parts == pytest.approx(found["eder"])


def test_intensity_levels_are_compared_per_segment():
    clips = make_clips(7)
    flat = constant_tracks(clips, "sad", intensity=0.5)  # always the middle of three levels
    found = values(evaluate_emotion(clips, {"flat": flat}, num_resamples=100).table, "flat")
    strengths = [segment[3] for clip in clips for segment in clip.segments if segment[2] != "neutral"]
    levels = em.intensity_levels(np.array(strengths), (1 / 3, 2 / 3))
    assert found["intensity_ordinal_error_3_levels"] == pytest.approx(em.ordinal_error(levels, np.ones_like(levels))[0])


def test_baselines_stand_beside_and_differences_are_paired():
    clips = make_clips(3)
    majority = majority_label([clip.emotion for clip in clips], CANONICAL)
    systems = {
        "ours": tracks_of(clips, 0.3),
        "majority": constant_tracks(clips, majority),
        "prior": prior_tracks(clips, np.ones(8)),
    }
    scores = evaluate_emotion(clips, systems, num_resamples=200)
    assert scores.table.systems == ["ours", "majority", "prior"]
    assert scores.differences.systems == ["majority", "prior"]
    for row in scores.differences.rows:
        table_row = next(other for other in scores.table.rows if other.metric == row.metric)
        expected = table_row.values["ours"].value - table_row.values["majority"].value
        assert row.values["majority"].value == pytest.approx(expected, nan_ok=True)
    accuracy = next(row for row in scores.differences.rows if row.metric == "frame_accuracy").values["majority"]
    assert accuracy.low > 0 and accuracy.excludes_zero
    assert values(scores.table, "majority")["intensity_rank_correlation"] == 0.0
    by_emotion = {row.metric: row.values for row in scores.per_emotion.rows}
    assert set(by_emotion) == set(CANONICAL)
    assert sum(cells["share of frames"] for cells in by_emotion.values()) == pytest.approx(1.0)
    labels, true, predicted = scores.intensity
    assert len(labels) == len(true) == len(predicted) > 10 and "neutral" not in labels


def test_unscored_frames_do_not_count():
    clips = make_clips(4)
    tracks = tracks_of(clips)
    wrong = dataclasses.replace(clips[0], emotion=np.where(np.arange(150) < 60, -1, clips[0].emotion).astype(np.int8))
    p = tracks[0].probabilities.copy()
    p[:60] = np.eye(8)[(clips[0].emotion[:60] + 1) % 8]
    tracks[0] = dataclasses.replace(tracks[0], probabilities=p)
    scores = evaluate_emotion([wrong, *clips[1:]], {"ours": tracks}, decoder="raw", num_resamples=100)
    assert values(scores.table, "ours")["frame_accuracy"] == 1.0


def test_emotions_that_the_labels_lack_are_no_errors_of_a_perfect_system():
    clips = make_clips(8)
    known = tuple(name for name in CANONICAL if name not in ("fear", "upset"))
    index = np.array([known.index(name) if name in known else -1 for name in CANONICAL])
    few = [dataclasses.replace(clip, labels=known, emotion=index[clip.emotion]) for clip in clips]
    named = [all(segment[2] in known for segment in clip.segments) for clip in clips]
    assert 0 < sum(named) < len(clips)
    # Of what it can't name it says anything.
    tracks = [EmotionTrack(known, np.eye(6)[np.maximum(clip.emotion, 0)], clip.intensity) for clip in few]
    scores = evaluate_emotion(few, {"perfect": tracks}, decoder="raw", num_resamples=100)
    found = values(scores.table, "perfect")
    for name in ("eder", "eder_pooled", "eder_without_silence", "join_false_alarm_rate_0.5s"):
        assert found[name] == pytest.approx(0.0, abs=1e-5), name
    assert found["frame_accuracy"] == found["boundary_f1_0.25s"] == 1.0
    assert f"leave out {len(clips) - sum(named)} recordings" in scores.table.note
    # What is left out of EDER changes nothing of the others.
    alone = [pair for pair, keep in zip(zip(few, tracks, strict=True), named, strict=True) if keep]
    wrong = [constant_tracks([clip], "sad")[0] for clip, _ in alone]
    apart = evaluate_emotion([clip for clip, _ in alone], {"sad": wrong}, num_resamples=100)
    together = evaluate_emotion(few, {"sad": constant_tracks(few, "sad")}, num_resamples=100)
    for name in ("eder", "boundary_f1_1s"):
        assert values(together.table, "sad")[name] == pytest.approx(values(apart.table, "sad")[name])
    assert "leave out" not in apart.table.note


def test_a_recording_of_which_nobody_said_anything_is_not_taken_for_neutral():
    clips = make_clips(9)
    silent = dataclasses.replace(clips[0], segments=[], emotion=np.full(150, -1, np.int8), intensity=np.full(150, np.nan))
    scores = evaluate_emotion([silent, *clips[1:]], {"truth": tracks_of(clips)}, num_resamples=100)
    assert values(scores.table, "truth")["eder"] == pytest.approx(0.0, abs=1e-5) and "leave out 1 rec" in scores.table.note


def test_mistakes_are_named():
    clips = make_clips(5)
    with pytest.raises(UserError, match="at least one clip"):
        evaluate_emotion([], {})
    with pytest.raises(UserError, match="'ours' has 1 tracks for 12 clips"):
        evaluate_emotion(clips, {"ours": tracks_of(clips)[:1]})
    short = []
    for track in tracks_of(clips):
        short.append(dataclasses.replace(track, probabilities=track.probabilities[:9], intensity=track.intensity[:9]))
    with pytest.raises(UserError, match="9 frames for clip clip0, the truth has 150"):
        evaluate_emotion(clips, {"ours": short})


def test_groups_are_scored_apart():
    clips = make_clips(6)
    good, bad = tracks_of(clips), constant_tracks(clips, "sad")
    tracks = [good[i] if i % 2 == 0 else bad[i] for i in range(12)]
    table = scores_by_group(clips, tracks, ["even", "odd"] * 6, num_resamples=100)
    assert list(table.systems) == ["even", "odd"] and "even 6, odd 6" in table.note
    assert values(table, "even")["frame_accuracy"] == 1.0
    alone = evaluate_emotion(clips[1::2], {"bad": bad[1::2]}, num_resamples=100)
    assert values(table, "odd")["frame_accuracy"] == values(alone.table, "bad")["frame_accuracy"] < 0.5
    with pytest.raises(UserError, match="2 groups were given for 12 clips"):
        scores_by_group(clips, tracks, ["a", "b"])


def test_speakers_of_one_name_in_two_corpora_are_two_voices():
    clips = [
        dataclasses.replace(clip, speaker="sam", corpus="emov_db" if number < 6 else "meld")
        for number, clip in enumerate(make_clips())
    ]
    note = evaluate_emotion(clips, {"model": tracks_of(clips, 0.5)}).table.note
    assert "12 recordings of 2 voices" in note
