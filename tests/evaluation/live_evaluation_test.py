"""Live animation scored: a perfect face has no error, and the command's columns are the lookaheads."""

import numpy as np

from sedtalker_jax.data.faces.motion_code import true_vertices
from sedtalker_jax.data.records import FACE_SPACE, RecordReader
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.evaluation.live_evaluation import WHOLE, _scores, evaluate_live, main
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.inference.pipeline import SEDTalker


def test_the_truth_scores_as_the_truth(tiny_world):
    record, space = RecordReader(tiny_world, "test")[0], FaceSpace.load(tiny_world / FACE_SPACE)
    truth = true_vertices(record, space)
    labels = tuple(record["labels"])
    track = EmotionTrack(labels, np.eye(len(labels))[np.maximum(record["emotion"], 0)], np.zeros(len(record["emotion"])))
    regions = {"lip": space.regions["lips"]}

    def scores(vertices, track=track):
        return {name: a / b for name, (a, b) in _scores(vertices, track, truth, record, regions, 30.0).items()}

    assert scores(truth) == {"lip_mean_squared_error_mm2": 0.0, "lip_jerk_ratio": 1.0, "emotion_accuracy": 1.0}
    moved = truth + np.float32(1e-3) * np.array([0, 1, 0], np.float32)
    np.testing.assert_allclose(scores(moved)["lip_mean_squared_error_mm2"], 1.0, rtol=1e-3)
    wrong = EmotionTrack(labels, np.roll(track.probabilities, 1, axis=1), track.intensity)
    assert scores(truth, wrong)["emotion_accuracy"] == 0.0
    # A track that ends sooner is scored as far as it goes.
    assert scores(truth[:20], EmotionTrack(labels, track.probabilities[:9], track.intensity[:9]))["emotion_accuracy"] == 1.0


def test_columns_are_lookaheads(tiny_world, smoke_checkpoint, tmp_path, capsys):
    model = SEDTalker.load(smoke_checkpoint)
    table = evaluate_live(model, tiny_world, lookaheads=(0.2,), step_s=0.5, num_clips=2)
    assert list(table.systems) == [WHOLE, "lookahead 0.2 s"] and "2 clips" in table.note
    for row in table.rows:
        assert set(row.values) == set(table.systems) and all(np.isfinite(value.value) for value in row.values.values())
    capsys.readouterr()
    for flags in (["--data", str(tmp_path)], ["--data", str(tiny_world), "--clips", "0"]):
        assert main(["--checkpoint", str(smoke_checkpoint), *flags]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
