"""Finds the fastest `ScanConfig` for a problem on the device that is here, by timing the candidates.

python -m kernels.selective_scan.autotune --spec animator_one --implementation chunked
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from kernels.selective_scan import arg_specs
from kernels.selective_scan.api import IMPLEMENTATIONS, selective_scan
from kernels.selective_scan.arguments import ScanConfig

CHUNKS = (32, 64, 128)
TIME_SPLITS = (1, 2, 4, 8)
UNROLLS = (1, 2, 4, 8, 16, 32)
CHANNEL_TILES = (256, 512, 1024)


def candidates(length: int) -> list[ScanConfig]:
    """Chunks and time splits that differ at this length."""
    pairs = itertools.product(CHUNKS, TIME_SPLITS)
    return [ScanConfig(chunk=c, time_splits=s) for c, s in pairs if c * s <= max(length, CHUNKS[0])]


def refinements(config: ScanConfig, implementation: str | None, channels: int) -> list[ScanConfig]:
    """`config` with other numbers of steps written out and, where the implementation has such a choice, channels per tile."""
    tiles: list[int | None] = [None]
    if implementation == "pallas_tpu":
        tiles += [tile for tile in CHANNEL_TILES if tile < channels]
    pairs = itertools.product(tiles, UNROLLS)
    return [dataclasses.replace(config, channel_tile=tile, unroll=unroll) for tile, unroll in pairs]


def autotune(
    spec: arg_specs.ArgSpec, implementation: str | None = None, *, backward: bool = True, rounds: int = 5
) -> list[tuple[float, ScanConfig]]:
    """(median seconds, config) of every candidate that runs, fastest first; the best chunk and time splits are refined.

    Raises ValueError if no candidate runs.
    """
    found = _timed(candidates(spec.length), spec, implementation, backward, rounds)
    if not found:
        raise ValueError(f"no configuration of {implementation} runs {spec.name} {spec.shape}")
    # The best runs again among its refinements: times of one set of rounds can be compared, those of two can't.
    best, others = found[0][1], found[1:]
    refined = _timed([best, *refinements(best, implementation, spec.channels)], spec, implementation, backward, rounds)
    return sorted(refined + others, key=lambda pair: pair[0])


def _timed(configs, spec, implementation, backward: bool, rounds: int) -> list[tuple[float, ScanConfig]]:
    """(median seconds, config) of those that run, fastest first. Rounds are interleaved over the configs."""
    arrays, options = spec.concrete()
    compiled = {}
    for config in configs:

        def forward(arrays, config=config):
            return selective_scan(**arrays, **options, implementation=implementation, config=config)

        def loss(arrays, forward=forward):
            return jnp.sum(forward(arrays).astype(jnp.float32))

        try:
            run = jax.jit(jax.grad(loss) if backward else forward).lower(arrays).compile()
            jax.block_until_ready(run(arrays))
        except (ValueError, jax.errors.JaxRuntimeError):  # not supported, not compiled, or out of memory
            continue
        compiled[config] = run
    times = {config: [] for config in compiled}
    for _ in range(rounds):
        for config, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(arrays))
            times[config].append(time.perf_counter() - start)
    return sorted(((float(np.median(t)), c) for c, t in times.items()), key=lambda pair: pair[0])


def described(config: ScanConfig) -> dict[str, int]:
    """The knobs of a config that are set, by name."""
    names = ("chunk", "time_splits", "unroll", "channel_tile")
    return {name: getattr(config, name) for name in names if getattr(config, name) is not None}


def main(argv: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--spec", default="animator_one", help="a name of arg_specs")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--implementation", choices=IMPLEMENTATIONS)
    parser.add_argument("--forward", action="store_true", help="time the forward pass alone")
    args = parser.parse_args(argv)
    try:
        spec = dataclasses.replace(arg_specs.named(args.spec), dtype=args.dtype)
    except KeyError as error:
        print(f"autotune: {error.args[0]}", file=sys.stderr)
        raise SystemExit(2) from None
    for seconds, config in autotune(spec, args.implementation, backward=not args.forward):
        print(f"{1e3 * seconds:9.3f} ms  " + "  ".join(f"{name} {value}" for name, value in described(config).items()))


if __name__ == "__main__":
    main()
