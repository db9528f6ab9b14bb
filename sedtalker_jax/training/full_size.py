"""The papers' models at full size without data or weights: parameters per part, one train step here, compiled for elsewhere.

    python -m sedtalker_jax.training.full_size                    parameters per part, from shapes alone
    python -m sedtalker_jax.training.full_size --run              and one step here with random weights: time, memory
    python -m sedtalker_jax.training.full_size --target v5e       and the step compiled for a chip that is not here

A row of the batch is a voice and a face with its own voice, each as long as --frames animation frames. --target needs the
accelerator's compiler in the environment, beside this package's requirements: jax[tpu], or jax[cuda13] (see kernels.aot).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedtalker_jax.errors import UserError, exit_code

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from sedtalker_jax.models.sedtalker import SEDTalkerConfig
    from sedtalker_jax.training.losses import JointObjective
    from sedtalker_jax.training.state import TrainState

CONFIGS = ("sedtalker:paper", "sedtalker", "editemotalk:paper", "editemotalk", "animator:paper", "diarizer:paper")

PUBLISHED = {
    "wavlm-base-plus": "wavlm-base-plus",
    "wav2vec2-large-xlsr-53-english": "wav2vec2-large-lv60",
    "hubert-base-ls960": "hubert-base",
}
"""Pretrained directory of a config -> which of speech.parity.SIZES its encoder has."""

RANK, CODE, FPS = 128, 8, 30.0


def full_size_model(config: ConfigDict) -> SEDTalkerConfig:
    """The model of an experiment's config, with encoders of the published sizes, which no directory is read for."""
    from sedtalker_jax.speech import SpeechEncoderConfig
    from sedtalker_jax.speech.parity import SIZES
    from sedtalker_jax.training.experiment import PRETRAINED_FIELDS, model_config

    plain = config.model.to_dict()
    for name, field in PRETRAINED_FIELDS.items():
        source = plain.pop(field, "")
        if source:
            sizes = SIZES[PUBLISHED[Path(source).name]]
            plain[name] = dataclasses.asdict(SpeechEncoderConfig.from_hf(sizes, **(plain.get(name) or {})))
    return model_config(plain, dict(rank=RANK, template_size=CODE))


def full_size_step(config: ConfigDict) -> tuple[JointObjective, Any, Any]:
    """Objective, optimizer and a function that makes the state, of a recorded experiment's config.

    Loss terms that read motion with a fitted reader are left out: nothing is at hand to fit one to.
    """
    import jax
    import numpy as np

    from sedtalker_jax.models.sedtalker import SEDTalkerModel, trainable_parameters
    from sedtalker_jax.training.losses import JointObjective, LossConfig
    from sedtalker_jax.training.motion_losses import MOTION_TERMS, FaceLossConstants
    from sedtalker_jax.training.motion_readers import READER_TERMS
    from sedtalker_jax.training.optim import OptimConfig, make_optimizer
    from sedtalker_jax.training.state import TrainState

    sizes = full_size_model(config)
    model = SEDTalkerModel(sizes)
    terms = [name for name in MOTION_TERMS if config.loss.get(name)]
    gram = {name: np.eye(RANK, dtype=np.float32) / RANK for name in terms}
    loss = LossConfig(**(config.loss.to_dict() | dict.fromkeys(READER_TERMS, 0.0)))
    class_weights = None if sizes.diarizer is None else np.ones(len(sizes.diarizer.labels), np.float32)
    face = None if sizes.animator is None else FaceLossConstants(gram)
    objective = JointObjective(model, loss, class_weights, face)
    optimizer = make_optimizer(OptimConfig(**config.optim), config.num_steps)
    batch = noise_batch(sizes, len(config.model.labels), 6)

    def create() -> TrainState:
        params = model.init(jax.random.key(0), batch)["params"]
        return TrainState.create(params, optimizer, trainable_parameters(sizes, params))

    return objective, optimizer, create


def noise_batch(model: SEDTalkerConfig, num_labels: int, num_frames: int, size: int = 1) -> dict[str, dict[str, Any]]:
    """A batch of noise for the halves that a model has, `num_frames` animation frames long; faces have their own sound."""
    import numpy as np

    from sedtalker_jax.axes import SAMPLE_RATE, num_speech_frames

    rng = np.random.default_rng(0)
    samples = int(round(num_frames / FPS * SAMPLE_RATE))
    T = num_speech_frames(samples)

    def sound() -> dict[str, Any]:
        return dict(
            waveform=rng.normal(0, 0.1, (size, samples)).astype(np.float32),
            lengths=np.full(size, samples, np.int32),
            seed=rng.integers(2**32, size=size, dtype=np.uint32),
        )

    batch = {}
    if model.diarizer is not None:
        batch["speech"] = sound() | dict(
            emotion=rng.integers(num_labels, size=(size, T), dtype=np.int32),
            intensity=rng.random((size, T), np.float32),
            intensity_mask=np.ones((size, T), np.float32),
            boundary=np.zeros((size, T), np.float32),
            boundary_mask=np.ones((size, T), np.float32),
            level=np.zeros((size, T), np.int32),
            level_scale=np.zeros((size, T), np.int32),
        )
    if model.animator is not None:
        batch["face"] = sound() | dict(
            motion=rng.normal(size=(size, num_frames, RANK)).astype(np.float32),
            lips_closed=np.zeros((size, num_frames), bool),
            num_frames=np.full(size, num_frames, np.int32),
            fps=np.full(size, FPS, np.float32),
            template_code=rng.normal(size=(size, CODE)).astype(np.float32),
            activation=rng.random((size, num_frames, num_labels - 1), np.float32),
            track_source=np.zeros(size, np.int32),
        )
    return batch


