"""diarize on many recordings: bad ones are named and the others go on, in one process as in several."""

import numpy as np
import pytest
import soundfile

from sedtalker_jax import diarize_cli
from sedtalker_jax.cli import main


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Two folders deep, three recordings, one file that is none and one that is too short."""
    folder = tmp_path_factory.mktemp("recordings")
    (folder / "deep").mkdir()
    for number, name in enumerate(["a.wav", "c.wav", "deep/d.wav"]):
        wave = np.random.default_rng(number).normal(0, 0.1, 16_000 + 4_000 * number)
        soundfile.write(folder / name, wave, 16_000)
    (folder / "b.wav").write_text("this is no sound\n" * 100)
    soundfile.write(folder / "e.wav", np.zeros(400), 16_000)
    return folder


@pytest.fixture(scope="module")
def in_one_process(recordings, smoke_checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    assert run(recordings, smoke_checkpoint, out) == 2
    return out


def run(recordings, checkpoint, out, *flags):
    return main(
        ["diarize", str(recordings), "--checkpoint", str(checkpoint), "--out-dir", str(out), "--format", "json", *flags]
    )


def errors(capsys):
    """Lines of errors; a progress bar redraws its own line and may stand before one."""
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert not any("Traceback" in line for line in lines)
    return [line for line in lines if line.startswith("error: ")]


def test_several_processes_write_what_one_writes(recordings, smoke_checkpoint, in_one_process, tmp_path, capsys):
    assert run(recordings, smoke_checkpoint, tmp_path, "--jobs", "2") == 2
    bad, short, total = errors(capsys)
    assert str(recordings / "b.wav") in bad and f"{recordings / 'e.wav'}: the recording lasts 0.025 s" in short
    assert "2 of 5 recordings" in total and str(tmp_path) in total
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "c.json", "d.json"]
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (in_one_process / path.name).read_bytes()


def test_run_again_it_does_what_is_missing(recordings, smoke_checkpoint, in_one_process, tmp_path, capsys, monkeypatch):
    (tmp_path / "a.json").write_text("kept")
    (tmp_path / "c.json").write_bytes((in_one_process / "c.json").read_bytes())
    done = []
    diarize_file = diarize_cli._diarize_file
    monkeypatch.setattr(diarize_cli, "_diarize_file", lambda *job: done.append(job[1].name) or diarize_file(*job))
    assert run(recordings, smoke_checkpoint, tmp_path) == 2
    assert done == ["b.wav", "d.wav", "e.wav"] and (tmp_path / "a.json").read_text() == "kept"
    shown = capsys.readouterr()
    assert "2 of 5 tracks exist already and stay; --overwrite redoes them" in shown.out
    assert "2 of 3 recordings" in shown.err.strip().splitlines()[-1]
    complete = tmp_path / "nothing-left"
    complete.mkdir()
    for name in "abcde":
        (complete / f"{name}.json").touch()
    assert run(recordings, tmp_path / "no-checkpoint", complete) == 0, "with nothing to do, no model is loaded"
    assert "5 of 5 tracks exist already" in capsys.readouterr().out


def test_recordings_of_one_name_are_named_with_the_remedy(tmp_path, capsys):
    for name in ("a.wav", "clip.flac", "clip.wav"):
        soundfile.write(tmp_path / name, np.zeros(16_000), 16_000)
    assert run(tmp_path, "checkpoint", tmp_path / "out") == 2
    (line,) = errors(capsys)
    assert f"{tmp_path / 'clip.flac'} and {tmp_path / 'clip.wav'} would both become" in line and "a.wav" not in line
    assert "name the files to use instead of the folder" in line


def test_no_track_takes_the_place_of_a_file_that_is_read(recordings, tmp_path, capsys):
    vectors = tmp_path / "a.npz"
    vectors.write_text("precious")
    command = ["diarize", str(recordings / "a.wav"), "--checkpoint", "checkpoint", "--embedding", str(vectors)]
    for flags in (["--out", str(vectors)], ["--out-dir", str(tmp_path), "--format", "npz", "--overwrite"]):
        assert main([*command, *flags]) == 2
        (line,) = errors(capsys)
        assert "a.npz: the same command reads it" in line and vectors.read_text() == "precious"
    assert main([*command[:4], "--out", ""]) == 2
    assert "is a folder" in errors(capsys)[0]


def test_mistakes_are_one_line(recordings, smoke_checkpoint, tmp_path, capsys):
    assert run(recordings, smoke_checkpoint, tmp_path, "--jobs", "0") == 2
    assert errors(capsys) == ["error: --jobs must be at least 1, not 0"]
    assert run(recordings, tmp_path, tmp_path / "out", "--jobs", "2") == 2
    (line,) = errors(capsys)
    assert str(tmp_path) in line and "train.py" in line
