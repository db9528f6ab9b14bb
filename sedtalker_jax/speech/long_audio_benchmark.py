"""What long recordings cost and lose in windows: python -m sedtalker_jax.speech.long_audio_benchmark

Peak memory: each length in a process of its own, the recording itself occupying nothing, the windows dropped as they come.
Context: relative L2 difference of the windows from the whole clip's encoding. Without --checkpoint the weights are random,
which attend to everything alike: the difference is then near the worst.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import multiprocessing

import jax
import jax.numpy as jnp
import numpy as np

from sedtalker_jax.axes import SAMPLE_RATE
from sedtalker_jax.speech.audio import load_audio
from sedtalker_jax.speech.config import SpeechEncoderConfig
from sedtalker_jax.speech.encoder import SpeechEncoder
from sedtalker_jax.speech.long_audio import context_error, encode_long
from sedtalker_jax.speech.parity import SIZES
from sedtalker_jax.speech.pretrained import load_pretrained_encoder
from sedtalker_jax.speech.resident_memory import peak_rise, resident_bytes

_QUARTER = dict(
    model_type="wavlm", conv_dim=(128,) * 7, hidden_size=192, intermediate_size=768, num_hidden_layers=3, num_attention_heads=3
)
MODELS = {"quarter-width": _QUARTER} | SIZES
"""Sizes to choose from: the published ones, and WavLM at a quarter of base's width and depth, which encodes an hour soon."""


@dataclasses.dataclass(frozen=True)
class MemoryUse:
    """Bytes.

    Attributes:
      peak: the whole process, with the interpreter, libraries and parameters.
      rise: what encoding added to it, compilation included.
    """

    peak: int
    rise: int


def memory_use(model: str, minutes: float, window_s: float, context_s: float) -> MemoryUse:
    """Encodes a recording of that length in this process and drops every window."""
    encoder, params = _random_encoder(model)
    # One sample seen through a stride of zero: a recording of any length that is not in memory.
    recording = np.broadcast_to(np.float32(0.1), int(60 * minutes * SAMPLE_RATE))

    def run():
        for window in encode_long(encoder, params, recording, window_s, context_s):
            jax.block_until_ready(window.last_hidden_state)

    rise = peak_rise(run)
    if rise is None:
        raise SystemExit("peak memory is read from /proc/self, which this system does not have")
    return MemoryUse(resident_bytes(peak=True), rise)


def _random_encoder(model: str):
    encoder = SpeechEncoder(SpeechEncoderConfig.from_hf(MODELS[model], normalise_input=True))
    params = jax.jit(encoder.init)(jax.random.key(0), jnp.zeros((1, 800)))["params"]
    return encoder, params


def main() -> None:
    """Prints a line per length and a line per context."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--model", default="quarter-width", choices=list(MODELS))
    parser.add_argument("--minutes", nargs="*", type=float, default=[5.0, 60.0], help="lengths for peak memory")
    parser.add_argument("--contexts", nargs="*", type=float, default=[0.0, 1.0, 2.0, 5.0, 10.0], help="seconds, each side")
    parser.add_argument("--window", type=float, default=20.0, help="seconds of a window")
    parser.add_argument("--checkpoint", help="folder or file of an encoder for the contexts instead of random weights")
    parser.add_argument("--sound", help="sound file for the contexts instead of 60 s of noise")
    arguments = parser.parse_args()

    first = None
    for minutes in arguments.minutes:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as process:
            use = process.submit(memory_use, arguments.model, minutes, arguments.window, 5.0).result()
        first = first or use
        print(
            f"{arguments.model}  {minutes:g} min  peak {use.peak / 2**20:.0f} MiB ({use.peak / first.peak:.3f}x)  "
            f"of which encoding {use.rise / 2**20:.0f} MiB ({use.rise / first.rise:.3f}x)",
            flush=True,
        )
    if arguments.contexts:
        encoder, params = (
            load_pretrained_encoder(arguments.checkpoint) if arguments.checkpoint else _random_encoder(arguments.model)
        )
        if arguments.sound:
            sound = load_audio(arguments.sound)
        else:
            sound = np.random.default_rng(0).standard_normal(60 * SAMPLE_RATE).astype(np.float32)
        errors = context_error(encoder, params, sound, arguments.window, tuple(arguments.contexts))
        for context_s, error in errors.items():
            print(f"window {arguments.window:g} s, context {context_s:g} s: relative L2 from the whole clip {error:.2e}")


if __name__ == "__main__":
    main()
