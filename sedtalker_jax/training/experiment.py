"""From a config to everything that a run needs: data, model, objective, optimizer."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from sedtalker_jax.axes import num_speech_frames
from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.data.given_embeddings import given_embedding_size
from sedtalker_jax.data.mixing import merge_manifests, num_records, open_records, record_identity, spread
from sedtalker_jax.data.pipeline import Batch
from sedtalker_jax.data.records import read_manifest
from sedtalker_jax.emotion.decoding import SHARPNESS
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.models.acoustics import AcousticsConfig
from sedtalker_jax.models.animator import AnimatorConfig
from sedtalker_jax.models.backbone import BackboneConfig
from sedtalker_jax.models.diarizer import DiarizerConfig
from sedtalker_jax.models.sedtalker import SEDTalkerConfig, SEDTalkerModel, trainable_parameters
from sedtalker_jax.models.track_source import EDITED_TRACK
from sedtalker_jax.precision import Precision
from sedtalker_jax.speech import SpeechEncoderConfig, load_pretrained_encoder
from sedtalker_jax.speech.encoder import trainable_mask
from sedtalker_jax.training.checkpoint import CheckpointConfig, read_meta
from sedtalker_jax.training.losses import JointObjective, LossConfig
from sedtalker_jax.training.motion_losses import FaceLossConstants
from sedtalker_jax.training.motion_readers import READER_TERMS, FrozenReader, fit_reader, reader_file
from sedtalker_jax.training.optim import OptimConfig, learning_rate_schedule, make_optimizer
from sedtalker_jax.training.parallel import Parallel, ParallelConfig, first_has_written, mesh_of, share_out
from sedtalker_jax.training.state import TrainState, combine, partition
from sedtalker_jax.training.streams import HALVES, streams_of
from sedtalker_jax.value_ranges import at_least

_OPTIONAL_PARTS = ("diarizer", "animator", "acoustics")

PRETRAINED_FIELDS = {"encoder": "pretrained", "content_encoder": "content_pretrained"}
"""Encoder of a model -> the field of config.model that names the directory (or file) that it begins from."""


def model_config(config: ConfigDict | dict[str, Any], codec_sizes: dict[str, int] | None) -> SEDTalkerConfig:
    """The model's typed config from the `model` part of an experiment's config.

    Args:
      config: nested mapping with encoder, diarizer, animator (either may be absent), acoustics and content_encoder (optional),
        precision, labels. encoder is None where no half hears through it.
      codec_sizes: {"rank": R, "template_size": Q} of the face data; None without an animator.
    """
    plain = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    diarizer, animator, acoustics = (dict(plain[name]) if plain.get(name) else None for name in _OPTIONAL_PARTS)
    encoder, content_encoder = plain.get("encoder"), plain.get("content_encoder")
    return SEDTalkerConfig(
        encoder=None if encoder is None else SpeechEncoderConfig(**_tuples(encoder)),
        diarizer=diarizer and DiarizerConfig(labels=tuple(plain["labels"]), backbone=_backbone(diarizer), **_tuples(diarizer)),
        animator=animator and AnimatorConfig(backbone=_backbone(animator), **codec_sizes, **animator),
        acoustics=acoustics and AcousticsConfig(**acoustics),
        precision=Precision(**plain.get("precision", {})),
        sharpness=plain.get("sharpness", SHARPNESS),
        content_encoder=None if content_encoder is None else SpeechEncoderConfig(**_tuples(content_encoder)),
        style_residual=plain.get("style_residual", True),
    )


def _backbone(part: dict[str, Any]) -> BackboneConfig | None:
    sizes = part.pop("backbone", None)
    return BackboneConfig(**sizes) if sizes else None


def _tuples(mapping: dict[str, Any]) -> dict[str, Any]:
    # JSON knows lists only; the configs are hashed by jit and need tuples.
    return {name: tuple(value) if isinstance(value, list) else value for name, value in mapping.items()}


def reading_given(config: dict[str, Any], size: int) -> dict[str, Any]:
    """The `model` part of a config with a diarizer that reads given embeddings of `size` numbers.

    Of the diarizer that hears, the layers over time go, and the encoder unless the animator reads the words from it.

    Raises:
      UserError: no diarizer.
    """
    if not config.get("diarizer"):
        raise UserError("pipeline.embeddings is what a diarizer reads, and this config has none; leave it out")
    silent = dict(backbone=None, hidden_sizes=(), frame_stacking=1, given_size=size)
    changed = config | {"diarizer": config["diarizer"] | silent}
    separate = config.get("content_encoder") or config.get("content_pretrained")
    return changed | {"encoder": None, "pretrained": ""} if separate or not config.get("animator") else changed


def label_weights(manifest: dict[str, Any], labels: tuple[str, ...]) -> np.ndarray:
    """Class weights by label name: inverse square root of the training frames, with mean 1 over these frames.

    Labels that the data does not hold get weight 0.

    Raises:
      UserError: the data holds none of the labels.
    """
    frames = np.array([float(manifest["splits"]["train"]["frames"].get(name, 0)) for name in labels])
    if not frames.any():
        raise UserError(f"none of the labels {', '.join(labels)} occurs in the training split; name some of its labels")
    weights = np.where(frames > 0, 1.0 / np.sqrt(np.maximum(frames, 1.0)), 0.0)
    return (weights * frames.sum() / np.sum(weights * frames)).astype(np.float32)


class Experiment:
    """A run: built once from a config, then read by the loop."""

    def __init__(self, config: ConfigDict, workdir: str | pathlib.Path, *, num_steps: int | None = None):
        """Args:
          config: an experiment's config (see configs/).
          workdir: the codec and the frozen readers are written here.
          num_steps: overrides config.num_steps.

        Raises:
          UserError: a data directory is missing or unfinished, a half of the model has no records or records have no half, or
            a pretrained encoder can't be read.
          ValueError: a field of the config has a value that it can't have.
        """
        at_least(config, 1, "num_steps", "eval_every", "log_every", "accumulation")
        at_least(config.data, 1, "codec_clips", "template_code_size")
        at_least(config.data, 0, "valid_clips")
        self.config = config
        self.streams = streams_of(config.data, config.pipeline, [half for half in HALVES.values() if config.model.get(half)])
        self.pipeline = self.streams[0].pipeline
        self.manifest = self._read_manifests()
        self.num_steps = num_steps or config.num_steps
        self.eval_every, self.log_every = config.eval_every, config.log_every
        self.accumulation = config.accumulation
        # What a run without a checkpoint left is of no use to this one, which may have another config.
        self._begun = _holds_checkpoint(workdir)
        self.codec = self._codec(pathlib.Path(workdir))
        if self.codec is not None and first_has_written("face statistics"):
            self.codec = FaceCodec.load(workdir)
        sizes = None if self.codec is None else dict(rank=self.codec.rank, template_size=self.codec.template_basis.shape[0])
        model = self._resolved_model()
        self.model_config = model_config(model, sizes)
        if jnp.finfo(self.model_config.precision.params).bits < 32:
            raise ValueError(
                f"model.precision.params={self.model_config.precision.params!r}: an average that moves by a thousandth a step "
                "needs float32 or more; model.precision.compute may be narrower"
            )
        self.model = SEDTalkerModel(self.model_config)
        self.labels = tuple(model["labels"])
        loss = LossConfig(**config.loss)
        if loss.levels and self.model_config.diarizer and self.model_config.diarizer.level_scales:
            self._check_levels()
        self.objective = JointObjective(
            self.model,
            loss,
            label_weights(self.manifest, self.labels) if self.model_config.diarizer else None,
            None if self.codec is None else FaceLossConstants.of(self.codec, [k for k, v in config.loss.items() if v]),
            self._readers(pathlib.Path(workdir)),
        )
        self.optim = OptimConfig(**config.optim)
        self.optimizer: optax.GradientTransformation = make_optimizer(self.optim, self.num_steps)
        self.schedule = learning_rate_schedule(self.optim, self.num_steps)
        self.checkpoint = CheckpointConfig(**config.checkpoint)
        self.parallel = Parallel(ParallelConfig(**config.parallel))
        self.meta = dict(
            model=model,
            codec_sizes=sizes,
            labels=list(self.labels),
            world_hash=self.manifest.get("world_hash", ""),
            data=[path for stream in self.streams for path in stream.directories],
            records=[record_identity(path) for stream in self.streams for path in stream.directories],
            config=json.loads(config.to_json_best_effort()),
        )
        if self.codec is not None:
            digest = hashlib.sha256(self.codec.motion_std.tobytes() + self.codec.template_basis.tobytes()).hexdigest()
            self.meta |= dict(fps=float(self.codec.space.fps), topology=self.codec.space.topology, codec_hash=digest[:16])

    def _check_levels(self) -> None:
        """Without levels in the batches the term would be left out, and the heads' random weights would drive the faces."""
        voices = [stream.pipeline for stream in self.streams if "speech" in stream.parts]
        if not any(sizes.levels or sizes.joins is not None for sizes in voices):
            raise UserError(
                "model.diarizer.level_scales learns from levels, and no batch holds any: set pipeline.levels=True, "
                "or level_scales=()"
            )

    def _read_manifests(self) -> dict[str, Any]:
        """The manifest of the speech stream (of the only stream, if there is one), added up over its directories."""
        for stream in self.streams:
            for directory in map(pathlib.Path, stream.directories):
                if not (directory / "manifest.json").exists():
                    raise UserError(
                        f"{directory / 'manifest.json'}: no such data set; make it with: {self.config.data.make_command}"
                    )
        directories = self.streams[0].directories
        manifests = [read_manifest(directory) for directory in directories]
        return manifests[0] if len(manifests) == 1 else merge_manifests(manifests)

    def _resolved_model(self) -> dict[str, Any]:
        """The model's config as plain values, with encoders' sizes read from the pretrained directories that are named."""
        model = self.config.model.to_dict()
        if self.pipeline.embeddings:
            model = reading_given(model, given_embedding_size(self.pipeline.embeddings))
        if model.get("animator") and model["animator"].get("num_subjects"):
            model["animator"]["num_subjects"] = len(self.codec.subjects)
        self._pretrained: dict[str, Any] = {}
        for name, field in PRETRAINED_FIELDS.items():
            source = model.pop(field, "")
            if source:
                encoder, params = load_pretrained_encoder(source, **_tuples(model.get(name) or {}))
                model[name] = dataclasses.asdict(encoder.config)
                # A run that goes on has its weights from the checkpoint: these would take room on a device until it ends.
                if not self._begun:
                    self._pretrained[name] = params
        return model

    def _codec(self, workdir: pathlib.Path) -> FaceCodec | None:
        """The workdir's codec if a run has begun there, else one fitted on the training split; None without faces."""
        faces = [stream for stream in self.streams if "face" in stream.parts]
        if not faces:
            return None
        at_most = (self.config.model.animator or {}).get("num_subjects", 0)
        if self._begun and (workdir / "face_statistics.npz").exists():
            codec = FaceCodec.load(workdir)
            if bool(codec.subjects) != bool(at_most):
                raise UserError(f"{workdir}: was begun with another model.animator.num_subjects; choose another workdir")
            if not np.array_equal(codec.space.basis, shared_space(faces[0].directories).basis):
                raise UserError(f"{workdir}: was begun with faces of another basis; give their records, or another workdir")
            return codec
        records = self._face_records
        codec = FaceCodec.fit(
            shared_space(faces[0].directories),
            [np.asarray(record["motion"]) for record in records],
            [record["template"] for record in records],
            self.config.data.template_code_size,
            training_subjects(faces[0].directories, at_most) if at_most else (),
        )
        if jax.process_index() == 0:
            codec.save(workdir)
        return codec

    @functools.cached_property
    def _face_records(self) -> list[dict[str, Any]]:
        """data.codec_clips training records with faces, from all over the split, to fit statistics and readers to."""
        reader = open_records(next(s for s in self.streams if "face" in s.parts).directories, "train", decode_audio=False)
        return [reader[int(i)] for i in spread(len(reader), self.config.data.codec_clips)]

    def _readers(self, workdir: pathlib.Path) -> dict[str, FrozenReader]:
        """The frozen readers of the loss terms in use: the workdir's if a run has begun there, else fitted to true motion.

        Raises:
          UserError: a term without the parts or the labels that it needs; an edited share of the tracks that no term judges.
        """
        terms = [term for term in READER_TERMS if self.config.loss.get(term)]
        edited = len(self.pipeline.track_shares) > EDITED_TRACK and bool(self.pipeline.track_shares[EDITED_TRACK])
        if ("consistency" in terms or edited) and (self.codec is None or self.model_config.diarizer is None):
            raise UserError("loss.consistency and edited tracks need a diarizer and faces; set both to 0 in this config")
        if edited and not (self.config.loss.get("consistency") or self.config.loss.get("lip_closure")):
            raise UserError(
                "the fourth of pipeline.track_shares has no losses but loss.consistency and loss.lip_closure, which are 0"
            )
        readers: dict[str, FrozenReader] = {}
        for term in terms if self.codec is not None else ():
            path = workdir / reader_file(term)
            shared = next((reader for other, reader in readers.items() if reader_file(other) == path.name), None)
            if shared is not None or (self._begun and path.exists()):
                readers[term] = shared or FrozenReader.load(path)
                continue
            size = self._animator_size
            readers[term] = fit_reader(term, self.codec, self._face_records, self.labels, self.config.seed, animator_size=size)
            if jax.process_index() == 0:
                readers[term].save(path)
        if readers and first_has_written("motion readers"):
            # Terms that share a file share the object too: the programs of all processes must be one and the same.
            loaded = {name: FrozenReader.load(workdir / name) for name in map(reader_file, readers)}
            readers = {term: loaded[reader_file(term)] for term in readers}
        return readers

    @functools.cached_property
    def _animator_size(self) -> int:
        shapes = jax.eval_shape(self.model.init, jax.random.key(0), self._dummy_batch())["params"]["animator"]
        return sum(x.size for x in jax.tree.leaves(shapes))

    def create_state(self) -> TrainState:
        """The state at step 0, from config.seed alone; pretrained encoders come in with `load_pretrained`."""
        params = self.model.init(jax.random.key(self.config.seed), self._dummy_batch())["params"]
        return TrainState.create(params, self.optimizer, trainable_parameters(self.model_config, params))

    def load_pretrained(self, state: TrainState) -> TrainState:
        """Puts the pretrained encoders that the config names into a fresh state, with the state's own shardings."""
        if not self._pretrained:
            return state
        configs = self.model_config.encoders
        masks = {name: trainable_mask(configs[name], params) for name, params in self._pretrained.items()}
        trained, frozen = partition(self._pretrained, masks)

        def put(tree, values):
            flat = flatten_dict(tree)
            for path, value in flatten_dict(values).items():
                value, old = np.asarray(value), flat[path]
                flat[path] = jax.make_array_from_callback(
                    old.shape, old.sharding, lambda index, value=value, old=old: value[index].astype(old.dtype)
                )
            return unflatten_dict(flat)

        self._pretrained = {}
        return state.replace(
            params=put(state.params, trained),
            ema_params=put(state.ema_params, trained),
            frozen=put(state.frozen, frozen),
        )

    def _dummy_batch(self) -> Batch:
        """One silent row: parameters depend on shapes of features only."""
        dtype = jnp.dtype(self.model_config.precision.compute)
        S, F = 3_200, 6
        sound = dict(waveform=jnp.zeros((1, S), dtype), lengths=jnp.full((1,), S, jnp.int32))
        if self.model_config.reads_given:
            sound["given_embedding"] = jnp.zeros((1, self.model_config.diarizer.given_size), dtype)
        batch = {}
        if self.model_config.diarizer is not None:
            unknown = jnp.full((1, num_speech_frames(S)), -1, jnp.int32)
            batch["speech"] = sound | dict(level=unknown, level_scale=unknown)
        if self.codec is not None:
            R, Q = self.codec.rank, self.codec.template_basis.shape[0]
            batch["face"] = dict(
                motion=jnp.zeros((1, F, R), dtype),
                num_frames=jnp.full((1,), F, jnp.int32),
                fps=jnp.full((1,), 30.0, jnp.float32),
                template_code=jnp.zeros((1, Q), dtype),
                activation=jnp.zeros((1, F, len(self.labels) - 1), dtype),
                track_source=jnp.zeros((1,), jnp.int32),
            )
            if "speech" not in batch:
                batch["face"] |= sound
        return batch

    def train_batches(self, start: int, stop: int) -> Iterator[Batch]:
        """This process's rows of the global batches start ... stop - 1, the parts of all streams side by side."""
        with contextlib.ExitStack() as opened:
            iterators = [
                opened.enter_context(contextlib.closing(stream.train_batches(self.codec, self.labels, start, stop)))
                for stream in self.streams
            ]
            for batches in zip(*iterators, strict=True):
                yield {part: value for batch in batches for part, value in batch.items()}

    @functools.cached_property
    def _valid_batches(self) -> list[Batch]:
        per_stream = [stream.valid_batches(self.codec, self.labels, self.config.data.valid_clips) for stream in self.streams]
        return [batch for batches in per_stream for batch in batches]

    @property
    def unvalidated(self) -> tuple[str, ...]:
        """Directories of streams that have no validation split, which the validation leaves out."""
        streams = (stream.directories for stream in self.streams if not num_records(stream.directories, "valid"))
        return tuple(path for directories in streams for path in directories)

    def validate(self, state: TrainState) -> dict[str, float]:
        """Loss terms of the averaged parameters on the first data.valid_clips validation clips, without randomness.

        A term that judges no frame there is left out: consistency, since validation faces follow their true track, and
        intensity or levels where nobody gave any.
        """
        totals: dict[str, float] = {}
        weights: dict[str, float] = {}
        params = combine(state.ema_params, state.frozen)
        for batch in self._valid_batches:
            with mesh_of(params):
                sums, denominators = self._validation_sums(params, share_out(params, batch))
            for name, value in jax.device_get(denominators).items():
                totals[name] = totals.get(name, 0.0) + float(sums[name])
                weights[name] = weights.get(name, 0.0) + float(value)
        return {name: totals[name] / weights[name] for name in totals if weights[name] > 0}

    @functools.cached_property
    def _validation_sums(self):
        return jax.jit(lambda params, batch: (self.objective.validation_sums(params, batch), self.objective.weights(batch)))


