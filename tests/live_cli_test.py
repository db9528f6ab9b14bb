"""The live command: datagrams as Unreal reads them, the same frames from a pipe as from a file, and an end by Ctrl-C."""

import csv
import signal
import socket
import struct
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import soundfile

from sedtalker_jax.cli import main
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
from sedtalker_jax.face.live_link import LiveLinkSender
from sedtalker_jax.face.rig import ARKIT_NAMES
from sedtalker_jax.inference.live import LivePiece
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.playout import Playout
from sedtalker_jax.live_cli import _address, _played_blocks, _step_seconds

SECONDS = 1.3
FRAMES = 39


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """16-bit samples."""
    samples = int(SECONDS * 16_000)
    voice = np.sin(np.arange(samples) * 0.05) * (1 + np.sin(np.arange(samples) * 0.001))
    return (6_000 * voice + np.random.default_rng(0).normal(0, 300, samples)).astype("<i2")


@pytest.fixture
def wav(sound, tmp_path):
    soundfile.write(tmp_path / "speech.wav", sound, 16_000, subtype="PCM_16")
    return tmp_path / "speech.wav"


@pytest.fixture
def receiver():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5.0)
        yield receiver


def text(packet: bytes, place: int) -> tuple[str, int]:
    """A string after its length, and where it ends."""
    (length,) = struct.unpack_from(">i", packet, place)
    return packet[place + 4 : place + 4 + length].decode(), place + 4 + length


def parsed(packet: bytes) -> dict:
    """A datagram, field after field, as Unreal reads one."""
    version = packet[0]
    device, place = text(packet, 1)
    subject, place = text(packet, place)
    frame, part, numerator, denominator, count = struct.unpack_from(">ifiiB", packet, place)
    values = struct.unpack_from(f">{count}f", packet, place + 17)
    assert len(packet) == place + 17 + 4 * count
    found = dict(version=version, device=device, subject=subject, frame=frame, part=part, rate=numerator / denominator)
    return found | {"values": np.array(values)}


@pytest.mark.parametrize("fps", [30.0, 29.97, 60_000 / 1_001])
def test_datagrams_have_the_fields_of_live_link_face(receiver, fps):
    weights = np.random.default_rng(0).uniform(0, 1, 52)
    sender = LiveLinkSender("127.0.0.1", receiver.getsockname()[1], subject="Zoë", fps=fps)
    for frame in (7, 8):
        sender.send(weights, frame)
    sender.close()
    first, second = (parsed(receiver.recv(4_096)) for _ in range(2))
    assert first["version"] == 6 and first["subject"] == "Zoë" and len(first["device"]) == 36
    assert (first["frame"], second["frame"]) == (7, 8) and second["device"] == first["device"]
    assert first["part"] == 0.0 and first["rate"] == pytest.approx(fps, rel=1e-9)
    assert len(first["values"]) == 61
    np.testing.assert_allclose(first["values"][:52], weights, atol=1e-7)
    assert not first["values"][52:].any()


