"""Everything that a machine with an accelerator has to tell about the scan, in one command and under ten minutes:

    python -m kernels.selective_scan.device_check --out build/device_check

1. Correctness: values and every gradient of the device's own kernel and of `chunked` against float64 on the CPU, per contract
   problem. 2. Timings of the benchmark problems, float32 and bfloat16, beside the peers that are installed. (Of mamba_ssm only
   the extension `selective_scan_cuda` is used; it has to be on PYTHONPATH, with PyTorch.) 3. The tuned configurations of the
   kernel.

Writes OUT/errors.json, OUT/benchmark.json, OUT/benchmark.png and OUT/tuning.json as it goes. Nothing begins after --minutes,
and what was left out is named. The exit code is 1 if a result is wrong, or a kernel fails. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from kernels.selective_scan import arg_specs, autotune, benchmark
from kernels.selective_scan.api import selective_scan

KERNELS = {"gpu": "pallas_gpu", "tpu": "pallas_tpu"}
"""The implementation that each platform has for itself."""

BASELINES = ("plain_scan", "associative", "mamba_ssm")


def relative_errors(spec: arg_specs.ArgSpec, implementation: str | None = None) -> dict[str, float]:
    """Largest error of y, the final state and each gradient, divided by the array's largest value in float64."""
    got = _values_and_gradients(spec, implementation)
    exact = _exact(spec)
    return {k: float(np.max(np.abs(got[k] - exact[k])) / np.max(np.abs(exact[k]))) for k in exact}


@functools.cache
def _exact(spec: arg_specs.ArgSpec) -> dict[str, np.ndarray]:
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        return _values_and_gradients(spec, "reference", np.float64)


def _values_and_gradients(spec: arg_specs.ArgSpec, implementation: str | None, dtype=None) -> dict[str, np.ndarray]:
    arrays, options = spec.concrete(1)
    arrays = {k: np.asarray(v) for k, v in arrays.items()}  # from the host to whatever device is the default
    flags = {k: jnp.asarray(v) for k, v in arrays.items() if v.dtype == np.bool_}
    floats = {k: jnp.asarray(v if dtype is None else v.astype(dtype)) for k, v in arrays.items() if k not in flags}
    rng = np.random.default_rng(2)
    batch, length, channels, state = spec.shape
    weight_y, weight_h = rng.standard_normal((batch, length, channels)), rng.standard_normal((batch, channels, state))

    def value(floats):
        y, h = selective_scan(**floats, **flags, **options, return_final_state=True, implementation=implementation)
        total = jnp.sum(y * weight_y.astype(h.dtype)) + jnp.sum(h * weight_h.astype(h.dtype))
        return total, {"y": y, "final_state": h}

    (_, outputs), grads = jax.jit(jax.value_and_grad(value, has_aux=True))(floats)
    return {k: np.asarray(v, np.float64) for k, v in (outputs | {f"d {k}": v for k, v in grads.items()}).items()}


def tolerance(spec: arg_specs.ArgSpec) -> float:
    """Allowed relative error: float32 rounding with special functions of 22 bits, as a random walk; bfloat16's last place."""
    return 1e-6 * (8 + spec.length**0.5) if spec.dtype == "float32" else 2.0**-7


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--specs", default="study,animator_batch,diarizer,animator_one,cpu,encoder,demo", help="in this order")
    parser.add_argument("--seconds", type=float, default=3.0, help="time limit of one problem, dtype and mode")
    parser.add_argument("--minutes", type=float, default=8.5, help="begin nothing after this")
    args = parser.parse_args(argv)
    try:
        specs = [arg_specs.named(name) for name in args.specs.split(",")]
    except KeyError as error:
        print(f"device_check: {error.args[0]}", file=sys.stderr)
        return 2
    # The peers in PyTorch need memory of the same device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    args.out.mkdir(parents=True, exist_ok=True)
    start, missing = time.perf_counter(), []
    kernel = KERNELS.get(jax.default_backend())
    implementations = ("chunked",) if kernel is None else (kernel, "chunked")
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}: {', '.join(implementations)}", flush=True)

    def late(what: str) -> bool:
        left_out = time.perf_counter() - start > 60 * args.minutes
        if left_out:
            missing.append(what)
        return left_out

    wrong = _check(implementations, args.out / "errors.json")
    rows, names = [], [*implementations, *BASELINES]
    for spec in specs:
        for dtype in ("float32", "bfloat16"):
            for mode in benchmark.MODES:
                if late(f"{spec.name} {dtype} {mode}"):
                    continue
                one = dataclasses.replace(spec, dtype=dtype)
                try:
                    found = benchmark.measure(one, mode, names, rounds=50, seconds=args.seconds)
                except Exception as error:  # in the midst of timing: the other problems can still be timed
                    print(f"{spec.name} {dtype} {mode}: {type(error).__name__}: {str(error)[:500]}", file=sys.stderr)
                    wrong.append(f"timing {spec.name} {dtype} {mode}")
                    continue
                rows += found
                if kernel is not None and all(row["implementation"] != kernel for row in found):
                    wrong.append(f"{kernel} {spec.name} {dtype} {mode}")
                benchmark.write(rows, args.out / "benchmark")
    tuning = {}
    for spec in specs:
        if late(f"tuning {spec.name}"):
            continue
        try:
            found = autotune.autotune(spec, implementations[0])
        except Exception as error:  # nothing runs, or the device fails: the other problems can still be tuned
            print(f"{spec.name:15s} {type(error).__name__}: {str(error)[:500]}", flush=True)
            wrong.append(f"tuning {spec.name}")
            continue
        tuning[spec.name] = [{"ms": 1e3 * s} | autotune.described(c) for s, c in found]
        print(f"{spec.name:15s} {implementations[0]} best {tuning[spec.name][0]}", flush=True)
        _write(args.out / "tuning.json", tuning)
    print(f"{time.perf_counter() - start:.0f} s; left out: {', '.join(missing) or 'nothing'}")
    print(f"wrong: {', '.join(wrong) or 'nothing'}")
    return 1 if wrong else 0


def _check(implementations, path: Path) -> list[str]:
    """Errors per problem and implementation, written to `path`; the names of those that are wrong or fail."""
    errors, wrong = {spec.name: {} for spec in arg_specs.CONTRACT}, []
    # The kernel last: one that breaks the device for this process takes nothing else with it.
    for implementation in reversed(implementations):
        for spec in arg_specs.CONTRACT:
            try:
                found = relative_errors(spec, implementation)
            except Exception as error:  # whatever a compiler or a device has to say: the rest can still be checked
                found, worst, name = {"failed": f"{type(error).__name__}: {error}"[:2000]}, np.inf, "failed"
                print(found["failed"], file=sys.stderr)
            else:
                # Not a number is the largest of all.
                name, worst = max(found.items(), key=lambda item: np.inf if np.isnan(item[1]) else item[1])
            good = worst < tolerance(spec)
            wrong += [] if good else [f"{implementation} {spec.name}"]
            errors[spec.name][implementation] = found
            print(
                f"{'right' if good else 'WRONG'}  {implementation:11s} {spec.name:13s} largest error {worst:.1e} in {name}",
                flush=True,
            )
            _write(path, errors)
    return wrong


def _write(path: Path, content: dict) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
