"""Compiles the kernels for an accelerator that is not here, with its real compiler, and reports what came out.

    python -m kernels.aot --target v5e,v5p,v6e            in an environment with jax[tpu] (make aot-tpu)
    python -m kernels.aot --target h200                   in an environment with jax[cuda13] and absl-py (make aot-gpu)

Columns: bytes of arguments and results, temporary bytes in device memory, registers and spilled bytes per thread and
shared memory (GPU) or vector memory and VLIW bundles per time step and tile of 1,024 channels (TPU), the time that these take
at the device's clock, and the least time that memory, special functions and float32 issue allow. What a kernel does in some
grid steps only, such as the copies of a block, is counted in all, so the bundles are an upper bound; but of the two loops that
prepare the first channel tile and the others, each in its share. A kernel that does not compile shows the compiler's message,
and the exit code is 1. libtpu is under licence terms of its own, so no other part of this project needs it.

    python -m kernels.aot --table build/aot_tpu.json      the rows of an earlier run as the table of the README
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_BUNDLE = re.compile(r"\s*(?:0x)?[0-9a-f]+\s+(\w\w)?:\s*(>*)\s*\{(.*)")
"""A line of a TPU schedule: address, label, one `>` per loop that it is in, operations."""
_EXIT_TEST = re.compile(r"scmp\.ge\S* (\(\S+\), )?%\S+, (\d+) +/\* loop exit test")
"""The end of a loop of a fixed number of turns; the test of the loop round it is made at its end, on condition."""
_JUMP = re.compile(r"sbr\.rel \S+ target = \$region(\d+)")
_START = re.compile(r"(?:Start|Start/End empty) region (\d+)")

DTYPES, MODES = ("float32", "bfloat16"), ("forward", "backward")
TPU_TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
ROOFLINE_NAMES = {"v5e": "TPU v5e", "v5p": "TPU v5p", "v6e": "TPU v6e", "h200": "NVIDIA H200"}

H200_DESCRIPTION = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 150754820096
  shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 28 } device_description_str: "NVIDIA H200"
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, or 1 if something does not compile."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--target", default="v5e", help="v5e, v5p, v6e, h200; several TPUs separated by commas")
    parser.add_argument("--specs", default="benchmark", help="arg_specs names, or benchmark, contract, all")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--modes", default="forward,backward")
    parser.add_argument("--implementation", help="by default the one that the platform takes by itself")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    parser.add_argument("--keep-dumps", type=Path, help="keep the compilers' dumps in this directory")
    parser.add_argument("--table", type=Path, metavar="JSON", help="compile nothing; print the rows of this file as a table")
    args = parser.parse_args(argv)
    if args.table:
        print("\n".join(tpu_table(json.loads(args.table.read_text()))))
        return 0
    targets = args.target.split(",")
    unknown = [t for t in targets if t not in ROOFLINE_NAMES]
    if unknown or ("h200" in targets and len(targets) > 1):
        print(f"aot: targets {targets}: choose some of v5e, v5p, v6e, or h200 alone", file=sys.stderr)
        return 2
    mistake = _mistake(args)
    if mistake:
        print(f"aot: {mistake}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        dumps = args.keep_dumps or Path(temporary)
        dumps.mkdir(parents=True, exist_ok=True)
        _prepare_environment("h200" in targets, dumps)
        from kernels.selective_scan import arg_specs

        groups = {"benchmark": arg_specs.BENCHMARK, "contract": arg_specs.CONTRACT}
        groups["all"] = (*arg_specs.CONTRACT, *arg_specs.BENCHMARK)
        try:
            specs = groups.get(args.specs) or [arg_specs.named(name) for name in args.specs.split(",")]
        except KeyError as error:
            print(f"aot: {error.args[0]}", file=sys.stderr)
            return 2
        try:
            rows = [row for target in targets for row in _compile_all(target, specs, args, dumps)]
        except (RuntimeError, ModuleNotFoundError) as error:
            first = str(error).splitlines()[0]
            print(f"aot: no compiler for {args.target} in this environment ({first}); see --help", file=sys.stderr)
            return 2
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        part = args.out.with_name(args.out.name + ".part")
        part.write_text(json.dumps(rows, indent=1) + "\n")
        part.replace(args.out)
    return 1 if any("error" in row for row in rows) else 0


def _mistake(args) -> str | None:
    """What is wrong with --dtypes or --modes, or None."""
    asked = {"modes": (args.modes, MODES), "dtypes": (args.dtypes, DTYPES)}
    for flag, (given, known) in asked.items():
        unknown = [name for name in given.split(",") if name not in known]
        if unknown:
            return f"--{flag} {','.join(unknown)}: choose some of {', '.join(known)}"
    return None


def _prepare_environment(gpu: bool, dumps: Path) -> None:
    """Both compilers read these when JAX first loads them, so this comes before the import."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if gpu:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={dumps} --xla_gpu_autotune_level=0"
        os.environ["MOSAIC_GPU_DUMP_PTX_TO"] = os.environ["MOSAIC_GPU_DUMP_TO"] = str(dumps)
    else:
        os.environ["TPU_SKIP_MDS_QUERY"] = "1"
        # "final" keeps the allocations and the last schedule of seventy passes.
        os.environ["LIBTPU_INIT_ARGS"] = (
            f"--xla_jf_dump_to={dumps} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final"
        )


