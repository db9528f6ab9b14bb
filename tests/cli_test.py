"""The commands: a user's mistakes get one line and exit code 2, and outputs are whole or untouched."""

import argparse
import json
import shutil

import numpy as np
import pytest
import soundfile

from sedtalker_jax.cli import main
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
from sedtalker_jax.face.live_link import read_live_link
from sedtalker_jax.face.template import FaceTemplate
from sedtalker_jax.inference.pipeline import Animation, SEDTalker
from sedtalker_jax.inference.style import Style
from sedtalker_jax.outputs import write_animation
from sedtalker_jax.shared_flags import given_basis
from tests.inference.talker import subject_talker


def tone(seconds, rate=16_000, channels=1):
    times = np.arange(int(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * 180 * times) * (1 + np.sin(2 * np.pi * 4 * times)) / 2
    return wave if channels == 1 else np.stack([wave] * channels, axis=1)


@pytest.fixture
def speech(tmp_path):
    path = tmp_path / "speech.wav"
    soundfile.write(path, tone(1.5), 16_000)
    return path


def missing(path):
    return path / "nothing.wav"


def empty(path):
    (path / "x.wav").touch()
    return path / "x.wav"


def too_short(path):
    soundfile.write(path / "x.wav", tone(0.05), 16_000)
    return path / "x.wav"


def text_renamed(path):
    (path / "x.wav").write_text("this is no sound\n" * 100)
    return path / "x.wav"


def not_a_number(path):
    wave = tone(1.0).astype(np.float32)
    wave[500] = np.nan
    soundfile.write(path / "x.wav", wave, 16_000, subtype="FLOAT")
    return path / "x.wav"


def truncated_header(path):
    soundfile.write(path / "whole.wav", tone(1.0), 16_000)
    (path / "x.wav").write_bytes((path / "whole.wav").read_bytes()[:20])
    return path / "x.wav"


def directory(path):
    (path / "folder.wav").mkdir()
    return path / "folder.wav"


BAD_INPUTS = [missing, empty, too_short, text_renamed, not_a_number, truncated_header, directory]


def one_line_error(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and lines[-1] == errors[0], lines
    assert not any("Traceback" in line for line in lines)
    return errors[0]


@pytest.mark.parametrize("command", ["animate", "diarize"])
@pytest.mark.parametrize("make", BAD_INPUTS, ids=lambda f: f.__name__)
def test_bad_audio_gets_one_line_and_leaves_the_old_output(command, make, smoke_checkpoint, tmp_path, capsys):
    bad = make(tmp_path)
    out = tmp_path / ("old.npy" if command == "animate" else "old.rttm")
    out.write_text("precious")
    before = sorted(tmp_path.iterdir())
    assert main([command, str(bad), "--checkpoint", str(smoke_checkpoint), "--out", str(out)]) == 2
    error = one_line_error(capsys)
    assert str(bad) in error
    assert out.read_text() == "precious"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--out", "{tmp}/x.avi"], ".avi"),
        (["--out", "{tmp}"], "folder"),
        (["--out", "/proc/nothing/x.npy"], "/proc/nothing/x.npy"),
        (["--out", "{tmp}/x.npy", "--emotion", "bored"], "bored"),
        (["--out", "{tmp}/x.npy", "--emotion", "happy", "--intensity", "1.5"], "--intensity"),
        (["--out", "{tmp}/x.npy", "--intensity", "0.5"], "--intensity"),
        (["--out", "{tmp}/" + 300 * "x" + ".npy"], "name too long"),
        (["--out", "{tmp}/x.npy", "--template", "{tmp}/no.ply"], "no.ply"),
        (["--out", "{tmp}/x.npy", "--track", "{tmp}/no.json"], "no.json"),
        (["--out", "{tmp}/x.npy", "--size", "9"], "--size"),
        (["--out", "{tmp}/x.npy", "--subject", "ann"], "knows no subjects"),
        (["--out", "{tmp}/x.npy", "--trajectory", "happy,bored"], "--trajectory happy,bored: unknown emotion 'bored'"),
        (["--out", "{tmp}/x.npy", "--emotion", "happy,sad"], "--emotion happy,sad: unknown emotion"),
        (["--out", "{tmp}/x.npy", "--emotion", ""], "--emotion : unknown emotion ''"),
        (["--out", "{tmp}/x.npy", "--trajectory", ""], "--trajectory : unknown emotion ''"),
        (["--out", "{tmp}/x.npy", "--emotion", "", "--track", ""], "--track and --emotion"),
        (["--out", "{tmp}/x.npy", "--track", ""], "unknown emotion track format"),
        (["--out", "{tmp}/x.npy", "--style", ""], "no style"),
        (["--out", "{tmp}/x.npy", "--embedding", ""], "no .npy file of an embedding"),
        (["--out", "{tmp}/x.npy", "--trajectory", "happy", "--emotion", "sad"], "--emotion and --trajectory"),
        (["--out", "{tmp}/x.npy", "--strength", "-1"], "shaping: strength must not be negative"),
        (["--out", "{tmp}/x.npy", "--contrast", "0"], "shaping: contrast must be positive"),
        (["--out", "{tmp}/x.npy", "--max-emotions", "9"], "shaping: max_emotions must lie between 1 and 7"),
        (["--out", "{tmp}/x.npy", "--mood", "hapy"], "did you mean 'happy'"),
        (["--out", "{tmp}/x.npy", "--mood-share", "0.5"], "--mood-share"),
        (["--out", "{tmp}/x.npy", "--mood", "sad", "--mood-share", "2"], "--mood-share 2.0: must lie between 0 and 1"),
        (["--out", "{tmp}/x.npy", "--keys", "{tmp}/no.json"], "no.json"),
        (["--out", "{tmp}/x.csv", "--basis", "{tmp}/no.npz"], "no.npz"),
    ],
)
def test_bad_flags_of_animate_are_named(arguments, expected, speech, smoke_checkpoint, tmp_path, capsys):
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    assert main(["animate", str(speech), "--checkpoint", str(smoke_checkpoint), *filled]) == 2
    assert expected in one_line_error(capsys)


