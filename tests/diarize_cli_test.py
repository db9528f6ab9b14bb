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
    assert "2 of 3 recordings" in errors(capsys)[-1]
    shown = tmp_path / "nothing-left"
    shown.mkdir()
    for name in "abcde":
        (shown / f"{name}.json").touch()
    assert run(recordings, tmp_path / "no-checkpoint", shown) == 0, "with nothing to do, no model is loaded"


def test_mistakes_are_one_line(recordings, smoke_checkpoint, tmp_path, capsys):
    assert run(recordings, smoke_checkpoint, tmp_path, "--jobs", "0") == 2
    assert errors(capsys) == ["error: --jobs must be at least 1, not 0"]
    assert run(recordings, tmp_path, tmp_path / "out", "--jobs", "2") == 2
    (line,) = errors(capsys)
    assert str(tmp_path) in line and "train.py" in line