def _compile_all(target: str, specs, args, dumps: Path) -> list[dict]:
    import jax
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from kernels.selective_scan import roofline

    if target == "h200":
        topology = topologies.get_topology_desc(
            platform="cuda", topology_name="h200", target_config=H200_DESCRIPTION, topology="1x1x1"
        )
    else:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=TPU_TOPOLOGIES[target])
    sharding = NamedSharding(Mesh(np.array(topology.devices[:1]), ("x",)), PartitionSpec())
    rows = []
    for spec in specs:
        for dtype in args.dtypes.split(","):
            for mode in args.modes.split(","):
                one = dataclasses.replace(spec, dtype=dtype)
                row = {"target": target, "spec": spec.name, "shape": spec.shape, "dtype": dtype, "mode": mode}
                limit, seconds = roofline.bound(
                    roofline.work(one, mode == "backward"), roofline.device_named(ROOFLINE_NAMES[target])
                )
                row |= {"bound_by": limit, "bound_ms": 1e3 * seconds}
                before = set(dumps.rglob("*"))
                try:
                    compiled = jax.jit(_function(one, mode, args.implementation)).lower(one.abstract(sharding)[0]).compile()
                except Exception as error:
                    row["error"] = f"{type(error).__name__}: {str(error).strip()[:2000]}"
                else:
                    memory = compiled.memory_analysis()
                    row["argument_MiB"] = memory.argument_size_in_bytes / 2**20
                    row["output_MiB"] = memory.output_size_in_bytes / 2**20
                    row["temporary_MiB"] = memory.temp_size_in_bytes / 2**20
                    fresh = sorted(set(dumps.rglob("*")) - before)
                    row |= _gpu_resources(fresh) if target == "h200" else _tpu_resources(fresh, one, ROOFLINE_NAMES[target])
                rows.append(row)
                _print(row)
    return rows


def _function(spec, mode: str, implementation: str | None):
    import jax
    import jax.numpy as jnp

    from kernels.selective_scan import selective_scan

    _, options = spec.abstract()

    def forward(arrays):
        return selective_scan(**arrays, **options, implementation=implementation)

    def gradient(arrays):
        flags = {name: x for name, x in arrays.items() if x.dtype == jnp.bool_}
        numbers = {name: x for name, x in arrays.items() if name not in flags}
        return jax.grad(lambda numbers: jnp.sum(forward(numbers | flags).astype(jnp.float32)))(numbers)

    return forward if mode == "forward" else gradient