def test_a_folder_without_a_checkpoint_is_named_with_the_remedy(speech, tmp_path, capsys):
    assert main(["diarize", str(speech), "--checkpoint", str(tmp_path)]) == 2
    error = one_line_error(capsys)
    assert str(tmp_path) in error and "train.py" in error


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def arrays(step):
    return [path for path in (step / "state").rglob("d/*") if path.is_file()]


@pytest.mark.parametrize(
    "damage",
    [
        lambda step: cut(step / "meta" / "metadata"),
        lambda step: (step / "meta" / "metadata").write_bytes(b""),
        lambda step: cut(step / "state" / "_METADATA"),
        lambda step: (step / "state" / "_METADATA").unlink(),
        lambda step: (step / "state" / "manifest.ocdbt").unlink(),
        lambda step: cut(step / "state" / "manifest.ocdbt"),
        lambda step: [path.unlink() for path in arrays(step)],
        lambda step: [cut(path) for path in arrays(step)],
        lambda step: shutil.rmtree(step / "state"),
    ],
    ids=["meta", "empty meta", "metadata", "no metadata", "no manifest", "manifest", "no arrays", "arrays", "no state"],
)
def test_a_damaged_checkpoint_gets_one_line(damage, speech, smoke_checkpoint, tmp_path, capfd):
    copied = tmp_path / "copied"
    shutil.copytree(smoke_checkpoint, copied, ignore=shutil.ignore_patterns("events", "plots"))
    damage(max((copied / "checkpoints").iterdir(), key=lambda step: int(step.name)))
    assert main(["diarize", str(speech), "--checkpoint", str(copied)]) == 2
    error = one_line_error(capfd)
    assert str(copied) in error and "copy it again" in error


def test_a_template_of_another_topology_says_why_it_cannot_be_used(speech, smoke_checkpoint, tmp_path, capsys):
    path = tmp_path / "triangle.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    out = tmp_path / "x.npy"
    assert (
        main(["animate", str(speech), "--checkpoint", str(smoke_checkpoint), "--template", str(path), "--out", str(out)]) == 2
    )
    error = one_line_error(capsys)
    assert "3 vertices" in error and not out.exists()


@pytest.fixture
def animate(speech, monkeypatch):
    """Runs the command with a model of random parameters that knows subjects."""
    monkeypatch.setattr(SEDTalker, "load", classmethod(lambda cls, directory: subject_talker()))
    return lambda *flags: main(["animate", str(speech), "--checkpoint", "checkpoint", *map(str, flags)])


