"""The live command: speech that is being spoken to a face that Unreal shows a moment later."""

from __future__ import annotations

import argparse
import copy
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from sedtalker_jax import axes
from sedtalker_jax.axes import WaveformArray
from sedtalker_jax.errors import UserError, about
from sedtalker_jax.face.live_link import PORT, LiveLinkSender
from sedtalker_jax.outputs import ANIMATION_HELP, ANIMATION_SUFFIXES, check_distinct, check_output, check_size, write_animation
from sedtalker_jax.shared_flags import (
    add_basis,
    add_embedding,
    add_subject,
    given_basis,
    given_embedding,
    given_face,
    given_manner,
)

if TYPE_CHECKING:
    from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
    from sedtalker_jax.inference.live import LivePiece, LiveSession
    from sedtalker_jax.inference.playout import Playout

SLACK_S = 0.05
"""What a frame may come later than it takes on average."""

EPILOG = """\
Sound comes as 16-bit samples of one channel at 16 kHz; whatever records can make them:

  ffmpeg -loglevel error -f pulse -i default -ac 1 -ar 16000 -f s16le - |
      python -m sedtalker_jax live - --checkpoint runs/demo --send localhost
  arecord -q -t raw -f S16_LE -r 16000 -c 1 | python -m sedtalker_jax live - --checkpoint runs/demo --send 192.168.0.7:11111

On macOS ffmpeg has the microphone as -f avfoundation -i :0, on Windows as -f dshow -i audio=NAME.

In Unreal, Live Link with its ARKit face support shows the face as --name; a MetaHuman takes it as its "ARKit Face Subject".
"""


