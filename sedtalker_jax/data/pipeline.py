"""From records to batches: a seeded order that is a pure function of the batch number, read through Grain.

Everything here is numpy: workers never start a JAX back end. The order of batches, the rows of a batch, crops and example
seeds depend on (seed, batch number) only. So the data state in a checkpoint is one number, and the number of processes,
devices and workers may change between runs: process p of P reads rows p::P of every global batch.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from sedtalker_jax import axes
from sedtalker_jax.data.condition_noise import disturb, random_edit
from sedtalker_jax.data.cross_fade import CrossFader, FadeConfig
from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.data.given_embeddings import check_embeddings
from sedtalker_jax.data.given_tracks import check_tracks, given_track
from sedtalker_jax.data.joins import JoinConfig, JoinSampler
from sedtalker_jax.data.mixing import MixedReader
from sedtalker_jax.data.records import RecordReader
from sedtalker_jax.emotion.labels import ACTIVE, LEVEL_SCALES
from sedtalker_jax.errors import UserError
from sedtalker_jax.models.track_source import EDITED_TRACK, NOISY_TRACK, PREDICTED_TRACK, TRUE_TRACK
from sedtalker_jax.value_ranges import at_least

Batch = dict[str, dict[str, np.ndarray]]

_FADE_STREAM = 6

_BLOCK = 8
"""Batches of joined examples whose lengths are sorted together: long ones meet long ones, and padding stays small."""


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """Attributes:
    batch_size: examples in a global batch.
    seed: of order, crops and example randomness.
    max_seconds: longer clips are cropped, at a random place in training and at the start in evaluation.
    bucket_seconds: upper edges of the length buckets; a batch holds clips of one bucket, padded to its edge. The last edge
      must be max_seconds.
    track_shares: shares of training clips whose emotion condition is the true track, the disturbed true track, the
      diarizer's own and, where there is a fourth, an edit of it, which only the emotional consistency loss judges.
    tracks: .npz file of emotion conditions by clip id (data.given_tracks), which drive the faces in training, validation and
      scoring instead of the records' own activation and of the model's diarizer: tracks of another diarizer, for example, or
      of a person. The third and fourth of track_shares must then be 0, and no face fades into another. "" = none.
    embeddings: .npz file of one vector per clip by clip id (data.given_embeddings), which the diarizer reads in training,
      validation and scoring instead of hearing the sound; the model then holds no encoder and no layers for that. Not with
      joins. "" = none.
    gain_db: range of the random gain of training audio, +/- this many dB.
    joins: emotion changes made on the fly from records of single utterances (data.joins); None reads records as they are.
      Joined batches also hold the ordinal levels.
    cross_fade: moving emotion made on the fly from faces with several still expressions of one recording (data.cross_fade), in
      training alone; None reads records as they are.
    levels: whether batches hold level and level_scale without joins too.
    label_granularity: "frame" for the true label of every frame; "utterance" copies the clip's commonest label to all of its
      frames, silence included, as SEDTalker's released preparation does (what true frame labels are compared with).
    one_emotion_only: leaves out training clips that hold several emotions. With joins, use JoinConfig.join_shares.
    num_workers: worker processes; 0 reads in threads. Part of the config since it is no tuning knob of a single run.
    prefetch: batches read ahead.
    """

    batch_size: int = 16
    seed: int = 0
    max_seconds: float = 4.0
    bucket_seconds: tuple[float, ...] = (4.0,)
    track_shares: tuple[float, ...] = (0.3, 0.3, 0.4)
    tracks: str = ""
    embeddings: str = ""
    gain_db: float = 4.0
    joins: JoinConfig | None = None
    cross_fade: FadeConfig | None = None
    levels: bool = False
    label_granularity: str = "frame"
    one_emotion_only: bool = False
    num_workers: int = 0
    prefetch: int = 4

    def __post_init__(self):
        if isinstance(self.joins, Mapping):
            object.__setattr__(self, "joins", JoinConfig(**self.joins))
        if isinstance(self.cross_fade, Mapping):
            object.__setattr__(self, "cross_fade", FadeConfig(**self.cross_fade))
        at_least(self, 1, "batch_size")
        at_least(self, 0.1, "max_seconds")
        at_least(self, 0, "gain_db", "num_workers", "prefetch")
        if self.bucket_seconds[-1] != self.max_seconds or list(self.bucket_seconds) != sorted(self.bucket_seconds):
            raise ValueError(f"bucket_seconds={self.bucket_seconds} must rise and end at max_seconds={self.max_seconds}")
        if len(self.track_shares) not in (3, 4):
            raise ValueError(f"track_shares={self.track_shares}: true, disturbed, predicted and, if wanted, edited")
        if abs(sum(self.track_shares) - 1.0) > 1e-6 or min(self.track_shares) < 0:
            raise ValueError(f"track_shares={self.track_shares} must be 0 or more and add up to 1")
        if self.tracks and any(self.track_shares[PREDICTED_TRACK:]):
            raise UserError(f"pipeline.track_shares={self.track_shares} must end in 0 with pipeline.tracks: one track per clip")
        if self.embeddings and self.joins is not None:
            raise UserError("pipeline.joins must be None with pipeline.embeddings: of joined utterances nobody gave a vector")
        if self.label_granularity not in ("frame", "utterance"):
            raise ValueError(f"label_granularity={self.label_granularity!r}: expected 'frame' or 'utterance'")
        if self.one_emotion_only and self.joins is not None:
            raise ValueError("one_emotion_only chooses recordings, joins put them together: set join_shares=(1.0,) instead")


@functools.lru_cache(maxsize=4)
def _epoch_batches(durations: tuple[float, ...], config: PipelineConfig, epoch: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """All (bucket, rows) of one epoch. What is left of a bucket after its last whole batch waits for another epoch."""
    rng = np.random.Generator(np.random.Philox(key=[config.seed, epoch]))
    order = rng.permutation(len(durations))
    bucket_of = _buckets(np.asarray(durations), config)
    batches = []
    for bucket in range(len(config.bucket_seconds)):
        rows = order[bucket_of[order] == bucket]
        for start in range(0, len(rows) - config.batch_size + 1, config.batch_size):
            batches.append((bucket, tuple(int(i) for i in rows[start : start + config.batch_size])))
    return tuple(batches[i] for i in rng.permutation(len(batches)))


def _buckets(durations: np.ndarray, config: PipelineConfig) -> np.ndarray:
    """The bucket of every clip, [N] int. One of fewer clips than a batch, which would never be seen, joins its neighbour."""
    bucket_of = np.searchsorted(config.bucket_seconds, np.minimum(durations, config.max_seconds) - 1e-6)
    for bucket in range(len(config.bucket_seconds) - 1):
        if 0 < np.sum(bucket_of == bucket) < config.batch_size:
            bucket_of[bucket_of == bucket] = bucket + 1
    used = np.unique(bucket_of)
    if len(used) > 1 and np.sum(bucket_of == used[-1]) < config.batch_size:
        bucket_of[bucket_of == used[-2]] = used[-1]  # the longest are too few: the next shorter ones are padded to their length
    return bucket_of


class TrainBatches:
    """Random access to the training batches of one process: item n is batch n, made from (seed, n) alone."""

    def __init__(
        self,
        reader: RecordReader | MixedReader,
        codec: FaceCodec | None,
        labels: Sequence[str],
        config: PipelineConfig,
        *,
        start: int,
        stop: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Args:
        reader: records of the training split.
        codec: face codec, None for records without faces.
        labels: the model's emotions; records' labels are matched by name.
        config: sizes.
        start, stop: batch numbers of this run; item 0 is batch `start`.
        process_index, process_count: this process reads rows index::count.
        """
        if config.batch_size % process_count:
            raise ValueError(f"batch_size={config.batch_size} is not a multiple of {process_count} processes")
        self._reader, self._codec, self._labels, self._config = reader, codec, tuple(labels), config
        self._start, self._stop = start, stop
        self._rows = slice(process_index, None, process_count)
        self._joined = None
        if config.joins is not None:
            if codec is not None:
                raise ValueError("joins are for speech alone: a face does not go on into another recording")
            self._joined = JoinedExamples(reader, labels, config)
            return
        index = reader.index()
        if config.embeddings:
            check_embeddings(config.embeddings, index.id)
        wanted = index.label != "" if config.one_emotion_only else np.ones(len(index), bool)
        if codec is not None:
            wanted &= index.nameable(labels)
            if config.tracks:
                check_tracks(config.tracks, index.id[wanted])
        self._fader = None
        if config.cross_fade is not None and codec is not None:
            self._fader = CrossFader(index, codec.space, config.cross_fade, wanted)
        self._clips = np.flatnonzero(wanted)
        self._durations = tuple((index.num_samples[self._clips] / axes.SAMPLE_RATE).tolist())
        self._fps = index.fps[self._clips]
        self._per_epoch = [len(_epoch_batches(self._durations, config, 0))]
        if not self._per_epoch[0]:
            raise UserError(f"batch_size={config.batch_size}: fewer training clips ({len(self._durations)}) than one batch")

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, item: int) -> Batch:
        number = self._start + item
        if self._joined is not None:
            return self._joined.batch(number, self._rows)
        # The number of batches in an epoch depends on the bucket sizes only, so it is the same in every epoch.
        epoch, position = divmod(number, self._per_epoch[0])
        bucket, rows = _epoch_batches(self._durations, self._config, epoch)[position]
        seconds = self._config.bucket_seconds[bucket]
        largest_fps = float(self._fps[list(rows)].max())  # of all processes' rows: they pad to one shape
        return pad_batch([self._example(epoch, row) for row in rows[self._rows]], seconds, self._codec, largest_fps)

    def _example(self, epoch: int, row: int) -> dict[str, Any]:
        """The example of a row, a function of the seed, the epoch and the row. A fade is as long as the row's own clip."""
        number, clip = epoch * len(self._durations) + row, int(self._clips[row])

        def generator(stream: int) -> np.random.Generator:
            return np.random.Generator(np.random.Philox(key=[self._config.seed + stream, number]))

        record = self._reader[clip] if self._fader is None else self._fader(self._reader, clip, generator(_FADE_STREAM))
        return make_example(record, self._codec, self._labels, self._config, generator(1), training=True)


