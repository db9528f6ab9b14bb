"""The paper's animator at full size without data or weights: parameters per part, one train step here, compiled for elsewhere.

    python -m sedtalker_jax.training.full_size                   parameters per part, from shapes alone
    python -m sedtalker_jax.training.full_size --run             and one step on this machine with random weights: time, memory
    python -m sedtalker_jax.training.full_size --target v5e      and the step compiled for a chip that is not here (v5p, h200)

The last needs the accelerator's compiler beside this package's requirements: jax[tpu], or jax[cuda13] (see kernels.aot).
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sedtalker_jax.training.losses import JointObjective
    from sedtalker_jax.training.state import TrainState

WAV2VEC_LARGE = dict(
    conv_bias=True, feat_extract_norm="layer", do_stable_layer_norm=True, hidden_size=1024, num_hidden_layers=24,
    num_attention_heads=16, intermediate_size=4096, freeze_feature_extractor=True,
)  # fmt: skip
"""Sizes of wav2vec2-large-xlsr-53, which no directory is read for."""

RANK, CODE, FPS = 128, 8, 30.0


def full_size_step(config: Any, encoder: dict[str, Any]) -> tuple[JointObjective, Any, Any]:
    """Objective, optimizer and a function that makes the state, of an animator config.

    Args:
      config: an experiment's config without a diarizer, such as configs/animator.py:paper.
      encoder: sizes of the speech encoder.
    """
    import jax
    import numpy as np

    from sedtalker_jax.models.sedtalker import SEDTalkerModel
    from sedtalker_jax.speech.encoder import trainable_mask
    from sedtalker_jax.training.experiment import model_config
    from sedtalker_jax.training.losses import JointObjective, LossConfig
    from sedtalker_jax.training.motion_losses import MOTION_TERMS, FaceLossConstants
    from sedtalker_jax.training.motion_readers import READER_TERMS
    from sedtalker_jax.training.optim import OptimConfig, make_optimizer
    from sedtalker_jax.training.state import TrainState

    plain = config.model.to_dict()
    plain["encoder"] = encoder
    sizes = model_config(plain, dict(rank=RANK, template_size=CODE))
    model = SEDTalkerModel(sizes)
    terms = [name for name in MOTION_TERMS if config.loss.get(name)]
    gram = {name: np.eye(RANK, dtype=np.float32) / RANK for name in terms}
    loss = LossConfig(**{name: value for name, value in config.loss.items() if name not in READER_TERMS})
    objective = JointObjective(model, loss, None, FaceLossConstants(gram))
    optimizer = make_optimizer(OptimConfig(**config.optim), config.num_steps)
    batch = face_batch(len(sizes_labels(plain)) - 1, 6)

    def create() -> TrainState:
        params = model.init(jax.random.key(0), batch)["params"]
        trainable = jax.tree.map(lambda _: True, params)
        trainable["encoder"] = trainable_mask(sizes.encoder, params["encoder"])
        return TrainState.create(params, optimizer, trainable)

    return objective, optimizer, create


def sizes_labels(model: dict[str, Any]) -> tuple[str, ...]:
    """The emotions of a model's config."""
    return tuple(model["labels"])


def face_batch(num_strengths: int, num_frames: int, size: int = 1) -> dict[str, dict[str, Any]]:
    """A batch of noise: faces with their own sound, `num_frames` animation frames long."""
    import numpy as np

    rng = np.random.default_rng(0)
    samples = int(round(num_frames / FPS * 16_000))
    return {
        "face": dict(
            waveform=rng.normal(0, 0.1, (size, samples)).astype(np.float32),
            lengths=np.full(size, samples, np.int32),
            motion=rng.normal(size=(size, num_frames, RANK)).astype(np.float32),
            lips_closed=np.zeros((size, num_frames), bool),
            num_frames=np.full(size, num_frames, np.int32),
            fps=np.full(size, FPS, np.float32),
            template_code=rng.normal(size=(size, CODE)).astype(np.float32),
            activation=rng.random((size, num_frames, num_strengths)).astype(np.float32),
            track_source=np.zeros(size, np.int32),
            seed=np.arange(size, dtype=np.uint32),
        )
    }


def parameters(state: TrainState) -> dict[str, int]:
    """Number of parameters of every part, trained and frozen together."""
    import jax

    from sedtalker_jax.training.state import combine

    return {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in combine(state.params, state.frozen).items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="take one step here")
    parser.add_argument("--target", choices=("v5e", "v5p", "v6e", "h200"), help="compile for this chip")
    parser.add_argument("--batch", type=int, default=1, help="clips (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=100, help="animation frames of a clip (default: %(default)s)")
    options = parser.parse_args(arguments)
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    import jax

    from configs import animator
    from sedtalker_jax.training.step import train_step

    config = animator.get_config("paper")
    objective, optimizer, create = full_size_step(config, WAV2VEC_LARGE)
    shapes = jax.eval_shape(create)
    counts = parameters(shapes)
    print(f"parameters: {sum(counts.values()):,}")
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"  {name:<16} {count:>12,}")
    batch = face_batch(len(sizes_labels(config.model)) - 1, options.frames, options.batch)
    step = functools.partial(train_step, objective=objective, optimizer=optimizer, clip_norm=config.optim.clip_norm)
    if options.run:
        state = jax.jit(create)()
        start = time.perf_counter()
        compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
        ready = time.perf_counter()
        _, metrics = jax.block_until_ready(compiled(state, batch))
        taken = time.perf_counter() - ready
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"one step of {options.batch} x {options.frames} frames: {taken:.1f} s, compiled in {ready - start:.1f} s,")
        print(f"  at most {memory:.1f} GiB of this process; loss {float(metrics['loss/total']):.4f}")
    if options.target:
        from jax.experimental import topologies
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        from kernels.aot import H200_DESCRIPTION, TPU_TOPOLOGIES

        try:
            if options.target == "h200":
                described = dict(target_config=H200_DESCRIPTION, topology="1x1x1")
                topology = topologies.get_topology_desc(platform="cuda", topology_name="h200", **described)
            else:
                topology = topologies.get_topology_desc(platform="tpu", topology_name=TPU_TOPOLOGIES[options.target])
        except RuntimeError as error:
            print(f"error: no compiler for {options.target} here ({str(error).splitlines()[0]}); see --help", file=sys.stderr)
            return 2
        import numpy as np

        place = NamedSharding(Mesh(np.array(topology.devices[:1]), ("data",)), PartitionSpec())
        placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), (shapes, batch))
        memory = jax.jit(step, donate_argnums=0).lower(*placed).compile().memory_analysis()
        print(
            f"{options.target}, {options.batch} x {options.frames} frames: "
            f"{memory.argument_size_in_bytes / 2**30:.2f} GiB of state and batch, "
            f"{memory.temp_size_in_bytes / 2**30:.2f} GiB temporary"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
