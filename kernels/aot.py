"""Compiles the kernels for an accelerator that is not here, with its real compiler, and reports what came out.

    python -m kernels.aot --target v5e,v5p,v6e            in an environment with jax[tpu] (make aot-tpu)
    python -m kernels.aot --target h200                   in an environment with jax[cuda13] and absl-py (make aot-gpu)

Columns: bytes of arguments and results, temporary bytes in device memory, registers and spilled bytes per thread and
shared memory (GPU) or vector memory and VLIW bundles of a grid step (TPU), and the least time that memory, special functions
and float32 issue allow. A kernel that does not compile shows the compiler's message, and the exit
code is 1. libtpu is under licence terms of its own, so no other part of this project needs it.
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="v5e", help="v5e, v5p, v6e, h200; several TPUs separated by commas")
    parser.add_argument("--specs", default="benchmark", help="arg_specs names, or benchmark, contract, all")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--modes", default="forward,backward")
    parser.add_argument("--implementation", help="by default the one that the platform takes by itself")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    parser.add_argument("--keep-dumps", type=Path, help="keep the compilers' dumps in this directory")
    args = parser.parse_args(argv)
    targets = args.target.split(",")
    unknown = [t for t in targets if t not in ROOFLINE_NAMES]
    if unknown or ("h200" in targets and len(targets) > 1):
        print(f"aot: targets {targets}: choose some of v5e, v5p, v6e, or h200 alone", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        dumps = args.keep_dumps or Path(temporary)
        dumps.mkdir(parents=True, exist_ok=True)
        _prepare_environment("h200" in targets, dumps)
        try:
            rows = [row for target in targets for row in _compile_all(target, args, dumps)]
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


def _compile_all(target: str, args, dumps: Path) -> list[dict]:
    import jax
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from kernels.selective_scan import arg_specs, roofline

    if target == "h200":
        topology = topologies.get_topology_desc(
            platform="cuda", topology_name="h200", target_config=H200_DESCRIPTION, topology="1x1x1"
        )
    else:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=TPU_TOPOLOGIES[target])
    sharding = NamedSharding(Mesh(np.array(topology.devices[:1]), ("x",)), PartitionSpec())
    groups = {"benchmark": arg_specs.BENCHMARK, "contract": arg_specs.CONTRACT, "all": arg_specs.CONTRACT + arg_specs.BENCHMARK}
    specs = groups.get(args.specs) or [arg_specs.named(n) for n in args.specs.split(",")]
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
                    row |= _gpu_resources(fresh) if target == "h200" else _tpu_resources(fresh)
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

    return forward if mode == "forward" else jax.grad(lambda arrays: jnp.sum(forward(arrays).astype(jnp.float32)))


def _tpu_resources(files: list[Path]) -> dict:
    """Per kernel: MiB of vector memory, the loops of a grid step as `innermost_loops` and its bundles outside them."""
    found = {}
    for path in files:
        match = re.search(r"(selective_scan_(?:fwd|bwd))\S*-\d+-(final_bundles|pre-finalize)", path.name)
        if match:
            kernel, text = found.setdefault(match.group(1), {}), path.read_text()
            if match.group(2) == "final_bundles":
                kernel["loops"], kernel["outside"] = innermost_loops(text)
            else:
                kernel["vector_memory_MiB"] = round(vector_memory(text) / 2**20, 1)
    return {"kernels": found}


def vector_memory(text: str) -> int:
    """Bytes of scratch and of blocks with their second copies, from the list of allocations of a TPU kernel."""
    return sum(int(size, 16) for size in re.findall(r"space=vmem, size = (0x[0-9a-f]+), scoped", text))


def innermost_loops(text: str) -> tuple[list[list[int | None]], int]:
    """([turns, bundles of a turn] of each innermost loop, bundles of a grid step outside them) of a schedule.

    Loops are in program order, with the turns of all the loops round them but the grid's; None where a number of turns is
    computed by the kernel. The grid's loop is the one outermost loop; a grid of one step has none. A loop begins at a line
    labelled LB and holds the following bundles of at least its depth, empty ones aside, which show no depth.
    """
    open_loops, done, outside = [], [], 0
    for line in text.splitlines():
        match = _BUNDLE.match(line)
        if not match:
            continue
        label, depth, operations = match.group(1), len(match.group(2)), match.group(3)
        if label == "LB":
            open_loops = open_loops[: depth - 1]
            open_loops.append({"bundles": 0, "turns": None, "parents": list(open_loops), "inner": True})
            for parent in open_loops[:-1]:
                parent["inner"] = False
            done.append(open_loops[-1])
        elif not operations.startswith("}"):
            open_loops = open_loops[:depth]
        if open_loops:
            open_loops[-1]["bundles"] += 1
            for of_outer, turns in _EXIT_TEST.findall(operations):
                open_loops[-2 if of_outer else -1]["turns"] = int(turns)
        else:
            outside += 1
    outermost = [loop for loop in done if not loop["parents"]]
    if len(outermost) == 1 and not outermost[0]["inner"]:
        outside, outermost[0]["turns"] = 0, 1
    loops = []
    for loop in done:
        turns = _product([x["turns"] for x in (*loop["parents"], loop)])
        if loop["inner"]:
            loops.append([turns, loop["bundles"]])
        else:
            outside += (turns or 1) * loop["bundles"]
    return loops, outside


def _product(numbers: list[int | None]) -> int | None:
    return None if None in numbers else math.prod(numbers)


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
    print(
        f"{head} compiles  in+out {row['argument_MiB'] + row['output_MiB']:.1f} MiB  temporary {row['temporary_MiB']:.1f} MiB"
        f"  at least {row['bound_ms']:.3f} ms ({row['bound_by']})  {row['kernels']}",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
