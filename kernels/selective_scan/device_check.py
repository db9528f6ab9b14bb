"""Everything that a machine with an accelerator has to tell about the scan, in one command and under ten minutes:

    python -m kernels.selective_scan.device_check --out build/device_check

1. Correctness: values and every gradient of the device's default implementation against float64 on the CPU, per contract
   problem. 2. Timings of all benchmark problems, float32 and bfloat16, beside the peers that are installed. 3. The tuned
   configurations. Writes OUT/errors.json, OUT/benchmark.json, OUT/benchmark.png and OUT/tuning.json as it goes; the exit code
is 1 if a result is wrong. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from kernels.selective_scan import arg_specs, autotune, benchmark
from kernels.selective_scan.api import selective_scan


def relative_errors(spec: arg_specs.ArgSpec, implementation: str | None = None) -> dict[str, float]:
    """Largest error of y, the final state and each gradient, divided by the array's largest value in float64."""
    arrays, options = spec.concrete(1)
    flags = {k: v for k, v in arrays.items() if v.dtype == jnp.bool_}
    floats = {k: v for k, v in arrays.items() if k not in flags}
    rng = np.random.default_rng(2)
    batch, length, channels, state = spec.shape
    weight_y, weight_h = rng.standard_normal((batch, length, channels)), rng.standard_normal((batch, channels, state))

    def value(floats, flags, implementation):
        y, h = selective_scan(**floats, **flags, **options, return_final_state=True, implementation=implementation)
        total = jnp.sum(y * weight_y.astype(h.dtype)) + jnp.sum(h * weight_h.astype(h.dtype))
        return total, {"y": y, "final_state": h}

    def run(floats, implementation):
        differentiate = jax.jit(jax.value_and_grad(value, has_aux=True), static_argnums=2)
        (_, outputs), grads = differentiate(floats, flags, implementation)
        return {k: np.asarray(v, np.float64) for k, v in (outputs | {f"d {k}": v for k, v in grads.items()}).items()}

    got = run(floats, implementation)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        host = {k: np.asarray(v) for k, v in floats.items()}
        flags = {k: np.asarray(v) for k, v in flags.items()}
        exact = run({k: jnp.asarray(v.astype(np.float64)) for k, v in host.items()}, "reference")
    return {k: float(np.max(np.abs(got[k] - exact[k])) / np.max(np.abs(exact[k]))) for k in exact}


def tolerance(spec: arg_specs.ArgSpec) -> float:
    """Allowed relative error: float32 rounding with special functions of 22 bits, as a random walk; bfloat16's last place."""
    return 1e-6 * (8 + spec.length**0.5) if spec.dtype == "float32" else 2.0**-7


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--specs", default="all", help="benchmark problems, separated by commas")
    parser.add_argument("--seconds", type=float, default=6.0, help="time limit of one problem, dtype and mode")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}", flush=True)
    errors, wrong = {}, []
    for spec in arg_specs.CONTRACT:
        errors[spec.name] = found = relative_errors(spec)
        name, worst = max(found.items(), key=lambda item: item[1])
        good = worst < tolerance(spec)
        wrong += [] if good else [spec.name]
        print(f"{'right' if good else 'WRONG'}  {spec.name:13s} largest error {worst:.1e} in {name}", flush=True)
        _write(args.out / "errors.json", errors)
    benchmark.main(
        ["--specs", args.specs, "--dtypes", "float32,bfloat16", "--seconds", str(args.seconds), "--rounds", "50"]
        + ["--implementations", "default,chunked,plain_scan,associative,mamba_ssm", "--out", str(args.out / "benchmark")]
    )
    tuning = {}
    for spec in arg_specs.BENCHMARK if args.specs == "all" else [arg_specs.named(n) for n in args.specs.split(",")]:
        found = autotune.autotune(spec)
        tuning[spec.name] = [{"ms": 1e3 * s, "chunk": c.chunk, "time_splits": c.time_splits} for s, c in found]
        print(f"{spec.name:15s} best {tuning[spec.name][0]}", flush=True)
        _write(args.out / "tuning.json", tuning)
    print(f"{time.perf_counter() - start:.0f} s; wrong: {', '.join(wrong) or 'nothing'}")
    return 1 if wrong else 0


def _write(path: Path, content: dict) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