def add_parser(commands) -> None:
    """Adds the command to an argparse collection of subcommands."""
    live = commands.add_parser(
        "live",
        help="speech from a microphone to a face in Unreal, a moment later",
        description="Animates speech while it is spoken, and sends ARKit's blendshape weights to Unreal's Live Link as the "
        "telephone's Live Link Face does. Ends with the sound, or with Ctrl-C.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    live.add_argument(
        "audio",
        help="- for raw sound on standard input (see below), shown as fast as it comes, or a sound file, which plays at its "
        "own pace",
    )
    live.add_argument("--checkpoint", required=True, metavar="DIR", help="workdir of train.py, such as runs/demo")
    live.add_argument("--send", metavar="HOST[:PORT]", help=f"where Live Link listens (default port: {PORT})")
    live.add_argument("--name", default="sedtalker", help="what Live Link calls the face (default: %(default)s)")
    live.add_argument(
        "--out", action="append", default=[], metavar="FILE", help=f"the whole recording in the end: {ANIMATION_HELP}"
    )
    live.add_argument("--template", metavar="FILE|NAME", help="face to animate, as of animate (default: the model's first)")
    live.add_argument("--emotion", metavar="NAME", help="one emotion instead of what is heard")
    live.add_argument("--intensity", type=float, metavar="X", help="of --emotion, 0 to 1 (default: 1)")
    live.add_argument(
        "--lookahead",
        type=float,
        metavar="SECONDS",
        help="how much of what follows a frame is made of: more is more exact, and later (default: 0.3)",
    )
    live.add_argument(
        "--step",
        type=float,
        metavar="SECONDS",
        help="between two looks at the sound: less is sooner, and more work (default: 0.1)",
    )
    live.add_argument(
        "--delay",
        type=float,
        metavar="SECONDS",
        help="from a sound to its frame (default: lookahead, step and what a step takes); frames that are ready sooner wait",
    )
    add_subject(live)
    add_embedding(live)
    add_basis(live, "--send, .glb, .usd and .csv")
    live.add_argument(
        "--size", type=int, default=512, help="height and width of a video's face in pixels (default: %(default)s)"
    )
    live.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """live: sound to Live Link."""
    from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
    from sedtalker_jax.inference.live import LOOKAHEAD_S, STEP_S, LiveSession
    from sedtalker_jax.inference.pipeline import SEDTalker
    from sedtalker_jax.inference.playout import Playout
    from sedtalker_jax.speech import load_audio

    if arguments.send is None and not arguments.out:
        raise UserError("live shows nothing without --send HOST, where Live Link listens, or --out FILE")
    if arguments.intensity is not None and arguments.emotion is None:
        raise UserError("--intensity: says how strong --emotion is; give one of them too")
    if arguments.delay is not None and not 0.0 <= arguments.delay <= 60.0:
        raise UserError(f"--delay {arguments.delay:g}: must lie between 0 and 60 seconds")
    if arguments.audio == "-" and (sys.stdin is None or sys.stdin.isatty()):
        raise UserError("-: no sound is piped into this command; `python -m sedtalker_jax live --help` shows what can")
    targets = [check_output(path, ANIMATION_SUFFIXES) for path in arguments.out]
    read = [None if arguments.audio == "-" else arguments.audio]
    check_distinct(targets, read + [getattr(arguments, name) for name in ("template", "style", "embedding", "basis")])
    check_size(arguments.size)
    step_s = STEP_S if arguments.step is None else arguments.step
    lookahead_s = LOOKAHEAD_S if arguments.lookahead is None else arguments.lookahead
    sound = None if arguments.audio == "-" else load_audio(arguments.audio)
    model = SEDTalker.load(arguments.checkpoint)
    face = given_face(arguments, model)
    basis = given_basis(arguments, face, targets)
    shapes = basis or BlendshapeBasis.known(face)
    sender = None
    if arguments.send is not None:
        if shapes is None:
            raise UserError(f"--send: no blendshapes are known for topology {face.topology}; give them as --basis FILE.npz")
        with about("--send"):
            shapes = shapes.arkit_only()
            sender = LiveLinkSender(*_address(arguments.send), subject=arguments.name, fps=model.fps)
    model, subject = given_manner(arguments, model)
    embedding = given_embedding(arguments, model)
    with about("--step and --lookahead"):
        session = LiveSession(
            model, template=face, lookahead_s=lookahead_s, step_s=step_s, subject=subject, given_embedding=embedding
        )
    if arguments.emotion is not None:
        with about(f"--emotion {arguments.emotion}"):
            session.feel(arguments.emotion, 1.0 if arguments.intensity is None else arguments.intensity)
    with about(arguments.checkpoint):
        takes = _step_seconds(session, shapes if sender else None)
    delay = arguments.delay
    if delay is None:
        delay = lookahead_s + step_s + takes + SLACK_S
    if takes > step_s:
        print(
            f"a step of {step_s:g} s of sound takes {takes:.2f} s here: some will be left out; a longer --step is steadier",
            file=sys.stderr,
        )
    print(f"listening; a frame is shown {delay:.2f} s after its sound, with --name {arguments.name}", file=sys.stderr)
    blocks = _raw_blocks(sys.stdin.buffer) if sound is None else _played_blocks(sound, step_s)
    playout = None if sender is None else Playout(sender, shapes, session, delay)
    pieces, waveform = _listen(session, blocks, playout, keep=bool(targets))
    if targets:
        with about(arguments.audio):
            animation = session.animation(pieces)
        for target in targets:
            print(write_animation(target, animation, waveform, size=arguments.size, basis=basis))
    if playout is not None:
        print(playout.report())