def test_emotions_have_any_case_and_synonyms(animate, tmp_path):
    out = tmp_path / "x.npz"
    for flags, leading in (
        (["--emotion", "joy"], "happy"),
        (["--emotion", "Happy"], "happy"),
        (["--trajectory", "Anger"], "angry"),
    ):
        assert animate(*flags, "--out", out) == 0
        with np.load(out) as stored:
            assert {stored["labels"][k] for k in stored["probabilities"].argmax(axis=1)} == {leading}


def test_the_file_that_does_not_fit_is_named_and_not_the_recording(animate, tmp_path, capsys):
    (tmp_path / "triangle.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    EmotionTrack.constant("bored", 1.0, 1.5, labels=("neutral", "bored")).save(tmp_path / "bored.npz")
    with np.load(tmp_path / "bored.npz") as stored:
        arrays = dict(stored)
    np.savez(tmp_path / "sums.npz", **{**arrays, "probabilities": 3 * arrays["probabilities"]})
    nothing = {"probabilities": np.zeros((0, 2)), "intensity": np.zeros(0)}
    np.savez(tmp_path / "empty.npz", **{**arrays, **nothing, "labels": np.array(["neutral", "happy"])})
    Style(np.zeros((16, 6), np.float32), np.zeros(6, np.float32), None, "0" * 16).save(tmp_path / "style.npz")
    np.save(tmp_path / "vector.npy", np.zeros(3))
    named = [
        ("--template", "head-99", "'head-99' in this face space; it has head-0, head-1"),
        ("--template", tmp_path / "triangle.obj", "triangle.obj: template 'triangle' has 3 vertices"),
        ("--track", tmp_path / "bored.npz", "bored.npz: the track speaks of bored"),
        ("--track", tmp_path / "sums.npz", "sums.npz: emotion probabilities must sum to one"),
        ("--track", tmp_path / "empty.npz", "empty.npz: the emotion track is empty"),
        ("--style", tmp_path / "style.npz", "style.npz: the style was fitted to another checkpoint"),
        ("--embedding", tmp_path / "vector.npy", "vector.npy: this checkpoint reads no embedding"),
        ("--subject", "zed", "checkpoint: subject 'zed' is none of those"),
    ]
    for flag, value, expected in named:
        assert animate(flag, value, "--out", tmp_path / "x.npy") == 2
        error = one_line_error(capsys)
        assert expected in error and "speech.wav" not in error, error


def test_no_output_takes_the_place_of_another_file_of_the_command(animate, speech, tmp_path, capsys):
    names = ("old.npz", "style.npz", "track.npz", "face.npz", "vector.npy", "sound.mp4")
    for name in names:
        (tmp_path / name).write_text("precious")
    (tmp_path / "link.npz").symlink_to("old.npz")
    colliding = [
        ["--out", "old.npz", "--out", "old.npz"],
        ["--out", "old.npz", "--out", "link.npz"],
        *(["--out", name, f"--{flag}", name] for flag, name in (("style", "style.npz"), ("track", "track.npz"))),
        *(["--out", name, f"--{flag}", name] for flag, name in (("template", "face.npz"), ("embedding", "vector.npy"))),
    ]
    for flags in colliding:
        assert animate(*(flag if flag.startswith("-") else tmp_path / flag for flag in flags)) == 2
        assert flags[-1] in (error := one_line_error(capsys)) and "the same command" in error
    video = tmp_path / "sound.mp4"
    assert main(["animate", str(video), "--checkpoint", "checkpoint", "--out", str(video)]) == 2
    assert "sound.mp4: the same command reads it" in one_line_error(capsys)
    assert all((tmp_path / name).read_text() == "precious" for name in names)


def test_animate_writes_frames_of_the_recordings_length(speech, smoke_checkpoint, tmp_path):
    npy, npz = tmp_path / "deep" / "x.npy", tmp_path / "x.npz"
    assert main(["animate", str(speech), "--checkpoint", str(smoke_checkpoint), "--out", str(npy), "--out", str(npz)]) == 0
    vertices = np.load(npy)
    assert vertices.shape[0] == 45 and vertices.shape[2] == 3 and np.isfinite(vertices).all()
    with np.load(npz) as stored:
        np.testing.assert_array_equal(stored["vertices"], vertices)
        assert stored["faces"].max() == vertices.shape[1] - 1 and stored["fps"] == 30


def test_programs_of_artists_get_what_the_arrays_hold(smoke_checkpoint, speech, tmp_path, capsys):
    from pxr import Gf, Usd, UsdGeom, UsdSkel

    names = ("talk.npy", "talk.glb", "talk.usdc", "talk.csv")
    outs = [part for name in names for part in ("--out", str(tmp_path / name))]
    assert main(["animate", str(speech), "--checkpoint", str(smoke_checkpoint), *outs]) == 0
    printed = capsys.readouterr().out
    assert printed.count("frames at 30 fps") == len(names)
    assert "63 named shapes and " in printed and "; blendshapes leave 0." in printed
    vertices = np.load(tmp_path / "talk.npy")
    stage = Usd.Stage.Open(str(tmp_path / "talk.usdc"))
    mesh = UsdGeom.Mesh.Get(stage, "/Face/Mesh")
    assert mesh.GetPrim().GetAttribute("userProperties:emotion:happy").GetNumTimeSamples() > 10
    assert UsdSkel.BakeSkinning(UsdSkel.Root.Get(stage, "/Face"), Gf.Interval(0, len(vertices) - 1))
    for frame in (0, len(vertices) - 1):
        np.testing.assert_allclose(np.array(mesh.GetPointsAttr().Get(frame)), vertices[frame], atol=1.1e-4)
    assert (tmp_path / "talk.glb").read_bytes()[:4] == b"glTF"
    assert len((tmp_path / "talk.csv").read_text().splitlines()) == len(vertices) + 1


def test_blendshapes_of_a_face_come_from_a_file_where_it_has_no_rig(tmp_path):
    face = FaceTemplate("scan", "mesh-4", np.eye(4, 3, dtype=np.float32), np.array([[0, 1, 2]], np.int32), {})
    csv, glb = [tmp_path / "a.csv"], [tmp_path / "a.glb"]

    def basis(given, targets):
        return given_basis(argparse.Namespace(basis=given), face, targets)

    assert basis(None, glb) is None
    with pytest.raises(UserError, match="a.csv: no blendshapes are known for topology mesh-4; give them as --basis"):
        basis(None, csv)
    file = tmp_path / "basis.npz"
    np.savez(file, mean=face.vertices, shapes=np.ones((1, 4, 3)), names=np.array(["jawOpen"]))
    assert basis(file, csv).shape_names == ("jawOpen",)
    np.savez(file, mean=face.vertices, shapes=np.ones((1, 4, 3)), names=np.array(["own"]))
    assert basis(file, glb).shape_names == ("own",)
    with pytest.raises(UserError, match="basis.npz: none of its 1 shapes"):
        basis(file, csv)
    np.savez(file, mean=np.eye(3), shapes=np.ones((1, 3, 3)))
    with pytest.raises(UserError, match="basis.npz: its shapes have 3 vertices, the face 4"):
        basis(file, glb)


def test_a_csv_says_what_arkits_weights_alone_leave_of_the_motion(tmp_path):
    """A shape of another name explains the motion whole, but the file has no column for it."""
    rest = np.random.default_rng(0).uniform(0, 0.2, (4, 3)).astype(np.float32)
    moved, half = np.zeros((4, 3)), np.zeros((4, 3))
    moved[:, 1] = half[:2, 1] = 0.01
    basis = BlendshapeBasis("own", rest, np.stack([moved, half]), ("own", "jawOpen"))
    face = FaceTemplate("scan", "mesh-4", rest, np.array([[0, 1, 2]], np.int32), {})
    track = EmotionTrack(("neutral",), np.ones((1, 1)), np.zeros(1))
    animation = Animation((rest + moved[None]).astype(np.float32), face.faces, 30.0, face, track)
    report = write_animation(tmp_path / "talk.csv", animation, np.zeros(533, np.float32), basis=basis)
    assert "blendshapes leave 7.07 of 10.00 mm" in report
    assert read_live_link(tmp_path / "talk.csv")[0].max() == pytest.approx(1.0, abs=1e-3)


def test_silence_gives_a_finite_result(smoke_checkpoint, tmp_path):
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(16_000), 16_000)
    out = tmp_path / "x.npy"
    assert main(["animate", str(path), "--checkpoint", str(smoke_checkpoint), "--out", str(out)]) == 0
    assert np.isfinite(np.load(out)).all()