def _tpu_resources(files: list[Path], spec, device_name: str) -> dict:
    """Per kernel, MiB of vector memory, `innermost_loops` and bundles per time step and channel tile; and the time of all."""
    from kernels.selective_scan import roofline

    device = roofline.device_named(device_name)
    cores, tiles = min(device.cores, spec.batch), -(-spec.channels // 1024)
    tile_steps = spec.batch * spec.length * tiles
    found = {}
    for path in files:
        match = re.search(r"(selective_scan_(?:fwd|bwd))\S*-\d+-(final_bundles|pre-finalize)", path.name)
        if match:
            kernel, text = found.setdefault(match.group(1), {}), path.read_text()
            if match.group(2) == "final_bundles":
                loops, outside, grid = innermost_loops(text)
                shares = [1.0] * len(loops)
                skipped = [i for i, (_, _, may_be_skipped) in enumerate(loops) if may_be_skipped]
                if tiles > 1 and len(skipped) == 2:
                    shares[skipped[0]], shares[skipped[1]] = 1 / tiles, 1 - 1 / tiles
                inside = sum(share * turns * bundles for share, (turns, bundles, _) in zip(shares, loops, strict=True))
                kernel |= {"loops": [loop[:2] for loop in loops], "outside": outside, "grid": grid * cores}
                kernel["bundles"] = round(kernel["grid"] * (outside + inside) / tile_steps, 2)
            else:
                kernel["vector_memory_MiB"] = round(vector_memory(text) / 2**20, 1)
    bundles = tile_steps * sum(kernel["bundles"] for kernel in found.values())
    return {"kernels": found, "estimate_ms": 1e3 * bundles / (device.clock * cores)}


def vector_memory(text: str) -> int:
    """Bytes of scratch and of blocks with their second copies, from the list of allocations of a TPU kernel."""
    return sum(int(size, 16) for size in re.findall(r"space=vmem, size = (0x[0-9a-f]+), scoped", text))


def innermost_loops(text: str) -> tuple[list[tuple[int, int, bool]], int, int]:
    """A schedule's innermost loops, the bundles of a grid step outside them, and the grid steps of a core.

    A loop is (turns, bundles of a turn, whether some grid steps may jump over it), in program order, with the turns of all the
    loops round it but the grid's. The grid's loop is the one outermost loop, and takes a turn more at each end for the copies
    alone; a grid of one step has none. A loop begins at a line labelled LB and holds the following bundles of at least its
    depth, empty ones aside, which show no depth.

    Raises:
      ValueError: a number of turns is computed by the kernel.
    """
    open_loops, done, outside, grid = [], [], 0, 1
    started, jumped_to = set(), set()
    for line in text.splitlines():
        match = _BUNDLE.match(line)
        if not match:
            continue
        label, depth, operations = match.group(1), len(match.group(2)), match.group(3)
        started.update(_START.findall(operations))
        jumped_to -= started
        if label == "LB":
            open_loops = open_loops[: depth - 1]
            new = {"bundles": 0, "turns": None, "parents": list(open_loops), "inner": True, "jumps": len(jumped_to)}
            open_loops.append(new)
            for parent in open_loops[:-1]:
                parent["inner"] = False
            done.append(open_loops[-1])
        elif not operations.startswith("}"):
            open_loops = open_loops[:depth]
        # A target that has begun already is a loop's own. The grid's first and last turn jump over all else.
        jumped_to.update(set(_JUMP.findall(operations)) - started)
        if open_loops:
            open_loops[-1]["bundles"] += 1
            for of_outer, turns in _EXIT_TEST.findall(operations):
                open_loops[-2 if of_outer else -1]["turns"] = int(turns)
        else:
            outside += 1
    if any(loop["turns"] is None for loop in done):
        raise ValueError("a loop whose number of turns the schedule does not show")
    outermost = [loop for loop in done if not loop["parents"]]
    if len(outermost) == 1 and not outermost[0]["inner"]:
        outside, grid, outermost[0]["turns"] = 0, outermost[0]["turns"] - 2, 1
    loops, round_all = [], min((loop["jumps"] for loop in done if loop["inner"]), default=0)
    for loop in done:
        turns = math.prod(x["turns"] for x in (*loop["parents"], loop))
        if loop["inner"]:
            loops.append((turns, loop["bundles"], loop["jumps"] > round_all))
        else:
            outside += turns * loop["bundles"]
    return loops, outside, grid


def _gpu_resources(files: list[Path]) -> dict:
    """Registers, spills and shared memory of every kernel's PTX, by the ptxas of the CUDA wheels."""
    import nvidia

    ptxas = next((p for root in nvidia.__path__ for p in Path(root).rglob("bin/ptxas")), None)
    if ptxas is None:
        return {"kernels": "no ptxas in this environment"}
    kernels = {}
    for path in files:
        if path.suffix == ".ptx" and path.stat().st_size > 1000 and path.name.startswith("selective_scan"):
            done = subprocess.run(
                [str(ptxas), "-v", "-arch=sm_90a", str(path), "-o", os.devnull], capture_output=True, text=True, check=False
            )
            kernels |= parse_ptxas(done.stderr) if done.returncode == 0 else {path.name: done.stderr[-500:]}
    return {"kernels": kernels}


def parse_ptxas(text: str) -> dict[str, dict[str, int]]:
    """Kernel name -> registers, spill_bytes, shared_bytes from the output of ptxas -v."""
    kernels, name = {}, None
    for line in text.splitlines():
        if match := re.search(r"Compiling entry function '(\S+)'", line):
            name = match.group(1)
            kernels[name] = {"registers": 0, "spill_bytes": 0, "shared_bytes": 0}
        elif name and (match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)):
            kernels[name]["spill_bytes"] = int(match.group(1)) + int(match.group(2))
        elif name and (match := re.search(r"Used (\d+) registers", line)):
            kernels[name]["registers"] = int(match.group(1))
            if shared := re.search(r"(\d+) bytes smem", line):
                kernels[name]["shared_bytes"] = int(shared.group(1))
    return kernels


