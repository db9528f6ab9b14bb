"""What a causal animator's stream costs: python -m sedtalker_jax.inference.streaming_benchmark

    python -m sedtalker_jax.inference.streaming_benchmark --minutes 1 10 60
    python -m sedtalker_jax.inference.streaming_benchmark --checkpoint runs/causal

Of the animator, for each length of a piece: the time of a call, seconds of motion made in a second, and the latency of a live
use from a frame's features to its motion, which is the wait for the piece to fill and the call. Of the whole chain from the
waveform to coefficients: seconds of recording in a second, and by how much memory rises at most. The chain waits for whole
windows of its encoder, which hears both sides; inference.live does not, and evaluation.live_evaluation says at what price.
Without --checkpoint it is the model of configs/demo.py:causal with random weights, which take the same time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import jax
import numpy as np

from configs import demo
from sedtalker_jax import axes
from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.errors import exit_code
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.streaming import MotionStream, stream_motion
from sedtalker_jax.models.sedtalker import SEDTalkerModel
from sedtalker_jax.speech.resident_memory import peak_rise
from sedtalker_jax.training.experiment import model_config

RANK, CODE, FPS = 64, 16, 30.0
CALLS = 200


def random_talker() -> SEDTalker:
    """The model of configs/demo.py:causal with random weights and a face of a hundred vertices, which no time is spent on."""
    config = demo.get_config("causal")
    model = SEDTalkerModel(model_config(config.model, dict(rank=RANK, template_size=CODE)))
    rng = np.random.default_rng(0)
    K = len(config.model.labels)
    batch = {
        "speech": dict(waveform=np.zeros((1, 3_200), np.float32), lengths=np.array([3_200])),
        "face": dict(
            motion=np.zeros((1, 6, RANK), np.float32),
            num_frames=np.array([6]),
            fps=np.array([FPS], np.float32),
            template_code=np.zeros((1, CODE), np.float32),
            activation=np.zeros((1, 6, K - 1), np.float32),
            track_source=np.zeros(1, np.int32),
        ),
    }
    params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    basis = np.linalg.qr(rng.normal(size=(300, RANK)))[0].T.astype(np.float32)
    templates = rng.normal(0, 0.05, (CODE + 1, 100, 3)).astype(np.float32)
    names = tuple(map(str, range(CODE + 1)))
    space = FaceSpace("random", np.array([[0, 1, 2]]), basis, names, templates)
    codec = FaceCodec.fit(space, [rng.normal(0, 0.01, (200, RANK))], list(names), CODE)
    meta = {
        "labels": config.model.labels,
        "fps": FPS,
        "config": {"pipeline": {"max_seconds": config.pipeline.max_seconds}},
    }
    return SEDTalker(model, params, codec, meta)


def call_seconds(talker: SEDTalker, piece_frames: int) -> tuple[int, float, float]:
    """(frames of a piece, median and 95th percentile of a call's seconds), state carried from call to call."""
    config = talker.model.config
    stream = MotionStream(talker.model, talker.params, np.zeros(CODE, np.float32), piece_frames=piece_frames)
    rng = np.random.default_rng(0)
    width = talker.params["animator"]["project"]["kernel"].shape[0] // config.animator.frame_stacking
    content = rng.normal(size=(stream.piece_frames, width)).astype(np.float32)
    activations = rng.random((stream.piece_frames, len(talker.labels) - 1)).astype(np.float32)
    residual = rng.normal(size=(stream.piece_frames, config.diarizer.embedding_size)).astype(np.float32)
    seconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        stream.push(content, activations, residual)
        seconds.append(time.perf_counter() - start)
    # The first calls compile.
    median, slow = np.percentile(seconds[3:], [50, 95])
    return stream.piece_frames, float(median), float(slow)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line per length of a piece and a line per length of a recording. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--checkpoint", help="workdir with a causal animator, instead of random weights")
    parser.add_argument("--pieces", nargs="*", type=float, default=[1 / 15, 0.2, 1.0, 4.0], help="seconds of a piece")
    parser.add_argument("--minutes", nargs="*", type=float, default=[1.0, 4.0], help="lengths of whole recordings")
    options = parser.parse_args(arguments)
    return exit_code(lambda: run(options))


def run(options: argparse.Namespace) -> None:
    """The measurements."""
    talker = SEDTalker.load(options.checkpoint) if options.checkpoint else random_talker()
    for piece_s in options.pieces:
        frames, median, slow = call_seconds(talker, round(piece_s * talker.fps))
        piece = frames / talker.fps
        print(
            f"animator, pieces of {piece:.3f} s: a call {1e3 * median:.2f} ms (95%: {1e3 * slow:.2f} ms), "
            f"{piece / median:.0f} x real time, latency {1e3 * (piece + slow):.0f} ms",
            flush=True,
        )
    code = np.zeros(talker.codec.template_basis.shape[0], np.float32)
    minute = (0.1 * np.random.default_rng(0).normal(size=60 * axes.SAMPLE_RATE)).astype(np.float32)
    for number, minutes in enumerate([min(options.minutes, default=0.0), *options.minutes]):
        waveform = np.resize(minute, int(60 * minutes * axes.SAMPLE_RATE))
        frames = axes.num_animation_frames(len(waveform), talker.fps)
        activations = np.zeros((frames, len(talker.labels) - 1), np.float32)

        def consume(waveform=waveform, activations=activations):
            for _ in stream_motion(talker, waveform, activations, code):
                pass

        start = time.perf_counter()
        rise = peak_rise(consume)
        seconds = time.perf_counter() - start
        if number == 0:
            continue  # Compiles.
        memory = "" if rise is None else f", memory rises by {rise / 2**20:.0f} MiB"
        print(f"whole chain, {minutes:g} min: {60 * minutes / seconds:.0f} x real time{memory}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