def test_any_rate_and_channel_count_is_read(smoke_checkpoint, tmp_path):
    for name, rate, channels in [("a.wav", 44_100, 2), ("b.flac", 48_000, 1), ("c.ogg", 22_050, 2), ("d.mp3", 16_000, 1)]:
        soundfile.write(tmp_path / name, tone(1.2, rate, channels), rate)
    assert (
        main(
            [
                "diarize",
                str(tmp_path),
                "--checkpoint",
                str(smoke_checkpoint),
                "--out-dir",
                str(tmp_path / "out"),
                "--format",
                "json",
                "--per-frame",
            ]
        )
        == 0
    )
    tracks = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in tracks] == ["a.json", "b.json", "c.json", "d.json"]
    for path in tracks:
        track = EmotionTrack.load(path)
        assert abs(track.num_frames - 59) <= 3
        assert json.loads(path.read_text())["duration"] == pytest.approx(1.2, abs=0.1)


def test_diarizing_a_folder_again_keeps_what_is_done(smoke_checkpoint, speech, tmp_path):
    (tmp_path / "out").mkdir()
    done = tmp_path / "out" / "speech.rttm"
    done.write_text("kept")
    command = ["diarize", str(speech), "--checkpoint", str(smoke_checkpoint), "--out-dir", str(tmp_path / "out")]
    assert main(command) == 0
    assert done.read_text() == "kept"
    assert main([*command, "--overwrite"]) == 0
    assert done.read_text().startswith("SPEAKER")


