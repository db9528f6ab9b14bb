"""Speed against transformers' PyTorch model, same weights, machine and run: python -m sedtalker_jax.speech.benchmark

Both sides run in turn in one process, so that noise of the machine meets both; the numbers are medians after warm-up. Forward
gives all hidden states; forward+backward takes the gradient of a sum of squares of the last state for every parameter, without
dropout. Model FLOPs count the matrix products and convolutions of the forward pass (twice as much again for backward);
MFU divides by the peak that --peak-tflops names, as no peak is known for a CPU. Memory is by how much a call makes the process
grow, beyond the parameters. Needs PyTorch.

On a machine that others use too, --threads 1 and the ratio of CPU times say most: threads that wait for each other lose far
more wall time than the others take, and some wait by spinning.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sedtalker_jax.axes import SAMPLE_RATE
from sedtalker_jax.speech.config import SpeechEncoderConfig
from sedtalker_jax.speech.parity import SIZES, import_torch, random_torch_model
from sedtalker_jax.speech.pretrained import load_pretrained_encoder
from sedtalker_jax.speech.resident_memory import peak_rise


def forward_flops(config: SpeechEncoderConfig, num_samples: int) -> int:
    """Floating-point operations of one clip's forward pass: two per multiply-add of products and convolutions."""
    total, channels = 0, 1
    for i, (width, kernel) in enumerate(zip(config.conv_dim, config.conv_kernel, strict=True)):
        total += config.num_frames(num_samples, layers=i + 1) * kernel * channels * width
        channels = width
    T, D = config.num_frames(num_samples), config.hidden_size
    total += T * channels * D
    total += T * config.num_conv_pos_embeddings * (D // config.num_conv_pos_embedding_groups) * D
    per_layer = T * (4 * D * D + 2 * D * config.intermediate_size) + 2 * T * T * D
    return 2 * (total + config.num_hidden_layers * per_layer)


def measure(name: str, seconds: float, repeats: int, backward: bool, bfloat16: bool) -> dict[str, float | str | None]:
    """Medians of both sides for one clip and what follows from them."""
    torch = import_torch()
    model = random_torch_model(SIZES[name])
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        dtype = jnp.bfloat16 if bfloat16 else jnp.float32
        encoder, params = load_pretrained_encoder(folder, dtype=dtype)
    accelerator = jax.default_backend() == "gpu" and torch.cuda.is_available()
    torch_device = "cuda" if accelerator else "cpu"
    model = model.to(torch_device)
    waveform = np.random.default_rng(0).standard_normal((1, int(seconds * SAMPLE_RATE))).astype(np.float32)
    torch_input, jax_input = torch.tensor(waveform, device=torch_device), jnp.asarray(waveform)

    def loss(params, waveforms):
        return jnp.sum(jnp.square(encoder.apply({"params": params}, waveforms).last_hidden_state.astype(jnp.float32)))

    function = jax.grad(loss) if backward else lambda params, x: encoder.apply({"params": params}, x)
    started = time.perf_counter()
    compiled = jax.jit(function).lower(params, jax_input).compile()
    compile_s = time.perf_counter() - started

    def ours():
        jax.block_until_ready(compiled(params, jax_input))

    def theirs():
        with torch.autocast(torch_device, torch.bfloat16, enabled=bfloat16), torch.set_grad_enabled(backward):
            output = model(torch_input, output_hidden_states=True)
            if backward:
                model.zero_grad(set_to_none=True)
                output[0].float().square().sum().backward()
        if accelerator:
            torch.cuda.synchronize()

    (our_median, our_cpu), (their_median, their_cpu) = alternate(ours, theirs, repeats=repeats)
    flops = forward_flops(encoder.config, waveform.shape[1]) * (3 if backward else 1)
    result = {
        "model": name,
        "clip_s": seconds,
        "pass": "forward+backward" if backward else "forward",
        "dtype": "bfloat16" if bfloat16 else "float32",
        "ours_s": our_median,
        "torch_s": their_median,
        "speed_over_torch": their_median / our_median,
        "cpu_speed_over_torch": their_cpu / our_cpu,
        "real_time_factor": our_median / seconds,
        "gflops_per_s": flops / our_median / 1e9,
        "compile_s": compile_s,
        "device": jax.devices()[0].device_kind,
    }
    if accelerator:
        memory = compiled.memory_analysis()
        our_rise = memory.temp_size_in_bytes + memory.output_size_in_bytes
        torch.cuda.reset_peak_memory_stats()
        standing = torch.cuda.memory_allocated()
        theirs()
        their_rise = torch.cuda.max_memory_allocated() - standing
    else:
        our_rise, their_rise = peak_rise(ours), peak_rise(theirs)
    result |= {"ours_gib": _gib(our_rise), "torch_gib": _gib(their_rise)}
    del model, params, compiled
    gc.collect()
    return result


def _gib(size: int | None) -> float | None:
    return None if size is None else size / 2**30


def alternate(*sides: Callable[[], None], repeats: int) -> list[tuple[float, float]]:
    """Median seconds by the clock and of CPU time, of each side."""
    times: list[list[tuple[float, float]]] = [[] for _ in sides]
    for run in range(repeats + 1):
        for side, collected in zip(sides, times, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            side()
            if run:  # The first run warms up.
                collected.append((time.perf_counter() - wall, time.process_time() - cpu))
    return [tuple(statistics.median(column) for column in zip(*collected, strict=True)) for collected in times]


def main() -> None:
    """Prints one line per measurement, as a table or as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--models", nargs="+", default=["wavlm-base", "wavlm-large"], choices=list(SIZES))
    parser.add_argument("--seconds", nargs="+", type=float, default=[5.0, 20.0])
    parser.add_argument("--passes", nargs="+", default=["forward", "backward"], choices=["forward", "backward"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--threads", type=int, default=0, help="cores for both sides; 0 = all")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="peak of the device, for MFU")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.threads:
        # XLA sizes its pool by the cores that the process may use when the first computation starts.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-arguments.threads :])
        import_torch().set_num_threads(arguments.threads)
    for name in arguments.models:
        for seconds in arguments.seconds:
            for kind in arguments.passes:
                result = measure(name, seconds, arguments.repeats, kind == "backward", arguments.bfloat16)
                if arguments.peak_tflops:
                    result["mfu"] = result["gflops_per_s"] / 1e3 / arguments.peak_tflops
                line = json.dumps(result) if arguments.json else _row(result)
                print(line, flush=True)


def _row(result: dict) -> str:
    mfu = f"  MFU {result['mfu']:.1%}" if "mfu" in result else ""
    memory = "" if result["ours_gib"] is None else f"  memory {result['ours_gib']:.2f} / {result['torch_gib']:.2f} GiB"
    return (
        f"{result['model']:<20} {result['clip_s']:>5.0f} s  {result['pass']:<17} ours {result['ours_s'] * 1e3:>8.0f} ms  "
        f"torch {result['torch_s'] * 1e3:>8.0f} ms  {result['speed_over_torch']:>5.2f}x  "
        f"CPU time {result['cpu_speed_over_torch']:.2f}x  RTF {result['real_time_factor']:.3f}  "
        f"{result['gflops_per_s']:.0f} GFLOP/s  compile {result['compile_s']:.0f} s{memory}{mfu}"
    )


if __name__ == "__main__":
    main()
