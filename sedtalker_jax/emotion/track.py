"""EmotionTrack: what a voice feels, frame by frame, with its file formats."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sedtalker_jax.emotion import decoding, formats
from sedtalker_jax.emotion.formats import Segment
from sedtalker_jax.emotion.keyframes import KeyFrames
from sedtalker_jax.emotion.labels import ACTIVE, CANONICAL, NEUTRAL, label_index, resolve_label
from sedtalker_jax.errors import UNREADABLE_ARRAYS, UserError, about

SPEECH_FRAME_RATE = 50.0
"""Hz: the frame rate of the speech encoders (16,000 / 320)."""

SPEECH_START = 200 / 16_000
"""Seconds: the centre of the encoders' first frame, whose window is 400 samples at 16 kHz."""

LARGEST_FRAME_RATE, MOST_FRAMES = 1_000.0, 10**8
"""Of a track from segments: beyond, a file's numbers are mistaken. 10^8 frames at 50 Hz are three weeks."""


class TrackSamples(NamedTuple):
    """A track read at given times: probabilities [F, K], intensity [F], activation [F, K-1] in the order of ACTIVE."""

    probabilities: Float[np.ndarray, "F K"]
    intensity: Float[np.ndarray, " F"]
    activation: Float[np.ndarray, "F K-1"]


