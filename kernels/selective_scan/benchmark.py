"""Times the implementations and their peers side by side.

    python -m kernels.selective_scan.benchmark --specs cpu,encoder,demo --out build/scan

Contestants take turns, so that a disturbance of the machine meets all of them. On a CPU each contestant has a
process of its own: in a shared one a call pays for the pages that the contestant before it gave back. On an accelerator calls
are sent off several at a time, so that their time is the device's; where it is shorter than sending one off, that is what is
measured. The report gives medians, quartiles and, per problem, the ratio to the best baseline of the same run. Results go to
OUT.json and OUT.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from kernels.selective_scan import arg_specs, baselines, roofline
from kernels.selective_scan.api import IMPLEMENTATIONS, selective_scan

BASELINES = ("plain_scan", "associative", "torch", "mamba_ssm")
MODES = ("forward", "forward_backward")
# How often the forms that store every state hold them, forward and with backward, and the bytes from which they are skipped.
STORED_COPIES = {"associative": (5, 14), "plain_scan": (0, 4), "reference": (0, 4), "torch": (0, 12)}
STORED_STATES_LIMIT = 1.1e10

TURN_SECONDS = 0.05
"""How long a contestant is timed in a turn, one call at least."""

CALLS_IN_FLIGHT = 10
"""Calls sent to an accelerator before the first is waited for."""


def main(argv: list[str] | None = None) -> list[dict]:
    """Runs the benchmark of the command line and returns its rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--specs", default="demo,encoder,cpu", help="names of arg_specs.BENCHMARK, or 'all'")
    parser.add_argument("--dtypes", default="float32", help="float32,bfloat16")
    parser.add_argument("--modes", default=",".join(MODES), help="forward,forward_backward")
    parser.add_argument(
        "--implementations",
        default="default,plain_scan,associative,torch,mamba_ssm",
        help="default, any implementation of selective_scan, and the baselines plain_scan, torch, mamba_ssm",
    )
    parser.add_argument("--rounds", type=int, default=15, help="turns per contestant")
    parser.add_argument("--seconds", type=float, default=20.0, help="time limit of one problem and mode")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.png")
    args = parser.parse_args(argv)
    rows = []
    try:
        names = [s.name for s in arg_specs.BENCHMARK] if args.specs == "all" else args.specs.split(",")
        specs = [arg_specs.named(name) for name in names]
        for name in args.implementations.split(","):
            if name not in ("default", *IMPLEMENTATIONS, *BASELINES):
                raise KeyError(f"no contestant {name!r}; known: {', '.join(('default', *IMPLEMENTATIONS, *BASELINES))}")
        for given, known in ((args.modes, MODES), (args.dtypes, ("float32", "bfloat16"))):
            for name in given.split(","):
                if name not in known:
                    raise KeyError(f"no mode or dtype {name!r}; known: {', '.join(known)}")
    except KeyError as error:
        print(f"benchmark: {error.args[0]}", file=sys.stderr)
        raise SystemExit(2) from None
    for spec in specs:
        for dtype in args.dtypes.split(","):
            for mode in args.modes.split(","):
                one, names = dataclasses.replace(spec, dtype=dtype), args.implementations.split(",")
                rows += measure(one, mode, names, rounds=args.rounds, seconds=args.seconds)
    if args.out:
        write(rows, args.out)
    return rows


