"""The edit command on a system of random parameters: its outputs, and one line for every mistake."""

import json

import numpy as np
import pytest
import soundfile

from sedtalker_jax.cli import main
from sedtalker_jax.editing_cli import read_schedule
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.style import Style
from tests.inference.talker import noise, tiny_talker


@pytest.fixture
def edit(tmp_path, monkeypatch):
    """Runs the command on 0.9 s of noise with these arguments, {tmp} filled in."""
    monkeypatch.setattr(SEDTalker, "load", classmethod(lambda cls, directory: tiny_talker()))
    soundfile.write(tmp_path / "speech.wav", noise(0.9), 16_000, subtype="FLOAT")

    def run(*arguments):
        filled = [argument.format(tmp=tmp_path) for argument in arguments]
        return main(["edit", str(tmp_path / "speech.wav"), "--checkpoint", "checkpoint", *filled])

    return run


def file(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps({"edits": content}))


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--emotion", "bored", "1"], "unknown emotion 'bored'"),
        (["--bored", "1"], "--bored"),
        (["--happy", "1", "--from", "bored"], "unknown emotion 'bored'"),
        (["--happy", "1", "--from", "happy"], "leads nowhere"),
        (["--happy", "much"], "--happy much"),
        (["--happy", "9"], "between -5 and 5"),
        (["--happy", "nan"], "between -5 and 5"),
        (["--happy", "1", "--at", "0.5"], "--at 0.5"),
        (["--happy", "1", "--at", "a-b"], "--at a"),
        (["--happy", "1", "--at", "0.5-0.2"], "start < end"),
        (["--happy", "1", "--at", "0.5-7"], "7 s"),
        (["--at", "0.1-0.2"], "follow the emotion"),
        ([], "no edit is given"),
        (["--happy", "1", "--words", "{tmp}/words.txt"], "--words"),
        (["--schedule", "{tmp}/none.json"], "none.json"),
        (["--happy", "1", "--track-out", "{tmp}/x.avi"], ".avi"),
        (["--happy", "1", "--plot", "{tmp}/x.gif"], ".gif"),
        (["--happy", "1", "--size", "9"], "--size"),
    ],
)
def test_a_mistake_gets_one_line_and_leaves_the_old_output(arguments, expected, edit, tmp_path, capsys):
    out = tmp_path / "old.npz"
    out.write_text("precious")
    assert edit("--out", str(out), *arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and expected in lines[0], lines
    assert out.read_text() == "precious" and not (tmp_path / "old.track.json").exists()


def test_a_flag_that_other_commands_read_is_not_taken_for_one_that_begins_like_it(edit, tmp_path, capsys):
    mine = tmp_path / "mine.json"
    mine.write_text("precious")
    assert edit("--happy", "1", "--track", "{tmp}/mine.json") == 2
    error = capsys.readouterr().err.strip()
    assert "does not know --track" in error and "\n" not in error
    assert mine.read_text() == "precious"


@pytest.mark.parametrize(
    "flags",
    [
        ["--out", "{tmp}/a.npz", "--track-out", "{tmp}/a.npz"],
        ["--sheet", "{tmp}/a.png", "--plot", "{tmp}/a.png"],
        ["--out", "{tmp}/a.npz", "--style", "{tmp}/a.npz"],
        ["--out", "{tmp}/a.npz", "--template", "{tmp}/a.npz"],
        ["--track-out", "{tmp}/a.json", "--schedule", "{tmp}/a.json"],
        ["--out", "{tmp}/a.npz", "--schedule", "{tmp}/a.track.json"],
        ["--track-out", "{tmp}/a.txt", "--schedule", "{tmp}/b.json", "--words", "{tmp}/a.txt"],
    ],
)
def test_no_output_takes_the_place_of_another_file_of_the_command(flags, edit, tmp_path, capsys):
    for name in ("a.npz", "a.png", "a.json", "a.track.json", "a.txt"):
        (tmp_path / name).write_text("precious")
    assert edit("--happy", "1", *flags) == 2
    error = capsys.readouterr().err.strip()
    assert "the same command" in error and "\n" not in error
    assert all((tmp_path / name).read_text() == "precious" for name in ("a.npz", "a.png", "a.json", "a.track.json", "a.txt"))


@pytest.mark.parametrize("flag", ["--schedule", "--words", "--sheet", "--plot", "--track-out"])
def test_an_empty_name_is_none(flag, edit, capsys):
    assert edit("--happy", "1", "--out", "{tmp}/x.npz", flag, "") == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--template", "head-99"], "'head-99'"),
        (["--style", "{tmp}/style.npz"], "style.npz: the style was fitted to another checkpoint"),
        (["--subject", "ann"], "error: this checkpoint knows no subjects"),
    ],
)
def test_what_does_not_fit_the_model_is_named_and_not_the_recording(flags, expected, edit, tmp_path, capsys):
    Style(np.zeros((16, 6), np.float32), np.zeros(6, np.float32), None, "0" * 16).save(tmp_path / "style.npz")
    assert edit("--happy", "1", "--out", "{tmp}/x.npz", *flags) == 2
    error = capsys.readouterr().err.strip()
    assert expected in error and "speech.wav" not in error and "\n" not in error