def test_a_written_track_drives_the_face(smoke_checkpoint, speech, tmp_path, capsys):
    track, out = tmp_path / "track.json", tmp_path / "x.npz"
    checkpoint = ["--checkpoint", str(smoke_checkpoint)]
    assert main(["diarize", str(speech), *checkpoint, "--out", str(track)]) == 0
    assert main(["animate", str(speech), *checkpoint, "--track", str(track), "--out", str(out)]) == 0
    assert main(["diarize", str(speech), *checkpoint]) == 0
    assert "intensity" in capsys.readouterr().out


def test_a_trajectory_takes_the_face_through_its_emotions(smoke_checkpoint, speech, tmp_path):
    out = tmp_path / "x.npz"
    flags = ["--checkpoint", str(smoke_checkpoint), "--trajectory", "angry,neutral,happy", "--intensity", "0.7"]
    assert main(["animate", str(speech), *flags, "--out", str(out)]) == 0
    with np.load(out) as stored:
        labels = stored["labels"].tolist()
        leading = [labels[k] for k in stored["probabilities"][[0, 37, -1]].argmax(axis=1)]
        np.testing.assert_allclose(stored["intensity"], 0.7, atol=1e-6)
    assert leading == ["angry", "neutral", "happy"]


def test_shaping_and_keys_change_what_drives_the_face(smoke_checkpoint, speech, tmp_path):
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{"time": 0, "happy": 1.0}]}))

    def vertices(name, *flags):
        out = tmp_path / f"{name}.npy"
        assert main(["animate", str(speech), "--checkpoint", str(smoke_checkpoint), "--out", str(out), *flags]) == 0
        return np.load(out)

    neutral, happy = vertices("neutral", "--emotion", "neutral"), vertices("happy", "--emotion", "happy")
    assert np.abs(happy - neutral).max() > 1e-6
    same = {
        "strength": (neutral, "--strength", "0"),
        "keys": (happy, "--keys", str(tmp_path / "keys.json")),
        "mood": (happy, "--mood", "joy", "--mood-share", "1"),
        "calm": (neutral, "--mood", "neutral", "--mood-share", "1", "--emotion", "sad"),
        "late": (happy, "--emotion", "happy", "--transition", "0.5"),
    }
    for name, (expected, *flags) in same.items():
        np.testing.assert_allclose(vertices(name, *flags), expected, atol=1e-7, err_msg=name)


def test_real_recordings_give_frames_of_their_length(samples, smoke_checkpoint, tmp_path):
    recordings = sorted((samples / "speech").glob("*.wav"))
    assert len(recordings) == 4
    for path in recordings:
        out = tmp_path / "x.npy"
        assert main(["animate", str(path), "--checkpoint", str(smoke_checkpoint), "--out", str(out)]) == 0
        assert abs(len(np.load(out, mmap_mode="r")) - soundfile.info(path).duration * 30) <= 1