def measure(spec: arg_specs.ArgSpec, mode: str, names: list[str], *, rounds: int, seconds: float) -> list[dict]:
    """Times the contestants of one problem, printing a line for each; the rows of those that ran.

    Args:
      mode: one of MODES. names: contestants, see the command line. rounds: turns of each; fewer, but three, after `seconds`.
    """
    open_contestant = _Process if jax.default_backend() == "cpu" else _InProcess
    contestants = {}
    try:
        for name in names:
            made = open_contestant(name, spec, mode)
            if made.runs:
                contestants[name] = made
            else:
                made.close()
        times = {name: [] for name in contestants}
        start = time.perf_counter()
        for turn in range(rounds):
            for name, contestant in contestants.items():
                times[name] += contestant.turn()
            if time.perf_counter() - start > seconds and turn >= 2:
                break
    finally:
        for contestant in contestants.values():
            contestant.close()
    rows = []
    device = jax.devices()[0]
    total = roofline.work(spec, mode == "forward_backward")
    known = roofline.device_named(device.device_kind)
    for name, contestant in contestants.items():
        temporary = contestant.temporary
        median = float(np.median(times[name]))
        row = {
            "spec": spec.name,
            "shape": spec.shape,
            "dtype": spec.dtype,
            "mode": mode,
            "implementation": name,
            "median_ms": 1e3 * median,
            "quartiles_ms": [1e3 * float(q) for q in np.quantile(times[name], (0.25, 0.75))],
            "min_ms": 1e3 * min(times[name]),
            "calls": len(times[name]),
            "temporary_MiB": None if temporary is None else temporary / 2**20,
            "effective_GB_per_s": total.memory_bytes / median / 1e9,
            "device": device.device_kind,
        }
        if known:
            limit, seconds = roofline.bound(total, known)
            row |= {"bound_by": limit, "share_of_roofline": seconds / median}
        rows.append(row)
    best = min((r["median_ms"] for r in rows if r["implementation"] in BASELINES), default=None)
    least = min((r["min_ms"] for r in rows if r["implementation"] in BASELINES), default=None)
    for row in rows:
        # Of the fastest rounds as well: on a machine that others use, medians measure the others.
        row["speedup_of_minima"] = None if least is None else least / row["min_ms"]
        row["speedup_over_best_baseline"] = None if best is None else best / row["median_ms"]
        _print(row)
    return rows


class _InProcess:
    """A contestant in this process, compiled and run once."""

    def __init__(self, name, spec, mode):
        self.runs, self.temporary = False, None
        self._calls = 1 if jax.default_backend() == "cpu" else CALLS_IN_FLIGHT
        try:
            made = _contestant(name, spec, mode)
            if made is not None:
                self._run, self.temporary = made
                self._run(1)
                self.runs = True
        except Exception as error:  # whatever a compiler or a device has to say: the others can still be timed
            print(f"{spec.name}: {name} failed, {type(error).__name__}: {str(error)[:500]}", file=sys.stderr)

    def turn(self) -> list[float]:
        """Seconds of each of some calls in a row, after one that is not timed: a core and its threads wake up first, as in
        a training step, where the call before was a millisecond ago."""
        self._run(self._calls)
        seconds, end = [], time.perf_counter() + TURN_SECONDS
        while not seconds or time.perf_counter() < end:
            begin = time.perf_counter()
            self._run(self._calls)
            seconds.append((time.perf_counter() - begin) / self._calls)
        return seconds

    def close(self) -> None:
        self._run = None


def _serve(pipe, name, spec, mode):
    contestant = _InProcess(name, spec, mode)
    pipe.send((contestant.runs, contestant.temporary))
    while contestant.runs and pipe.recv():
        pipe.send(contestant.turn())


class _Process:
    """The same in a process of its own, which sleeps while others are timed."""

    def __init__(self, name, spec, mode):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, spec, mode), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.runs, self.temporary = self._pipe.recv()
        except EOFError:
            print(f"{spec.name}: {name} failed, its message stands above", file=sys.stderr)
            self.runs, self.temporary = False, None

    def turn(self) -> list[float]:
        self._pipe.send(True)
        return self._pipe.recv()

    def close(self) -> None:
        if self._process.is_alive() and self.runs:
            self._pipe.send(False)
        self._process.join()