@dataclasses.dataclass(frozen=True, eq=False)
class EmotionTrack:
    """Emotion over time on a regular grid of frames; frame t is centred at start + t / frame_rate seconds.

    Attributes:
      labels: names of the K emotions, the columns of `probabilities`.
      probabilities: float32 [T, K], each row sums to one.
      intensity: float32 [T] in [0, 1]; NaN where it is unknown.
      frame_rate: frames per second.
      start: centre of frame 0 in seconds.
      duration: length of the recording in seconds, when known; the segments then end there.

    Raises:
      UserError: shapes that do not belong together, repeated labels, negative or non-finite probabilities, intensity
        outside [0, 1], a frame rate that is not positive.
    """

    labels: tuple[str, ...]
    probabilities: Float[np.ndarray, "T K"]
    intensity: Float[np.ndarray, " T"]
    frame_rate: float = SPEECH_FRAME_RATE
    start: float = SPEECH_START
    duration: float | None = None

    def __post_init__(self):
        labels = tuple(str(label) for label in self.labels)
        probabilities = np.asarray(self.probabilities, np.float32)
        intensity = np.asarray(self.intensity, np.float32)
        label_index(labels)
        if probabilities.ndim != 2 or probabilities.shape[1] != len(labels):
            raise UserError(f"probabilities must be [frames, {len(labels)}] for these labels, not {probabilities.shape}")
        if intensity.shape != probabilities.shape[:1]:
            raise UserError(f"intensity must have one value per frame: {intensity.shape} against {probabilities.shape[:1]}")
        if not np.all(np.isfinite(probabilities)) or probabilities.min(initial=0.0) < -1e-6:
            raise UserError("emotion probabilities must be finite and not negative")
        if len(probabilities) and np.abs(probabilities.sum(axis=1) - 1.0).max() > 1e-2:
            raise UserError("emotion probabilities must sum to one in every frame; apply softmax first")
        if np.any((intensity < -1e-6) | (intensity > 1 + 1e-6)) or np.any(np.isinf(intensity)):
            raise UserError("intensity must lie in [0, 1], or be NaN where it is unknown")
        if not (self.frame_rate > 0 and math.isfinite(self.frame_rate) and math.isfinite(self.start)):
            raise UserError(f"frame rate {self.frame_rate} must be positive, start {self.start} finite")
        if self.duration is not None and not (self.duration > 0 and math.isfinite(self.duration)):
            raise UserError(f"the duration must be positive, not {self.duration} s")
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "probabilities", probabilities)
        object.__setattr__(self, "intensity", intensity)

    # ---- making tracks ----

    @classmethod
    def from_segments(
        cls,
        segments: Iterable[Sequence],
        *,
        labels: Sequence[str] = CANONICAL,
        frame_rate: float = SPEECH_FRAME_RATE,
        start: float = SPEECH_START,
        duration: float | None = None,
        fill: str = NEUTRAL,
    ) -> EmotionTrack:
        """Puts segments (start_s, end_s, label[, intensity]) on a frame grid: each frame takes the segment at its centre.

        Args:
          duration: of the recording in seconds; decides the number of frames; unknown, the last segment's end does.
          fill: the label of time that no segment covers, with intensity 0 when it is neutral and unknown otherwise.

        Raises:
          UserError: labels that are not known, overlapping segments, nothing to cover, an impossible frame rate or start.
        """
        if not (0 < frame_rate <= LARGEST_FRAME_RATE and math.isfinite(start)):
            wanted = f"above 0 and up to {LARGEST_FRAME_RATE:g}"
            raise UserError(f"frame rate {frame_rate:g} must lie {wanted}, and start {start:g} be finite")
        rows = sorted(Segment(*row) for row in segments)
        end = float(duration) if duration is not None else max((row.end for row in rows), default=0.0)
        # Of a recording, the last centre keeps the same distance from the end as the first one from 0: on the encoders' grid
        # this is their length formula floor((S - 400) / 320) + 1. Segments alone reach half a hop beyond their last frame, so
        # every centre inside them counts. At least one frame, so that a very short recording has a track.
        margin = min(max(start, 0.0), 1.0 / frame_rate) if duration is not None else 0.0
        num_frames = max(1, int(math.floor((end - start - margin) * frame_rate + 1e-6)) + 1) if end > 0 else 0
        if num_frames > MOST_FRAMES:
            raise UserError(f"a track of {end:g} s at {frame_rate:g} frames per second is longer than any recording")
        if num_frames == 0:
            raise UserError("no emotion segments and no duration: there is nothing to put on a track")
        for before, after in zip(rows, rows[1:], strict=False):
            if after.start < before.end - formats.ROUNDED_S:
                names = f"'{before.label}' and '{after.label}'"
                raise UserError(f"segments {names} overlap at {after.start:g} s; a track has one emotion at a time")
        times = start + np.arange(num_frames) / frame_rate
        path = np.full(num_frames, label_index(labels)[resolve_label(fill, labels)])
        intensity = np.full(num_frames, 0.0 if fill == NEUTRAL else np.nan, np.float32)
        for row in rows:
            # What is felt until the end is felt at a centre that lies on the end itself, as grids from 0 have one.
            inside = (times >= row.start) & (times < (row.end if row.end < end - 1e-6 else math.inf))
            path[inside] = label_index(labels)[resolve_label(row.label, labels)]
            intensity[inside] = row.intensity
        probabilities = np.eye(len(labels), dtype=np.float32)[path]
        return cls(tuple(labels), probabilities, intensity, frame_rate, start, duration)

    @classmethod
    def constant(cls, label: str, intensity: float, duration: float, labels: Sequence[str] = CANONICAL) -> EmotionTrack:
        """One emotion at one strength for `duration` seconds."""
        return cls.from_segments([(0.0, duration, label, intensity)], labels=labels, duration=duration)

    @classmethod
    def trajectory(
        cls, emotions: Sequence[str], intensity: float, duration: float, labels: Sequence[str] = CANONICAL
    ) -> EmotionTrack:
        """Goes through emotions, one after the other, in equal spans of `duration` seconds.

        Each is alone in the middle of its span and gives way to the next by a smooth step until the middle of that one's.

        Args:
          emotions: names or synonyms of labels, at least one; one may come several times.
          intensity: of all of them.
          duration: of the recording.
          labels: of the track.

        Raises:
          UserError: no emotion, an unknown one, or no duration.
        """
        if not emotions:
            raise UserError("a trajectory needs at least one emotion")
        grid = cls.constant(NEUTRAL, 0.0, duration, labels)
        columns = [label_index(labels)[resolve_label(name, labels)] for name in emotions]
        middles = (np.arange(len(columns)) + 0.5) * duration / len(columns)
        curve = KeyFrames(middles, np.eye(len(labels))[columns], "smooth")
        probabilities = curve.at(grid.times).astype(np.float32)
        return dataclasses.replace(grid, probabilities=probabilities, intensity=np.full(grid.num_frames, intensity, np.float32))

    # ---- reading tracks ----

    @property
    def num_frames(self) -> int:
        return len(self.probabilities)

    @property
    def times(self) -> Float[np.ndarray, " T"]:
        """Centre of each frame in seconds."""
        return self.start + np.arange(self.num_frames) / self.frame_rate

    def path(self, method: str = "raw", **options) -> Int[np.ndarray, " T"]:
        """One label index per frame, by any decoder of decoding.decode."""
        return decoding.decode(self.probabilities, self.frame_rate, method, **options)

    def segments(self, method: str = "raw", **options) -> list[Segment]:
        """Runs of one emotion, without gaps, each with the mean intensity of its frames (unknown ones left out).

        A frame reaches half a hop to either side of its centre. The first segment begins at 0 and the last one ends at
        `duration` when that is within two hops, since encoders see no frame centred at the very edges.

        Args:
          method, options: the decoder (decoding.decode) that turns probabilities into one label per frame.
        """
        path = self.path(method, **options)
        if len(path) == 0:
            return []
        hop = 1.0 / self.frame_rate
        edges = np.flatnonzero(np.diff(path)) + 1
        firsts, lasts = np.r_[0, edges], np.r_[edges, len(path)]
        begin = self.start - hop / 2
        bounds = begin + np.r_[firsts, len(path)] * hop
        if abs(begin) <= 2 * hop:
            bounds[0] = 0.0
        if self.duration is not None and abs(self.duration - bounds[-1]) <= 2 * hop:
            bounds[-1] = self.duration
        result = []
        for index, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
            known = self.intensity[first:last]
            known = known[np.isfinite(known)]
            mean = float(np.clip(known.mean(), 0.0, 1.0)) if len(known) else math.nan
            start, end = round(float(bounds[index]), 6), round(float(bounds[index + 1]), 6)
            if end > start:
                result.append(Segment(start, end, self.labels[path[first]], mean))
        return result

    def activation(
        self, *, sharpness: float = decoding.SHARPNESS, unknown_intensity: float = 1.0
    ) -> Float[np.ndarray, "T K-1"]:
        """What drives the face: sharpened posterior x intensity, one strength in [0, 1] per non-neutral emotion.

        Columns are the seven of ACTIVE, in that order, whatever the order of this track's labels; emotions that the track
        does not know stay 0, and neutral is the absence of all.

        Args:
          sharpness: exponent of decoding.sharpen; a posterior is doubt and must not be drawn as a blend.
          unknown_intensity: stands in where the intensity is NaN: a label alone means the full emotion.

        Raises:
          UserError: the track has labels outside CANONICAL.
        """
        extra = [label for label in self.labels if label not in CANONICAL]
        if extra:
            raise UserError(f"labels without a face: {', '.join(extra)}; known are {', '.join(CANONICAL)}")
        weights = decoding.sharpen(self.probabilities, sharpness)
        strength = np.where(np.isnan(self.intensity), unknown_intensity, self.intensity)
        result = np.zeros((self.num_frames, len(ACTIVE)), np.float32)
        index = label_index(self.labels)
        for column, label in enumerate(ACTIVE):
            if label in index:
                result[:, column] = weights[:, index[label]] * strength
        return np.clip(result, 0.0, 1.0)

    def at_times(self, times: Float[np.ndarray, " F"], **activation_options) -> TrackSamples:
        """Reads the track at arbitrary times (seconds) by linear interpolation; the end frames hold beyond the ends.

        Activation is made on the frames and then interpolated, so a change of emotion is a cross-fade between frames.

        Raises:
          UserError: the track has no frames.
        """
        if self.num_frames == 0:
            raise UserError("the emotion track is empty; it can't be read at any time")
        position = np.clip((np.asarray(times, np.float64) - self.start) * self.frame_rate, 0, self.num_frames - 1)
        before = np.floor(position).astype(np.int64)
        after = np.minimum(before + 1, self.num_frames - 1)
        fraction = (position - before)[:, None]

        def read(values: np.ndarray) -> np.ndarray:
            # The second term is skipped where its weight is zero: there 0 x NaN would spoil a known value.
            later = np.where(fraction > 0, fraction * values[after], 0.0)
            return ((1.0 - fraction) * values[before] + later).astype(np.float32)

        return TrackSamples(
            read(self.probabilities), read(self.intensity[:, None])[:, 0], read(self.activation(**activation_options))
        )

    def decoded(self, method: str = "viterbi", *, crossfade: float = 0.2, **options) -> EmotionTrack:
        """A track that shows one emotion at a time: the decoded path, cross-faded over `crossfade` seconds at changes."""
        path = self.path(method, **options)
        probabilities = decoding.commit(self.probabilities, path, self.frame_rate, crossfade)
        return dataclasses.replace(self, probabilities=probabilities)

    def with_labels(self, labels: Sequence[str]) -> EmotionTrack:
        """The same track with its columns in another order or set; emotions that it lacks get probability 0.

        Raises:
          UserError: probability would be lost, because the track gives weight to a label that is not in `labels`.
        """
        index = label_index(self.labels)
        lost = [name for name in self.labels if name not in labels and self.probabilities[:, index[name]].max(initial=0) > 1e-6]
        if lost:
            raise UserError(f"the track speaks of {', '.join(lost)}, which the labels {', '.join(labels)} do not have")
        probabilities = np.zeros((self.num_frames, len(labels)), np.float32)
        for column, name in enumerate(labels):
            if name in index:
                probabilities[:, column] = self.probabilities[:, index[name]]
        return dataclasses.replace(self, labels=tuple(labels), probabilities=probabilities)

    # ---- files ----

    def save(
        self, path: str | os.PathLike, *, per_frame: bool = False, method: str = "raw", name: str | None = None, **options
    ) -> None:
        """Writes the track in the format of the suffix; an older file is replaced only by a complete one.

        .npz keeps everything. .json, .csv, .TextGrid and .txt (Audacity) keep segments with intensity, .rttm segments only.

        Args:
          per_frame: for .json: also the frame-wise probabilities and intensity, so that `load` gives the same track back.
          method, options: the decoder that makes the segments (decoding.decode).
          name: the recording's name inside RTTM and JSON; by default the file's stem.

        Raises:
          UserError: unknown suffix, or a place that can't be written.
        """
        target = Path(path)
        if target.suffix.lower() == ".npz":
            self._save_npz(target)
            return
        extra = {}
        if target.suffix.lower() == ".json":
            extra = {"labels": list(self.labels), "frame_rate": self.frame_rate, "start": self.start}
            if per_frame:
                extra["probabilities"] = [[round(float(p), 6) for p in row] for row in self.probabilities]
                extra["intensity"] = [None if math.isnan(i) else round(float(i), 6) for i in self.intensity]
        elif per_frame:
            raise UserError(f"{target}: only .json and .npz hold per-frame probabilities; choose one of them")
        segments = self.segments(method, **options)
        formats.write_segments(target, segments, name=name, duration=self.duration, extra=extra)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        labels: Sequence[str] = CANONICAL,
        frame_rate: float = SPEECH_FRAME_RATE,
        start: float = SPEECH_START,
        duration: float | None = None,
    ) -> EmotionTrack:
        """Reads any file that `save` writes, or that Praat, Audacity or another diarizer wrote.

        Files of segments are put on the given frame grid (from_segments); .npz, and .json with per-frame values, bring their
        own grid and labels. Synonyms ("anger") become the label of `labels` that they stand for.

        Raises:
          UserError: missing or malformed file, unknown suffix or label.
        """
        source = Path(path)
        if source.suffix.lower() == ".npz":
            return cls._load_npz(source)
        segments = formats.read_segments(source)
        document = json.loads(formats.read_text(source)) if source.suffix.lower() == ".json" else {}
        try:
            if "probabilities" in document:
                intensity = [math.nan if value is None else value for value in document["intensity"]]
                probabilities = np.asarray(document["probabilities"], np.float32).reshape(len(intensity), -1)
                grid = (document["frame_rate"], document["start"], document.get("duration"))
                return cls(tuple(document["labels"]), probabilities, np.asarray(intensity, np.float32), *grid)
            if not segments:
                raise UserError("no segments: there is nothing to put on a track; a face without emotion is neutral throughout")
            return cls.from_segments(
                segments,
                labels=document.get("labels", labels),
                frame_rate=document.get("frame_rate", frame_rate),
                start=document.get("start", start),
                duration=duration if duration is not None else document.get("duration"),
            )
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
        except (KeyError, ValueError, TypeError, ArithmeticError) as error:
            raise UserError(f"{source}: not a readable emotion track ({error}); write it again") from error

    def _save_npz(self, target: Path) -> None:
        # A file and not its name: numpy would add ".npz" to any other spelling of it.
        with formats.replace_when_complete(target) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                labels=np.array(self.labels),
                probabilities=self.probabilities,
                intensity=self.intensity,
                frame_rate=self.frame_rate,
                start=self.start,
                duration=np.nan if self.duration is None else self.duration,
            )

    @classmethod
    def _load_npz(cls, source: Path) -> EmotionTrack:
        try:
            with about(source), np.load(source, allow_pickle=False) as data:
                duration = float(data["duration"])
                return cls(
                    tuple(str(label) for label in data["labels"]),
                    data["probabilities"],
                    data["intensity"],
                    float(data["frame_rate"]),
                    float(data["start"]),
                    None if math.isnan(duration) else duration,
                )
        except FileNotFoundError as error:
            raise UserError(f"{source}: no such file; check the path") from error
        except UNREADABLE_ARRAYS as error:
            raise UserError(f"{source}: not an emotion track in .npz form ({error}); write it again") from error
