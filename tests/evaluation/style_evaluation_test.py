"""Captures joined from clips, and the command on a small world's clips."""

import numpy as np
import pytest

from sedtalker_jax.data.faces.motion_code import true_vertices
from sedtalker_jax.data.records import FACE_SPACE, RecordReader
from sedtalker_jax.evaluation.style_evaluation import joined, main
from sedtalker_jax.face.space import FaceSpace


@pytest.fixture
def clips(tiny_world):
    """Test clips of one head, and the face space."""
    reader = RecordReader(tiny_world, "test")
    records = [reader[row] for row in range(len(reader))]
    return [record for record in records if record["template"] == records[0]["template"]], FaceSpace.load(
        tiny_world / FACE_SPACE
    )


def test_sound_face_and_emotion_of_a_capture_stay_together(clips):
    records, space = clips
    whole = sum(len(record["motion"]) for record in records)
    waveform, vertices, felt = joined(records, space, 1_000.0)
    assert len(vertices) == len(felt) == whole
    assert abs(len(waveform) - whole / records[0]["fps"] * 16_000) <= 1
    last = records[-1]
    start = whole - len(last["motion"])
    np.testing.assert_array_equal(vertices[start:], true_vertices(last, space))
    np.testing.assert_array_equal(felt[start:], np.asarray(last["activation"], np.float32))
    first = round(start / last["fps"] * 16_000)
    np.testing.assert_array_equal(waveform[first : first + 8_000], np.asarray(last["waveform"], np.float32)[:8_000])
    cut = joined(records, space, 0.5)
    assert [len(part) for part in cut] == [8_000, 15, 15]
    np.testing.assert_array_equal(cut[1], vertices[:15])


def test_mistakes_get_one_line(tiny_world, tmp_path, capsys):
    for flags in (["--data", str(tiny_world), "--seconds", "1"], ["--data", str(tmp_path)]):
        assert main(["--checkpoint", str(tmp_path), *flags]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
