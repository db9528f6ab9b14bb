"""From a config to everything that a run needs: data, model, objective, optimizer."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.data.pipeline import Batch, PipelineConfig, TrainBatches, iterate, make_example, pad_batch
from sedtalker_jax.data.records import RecordReader, read_manifest
from sedtalker_jax.errors import UserError
from sedtalker_jax.models.acoustics import AcousticsConfig
from sedtalker_jax.models.animator import AnimatorConfig
from sedtalker_jax.models.backbone import BackboneConfig
from sedtalker_jax.models.diarizer import DiarizerConfig
from sedtalker_jax.models.sedtalker import SEDTalkerConfig, SEDTalkerModel
from sedtalker_jax.precision import Precision
from sedtalker_jax.speech import SpeechEncoderConfig
from sedtalker_jax.training.checkpoint import CheckpointConfig
from sedtalker_jax.training.losses import FaceLossConstants, JointObjective, LossConfig
from sedtalker_jax.training.optim import OptimConfig, learning_rate_schedule, make_optimizer
from sedtalker_jax.training.parallel import Parallel, ParallelConfig
from sedtalker_jax.training.state import TrainState


def model_config(config: ConfigDict | dict[str, Any], codec_sizes: dict[str, int]) -> SEDTalkerConfig:
    """The model's typed config from the `model` part of an experiment's config.

    Args:
      config: nested mapping with encoder, diarizer, animator, acoustics (optional), precision, labels.
      codec_sizes: {"rank": R, "template_size": Q} of the face data.
    """
    plain = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    diarizer, animator = dict(plain["diarizer"]), dict(plain["animator"])
    acoustics = plain.get("acoustics")
    return SEDTalkerConfig(
        encoder=SpeechEncoderConfig(**_tuples(plain["encoder"])),
        diarizer=DiarizerConfig(
            labels=tuple(plain["labels"]),
            backbone=BackboneConfig(**diarizer.pop("backbone")),
            **diarizer,
        ),
        animator=AnimatorConfig(backbone=BackboneConfig(**animator.pop("backbone")), **codec_sizes, **animator),
        acoustics=AcousticsConfig(**acoustics) if acoustics else None,
        precision=Precision(**plain.get("precision", {})),
        sharpness=plain.get("sharpness", 4.0),
    )


def _tuples(mapping: dict[str, Any]) -> dict[str, Any]:
    # JSON knows lists only; the configs are hashed by jit and need tuples.
    return {name: tuple(value) if isinstance(value, list) else value for name, value in mapping.items()}


def label_weights(manifest: dict[str, Any], labels: tuple[str, ...]) -> np.ndarray:
    """Class weights by label name: inverse square root of the training frames, with mean 1 over these frames.

    Labels that the data does not hold get weight 0.
    """
    frames = np.array([float(manifest["splits"]["train"]["frames"].get(name, 0)) for name in labels])
    weights = np.where(frames > 0, 1.0 / np.sqrt(np.maximum(frames, 1.0)), 0.0)
    return (weights * frames.sum() / np.sum(weights * frames)).astype(np.float32)


class Experiment:
    """A run: built once from a config, then read by the loop."""

    def __init__(self, config: ConfigDict, workdir: str | pathlib.Path, *, num_steps: int | None = None):
        """Args:
          config: an experiment's config (see configs/).
          workdir: the codec and the config are written here.
          num_steps: overrides config.num_steps.

        Raises:
          UserError: the data directory is missing or unfinished.
        """
        self.config = config
        directory = pathlib.Path(config.data.directory)
        if not (directory / "manifest.json").exists():
            raise UserError(f"{directory / 'manifest.json'}: no such data set; make it with: {config.data.make_command}")
        self.manifest = read_manifest(directory)
        self.pipeline = PipelineConfig(**_tuples(config.pipeline.to_dict()))
        self.train_reader = RecordReader(directory, "train")
        self.valid_reader = RecordReader(directory, "valid")
        self.num_steps = num_steps or config.num_steps
        self.eval_every, self.log_every = config.eval_every, config.log_every
        self.accumulation = config.accumulation
        self.codec = self._codec(directory, pathlib.Path(workdir))
        sizes = dict(rank=self.codec.rank, template_size=self.codec.template_basis.shape[0])
        self.model_config = model_config(config.model, sizes)
        self.model = SEDTalkerModel(self.model_config)
        labels = self.model_config.diarizer.labels
        self.objective = JointObjective(
            self.model,
            LossConfig(**config.loss),
            label_weights(self.manifest, labels),
            FaceLossConstants(
                gram={
                    "vertices": self.codec.gram(None),
                    "lips": self.codec.gram("lips"),
                    "upper_face": self.codec.gram("upper_face"),
                },
                gram_velocity=self.codec.gram_velocity("lips"),
            ),
        )
        self.optim = OptimConfig(**config.optim)
        self.optimizer: optax.GradientTransformation = make_optimizer(self.optim, self.num_steps)
        self.schedule = learning_rate_schedule(self.optim, self.num_steps)
        self.checkpoint = CheckpointConfig(**config.checkpoint)
        self.parallel = Parallel(ParallelConfig(**config.parallel))
        model = config.model.to_dict()
        self.meta = dict(
            model=model,
            codec_sizes=sizes,
            labels=list(labels),
            world_hash=self.manifest.get("world_hash", ""),
            data=str(directory),
            config=json.loads(config.to_json_best_effort()),
            fps=float(self.codec.space.fps),
            topology=self.codec.space.topology,
            codec_hash=hashlib.sha256(self.codec.motion_std.tobytes() + self.codec.template_basis.tobytes()).hexdigest()[:16],
        )

    def _codec(self, directory: pathlib.Path, workdir: pathlib.Path) -> FaceCodec:
        """The workdir's codec if a run has begun there, else one fitted on the training split."""
        if (workdir / "face_statistics.npz").exists():
            return FaceCodec.load(workdir)
        from sedtalker_jax.face.space import FaceSpace

        space = FaceSpace.load(directory / "face_space.npz")
        count = min(len(self.train_reader), self.config.data.codec_clips)
        records = [self.train_reader[int(i)] for i in np.linspace(0, len(self.train_reader) - 1, count)]
        codec = FaceCodec.fit(
            space,
            [np.asarray(record["motion"]) for record in records],
            [record["template"] for record in records],
            self.config.data.template_code_size,
        )
        if jax.process_index() == 0:
            codec.save(workdir)
        return codec

    def create_state(self) -> TrainState:
        """The state at step 0, from config.seed alone."""
        params = self.model.init(jax.random.key(self.config.seed), self._dummy_batch())["params"]
        return TrainState.create(params, self.optimizer)

    def _dummy_batch(self) -> Batch:
        """One silent row: parameters depend on shapes of features only."""
        K, R, Q = len(self.model_config.diarizer.labels), self.codec.rank, self.codec.template_basis.shape[0]
        dtype = jnp.dtype(self.model_config.precision.compute)
        S, F = 3_200, 6
        return {
            "speech": dict(waveform=jnp.zeros((1, S), dtype), lengths=jnp.full((1,), S, jnp.int32)),
            "face": dict(
                motion=jnp.zeros((1, F, R), dtype),
                num_frames=jnp.full((1,), F, jnp.int32),
                fps=jnp.full((1,), 30.0, jnp.float32),
                template_code=jnp.zeros((1, Q), dtype),
                activation=jnp.zeros((1, F, K - 1), dtype),
                track_source=jnp.zeros((1,), jnp.int32),
            ),
        }

    def train_batches(self, start: int, stop: int) -> Iterator[Batch]:
        """This process's rows of the global batches start ... stop - 1."""
        batches = TrainBatches(
            self.train_reader,
            self.codec,
            self.model_config.diarizer.labels,
            self.pipeline,
            start=start,
            stop=stop,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return iterate(batches, self.pipeline)

    @functools.cached_property
    def _valid_batches(self) -> list[Batch]:
        rng = np.random.default_rng(0)
        count = min(len(self.valid_reader), self.config.data.valid_clips)
        labels = self.model_config.diarizer.labels
        examples = [
            make_example(self.valid_reader[i], self.codec, labels, self.pipeline, rng, training=False) for i in range(count)
        ]
        size = self.pipeline.batch_size
        batches = []
        for start in range(0, count, size):
            rows = examples[start : start + size]
            batch = pad_batch(rows + [rows[0]] * (size - len(rows)), self.pipeline.max_seconds, self.codec)
            batches.append(_without_rows_after(batch, len(rows)))
        return batches

    def validate(self, state: TrainState) -> dict[str, float]:
        """Every loss term of the averaged parameters on the first data.valid_clips validation clips, without randomness."""
        totals: dict[str, float] = {}
        weights: dict[str, float] = {}
        for batch in self._valid_batches:
            sums, denominators = self._validation_sums(state.ema_params, batch)
            for name, value in jax.device_get(denominators).items():
                totals[name] = totals.get(name, 0.0) + float(sums[name])
                weights[name] = weights.get(name, 0.0) + float(value)
        return {name: totals[name] / max(weights[name], 1e-6) for name in totals}

    @functools.cached_property
    def _validation_sums(self):
        return jax.jit(lambda params, batch: (self.objective.validation_sums(params, batch), self.objective.weights(batch)))


def _without_rows_after(batch: Batch, count: int) -> Batch:
    """Gives the rows that only fill up a batch zero weight."""
    speech, face = dict(batch["speech"]), dict(batch["face"])
    keep = np.arange(len(speech["seed"])) < count
    speech["emotion"] = np.where(keep[:, None], speech["emotion"], -1)
    for name in ("intensity_mask", "boundary_mask"):
        speech[name] = speech[name] * keep[:, None]
    face["num_frames"] = face["num_frames"] * keep
    return {"speech": speech, "face": face}


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """What train.py prints before it starts: sizes a person wants to check first."""

    parameters: dict[str, int]

    @classmethod
    def of(cls, experiment: Experiment) -> RunPlan:
        """Counts parameters per part, by shapes only."""
        params = jax.eval_shape(experiment.create_state).params
        return cls({name: sum(x.size for x in jax.tree.leaves(part)) for name, part in params.items()})

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {count:,}" for name, count in sorted(self.parameters.items()))
        return f"parameters: {sum(self.parameters.values()):,} ({parts})"