def test_localhost_is_where_unreal_listens(receiver, monkeypatch):
    four = (socket.AF_INET, socket.SOCK_DGRAM, 17, "", receiver.getsockname())
    six = (socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("::1", receiver.getsockname()[1], 0, 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [six, four])
    sender = LiveLinkSender("localhost", fps=30.0)
    sender.send(np.zeros(52), 0)
    sender.close()
    assert parsed(receiver.recv(4_096))["frame"] == 0


@pytest.mark.parametrize("name", ["", "\udcff"])
def test_a_face_needs_a_name(name):
    with pytest.raises(UserError, match="no name"):
        LiveLinkSender("127.0.0.1", subject=name, fps=30.0)


def test_frames_of_a_file_reach_live_link_in_time(wav, smoke_checkpoint, receiver, tmp_path, capsys):
    outs = [tmp_path / "live.npz", tmp_path / "live.csv"]
    send = ["--send", f"127.0.0.1:{receiver.getsockname()[1]}", "--name", "ann"]
    flags = [flag for out in outs for flag in ("--out", str(out))]
    started = time.monotonic()
    assert main(["live", str(wav), "--checkpoint", str(smoke_checkpoint), *send, *flags]) == 0
    assert time.monotonic() - started > SECONDS
    packets = [parsed(receiver.recv(4_096)) for _ in range(FRAMES)]
    assert [packet["frame"] - packets[0]["frame"] for packet in packets] == list(range(FRAMES))
    assert {packet["subject"] for packet in packets} == {"ann"}
    assert f"{FRAMES} frames sent" in capsys.readouterr().out
    with np.load(outs[0]) as made:
        assert made["vertices"].shape[0] == FRAMES and len(made["intensity"]) == (len(soundfile.read(wav)[0]) - 400) // 320 + 1
        vertices = made["vertices"]
    # A few sweeps from the frame before explain the motion nearly as well as many from nothing.
    model = SEDTalker.load(smoke_checkpoint)
    basis = BlendshapeBasis.known(model.template(None))
    motion = vertices - basis.mean
    sent = np.stack([packet["values"][:52] for packet in packets])
    left = 1e3 * np.sqrt(np.square(basis.posed(sent) - vertices).sum(-1).mean())
    assert left < 1.1 * basis.residual(motion, basis.weights(motion)) < basis.residual(motion)
    with outs[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == FRAMES and all(name[0].upper() + name[1:] in rows[0] for name in ARKIT_NAMES)


class Shown:
    """A sender that notes when its frames were sent; those in `lost` fail."""

    def __init__(self, lost=()):
        self.times, self.lost = [], lost

    def send(self, row, frame):
        self.times.append(time.monotonic())
        if len(self.times) - 1 in self.lost:
            raise OSError("no network")

    def close(self):
        pass


def playout(shown: Shown, delay: float) -> Playout:
    """At 30 frames per second, of a face of one vertex."""
    shapes, still = np.zeros((52, 1, 3)), np.zeros((1, 3))
    shapes[:, 0, 0] = 1.0
    session = types.SimpleNamespace(face=types.SimpleNamespace(vertices=still), talker=types.SimpleNamespace(fps=30.0))
    return Playout(shown, BlendshapeBasis("x", still, shapes, ARKIT_NAMES), session, delay)


def piece(first: int, frames: int) -> LivePiece:
    return LivePiece(first, np.zeros((frames, 1)), np.zeros((frames, 1, 3)), np.zeros((0, 7)), np.zeros(0))


def test_sound_that_a_recorder_kept_while_the_model_was_loading_is_caught_up_with():
    shown = Shown()
    shows = playout(shown, 0.2)
    for _ in range(20):
        shows.heard(1_600, 0.0)
    came = time.monotonic()
    shows.put(piece(0, 60))
    shows.finish()
    # The end of two seconds of sound that came at once has just been spoken.
    assert shown.times[50] - came < 0.3 and shown.times[-1] - came < 0.6
    assert shown.times[-1] - came > 0.1


def test_a_clock_that_is_slower_and_a_pause_are_followed(monkeypatch):
    clock = [1_000.0]
    shows = playout(Shown(), 0.2)
    monkeypatch.setattr(shows, "start", lambda: None)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for _ in range(36_000):
        clock[0] += 0.10001
        shows.heard(1_600, 0.05)
    assert shows._began == pytest.approx(clock[0] - 3_600, abs=1e-3)
    clock[0] += 60.0
    shows.heard(1_600, 60.0)
    assert shows._began == pytest.approx(clock[0] - 3_600.1, abs=1e-3)


def test_frames_that_the_network_loses_are_said_at_once_and_counted(capsys):
    shows = playout(Shown(lost={3, 4}), 0.0)
    shows.heard(1_600, 0.0)
    shows.put(piece(0, 9))
    shows.put(piece(9, 0))
    shows.finish()
    assert "7 frames sent" in shows.report() and "2 could not be sent (no network)" in shows.report()
    assert capsys.readouterr().err.count("--send: no network") == 1
    shows = playout(Shown(lost=range(9)), 0.0)
    shows.heard(1_600, 0.0)
    shows.put(piece(0, 9))
    shows.finish()
    with pytest.raises(UserError, match="--send: no network"):
        shows.report()


def test_a_step_is_timed_as_it_will_be_made():
    class Session:
        step_s, face, pushed = 0.1, types.SimpleNamespace(vertices=np.zeros((1, 3))), 0

        def warm_up(self):
            time.sleep(0.5)

        def push(self, samples):
            assert len(samples) == 1_600
            self.pushed += 1
            return [piece(self.pushed, 3)] if self.pushed > 2 else []

    session = Session()
    assert _step_seconds(session, None) < 0.3 and session.pushed == 0


def test_a_command_without_a_pipe_says_so(monkeypatch, capsys):
    for stdin in (None, types.SimpleNamespace(isatty=lambda: True)):
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["live", "-", "--checkpoint", "none", "--send", "localhost"]) == 2
        assert "-: no sound is piped" in capsys.readouterr().err


def test_raw_sound_from_a_pipe_gives_the_frames_of_the_file(wav, sound, smoke_checkpoint, tmp_path):
    flags = ["--checkpoint", str(smoke_checkpoint), "--emotion", "happy", "--lookahead", "0.1", "--step", "0.2"]
    assert main(["live", str(wav), *flags, "--out", str(tmp_path / "file.npy")]) == 0
    command = [sys.executable, "-m", "sedtalker_jax", "live", "-", *flags, "--out", str(tmp_path / "pipe.npy")]
    done = subprocess.run(command, input=sound.tobytes(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2_000:]
    file, pipe = (np.load(tmp_path / f"{name}.npy") for name in ("file", "pipe"))
    assert len(file) == FRAMES
    # Other processes may add in another order.
    np.testing.assert_allclose(pipe, file, atol=1e-6)


def test_ctrl_c_ends_the_recording_and_keeps_it(sound, smoke_checkpoint, tmp_path):
    out = tmp_path / "live.npy"
    command = [sys.executable, "-m", "sedtalker_jax", "live", "-", "--checkpoint", str(smoke_checkpoint), "--out", str(out)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen(command, **pipes, env=None) as process:
        while b"listening" not in (line := process.stderr.readline()):
            assert line, "ended before it listened"
        process.stdin.write(sound.tobytes())
        process.stdin.flush()
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        # The pipe is still open, and nothing comes.
        process.wait(timeout=60)
        output, errors = process.communicate()
    assert process.returncode == 0, errors.decode()[-2_000:]
    assert len(np.load(out)) == FRAMES and str(out) in output.decode()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "live shows nothing without --send HOST, where Live Link listens, or --out FILE"),
        (["--send", "nowhere.invalid"], "nowhere.invalid:11111: no such place"),
        (["--send", "localhost:port"], "--send localhost:port: expected HOST or HOST:PORT"),
        (["--send", "localhost", "--intensity", "1"], "--intensity: says how strong --emotion is"),
        (["--send", "localhost", "--delay", "-1"], "--delay -1: must lie between"),
        (["--send", "localhost", "--emotion", "joyous"], "--emotion joyous: "),
        (
            ["--send", "localhost", "--lookahead", "3"],
            "--step and --lookahead: a lookahead of 3 s and a step of 0.1 s need 3.7 s",
        ),
        (["--out", "{d}/x.wav"], "x.wav: unknown kind of output"),
        (["--out", "{d}/speech.npy", "--basis", "{d}/speech.npy"], "speech.npy: the same command reads it"),
        (["--send", "localhost", "--basis", "{d}/none.npz"], "none.npz: no such file"),
    ],
)
def test_mistakes_get_one_line(flags, expected, wav, smoke_checkpoint, capsys):
    filled = [flag.format(d=wav.parent) for flag in flags]
    assert main(["live", str(wav), "--checkpoint", str(smoke_checkpoint), *filled]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and expected in error and error.count("\n") == 1
    assert main(["live", str(wav.parent / "no.wav"), "--checkpoint", str(smoke_checkpoint), "--send", "localhost"]) == 2
    assert "no.wav" in capsys.readouterr().err


def test_no_sound_is_no_recording(smoke_checkpoint, tmp_path):
    command = [sys.executable, "-m", "sedtalker_jax", "live", "-", "--checkpoint", str(smoke_checkpoint)]
    done = subprocess.run([*command, "--out", str(tmp_path / "x.npy")], input=b"", capture_output=True)
    assert done.returncode == 2 and b"-: no sound came" in done.stderr and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost", ("localhost", 11_111)),
        ("10.0.0.7:9000", ("10.0.0.7", 9_000)),
        ("::1", ("::1", 11_111)),
        ("[::1]", ("::1", 11_111)),
        ("[::1]:9000", ("::1", 9_000)),
    ],
)
def test_places_have_a_host_and_maybe_a_port(text, address):
    assert _address(text) == address


def test_a_recording_is_played_at_its_pace_and_catches_up():
    sound, began = np.arange(4_800, dtype=np.float32), time.monotonic()
    blocks = _played_blocks(sound, 0.05)
    first = next(blocks)
    assert len(first) == 800 and time.monotonic() - began >= 0.05
    time.sleep(0.12)
    late = next(blocks)
    assert len(late) >= 1_600 and len(late) % 800 == 0
    np.testing.assert_array_equal(np.concatenate([first, late, *blocks]), sound)
    assert time.monotonic() - began >= 0.3