def _print(row: dict) -> None:
    head = f"{row['target']:5s} {row['spec']:15s} {row['dtype']:9s} {row['mode']:9s}"
    if "error" in row:
        print(f"{head} FAILS  {row['error'].splitlines()[0][:300]}", flush=True)
        return
    estimate = f"  estimate {row['estimate_ms']:.3f} ms" if "estimate_ms" in row else ""
    print(
        f"{head} compiles  in+out {row['argument_MiB'] + row['output_MiB']:.1f} MiB  temporary {row['temporary_MiB']:.1f} MiB"
        f"{estimate}  at least {row['bound_ms']:.3f} ms ({row['bound_by']})  {row['kernels']}",
        flush=True,
    )


def tpu_table(rows: list[dict]) -> list[str]:
    """Markdown lines, one per problem, from rows of the gradient program (mode "backward") in float32 and bfloat16."""
    rows = [row for row in rows if row["mode"] == "backward" and "estimate_ms" in row]
    targets, specs = (list(dict.fromkeys(row[key] for row in rows)) for key in ("target", "spec"))
    by_key = {(row["target"], row["spec"], row["dtype"]): row for row in rows}

    def pair(target, spec, show):
        return " / ".join(show(by_key[target, spec, t]) for t in ("float32", "bfloat16") if (target, spec, t) in by_key)

    first = targets[0]
    columns = {
        f"HBM in and out, temporary ({first}), MiB": lambda spec: pair(
            first, spec, lambda r: f"{r['argument_MiB'] + r['output_MiB']:.0f}, {r['temporary_MiB']:.0f}"
        ),
        f"VMEM forward, backward ({first}), MiB": lambda spec: pair(
            first,
            spec,
            lambda r: ", ".join(f"{r['kernels'][k]['vector_memory_MiB']:.0f}" for k in sorted(r["kernels"], reverse=True)),
        ),
    }
    for kernel, digits in (("fwd", 1), ("bwd", 0)):
        for target in targets:
            columns[f"{kernel}: {target}"] = lambda spec, target=target, kernel=kernel, digits=digits: pair(
                target, spec, lambda r: f"{r['kernels']['selective_scan_' + kernel]['bundles']:.{digits}f}"
            )
    columns[f"both on {first}, estimate (bound), ms"] = lambda spec: pair(
        first, spec, lambda r: f"{r['estimate_ms']:.2f} ({r['bound_ms']:.2f})"
    )
    lines = [f"| float32 / bfloat16 | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    return lines + [f"| `{spec}` | {' | '.join(show(spec) for show in columns.values())} |" for spec in specs]


if __name__ == "__main__":
    raise SystemExit(main())
