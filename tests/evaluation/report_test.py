import base64
import json
import math
import re

import numpy as np
import pytest

from sedtalker_jax.emotion import CANONICAL, EmotionTrack
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation import report
from sedtalker_jax.evaluation.bootstrap import Interval
from sedtalker_jax.evaluation.emotion_metrics import reliability
from sedtalker_jax.evaluation.table import ScoreRow, ScoreTable, format_score, write_metrics_json


def example_table():
    rows = [
        ScoreRow("frame_accuracy", {"ours": Interval(0.41234, 0.38, 0.44, 60, 12), "majority": 0.17}, "", True),
        ScoreRow("lip_vertex_error_rooted_mm", {"ours": Interval(2.5, math.nan, math.nan, 1, 1)}, "mm", False, 2),
        ScoreRow("boundary_f1", {"ours": math.nan, "majority": 0.0}),
    ]
    return ScoreTable("Test <voices>", ["ours", "majority"], rows, "intervals: 95%")


def example_figures():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(8), 200).astype(np.float32)
    track = EmotionTrack(CANONICAL, np.repeat(p[::20], 20, axis=0), rng.uniform(0, 1, 200))
    curve = np.abs(np.sin(np.arange(120) / 9)) * 0.01
    return {
        "confusion": report.confusion_figure(rng.integers(0, 50, (8, 8)) + 200 * np.eye(8, dtype=int), CANONICAL),
        "strip": report.emotion_strip_figure({"truth": track, "predicted": track.segments("median")}, 4.0),
        "lips": report.lip_distance_figure({"truth": curve, "ours": curve * 0.8}, 30.0, [("p", 1.0, 1.1), ("a", 1.1, 1.3)]),
        "error": report.error_over_time_figure({"ours": curve**2, "mean motion": 2 * curve**2}, 30.0),
        "calibration": report.reliability_figure({"ours": reliability(p.argmax(1), p)}),
        "heat": report.heat_map_figure(rng.normal(0, 0.05, (90, 3)), {"ours": rng.uniform(0, 2, 90), "peer": np.full(90, 2.0)}),
        "intensity": report.intensity_figure(["happy", "sad", "sad"], np.array([0.2, 0.4, 0.6]), np.array([0.3, 0.4, 0.5])),
    }


def test_scores_are_printed_with_their_intervals():
    assert format_score(Interval(0.41234, 0.38, 0.44, 60, 12)) == "0.412 [0.380, 0.440]"
    assert format_score(Interval(2.5, math.nan, math.nan, 1, 1), 1) == "2.5"
    assert (format_score(math.nan), format_score(None), format_score(0.5, 2)) == ("n/a", "", "0.50")


def test_table_forms_hold_every_cell():
    table = example_table()
    plain, markdown, page = table.plain(), table.markdown(), table.html()
    for text in (plain, markdown, page):
        for needle in ("frame_accuracy ↑", "0.412 [0.380, 0.440]", "0.170", "lip_vertex_error_rooted_mm [mm] ↓", "2.50", "n/a"):
            assert needle in text
    lines = plain.splitlines()
    assert len({line.index("majority") + len("majority") for line in lines if "majority" in line}) == 1
    assert lines[3].endswith("0.170") and len(lines[3]) == len(lines[1])
    assert markdown.splitlines()[3] == "|---|---:|---:|"
    assert "Test &lt;voices&gt;" in page and "<voices>" not in page
    with pytest.raises(UserError, match="values of theirs"):
        ScoreTable("t", ["ours"], [ScoreRow("m", {"theirs": 1.0})])


def test_metrics_json_is_strict_and_complete(tmp_path):
    path = tmp_path / "metrics.json"
    info = {"hash": "ab", "values": np.array([1.0, np.nan]), "n": np.int64(3)}
    write_metrics_json(path, {"emotion": example_table()}, info)
    document = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    accuracy = document["emotion"]["frame_accuracy"]
    assert accuracy["systems"]["ours"] == {"value": 0.41234, "low": 0.38, "high": 0.44, "num_clips": 60, "num_speakers": 12}
    assert accuracy["systems"]["majority"]["value"] == 0.17 and accuracy["higher_is_better"] is True
    assert document["emotion"]["boundary_f1"]["systems"]["ours"]["value"] is None
    assert document["info"] == {"hash": "ab", "values": [1.0, None], "n": 3}


def test_the_page_holds_its_pictures(tmp_path):
    path = tmp_path / "report.html"
    figures = example_figures()
    report.write_report(path, "Evaluation & more", [example_table()], figures, {"checkpoint": "runs/<demo>"})
    page = path.read_text()
    images = re.findall(r"base64,([A-Za-z0-9+/=]+)'", page)
    assert len(images) == len(figures)
    assert all(base64.b64decode(image).startswith(b"\x89PNG\r\n") for image in images)
    assert "Evaluation &amp; more" in page and "runs/&lt;demo&gt;" in page and "src='http" not in page


def test_pictures_show_their_data(tmp_path):
    """A different matrix gives a different picture, the same matrix the same bytes; files are written whole."""
    counts = np.eye(3, dtype=int) * 10
    first = report.figure_png(report.confusion_figure(counts, ["a", "b", "c"]))
    assert first == report.figure_png(report.confusion_figure(counts, ["a", "b", "c"]))
    assert first != report.figure_png(report.confusion_figure(counts[::-1], ["a", "b", "c"]))
    report.save_figure(report.confusion_figure(counts, ["a", "b", "c"]), tmp_path / "plots" / "confusion.png")
    assert (tmp_path / "plots" / "confusion.png").read_bytes() == first
    texts = [text.get_text() for text in report.confusion_figure(counts, ["a", "b", "c"]).axes[0].texts]
    assert texts == ["100", "0", "0", "0", "100", "0", "0", "0", "100"]


def test_f1_bars_stand_as_high_as_the_table_says_with_its_intervals():
    f1 = {"happy": Interval(0.75, 0.5, 0.9, 60, 12), "sad": Interval(0.25, math.nan, math.nan, 1, 1)}
    table = ScoreTable("by emotion", ["f1"], [ScoreRow(name, {"f1": value}) for name, value in f1.items()])
    axes = report.f1_figure(table).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.75, 0.25]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["happy", "sad"]
    assert [text.get_text() for text in axes.texts] == ["0.75", "0.25"]
    (whisker,) = axes.collections
    np.testing.assert_allclose(whisker.get_segments(), [[[0, 0.5], [0, 0.9]]])


def test_strips_use_the_emotions_colours():
    figure = report.emotion_strip_figure({"truth": [(0, 1, "happy", 0.5), (1, 2, "sad")]}, 2.0)
    assert [handle.get_text() for handle in figure.legends[0].get_texts()] == ["happy", "sad"]


def test_heat_maps_show_the_front_only():
    vertices = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [0, 0, -1], [1, 0, -1], [0, 1, -1.0]])
    front, back = [0, 1, 2], [3, 5, 4]
    assert report._visible_triangles(vertices, np.array([back, front])).tolist() == [front]
    figure = report.heat_map_figure(vertices, {"ours": np.arange(6.0)}, np.array([front, back]))
    assert figure.axes[0].get_title() == "ours: 2.50 mm"