class JoinedExamples:
    """Batches of joined utterances: batch n is made from (seed, n) alone.

    The examples of an epoch follow one another through its seeded order (data.joins); blocks of 8 batches are sorted by
    length, cut into batches, and these shuffled. A batch is padded to the first bucket edge that its longest plan fits.

    Args:
      reader, labels, config: as of TrainBatches; config.joins is set.

    Raises:
      UserError: fewer usable clips than one batch.
    """

    def __init__(self, reader: RecordReader | MixedReader, labels: Sequence[str], config: PipelineConfig) -> None:
        assert config.joins is not None
        self._reader, self._labels, self._config = reader, tuple(labels), config
        self.sampler = JoinSampler(reader.index(), labels, config.joins, config.seed)
        if len(self.sampler) < config.batch_size:
            raise UserError(f"batch_size={config.batch_size}: fewer usable clips ({len(self.sampler)}) than one batch")
        self._blocks: dict[int, list[tuple[float, list[int]]]] = {}

    def _block(self, block: int) -> list[tuple[float, list[int]]]:
        """(seconds of the bucket edge, numbers of the examples) of each batch of a block."""
        blocks = self._blocks
        if block not in blocks:
            config, size = self._config, self._config.batch_size
            first = block * _BLOCK * size
            lengths = np.array([self._num_samples(first + i) for i in range(_BLOCK * size)])
            order = np.argsort(lengths, kind="stable").reshape(_BLOCK, size)
            batches = []
            for rows in np.random.Generator(np.random.Philox(key=[config.seed + 5, block])).permutation(order):
                longest = min(float(lengths[rows].max()) / axes.SAMPLE_RATE, config.max_seconds)
                edge = config.bucket_seconds[int(np.searchsorted(config.bucket_seconds, longest - 1e-6))]
                batches.append((edge, [int(first + i) for i in rows]))
            # Another dict, not a change of this one: several threads read.
            self._blocks = blocks = {**dict([*blocks.items()][-2:]), block: batches}
        return blocks[block]

    def _num_samples(self, number: int) -> int:
        return self.sampler.plan(*divmod(number, len(self.sampler))).num_samples(self.sampler.crossfade)

    def batch(self, number: int, rows: slice) -> Batch:
        """The rows of global batch `number`."""
        seconds, numbers = self._block(number // _BLOCK)[number % _BLOCK]
        return pad_batch([self.example(example) for example in numbers[rows]], seconds, None)

    def example(self, number: int) -> dict[str, Any]:
        """Joined example `number`, counted over all epochs."""
        epoch, index = divmod(number, len(self.sampler))
        plan = self.sampler.plan(epoch, index)
        record = self.sampler.example(plan, [self._reader[piece.row] for piece in plan.pieces], epoch, index)
        rng = np.random.Generator(np.random.Philox(key=[self._config.seed + 1, number]))
        return make_example(record, None, self._labels, self._config, rng, training=True)


def _crop_unit(fps: float) -> int:
    """Crops start at multiples of this many animation frames, so that speech and animation frames keep their phase."""
    return int(fps) // math.gcd(int(fps), int(axes.FRAME_RATE)) if float(fps).is_integer() else 1


def make_example(
    record: Mapping[str, Any],
    codec: FaceCodec | None,
    labels: Sequence[str],
    config: PipelineConfig,
    rng: np.random.Generator,
    *,
    training: bool,
) -> dict[str, Any]:
    """One clip, cropped, with targets on its own frame grids.

    Args:
      record: a decoded record, which may hold a given_embedding (data.given_embeddings).
      codec: face codec, None for records without faces.
      labels: the model's emotions, "neutral" among them.
      config: sizes.
      rng: the example's own generator.
      training: random crop, gain and condition; otherwise the clip's start and the true track.

    Returns:
      dict of numpy arrays and scalars; see `pad_batch`.
    """
    waveform = np.asarray(record["waveform"], np.float32)
    fps = float(record["fps"]) or axes.FRAME_RATE
    limit = int(config.max_seconds * axes.SAMPLE_RATE)
    first = 0
    if len(waveform) > limit:
        unit = _crop_unit(fps)
        choices = int((len(waveform) - limit) / axes.SAMPLE_RATE * fps) // unit
        first = int(rng.integers(choices + 1)) * unit if training else 0
    offset = int(round(first / fps * axes.SAMPLE_RATE))
    waveform = waveform[offset : offset + limit]
    if training and config.gain_db:
        waveform = waveform * 10.0 ** (rng.uniform(-config.gain_db, config.gain_db) / 20.0)

    T = axes.num_speech_frames(len(waveform))
    # Labels live on the grid of the whole clip; the nearest frame is exact where the offset is a multiple of the hop.
    frames = np.minimum(np.arange(T) + int(round(offset / axes.FRAME_HOP)), len(record["emotion"]) - 1)
    to_model = np.array([labels.index(name) if name in labels else -1 for name in record["labels"]] + [-1], np.int32)
    intensity = record["intensity"].astype(np.float32)[frames]
    start = offset / axes.SAMPLE_RATE
    emotion = to_model[record["emotion"][frames]]
    segments = record["segments"]
    if config.label_granularity == "utterance":
        commonest, strength = utterance_label(to_model[record["emotion"]], np.asarray(record["intensity"], np.float32))
        emotion, intensity, segments = np.full_like(emotion, commonest), np.full_like(intensity, strength), ()
    example = dict(
        waveform=waveform.astype(np.float32),
        emotion=emotion,
        intensity=np.nan_to_num(intensity),
        # Intensity is how strong the emotion is if there is one; whether there is one is the category's to say.
        intensity_mask=(np.isfinite(intensity) & (emotion != labels.index("neutral"))).astype(np.float32),
        boundary=boundary_targets(segments, axes.speech_frame_times(T) + start),
        seed=np.uint32(rng.integers(2**32)),
    )
    if "given_embedding" in record:
        example["given_embedding"] = record["given_embedding"]
    if config.levels or config.joins is not None:
        example["level"], example["level_scale"] = level_frames(record, frames, emotion)
    if codec is not None:
        F = min(axes.num_animation_frames(len(waveform), fps), len(record["motion"]) - first)
        template = codec.space.templates[codec.space.template_names.index(record["template"])]
        motion = record["motion"].astype(np.float32)[first : first + F]
        columns = [ACTIVE.index(name) for name in labels if name != "neutral"]
        known = record["activation"].astype(np.float32)
        if config.tracks:
            known = given_track(config.tracks, record, len(known))
        activation = known[first : first + F, columns]
        source = int(rng.choice(len(config.track_shares), p=config.track_shares)) if training else TRUE_TRACK
        if not np.isfinite(activation).all():
            # Nobody says what this face feels: what the voice says is the only guess, and none at all without a diarizer.
            activation, source = np.zeros_like(activation), PREDICTED_TRACK
        if source == PREDICTED_TRACK and record.get("condition") == "schedule":
            # The voice says nothing of this face's emotion: the schedule drives it, never what the diarizer hears.
            source = NOISY_TRACK
        if source == NOISY_TRACK:
            activation = disturb(activation, fps, rng)
        example.update(
            motion=codec.normalise(motion),
            lips_closed=codec.lips_closed(template, motion),
            fps=np.float32(fps),
            template_code=codec.template_code(template),
            activation=activation,
            track_source=np.int32(source),
        )
        if codec.subjects:
            example["subject"] = np.int32(codec.subject_index(record["speaker"], record["template"]))
        if training and len(config.track_shares) > EDITED_TRACK:
            example.update(random_edit(len(waveform) / axes.SAMPLE_RATE, len(labels), rng))
    return example


def utterance_label(emotion: np.ndarray, intensity: np.ndarray) -> tuple[int, float]:
    """The commonest label of a clip, and the mean intensity of the frames that carry it.

    Args:
      emotion: int [T], index into the model's labels, negative = unlabelled.
      intensity: float [T], NaN = unlabelled.

    Returns:
      (label, -1 if no frame has one; intensity, NaN if no such frame has one).
    """
    known = emotion[emotion >= 0]
    if not len(known):
        return -1, float("nan")
    label = int(np.argmax(np.bincount(known)))
    strengths = intensity[(emotion == label) & np.isfinite(intensity)]
    return label, float(strengths.mean()) if len(strengths) else float("nan")


def level_frames(record: Mapping[str, Any], frames: np.ndarray, emotion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ordinal level and the index of its scale in LEVEL_SCALES for each frame, both int32 [T], -1 where nobody gave one.

    Args:
      record: a record; of a joined one, level and level_scale are arrays over its frames already.
      frames: [T] which frames of the record.
      emotion: [T] labels of these frames; where there is none (-1), there is no level.
    """
    if isinstance(record.get("level"), np.ndarray):
        return record["level"][frames], record["level_scale"][frames]
    known = record.get("level_scale") in LEVEL_SCALES
    scale = list(LEVEL_SCALES).index(record["level_scale"]) if known else -1
    level = record["level"] if known else -1
    labelled = emotion >= 0
    return np.where(labelled, level, -1).astype(np.int32), np.where(labelled, scale, -1).astype(np.int32)


def boundary_targets(segments: Sequence[Sequence], times: np.ndarray, reach: float = 0.1) -> np.ndarray:
    """1 at a change of label, falling linearly to 0 at `reach` seconds; joins of equal labels are no changes."""
    changes = [b[0] for a, b in zip(segments, segments[1:], strict=False) if a[2] != b[2]]
    if not changes:
        return np.zeros(len(times), np.float32)
    distance = np.abs(times[:, None] - np.asarray(changes, float)[None, :]).min(axis=1)
    return np.maximum(0.0, 1.0 - distance / reach).astype(np.float32)


def pad_batch(
    examples: Sequence[Mapping[str, Any]], seconds: float, codec: FaceCodec | None, largest_fps: float | None = None
) -> Batch:
    """Joins examples into one batch padded to `seconds`, with lengths and masks.

    Args:
      examples: see `make_example`.
      seconds: length of every row.
      codec: of the faces; None leaves them out.
      largest_fps: frame rate that the faces' padded length is for; None = the largest of the examples.

    Returns:
      {"speech": waveform [B, S], lengths [B], emotion [B, T] (-1 = unlabelled or padding), intensity [B, T], intensity_mask,
      boundary, boundary_mask, seed [B], with joins or levels also level and level_scale [B, T], with given embeddings also
      given_embedding [B, C]} and, with a codec,
      {"face": motion [B, F, R], lips_closed [B, F], num_frames [B], fps [B], template_code [B, Q], activation [B, F, K-1],
      track_source [B], seed [B], with edited tracks also edit_target [B], edit_margin [B], edit_span [B, 2], and with a codec
      that knows subjects also subject [B]}; the face part has no waveform of its own.
    """
    S = int(round(seconds * axes.SAMPLE_RATE))
    T = axes.num_speech_frames(S)

    def padded(name, length, value=0.0):
        first = np.asarray(examples[0][name])
        out = np.full((len(examples), length, *first.shape[1:]), value, first.dtype)
        for i, example in enumerate(examples):
            out[i, : len(example[name])] = example[name][:length]
        return out

    emotion = padded("emotion", T, -1)
    valid = np.zeros((len(examples), T), np.float32)
    for i, example in enumerate(examples):
        valid[i, : len(example["emotion"])] = 1.0
    seeds = np.array([example["seed"] for example in examples], np.uint32)
    batch: Batch = {
        "speech": dict(
            waveform=padded("waveform", S),
            lengths=np.array([min(S, len(example["waveform"])) for example in examples], np.int32),
            emotion=emotion,
            intensity=padded("intensity", T),
            intensity_mask=padded("intensity_mask", T),
            boundary=padded("boundary", T),
            # Where nobody said what is felt, nothing tells whether it changes.
            boundary_mask=valid * (emotion >= 0).any(axis=1, keepdims=True),
            seed=seeds,
        )
    }
    if "given_embedding" in examples[0]:
        batch["speech"]["given_embedding"] = np.stack([example["given_embedding"] for example in examples])
    if "level" in examples[0]:
        batch["speech"] |= dict(level=padded("level", T, -1), level_scale=padded("level_scale", T, -1))
    if codec is not None:
        fps = np.array([example["fps"] for example in examples], np.float32)
        F = axes.num_animation_frames(S, float(fps.max()) if largest_fps is None else largest_fps)
        batch["face"] = dict(
            motion=padded("motion", F),
            lips_closed=padded("lips_closed", F, False),
            num_frames=np.array([min(F, len(example["motion"])) for example in examples], np.int32),
            fps=fps,
            template_code=np.stack([example["template_code"] for example in examples]),
            activation=padded("activation", F),
            track_source=np.array([example["track_source"] for example in examples], np.int32),
            seed=seeds,
        )
        if "subject" in examples[0]:
            batch["face"]["subject"] = np.array([example["subject"] for example in examples], np.int32)
        if "edit_target" in examples[0]:
            names = ("edit_target", "edit_margin", "edit_span")
            batch["face"] |= {name: np.stack([example[name] for example in examples]) for name in names}
    return batch


def iterate(batches: TrainBatches, config: PipelineConfig) -> Iterator[Batch]:
    """Reads batches ahead of their use, in threads or in worker processes."""
    if not flags.FLAGS.is_parsed():
        # Grain's worker processes read absl's flags, which a Python program without absl's app never parses.
        flags.FLAGS.mark_as_parsed()
    dataset = grain.MapDataset.source(batches)
    options = grain.ReadOptions(num_threads=0 if config.num_workers else 2, prefetch_buffer_size=config.prefetch)
    iterable = dataset.to_iter_dataset(options)
    if config.num_workers:
        iterable = iterable.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=config.num_workers, per_worker_buffer_size=config.prefetch)
        )
    return iter(iterable)