@pytest.mark.parametrize(
    "content, expected",
    [
        ("{", "not JSON"),
        ('{"edits": [1%s]}' % ("0" * 5_000), "not JSON"),
        ('{"edits": [{"emotion": "happy", "alpha": 1%s}]}' % ("0" * 400), "edit 1: malformed"),
        ('{"emotions": []}', 'a list "edits"'),
        ([], "no edits"),
        ([{"alpha": 1}], "edit 1"),
        ([{"emotion": "happy"}], 'either "alpha" or "keys"'),
        ([{"emotion": "happy", "alpha": 1, "colour": "red"}], "unknown key colour"),
        (
            [{"emotion": "sad", "alpha": 1}, {"emotion": "happy", "keys": [[0.5, 0], [0.2, 1]]}],
            "edit 2: key frames must come in",
        ),
        ([{"emotion": "happy", "keys": [[0.1, 0.5, 1]]}], "pairs"),
        ([{"emotion": "happy", "keys": [[0, 0], [0.5, 1]], "interpolation": "cubic"}], "unknown interpolation"),
        ([{"emotion": "happy", "keys": [[0, 0], [4, 1]]}], "4 s"),
        ([{"emotion": "bored", "alpha": 1}], "unknown emotion 'bored'"),
        ([{"emotion": "happy", "alpha": 1, "word": "really"}], "alignment"),
    ],
)
def test_a_malformed_schedule_gets_one_line(content, expected, edit, tmp_path, capsys):
    file(tmp_path / "edits.json", content)
    assert edit("--schedule", "{tmp}/edits.json", "--out", "{tmp}/x.npz") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and expected in lines[0], lines
    assert not (tmp_path / "x.npz").exists()


def test_a_recording_that_is_too_short_is_named(edit, tmp_path, capsys):
    soundfile.write(tmp_path / "speech.wav", noise(0.05), 16_000, subtype="FLOAT")
    assert edit("--happy", "1", "--out", "{tmp}/x.npz") == 2
    assert str(tmp_path / "speech.wav") in capsys.readouterr().err


def test_flags_belong_to_the_emotion_before_them():
    typed = [{"emotion": "happy", "alpha": "0.8", "at": "2.0-4.5"}, {"emotion": "sad", "alpha": "-0.5", "from": "fear"}]
    happy, sad = read_schedule(typed).edits
    assert (happy.target, happy.alpha, happy.start, happy.end, happy.source) == ("happy", 0.8, 2.0, 4.5, None)
    assert (sad.target, sad.alpha, sad.start, sad.end, sad.source) == ("sad", -0.5, None, None, "fear")


def test_flags_and_a_schedule_by_words_act_together(edit, tmp_path):
    (tmp_path / "words.txt").write_text("0.1\t0.3\tnot\n0.3\t0.6\treally\n")
    file(tmp_path / "edits.json", [{"emotion": "surprise", "alpha": 1.0, "word": "Really"}])
    words = ("--schedule", "{tmp}/edits.json", "--words", "{tmp}/words.txt")
    assert edit("--happy", "0.8", "--at", "0.1-0.2", *words, "--track-out", "{tmp}/both.npz") == 0
    assert edit("--happy", "0.8", "--at", "0.1-0.2", "--track-out", "{tmp}/happy.npz") == 0
    both, happy = (EmotionTrack.load(tmp_path / f"{name}.npz") for name in ("both", "happy"))
    changed = np.abs(both.probabilities - happy.probabilities).max(axis=1) > 0
    inside = (both.times >= 0.2) & (both.times <= 0.7)
    assert changed[inside].mean() > 0.9 and not changed[~inside].any()


def test_the_edited_track_lies_beside_the_first_output_and_pictures_are_drawn(edit, tmp_path, capsys):
    assert edit("--happy", "1", "--out", "{tmp}/x.npz", "--out", "{tmp}/x.npy", "--plot", "{tmp}/plot.png") == 0
    track = EmotionTrack.load(tmp_path / "x.track.json")
    expected = tiny_talker().edit(
        soundfile.read(tmp_path / "speech.wav", dtype="float32")[0], read_schedule([{"emotion": "happy", "alpha": "1"}])
    )
    np.testing.assert_allclose(track.probabilities, expected.track.probabilities, atol=1e-5)
    with np.load(tmp_path / "x.npz") as stored:
        np.testing.assert_array_equal(stored["vertices"], np.load(tmp_path / "x.npy"))
        assert len(stored["vertices"]) == 27
    assert (tmp_path / "plot.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "x.track.json" in capsys.readouterr().out


def test_the_sheet_needs_no_edit(edit, tmp_path):
    from PIL import Image

    assert edit("--sheet", "{tmp}/sheet.png") == 0
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.size == (92 + 7 * 150, 26 + 8 * 150)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet.png", "speech.wav"]
