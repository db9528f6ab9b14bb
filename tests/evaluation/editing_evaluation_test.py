"""Scores of edits on curves and embeddings whose answer is known."""

import dataclasses
import types

import numpy as np
import pytest

from sedtalker_jax.emotion import EditDictionary
from sedtalker_jax.evaluation import editing_evaluation
from sedtalker_jax.evaluation.editing_evaluation import (
    ALPHAS,
    SYSTEMS,
    ClipScores,
    clip_emotion,
    evaluate_editing,
    score_table,
    step_over_median,
)


def test_the_step_across_the_boundary_is_told_from_the_others():
    curve = ALPHAS.copy()
    curve[10:] += 0.1  # one jump, from alpha 0.45 to 0.5
    assert step_over_median(curve, ALPHAS - 0.47) == pytest.approx(3.0)
    assert [step_over_median(curve, ALPHAS - alpha) for alpha in (0.2, 1.0)] == pytest.approx([1.0, 1.0])
    # A way that begins beyond the boundary, one that does not reach it, one without a boundary, and one that stands still.
    nowhere = [ALPHAS + 0.1, ALPHAS - 1.2, np.full(21, np.nan)]
    assert np.isnan([step_over_median(curve, distances) for distances in nowhere]).all()
    assert np.isnan(step_over_median(np.zeros(21), ALPHAS - 0.5))


@pytest.mark.parametrize("source", [None, "sad"])
def test_the_distance_is_zero_where_the_mean_meets_the_boundary(source):
    rng = np.random.default_rng(0)
    names = np.repeat(["happy", "neutral", "sad"], 30)
    rows = 3 * rng.normal(size=(3, 8))[np.repeat(np.arange(3), 30)] + rng.normal(size=(90, 8))
    dictionary = EditDictionary.fit(rows, names)
    clip = rows[:7] + 1.0
    direction = dictionary.direction("happy", source)
    clip = clip - dictionary.distance(clip, direction) / direction.scale * direction.step
    assert dictionary.distance(clip, direction) == pytest.approx(0.0, abs=1e-9)
    moved = clip.mean(axis=0)
    if source is None:
        score = dictionary.scores(moved)[0]
    else:
        score = dictionary.whiten(moved) @ dictionary.pair_weights[2, 0] + dictionary.pair_biases[2, 0]
    assert score == pytest.approx(0.0, abs=1e-9)


def test_clips_whose_true_face_an_edit_does_not_change_are_left_out_and_counted(monkeypatch):
    good = ClipScores(ALPHAS, 1.0, 0.9, 1.0, 0.0, (1.0, 1.0), 0.8, (3, 4), (4, 4), (4, 4), 0.0, 0.5)

    class Evaluation:
        strength = {"happy": 0.6}

        def __init__(self, model, directory):
            pass

        def clip(self, record, target):
            return {} if record["speaker"] == "still" else dict.fromkeys(SYSTEMS, good)

    records = [{"speaker": name, "segments": [[0.0, 1.0, "sad"]]} for name in ("ann", "still", "bob")]
    # Nothing that it could be edited to.
    records.append({"speaker": "eve", "segments": [[0.0, 1.0, "sad"], [1.0, 2.0, "happy"]]})
    monkeypatch.setattr(editing_evaluation, "EditingEvaluation", Evaluation)
    monkeypatch.setattr(editing_evaluation, "RecordReader", lambda directory, split: records)
    model = types.SimpleNamespace(edit_dictionary=types.SimpleNamespace(labels=("happy", "sad")))
    table = evaluate_editing(model, "world", num_clips=4)
    assert "2 clips of 2 voices" in table.note and "Left out: 2 whose true face" in table.note


def test_the_table_counts_clips_that_rise_at_every_step_and_the_worst_leak():
    good = ClipScores(ALPHAS, 1.0, 0.9, 1.0, 0.0, (1.0, 1.0), 0.8, (3, 4), (4, 4), (4, 4), 0.0, 0.5)
    falling = ALPHAS.copy()
    falling[10] = falling[9] - 0.1
    bad = dataclasses.replace(good, projections=2 * falling, lip_errors=(2.0, 1.0), leak_mm=0.2)
    values = {row.metric: row.values["ours"] for row in score_table({"ours": [good, bad]}, ["a", "b"], "").rows}
    assert values["monotone"].value == 0.5 and values["amplitude"].value == 1.5
    assert values["amplitude_true_activation"].value == pytest.approx(0.9)
    assert values["amplitude_from_0.7_to_1.3"].value == 0.5
    assert values["largest_fall_of_rise"].value == pytest.approx(0.05)
    # Sums over sums: (1 + 2) / (1 + 1), and (0.8 + 0.8) / (1 + 1).
    assert values["lip_error_ratio"].value == 1.5 and values["lip_error_ratio_replaced"].value == pytest.approx(0.8)
    assert values["closure_recall_change"].value == -0.25
    assert values["largest_leak"] == 0.2


def test_a_clips_emotion_is_that_of_its_longest_segment():
    assert clip_emotion({"segments": [(0.0, 1.0, "sad"), (1.0, 3.0, "happy")]}) == "happy"