def _holds_checkpoint(workdir: str | pathlib.Path) -> bool:
    try:
        read_meta(workdir)
    except UserError:
        return False
    return True


def shared_space(directories: Sequence[str]) -> FaceSpace:
    """The face space of record directories that were prepared with one basis, with the templates of all.

    Raises:
      UserError: their bases differ, or one name stands for two templates.
    """
    spaces = [FaceSpace.load(pathlib.Path(directory) / "face_space.npz") for directory in directories]
    first = spaces[0]
    templates = dict(zip(first.template_names, first.templates, strict=True))
    for directory, space in zip(directories[1:], spaces[1:], strict=True):
        if not np.array_equal(space.basis, first.basis):
            raise UserError(
                f"{directory}: its face space is not that of {directories[0]}; "
                f"prepare it again with --option space={directories[0]}"
            )
        for name, template in zip(space.template_names, space.templates, strict=True):
            if not np.array_equal(templates.setdefault(name, template), template):
                raise UserError(
                    f"{directory}: its template {name!r} is another face than that of the directories before it; "
                    "give it a name of its own and prepare it again"
                )
    return dataclasses.replace(first, template_names=tuple(templates), templates=np.stack(list(templates.values())))


def training_subjects(directories: Sequence[str], at_most: int) -> tuple[str, ...]:
    """Whose faces the training splits of record directories hold, sorted: speakers, or, in the built-in world, whose voices
    have no faces of their own, heads.

    Raises:
      UserError: there are more than `at_most`, or a manifest does not name them.
    """
    names: set[str] = set()
    for directory in directories:
        manifest = read_manifest(directory)
        found = manifest["splits"].get("train", {}).get("templates" if "world" in manifest else "speakers", ())
        if not found:
            raise UserError(f"{directory}: its manifest names no subjects; set model.animator.num_subjects to 0")
        names.update(found)
    if len(names) > at_most:
        raise UserError(f"{len(names)} subjects in {', '.join(directories)}, model.animator.num_subjects allows {at_most}")
    return tuple(sorted(names))


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """What train.py prints before it starts: sizes a person wants to check first."""

    parameters: dict[str, int]
    fading: tuple[int, int] | None = None
    unvalidated: tuple[str, ...] = ()

    @classmethod
    def of(cls, experiment: Experiment) -> RunPlan:
        """Counts parameters per part, by shapes only, and the faces that can fade where they are to; says what can't be
        validated."""
        state = jax.eval_shape(experiment.create_state)
        counts = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in state.params.items()}
        frozen = sum(x.size for x in jax.tree.leaves(state.frozen))
        counts_of = (stream.fading_clips(experiment.labels) for stream in experiment.streams)
        fading = next((count for count in counts_of if count is not None), None)
        return cls(counts | ({"frozen": frozen} if frozen else {}), fading, experiment.unvalidated)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {count:,}" for name, count in sorted(self.parameters.items()))
        lines = [f"parameters: {sum(self.parameters.values()):,} ({parts})"]
        if self.fading is not None:
            can, of = self.fading
            lines.append(f"cross-fades: {can:,} of {of:,} faces can go from one expression to another")
        if self.unvalidated:
            lines.append(f"no validation on {', '.join(self.unvalidated)}: no records of a validation split")
        return "\n".join(lines)