def parameters(state: TrainState) -> dict[str, tuple[int, int]]:
    """Part -> numbers of its parameters that are trained and that are frozen."""
    import jax

    def count(tree: Any) -> int:
        return sum(x.size for x in jax.tree.leaves(tree))

    names = sorted({*state.params, *state.frozen})
    return {name: (count(state.params.get(name, {})), count(state.frozen.get(name, {}))) for name in names}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", choices=CONFIGS, default=CONFIGS[0], help="of configs/ (default: %(default)s)")
    parser.add_argument("--run", action="store_true", help="take one step here")
    parser.add_argument("--target", choices=("v5e", "v5p", "v6e", "h200"), help="compile for this chip")
    parser.add_argument("--batch", type=int, default=1, help="rows (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=100, help="animation frames of a clip (default: %(default)s)")
    options = parser.parse_args(arguments)
    return exit_code(lambda: report(options))


def report(options: argparse.Namespace) -> None:
    """Prints the parameters, and of the joint step what was asked for.

    Raises:
      UserError: no compiler for the target on this machine.
    """
    if options.target:
        # The host needs no accelerator of its own, and the compilers read these when JAX first loads them.
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["TPU_SKIP_MDS_QUERY"] = "1"
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"
    import jax

    from sedtalker_jax.training.step import train_step

    name, _, variant = options.config.partition(":")
    config = importlib.import_module(f"configs.{name}").get_config(variant)
    objective, optimizer, create = full_size_step(config)
    shapes = jax.eval_shape(create)
    counts = parameters(shapes)
    print(f"{options.config}: {sum(map(sum, counts.values())):,} parameters")
    for part, (trained, frozen) in sorted(counts.items(), key=lambda item: -sum(item[1])):
        print(f"  {part:<16} {trained:>12,} trained {frozen:>12,} frozen")
    batch = noise_batch(objective.model.config, len(config.model.labels), options.frames, options.batch)
    step = functools.partial(train_step, objective=objective, optimizer=optimizer, clip_norm=config.optim.clip_norm)
    if options.run:
        _run(step, create, shapes, batch)
    if options.target:
        try:
            device = _absent_device(options.target)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"no compiler for {options.target} here ({reason}); see --help") from None
        _compile(step, shapes, batch, device, options.target)


def _run(step: Any, create: Any, shapes: Any, batch: Any) -> None:
    import jax

    # Compiled before there is a state: the compiler needs gigabytes of its own.
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(shapes, batch).compile()
    print(f"here: compiled in {time.perf_counter() - start:.0f} s; {_sizes(compiled)}", flush=True)
    state = jax.block_until_ready(jax.jit(create)())
    start = time.perf_counter()
    _, metrics = jax.block_until_ready(compiled(state, batch))
    taken = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"one step: {taken:.1f} s; this process held at most {memory:.1f} GiB")
    print("  " + ", ".join(f"{name} {float(value):.4g}" for name, value in sorted(metrics.items())))


def _sizes(compiled: Any) -> str:
    memory = compiled.memory_analysis()
    arguments, temporary = memory.argument_size_in_bytes / 2**30, memory.temp_size_in_bytes / 2**30
    return f"{arguments:.2f} GiB of state and batch, {temporary:.2f} GiB temporary"


def _absent_device(target: str) -> Any:
    """A device to compile for. Raises RuntimeError where this environment has no compiler for it."""
    from jax.experimental import topologies

    from kernels.aot import H200_DESCRIPTION, TPU_TOPOLOGIES

    if target == "h200":
        described = dict(target_config=H200_DESCRIPTION, topology="1x1x1")
        return topologies.get_topology_desc(platform="cuda", topology_name="h200", **described).devices[0]
    return topologies.get_topology_desc(platform="tpu", topology_name=TPU_TOPOLOGIES[target]).devices[0]


def _compile(step: Any, shapes: Any, batch: Any, device: Any, target: str) -> None:
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    place = NamedSharding(Mesh(np.array([device]), ("data",)), PartitionSpec())
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), (shapes, batch))
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(*placed).compile()
    taken = time.perf_counter() - start
    print(f"{target}: compiled in {taken:.0f} s; {_sizes(compiled)}")


if __name__ == "__main__":
    sys.exit(main())