def _contestant(name: str, spec, mode: str) -> tuple[Callable[[int], object], int | None] | None:
    """A function that makes so many calls and waits for the last, and its temporary bytes if known; None: not here."""
    stored = 4 * float(np.prod(spec.shape)) * STORED_COPIES.get(name, (0, 0))[mode == "forward_backward"]
    if stored > STORED_STATES_LIMIT:
        print(f"{spec.name}: {name} skipped, its states fill {stored / 2**30:.0f} GiB", file=sys.stderr)
        return None
    arrays, options = spec.concrete()
    if name in ("torch", "mamba_ssm"):
        if name == "torch":
            made = baselines.torch_scan(arrays, options) if baselines.torch_available() else None
        else:
            made = baselines.mamba_ssm_scan(arrays, options, spec.dtype)
        return None if made is None else (made[mode == "forward_backward"], None)
    if name == "plain_scan":
        call = functools.partial(baselines.plain_scan, **options)
    else:
        call = functools.partial(selective_scan, **options, implementation=None if name == "default" else name)

    def forward(arrays):
        return call(**arrays)

    def loss(arrays):
        return jnp.sum(call(**arrays).astype(jnp.float32))

    function = forward if mode == "forward" else jax.grad(loss)
    compiled = jax.jit(function).lower(arrays).compile()

    def run(calls):
        for _ in range(calls):
            out = compiled(arrays)
        jax.block_until_ready(out)

    return run, compiled.memory_analysis().temp_size_in_bytes


def _print(row: dict) -> None:
    low, high = row["quartiles_ms"]
    memory = "-" if row["temporary_MiB"] is None else f"{row['temporary_MiB']:.0f}"
    ratio = "-" if row["speedup_over_best_baseline"] is None else f"{row['speedup_over_best_baseline']:.2f}"
    minima = "" if row["speedup_of_minima"] is None else f", {row['speedup_of_minima']:.2f}x by minima"
    share = f"  {row['share_of_roofline']:.0%} of {row['bound_by']}" if "bound_by" in row else ""
    print(
        f"{row['spec']:15s} {row['dtype']:9s} {row['mode']:17s} {row['implementation']:12s} {row['median_ms']:9.2f} ms "
        f"[{low:.2f}, {high:.2f}] min {row['min_ms']:.2f}  temp {memory:>5s} MiB  {ratio}x of the best baseline{minima}{share}",
        flush=True,
    )


def write(rows: list[dict], out: Path) -> None:
    """Writes OUT.json, and OUT.png where matplotlib is installed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "jax": jax.__version__,
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "rows": rows,
    }
    temporary = out.with_name(out.name + ".json.part")
    temporary.write_text(json.dumps(report, indent=1) + "\n")
    temporary.replace(out.with_name(out.name + ".json"))
    try:
        import matplotlib
    except ImportError:
        print(f"benchmark: no matplotlib, so no figure beside {out.name}.json", file=sys.stderr)
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = list(dict.fromkeys((r["spec"], r["dtype"], r["mode"]) for r in rows))
    names = list(dict.fromkeys(r["implementation"] for r in rows))
    figure, axis = plt.subplots(figsize=(1.5 + 1.3 * len(groups), 4), layout="constrained")
    for i, name in enumerate(names):
        picked = [(groups.index((r["spec"], r["dtype"], r["mode"])), r) for r in rows if r["implementation"] == name]
        x = [g + (i - (len(names) - 1) / 2) * 0.8 / len(names) for g, _ in picked]
        medians = np.array([r["median_ms"] for _, r in picked])
        spread = np.abs(np.array([r["quartiles_ms"] for _, r in picked]).T - medians)
        axis.bar(x, medians, 0.8 / len(names), yerr=spread, label=name)
    axis.set_yscale("log")
    axis.set_ylabel("time (ms)")
    axis.set_xticks(range(len(groups)), [f"{s}\n{d}\n{m}" for s, d, m in groups], fontsize=7)
    axis.legend(fontsize=7)
    temporary = out.with_name(out.name + ".part.png")
    figure.savefig(temporary, dpi=150)
    plt.close(figure)
    temporary.replace(out.with_name(out.name + ".png"))


if __name__ == "__main__":
    main()
