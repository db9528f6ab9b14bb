"""What diarizing and animating cost beside the speech encoders alone: python -m sedtalker_jax.inference.benchmark

A full-size model of configs/ with random weights and a face of FLAME's size, in one process, all sides in turn: the encoders by
themselves, and what a user calls, from the waveform to the track or the vertices. Medians after a warm-up, by the clock and of
CPU time. A given track spares a model without a style residual the diarizer and its encoder.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sedtalker_jax.axes import SAMPLE_RATE
from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.models.sedtalker import SEDTalkerConfig, SEDTalkerModel
from sedtalker_jax.precision import Precision
from sedtalker_jax.speech import SpeechEncoder
from sedtalker_jax.speech.benchmark import alternate
from sedtalker_jax.training.full_size import CODE, FPS, RANK, full_size_model, noise_batch

NUM_VERTICES = 5_023
JOINT_CONFIGS = ("sedtalker:paper", "sedtalker", "editemotalk:paper", "editemotalk")


def random_talker(config: SEDTalkerConfig, seconds: float) -> SEDTalker:
    """A system of random weights that takes recordings of that length in one window, without padding."""
    model = SEDTalkerModel(config)
    labels = config.diarizer.labels
    params = jax.jit(model.init)(jax.random.key(0), noise_batch(config, len(labels), 6))["params"]
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(3 * NUM_VERTICES, RANK)))[0].T.astype(np.float32)
    names = tuple(f"face-{i}" for i in range(CODE + 2))
    templates = rng.normal(0, 0.05, (len(names), NUM_VERTICES, 3)).astype(np.float32)
    space = FaceSpace("random", np.array([[0, 1, 2]]), basis, names, templates, fps=FPS)
    codec = FaceCodec.fit(space, [rng.normal(0, 0.01, (2 * RANK, RANK))], list(names), CODE)
    return SEDTalker(model, params, codec, {"labels": labels, "fps": FPS, "config": {"pipeline": {"max_seconds": seconds}}})


def sides(talker: SEDTalker, seconds: float) -> dict[str, Callable[[], None]]:
    """What is timed, by name: every encoder alone, then the calls."""
    waveform = np.random.default_rng(1).normal(0, 0.1, int(seconds * SAMPLE_RATE)).astype(np.float32)
    track = talker.diarize(waveform)
    config = talker.model.config

    def alone(name: str) -> Callable[[], None]:
        dtypes = dict(dtype=config.precision.compute, param_dtype=config.precision.params)
        encoder = SpeechEncoder(config.encoders[name], **dtypes)
        encode = jax.jit(lambda params, *sound: encoder.apply({"params": params}, *sound).hidden_states)
        sound = jnp.asarray(waveform)[None], jnp.array([len(waveform)])
        return lambda: jax.block_until_ready(encode(talker.params[name], *sound))

    return {name: alone(name) for name in config.encoders} | {
        "diarize": lambda: talker.diarize(waveform),
        "animate": lambda: talker.animate(waveform),
        "animate a given track": lambda: talker.animate(waveform, track),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line per side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", choices=JOINT_CONFIGS, default=JOINT_CONFIGS[0], help="of configs/ (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of sound (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--float32", action="store_true", help="compute in float32 whatever the config says")
    options = parser.parse_args(arguments)
    name, _, variant = options.config.partition(":")
    model = full_size_model(importlib.import_module(f"configs.{name}").get_config(variant))
    if options.float32:
        model = dataclasses.replace(model, precision=Precision())
    talker = random_talker(model, options.seconds)
    timed = sides(talker, options.seconds)
    taken = dict(zip(timed, alternate(*timed.values(), repeats=options.repeats), strict=True))
    total = [sum(taken[name][clock] for name in model.encoders) for clock in (0, 1)]
    print(f"{options.config}, {options.seconds:g} s of sound, {model.precision.compute}, {jax.devices()[0].device_kind}")
    for name, (wall, cpu) in taken.items():
        share = f"  {wall / total[0]:.3f} of all encoders (CPU time {cpu / total[1]:.3f})"
        print(f"  {name:<22} {wall:7.3f} s, CPU time {cpu:7.3f} s{share}")


if __name__ == "__main__":
    main()
