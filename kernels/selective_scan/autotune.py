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


def candidates(length: int) -> list[ScanConfig]:
    """Chunks and time splits that differ at this length."""
    pairs = itertools.product(CHUNKS, TIME_SPLITS)
    return [ScanConfig(chunk=c, time_splits=s) for c, s in pairs if c * s <= max(length, CHUNKS[0])]


def autotune(
    spec: arg_specs.ArgSpec, implementation: str | None = None, *, backward: bool = True, rounds: int = 5
) -> list[tuple[float, ScanConfig]]:
    """(median seconds, config) of every candidate that runs, fastest first. Rounds are interleaved over the candidates.

    Raises ValueError if no candidate runs.
    """
    arrays, options = spec.concrete()
    compiled = {}
    for config in candidates(spec.length):

        def forward(arrays, config=config):
            return selective_scan(**arrays, **options, implementation=implementation, config=config)

        def loss(arrays, forward=forward):
            return jnp.sum(forward(arrays).astype(jnp.float32))

        try:
            run = jax.jit(jax.grad(loss) if backward else forward).lower(arrays).compile()
        except ValueError:  # a candidate that the kernel does not support
            continue
        jax.block_until_ready(run(arrays))
        compiled[config] = run
    if not compiled:
        raise ValueError(f"no configuration of {implementation} runs {spec.name} {spec.shape}")
    times = {config: [] for config in compiled}
    for _ in range(rounds):
        for config, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(arrays))
            times[config].append(time.perf_counter() - start)
    return sorted(((float(np.median(t)), c) for c, t in times.items()), key=lambda pair: pair[0])


def main(argv: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        print(f"{1e3 * seconds:9.3f} ms  chunk {config.chunk}  time_splits {config.time_splits}")


if __name__ == "__main__":
    main()
