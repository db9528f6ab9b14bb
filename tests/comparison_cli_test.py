"""The compare command: systems side by side, or one line that says what does not fit."""

import av
import numpy as np
import pytest
import soundfile

from sedtalker_jax.cli import main
from sedtalker_jax.comparison_cli import read_panel
from sedtalker_jax.emotion import EmotionTrack

FRAMES, FPS = 8, 30.0
FACES = np.array([[0, 1, 2], [1, 3, 2]])
SHEET = np.array([[-0.1, -0.1, 0], [0.1, -0.1, 0], [-0.1, 0.1, 0], [0.1, 0.1, 0]], np.float32)


@pytest.fixture
def files(tmp_path):
    """ours.npz as animate writes it, theirs.npy flat as peers do, and what goes with them."""
    motion = SHEET + 0.01 * np.sin(np.arange(FRAMES))[:, None, None].astype(np.float32)
    track = EmotionTrack.trajectory(["happy", "sad"], 1.0, FRAMES / FPS)
    np.savez(
        tmp_path / "ours.npz", vertices=motion, faces=FACES, fps=FPS, labels=np.array(track.labels),
        probabilities=track.probabilities, intensity=track.intensity,
        track_frame_rate=track.frame_rate, track_start=track.start,
    )  # fmt: skip
    np.save(tmp_path / "theirs.npy", motion.reshape(FRAMES, -1))
    np.save(tmp_path / "short.npy", motion[:4])
    np.save(tmp_path / "other.npy", np.zeros((FRAMES, 5, 3), np.float32))
    (tmp_path / "face.obj").write_text(
        "".join(f"v {x} {y} {z}\n" for x, y, z in SHEET) + "".join(f"f {a + 1} {b + 1} {c + 1}\n" for a, b, c in FACES)
    )
    EmotionTrack.constant("angry", 0.5, FRAMES / FPS).save(tmp_path / "angry.json")
    EmotionTrack.constant("bored", 0.5, FRAMES / FPS, ("neutral", "bored")).save(tmp_path / "bored.json")
    with np.load(tmp_path / "ours.npz") as stored:
        whole = dict(stored)
    changes = {
        "flat": {"vertices": motion.reshape(FRAMES, -1)},
        "nan": {"vertices": np.where(motion > 0.1, np.nan, motion)},
        "words": {"vertices": np.full(motion.shape, "x")},
        "far": {"faces": FACES + 2},
        "quads": {"faces": np.array([[0, 1, 3, 2]])},
        "halves": {"faces": FACES / 2},
        "still": {"fps": 0.0},
        "sums": {"probabilities": 2 * track.probabilities},
        "bored": {"labels": np.array(["bored", *track.labels[1:]])},
    }
    for name, change in changes.items():
        np.savez(tmp_path / f"{name}.npz", **{**whole, **change})
    soundfile.write(tmp_path / "speech.wav", 0.1 * np.sin(np.arange(4800) / 9), 16_000)
    return tmp_path


def compare(files, *arguments):
    return main(["compare", *(argument.format(d=files) for argument in arguments), "--out", str(files / "both.mp4")])


def test_two_systems_stand_side_by_side_with_sound(files):
    flags = ("--template", "{d}/face.obj", "--track", "theirs={d}/angry.json", "--audio", "{d}/speech.wav", "--size", "128")
    assert compare(files, "ours={d}/ours.npz", "theirs={d}/theirs.npy", *flags) == 0
    with av.open(str(files / "both.mp4")) as video:
        pictures = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert len(video.streams.audio) == 1
    assert len(pictures) == FRAMES and pictures[0].shape[1] == 256
    left, right = pictures[0][:, :128].astype(int), pictures[0][:, 128:].astype(int)
    header, strip = 28, 28 + 128
    assert np.abs(left[header:strip] - right[header:strip]).mean() < 3, "one motion, so one face"
    assert np.abs(left[strip:] - right[strip:]).mean() > 3, "two emotions"
    assert np.abs(left[:header] - right[:header]).max() > 60, "two names"


def test_an_npz_may_hold_vertices_alone(files):
    with np.load(files / "ours.npz") as stored:
        np.savez(files / "bare.npz", vertices=stored["vertices"])
    bare, fps = read_panel("bare", files / "bare.npz", str(files / "face.obj"), None, 24.0)
    assert fps == 24.0 and bare.track is None
    np.testing.assert_array_equal(bare.faces, FACES)
    whole, fps = read_panel("whole", files / "ours.npz", None, None, 24.0)
    assert fps == FPS and whole.track is not None
    np.testing.assert_array_equal(bare.vertices, whole.vertices)
    assert compare(files, "ours={d}/bare.npz", "--size", "64") == 2


def test_flat_vertices_may_lie_in_an_npz(files):
    assert compare(files, "ours={d}/flat.npz", "--size", "64") == 0


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["{d}/ours.npz"], "NAME=FILE"),
        (["a={d}/ours.npz", "a={d}/ours.npz"], "NAME=FILE"),
        (["a={d}/nothing.npz"], "nothing.npz"),
        (["a={d}/angry.json"], "angry.json"),
        (["a={d}/theirs.npy"], "--template"),
        (["a={d}/other.npy", "--template", "{d}/face.obj"], "5 vertices"),
        (["a={d}/ours.npz", "b={d}/short.npy", "--template", "{d}/face.obj"], "8, 4 frames"),
        (["a={d}/ours.npz", "b={d}/theirs.npy", "--template", "{d}/face.obj", "--fps", "25"], "30 (a), 25 (b) fps"),
        (["a={d}/ours.npz", "--track", "b={d}/angry.json"], "--track b"),
        (["a={d}/nan.npz"], "nan.npz: shape"),
        (["a={d}/words.npz"], "words.npz: neither vertices nor"),
        (["a={d}/far.npz"], "far.npz: its faces"),
        (["a={d}/quads.npz"], "quads.npz: its faces"),
        (["a={d}/halves.npz"], "halves.npz: its faces"),
        (["a={d}/still.npz"], "still.npz: moves at 0"),
        (["a={d}/sums.npz"], "sums.npz: emotion probabilities"),
        (["a={d}/bored.npz"], "bored.npz: labels without a face: bored"),
        (["a={d}/ours.npz", "--track", "a={d}/bored.json"], "bored.json: labels without a face: bored"),
        (["a={d}/ours.npz", "--audio", "{d}/both.mp4"], "both.mp4: the same command reads it"),
        ([f"{name}={{d}}/ours.npz" for name in "abcde"] + ["--size", "4096"], "both.mp4: 5 faces of 4096 pixels"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(files, arguments, expected, capsys):
    assert compare(files, *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert expected in error and "\n" not in error and error.startswith("error: ")
    assert not (files / "both.mp4").exists()