def _listen(
    session: LiveSession, blocks: Iterator[WaveformArray], playout: Playout | None, *, keep: bool
) -> tuple[list[LivePiece], WaveformArray]:
    """Animates what comes until it ends or Ctrl-C; the pieces and the sound, if they are to be kept."""
    from tqdm import tqdm

    from sedtalker_jax.inference.pipeline import MIN_DURATION_S

    pieces, sound, seconds = [], [], 0.0

    def show(made: list[LivePiece]) -> None:
        if playout is not None:
            for piece in made:
                playout.put(piece)
        if keep:
            pieces.extend(made)

    with tqdm(bar_format="live: {n:.0f} s{postfix}", mininterval=0.5) as bar, _StopRequest() as stop:
        asked = time.monotonic()
        while (block := stop.next_of(blocks)) is not None:
            if playout is not None:
                playout.heard(len(block), time.monotonic() - asked)
            made = session.push(block, hurry=playout is not None and playout.late > session.step_s)
            show(made)
            if keep:
                sound.append(block)
            seconds += len(block) / axes.SAMPLE_RATE
            if made and len(made[-1].intensity):
                best = int(made[-1].probabilities[-1].argmax())
                late = f", {playout.late:.1f} s late" if playout is not None and playout.late > 0.1 else ""
                bar.set_postfix_str(f"{session.talker.labels[best]} {made[-1].intensity[-1]:.2f}{late}", refresh=False)
            bar.update(seconds - bar.n)
            asked = time.monotonic()
        if seconds >= MIN_DURATION_S:
            show(session.finish())
    if playout is not None:
        playout.finish()
    return pieces, np.concatenate(sound) if sound else np.zeros(0, np.float32)


class _StopRequest:
    """Ctrl-C ends the recording: at once while sound is awaited, which may never come, else after the step that is being made.

    A second one ends the program.
    """

    asked, _waiting = False, False

    def __enter__(self) -> _StopRequest:
        self._before = signal.signal(signal.SIGINT, self._receive)
        return self

    def next_of(self, blocks: Iterator[WaveformArray]) -> WaveformArray | None:
        """The next block; None at the end, and once it is asked for."""
        try:
            self._waiting = True
            return None if self.asked else next(blocks, None)
        except KeyboardInterrupt:
            return None
        finally:
            self._waiting = False

    def _receive(self, *_) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._waiting:
            raise KeyboardInterrupt

    def __exit__(self, *_) -> None:
        signal.signal(signal.SIGINT, self._before)


def _step_seconds(session: LiveSession, basis: BlendshapeBasis | None) -> float:
    """What a step takes on this machine, once its programs are compiled."""
    from sedtalker_jax.inference.playout import SWEEPS

    session.warm_up()
    rehearsal, silence = copy.copy(session), np.zeros(max(1, round(session.step_s * axes.SAMPLE_RATE)), np.float32)
    seconds = []
    while len(seconds) < 3:
        start = time.perf_counter()
        made = rehearsal.push(silence)
        if basis is not None:
            for piece in made:
                basis.weights(piece.vertices - session.face.vertices, start=np.zeros(len(basis.shapes)), sweeps=SWEEPS)
        if made:
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _raw_blocks(stream: BinaryIO) -> Iterator[WaveformArray]:
    """Sound of 16-bit samples as it comes, of what has come at most a second at a time."""
    rest, read = b"", getattr(stream, "read1", stream.read)
    while block := read(2 * axes.SAMPLE_RATE):
        block = rest + block
        whole = len(block) // 2 * 2
        block, rest = block[:whole], block[whole:]
        if block:
            yield np.frombuffer(block, "<i2").astype(np.float32) / 32_768


def _played_blocks(sound: WaveformArray, step_s: float) -> Iterator[WaveformArray]:
    """A recording a step at a time, each when it would have been spoken; what should have been by now at once."""
    size, start, first = max(1, round(step_s * axes.SAMPLE_RATE)), time.monotonic(), 0
    while first < len(sound):
        spoken = int((time.monotonic() - start) * axes.SAMPLE_RATE)
        stop = min(len(sound), max(first + size, spoken // size * size))
        time.sleep(max(0.0, start + stop / axes.SAMPLE_RATE - time.monotonic()))
        yield sound[first:stop]
        first = stop


def _address(text: str) -> tuple[str, int]:
    """Host and port of HOST, HOST:PORT or [HOST]:PORT."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.startswith("[")):
        return text.strip("[]"), PORT
    if not port.isdecimal() or not 0 < int(port) < 65_536 or not host:
        raise UserError(f"--send {text}: expected HOST or HOST:PORT, such as localhost:{PORT}")
    return host.strip("[]"), int(port)
