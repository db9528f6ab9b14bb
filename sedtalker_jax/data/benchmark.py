"""How fast joined training batches are made, in seconds of audio per second of one core.

    python -m sedtalker_jax.data.benchmark [--records DIR ...] [--batches 40] [--json FILE]

Without --records it prepares a small corpus of its own (speech-like noise, FLAC as in any record directory). CPU time is
counted, so other work on the machine changes little; audio is what the batches hold without their padding.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.signal

from sedtalker_jax import axes
from sedtalker_jax.data import records
from sedtalker_jax.data.augment import AugmentConfig
from sedtalker_jax.data.corpora.speech import speech_record
from sedtalker_jax.data.joins import JoinConfig
from sedtalker_jax.data.mixing import open_records
from sedtalker_jax.data.pipeline import JoinedExamples, PipelineConfig, TrainBatches, pad_batch
from sedtalker_jax.emotion.labels import CANONICAL
from sedtalker_jax.errors import exit_code

GOAL = 300.0
"""Times real time per core."""

_SPEAKERS, _LABELS, _CLIPS = 4, ("neutral", "angry", "happy", "sad"), 6


def speech_like(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Noise with the long-term spectrum and the syllables of speech: what FLAC and the transforms cost depends on both."""
    n = int(seconds * axes.SAMPLE_RATE)
    tilted = scipy.signal.lfilter([1.0], [1.0, -0.95], rng.standard_normal(n))
    syllables = np.clip(np.sin(2 * np.pi * 2.0 * np.arange(n) / axes.SAMPLE_RATE + rng.uniform(0, 6.3)), 0.02, 1.0)
    return (0.03 * tilted * syllables).astype(np.float32)


def write_corpus(directory: Path) -> None:
    """A small finished record directory: 4 speakers, 4 emotions, 6 clips of 2 to 4 s each."""
    rng = np.random.default_rng(0)
    rows = []
    for speaker in range(_SPEAKERS):
        for label in _LABELS:
            for take in range(_CLIPS):
                waveform = speech_like(rng.uniform(2.0, 4.0), rng)
                fields = speech_record(waveform, [[0.0, len(waveform) / axes.SAMPLE_RATE, label]])
                name = f"{speaker}-{label}-{take}"
                rows.append({"id": name, "corpus": "noise", "speaker": f"s{speaker}", "fps": 0.0, "label": label, **fields})
    shard = records.shard_name("train", 0, 1)
    written = records.write_shard(directory / shard, map(records.encode_record, rows))
    records.write_json(
        directory / records.MANIFEST, {"corpus": "noise", "splits": {"train": {"shards": [{"file": shard, **written}]}}}
    )


def measure(action: Callable[[int], float], count: int) -> float:
    """Seconds of audio per second of CPU: action(i) handles piece i and returns its seconds of audio."""
    action(0)
    started = time.process_time()
    audio = sum(action(i) for i in range(count))
    return audio / (time.process_time() - started)


def run(directories: Sequence[str | Path], batches: int, config: PipelineConfig) -> dict[str, Any]:
    """Measures the whole path and each part of it.

    Args:
      directories: record directories with a train split of single utterances.
      batches: how many batches to make.
      config: with joins.

    Returns:
      times real time per core: "pipeline" (all), "decode", "join" (sound and labels, decoded before), "augment", "batch"
      (crop, targets, padding); and the mean seconds of an example, the number of pieces in it, and the share of padding.
    """
    reader = open_records(directories, "train")
    whole = TrainBatches(reader, None, CANONICAL, config, start=0, stop=batches)
    used, held = 0, 0

    def batch(i: int) -> float:
        nonlocal used, held
        speech = whole[i]["speech"]
        used, held = used + int(speech["lengths"].sum()), held + speech["waveform"].size
        return float(speech["lengths"].sum()) / axes.SAMPLE_RATE

    speed = {"pipeline": measure(batch, batches)}
    examples = min(200, batches * config.batch_size)
    plain = JoinedExamples(
        reader, CANONICAL, dataclasses.replace(config, joins=dataclasses.replace(config.joins, augment=None))
    )
    sampler = plain.sampler
    places = [divmod(i, len(sampler)) for i in range(examples)]
    plans = [sampler.plan(*place) for place in places]
    lengths = [plan.num_samples(sampler.crossfade) / axes.SAMPLE_RATE for plan in plans]
    decoded = [[reader[piece.row] for piece in plan.pieces] for plan in plans]

    def decode(i: int) -> float:
        for piece in plans[i].pieces:
            reader[piece.row]
        return lengths[i]

    def join(i: int) -> float:
        sampler.example(sampler.plan(*places[i]), decoded[i], *places[i])
        return lengths[i]

    speed |= {"decode": measure(decode, examples), "join": measure(join, examples)}
    if config.joins.augment is not None:
        augmenting = JoinedExamples(reader, CANONICAL, config).sampler

        def augment(i: int) -> float:
            record = augmenting.example(augmenting.plan(*places[i]), decoded[i], *places[i])
            return len(record["waveform"]) / axes.SAMPLE_RATE

        # What augmenting adds to joining: their times, not their rates, add up.
        speed["augment"] = 1.0 / max(1.0 / measure(augment, examples) - 1.0 / speed["join"], 1e-9)
    made = [plain.example(i) for i in range(config.batch_size)]
    audio = sum(len(example["waveform"]) for example in made) / axes.SAMPLE_RATE

    def pad(_: int) -> float:
        pad_batch(made, config.max_seconds, None)
        return audio

    speed["batch"] = measure(pad, 50)
    return {
        "times_real_time": {name: round(value, 1) for name, value in speed.items()},
        "goal": GOAL,
        "example_seconds": round(float(np.mean(lengths)), 2),
        "pieces_per_example": round(float(np.mean([len(plan.pieces) for plan in plans])), 2),
        "padding": round(1.0 - used / held, 3),
        "records": len(reader),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sedtalker_jax.data.benchmark", description=__doc__.split("\n\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--records", nargs="+", metavar="DIR", help="record directories of corpora (default: a small one is made)"
    )
    parser.add_argument("--batches", type=int, default=40, help="batches to make (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="examples in a batch (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers here")
    flags = parser.parse_args(arguments)
    return exit_code(lambda: report(flags))


def report(flags: argparse.Namespace) -> None:
    """Measures, prints, and writes the JSON if asked for."""
    config = PipelineConfig(
        batch_size=flags.batch_size,
        max_seconds=12.0,
        bucket_seconds=(3.0, 6.0, 9.0, 12.0),
        joins=JoinConfig(augment=AugmentConfig()),
    )
    with tempfile.TemporaryDirectory() as temporary:
        if not flags.records:
            write_corpus(Path(temporary))
        found = run(flags.records or [temporary], flags.batches, config)
    found["machine"] = f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}"
    for name, value in found["times_real_time"].items():
        print(f"{name:9s} {value:9.0f} x real time per core")
    print(
        f"goal for the pipeline: {GOAL:.0f} x; {found['example_seconds']} s and {found['pieces_per_example']} pieces an example"
    )
    if flags.json:
        records.write_json(flags.json, found)


if __name__ == "__main__":
    sys.exit(main())
