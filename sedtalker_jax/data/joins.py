"""Emotion changes made on the fly: utterances of one speaker joined, with the label of every frame known exactly.

An example is a pure function of (seed, epoch, index). Its anchor is a clip; every clip of the chosen share of its corpus and
emotion is an anchor about once an epoch. To the anchor other clips of the same speaker (and session) are joined, on either
side. Each join is a change of emotion with probability 1/2 and no change otherwise, and is only made where the speaker has
clips for both, and the pause at it is drawn before anyone knows which it is: neither a splice nor a pause gives a change
away. The patterns neutral-emotion, emotion-neutral, neutral-emotion-neutral, emotion-emotion and alone all arise.
`JoinConfig.one_event` is SpeechBrain's order instead, in which a splice always marks a change.

Loudness carries anger, sadness and strength: each speaker has one gain, from neutral clips, and a clip never its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sedtalker_jax import axes
from sedtalker_jax.data import activity
from sedtalker_jax.data.augment import AugmentConfig, change_speed, distort, draw_speed
from sedtalker_jax.data.index import RecordIndex
from sedtalker_jax.emotion.labels import LEVEL_SCALES, NEUTRAL
from sedtalker_jax.errors import UserError

_PLAN_STREAM, _SOUND_STREAM, _ORDER_STREAM = 2, 3, 4
_LARGEST_GAIN_DB = 20.0
_SHORTEST_PIECE = 8_000


@dataclasses.dataclass(frozen=True)
class JoinConfig:
    """Attributes:
    join_shares: shares of examples with 0, 1, 2, ... joins.
    emotion_to_emotion: chance that a change away from an emotion leads to another one instead of neutral.
    one_event: every example has exactly one emotional event, as in SpeechBrain's recipe for speech emotion diarization
      (arXiv 2306.12991): an emotional clip alone, or with a neutral clip of the speaker before it, after it or on both sides,
      each with probability 1/4; alone where the speaker has no neutral clip. Anchors are the clips of one emotion;
      join_shares and emotion_to_emotion are not used. With both temperatures 1 each of them comes once an epoch.
    pause_probability: chance of a pause at a join, whether or not the emotion changes there.
    pause_s: range of its length in seconds; longer than 0.5 s it is silence without a label.
    crossfade_s: of every splice; equal power.
    longest_piece_s: longer clips are cut to a part of this length at a random place.
    corpus_temperature, emotion_temperature: corpora, and emotions within one, are drawn as count^(1 / temperature): 1 is
      the data's own balance, large values are uniform.
    loudness_dbfs: level that a speaker's gain brings the neutral clips to.
    augment: changes of the recording; None leaves it as it is.
    """

    join_shares: tuple[float, ...] = (0.25, 0.45, 0.3)
    emotion_to_emotion: float = 0.25
    one_event: bool = False
    pause_probability: float = 0.5
    pause_s: tuple[float, float] = (0.1, 0.8)
    crossfade_s: float = 0.015
    longest_piece_s: float = 6.0
    corpus_temperature: float = 2.0
    emotion_temperature: float = 2.0
    loudness_dbfs: float = -26.0
    augment: AugmentConfig | None = dataclasses.field(default_factory=AugmentConfig)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        if isinstance(self.augment, Mapping):
            object.__setattr__(self, "augment", AugmentConfig(**self.augment))
        if abs(sum(self.join_shares) - 1.0) > 1e-6:
            raise ValueError(f"join_shares={self.join_shares} must add up to 1")
        if self.pause_s[0] < 2 * self.crossfade_s:
            raise ValueError(f"pause_s={self.pause_s} must be at least twice crossfade_s={self.crossfade_s}")


@dataclasses.dataclass(frozen=True)
class Piece:
    """Samples [start, stop) of record `row`, amplified by `gain_db`."""

    row: int
    start: int
    stop: int
    gain_db: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """Pieces in order; `pauses` holds the samples of silence between one and the next (0: spliced directly)."""

    pieces: tuple[Piece, ...]
    pauses: tuple[int, ...]
    speed: float

    def num_samples(self, crossfade: int) -> int:
        """Length of the example: neighbours overlap by `crossfade` samples."""
        parts = len(self.pieces) + sum(1 for pause in self.pauses if pause)
        total = sum(piece.stop - piece.start for piece in self.pieces) + sum(self.pauses) - (parts - 1) * crossfade
        return round(total / self.speed)


class JoinSampler:
    """Plans of joined examples: `plan(epoch, index)`.

    Args:
      index: of the records.
      labels: the model's emotions; clips with another label are not used. Records with several emotions ('' in the index)
        are used alone.
      config: shares and ranges.
      seed: of everything drawn.

    Raises:
      UserError: no record can be an anchor.

    Attributes:
      usable: rows that can be anchors; their number is the number of examples in an epoch.
      gains_db: [N], the gain of every record's speaker.
    """

    def __init__(self, index: RecordIndex, labels: Sequence[str], config: JoinConfig, seed: int) -> None:
        self.index, self.labels, self.config, self.seed = index, tuple(labels), config, seed
        self.crossfade = int(round(config.crossfade_s * axes.SAMPLE_RATE))
        usable = np.isin(index.label, [*labels, ""]) & (index.num_samples >= axes.FRAME_WINDOW)
        anchors = usable & ~np.isin(index.label, [NEUTRAL, ""]) if config.one_event else usable
        self.usable = np.flatnonzero(anchors)
        if not len(self.usable):
            kind = "emotions" if config.one_event else "labels"
            raise UserError(f"no record has one of the {kind} {', '.join(labels)}; choose other records or model.labels")
        self.gains_db = speaker_gains(index, config.loudness_dbfs)
        self._cells = _cells(index, self.usable)
        self._voices: dict[tuple[str, str, str], dict[str, list[int]]] = {}
        for row in np.flatnonzero(usable).tolist():
            if index.label[row]:
                self._voices.setdefault(self._voice(row), {}).setdefault(str(index.label[row]), []).append(row)
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.usable)

    def _voice(self, row: int) -> tuple[str, str, str]:
        return str(self.index.corpus[row]), str(self.index.speaker[row]), str(self.index.session[row])

    def _order(self, epoch: int) -> np.ndarray:
        """Anchor rows of an epoch: each cell gets its share, and goes through all its clips before one comes again."""
        if epoch not in self._orders:
            # Two epochs meet in one block of batches; more are never asked for together.
            self._orders = {known: order for known, order in self._orders.items() if abs(known - epoch) == 1}
            self._orders[epoch] = self._draw_order(epoch)
        return self._orders[epoch]

    def _draw_order(self, epoch: int) -> np.ndarray:
        rng = _generator(self.seed + _ORDER_STREAM, epoch)
        shares = cell_shares(self._cells, self.config.corpus_temperature, self.config.emotion_temperature)
        rows = []
        for count, (_, members) in zip(_whole(shares * len(self)), self._cells.items(), strict=True):
            rounds = -(-int(count) // len(members))
            rows.append(np.concatenate([rng.permutation(members) for _ in range(rounds)] or [members[:0]])[:count])
        return rng.permutation(np.concatenate(rows))

    def plan(self, epoch: int, index: int) -> Plan:
        """The plan of example `index` of an epoch."""
        anchor = int(self._order(epoch)[index])
        rng = _generator(self.seed + _PLAN_STREAM, epoch * len(self) + index)
        config = self.config
        rows = [anchor]
        if config.one_event:
            rows = self._one_event(anchor, rng)
        elif self.index.label[anchor]:
            clips = self._voices[self._voice(anchor)]
            for _ in range(int(rng.choice(len(config.join_shares), p=config.join_shares))):
                left = rng.random() < 0.5
                neighbour = self._neighbour(rows[0] if left else rows[-1], clips, rng)
                if neighbour is None:
                    break
                rows.insert(0, neighbour) if left else rows.append(neighbour)
        low, high = (int(seconds * axes.SAMPLE_RATE) for seconds in config.pause_s)
        pauses = tuple(int(rng.integers(low, high + 1)) if rng.random() < config.pause_probability else 0 for _ in rows[1:])
        pieces = tuple(self._piece(row, rng) for row in rows)
        return Plan(pieces, pauses, draw_speed(config.augment, rng) if config.augment else 1.0)

    def _one_event(self, anchor: int, rng: np.random.Generator) -> list[int]:
        """An emotional clip with neutral ones of the speaker on no, either or both sides; two are different if it has two."""
        neutral = self._voices[self._voice(anchor)].get(NEUTRAL, [])
        before, after = (rng.random(2) < 0.5).tolist()
        if not neutral:
            return [anchor]
        drawn = [neutral[i] for i in rng.permutation(len(neutral))[:2]]
        return [*drawn[:1] * before, anchor, *drawn[-1:] * after]

    def _neighbour(self, row: int, clips: Mapping[str, Sequence[int]], rng: np.random.Generator) -> int | None:
        """A row to join to `row`; None when the speaker can't give both a change and none, so that neither is made."""
        label = str(self.index.label[row])
        others = sorted(name for name in clips if name != label)
        if not others or len(clips[label]) < 2:
            return None
        if rng.random() < 0.5:
            same = [other for other in clips[label] if other != row]
            return same[int(rng.integers(len(same)))]
        emotions = [name for name in others if name != NEUTRAL]
        back = NEUTRAL in others and (not emotions or rng.random() >= self.config.emotion_to_emotion)
        name = NEUTRAL if back else emotions[int(rng.integers(len(emotions)))]
        return clips[name][int(rng.integers(len(clips[name])))]

    def _piece(self, row: int, rng: np.random.Generator) -> Piece:
        start, stop = int(self.index.start[row]), int(self.index.stop[row])
        if stop - start < _SHORTEST_PIECE:
            start, stop = 0, int(self.index.num_samples[row])
        longest = int(self.config.longest_piece_s * axes.SAMPLE_RATE)
        if stop - start > longest:
            start += int(rng.integers(stop - start - longest + 1))
            stop = start + longest
        return Piece(row, start, stop, float(self.gains_db[row]))

    def example(self, plan: Plan, records: Sequence[Mapping[str, Any]], epoch: int, index: int) -> dict[str, Any]:
        """The joined recording as a record for `pipeline.make_example`.

        Args:
          plan: from `plan(epoch, index)`.
          records: the decoded records of its pieces, in order.

        Returns:
          waveform [S] float32, labels (the model's), segments, emotion [T] int8 (-1 = unlabelled), intensity [T] float32
          (NaN = unlabelled), level [T] and level_scale [T] int32 (-1 = unlabelled; index into LEVEL_SCALES), fps 0.
        """
        rng = _generator(self.seed + _SOUND_STREAM, epoch * len(self) + index)
        waveform, spans = join_sound(plan, [record["waveform"] for record in records], self.crossfade, rng)
        waveform = change_speed(waveform, plan.speed)
        if self.config.augment is not None:
            waveform = distort(waveform, self.config.augment, rng)
        return {"waveform": waveform, "fps": 0.0, **label_frames(plan, spans, records, self.labels, len(waveform))}


def speaker_gains(index: RecordIndex, loudness_dbfs: float) -> np.ndarray:
    """[N] the gain in dB of every record's speaker: what brings the median of the speaker's neutral clips to `loudness_dbfs`.

    A speaker without neutral clips gets the median gain of the corpus, a corpus without any none; at most +/- 20 dB.
    """
    neutral = (index.label == NEUTRAL) & np.isfinite(index.loudness_db)
    speakers = np.char.add(np.char.add(index.corpus, "\n"), index.speaker)
    names, which = np.unique(speakers, return_inverse=True)
    gains = np.full(len(names), np.nan)
    for i in np.unique(which[neutral]):
        gains[i] = loudness_dbfs - np.median(index.loudness_db[neutral & (which == i)])
    corpus_of = np.array([name.partition("\n")[0] for name in names])
    for corpus in np.unique(corpus_of):
        own = corpus_of == corpus
        known = gains[own & np.isfinite(gains)]
        gains[own & np.isnan(gains)] = np.median(known) if len(known) else 0.0
    return np.clip(gains, -_LARGEST_GAIN_DB, _LARGEST_GAIN_DB)[which]


def _cells(index: RecordIndex, usable: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """(corpus, label) -> its usable rows, in a fixed order."""
    cells: dict[tuple[str, str], list[int]] = {}
    for row in usable:
        cells.setdefault((str(index.corpus[row]), str(index.label[row])), []).append(int(row))
    return {cell: np.array(cells[cell]) for cell in sorted(cells)}


def cell_shares(
    cells: Mapping[tuple[str, str], np.ndarray | Sequence[int]], corpus_temperature: float, emotion_temperature: float
) -> np.ndarray:
    """Share of each cell (corpus, emotion): a corpus's share is count^(1/T) over corpora, an emotion's within its corpus.

    Returns:
      [number of cells], adding up to 1, in the order of `cells`.
    """
    corpora: dict[str, int] = {}
    for (corpus, _), members in cells.items():
        corpora[corpus] = corpora.get(corpus, 0) + len(members)
    of_corpus = {corpus: count ** (1.0 / corpus_temperature) for corpus, count in corpora.items()}
    raw = np.array([len(members) ** (1.0 / emotion_temperature) for members in cells.values()])
    shares = np.zeros(len(cells))
    for corpus, weight in of_corpus.items():
        own = np.array([name == corpus for name, _ in cells])
        shares[own] = weight / sum(of_corpus.values()) * raw[own] / raw[own].sum()
    return shares


def _whole(values: np.ndarray) -> np.ndarray:
    """Whole numbers with the same sum, by largest remainder."""
    whole = np.floor(values).astype(int)
    missing = int(round(values.sum())) - whole.sum()
    whole[np.argsort(whole - values, kind="stable")[:missing]] += 1
    return whole


def _generator(seed: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, number]))


def join_sound(
    plan: Plan, waveforms: Sequence[np.ndarray], crossfade: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """The pieces one after another, before any change of speed.

    Pauses are filled with noise at the level of the quiet frames of their neighbours, so that they are no digital silence.

    Args:
      plan: what to join.
      waveforms: of the pieces' whole records.
      crossfade: samples by which neighbours overlap.
      rng: for the noise.

    Returns:
      waveform float32, and per piece (first sample, one past the last, place of the boundary before it): the boundary lies in
      the middle of the pause or of the overlap; it is 0 for the first piece.
    """
    parts: list[np.ndarray] = []
    spans: list[tuple[int, int, int]] = []
    floors: list[float] = []
    for piece, waveform in zip(plan.pieces, waveforms, strict=True):
        sound = waveform[piece.start : piece.stop] * np.float32(10.0 ** (piece.gain_db / 20.0))
        parts.append(sound)
        floors.append(_floor(sound))
    joined: list[np.ndarray] = []
    at = 0
    for i, sound in enumerate(parts):
        boundary = 0
        if i:
            pause = plan.pauses[i - 1]
            boundary = at + crossfade // 2
            if pause:
                level = np.linspace(floors[i - 1], floors[i], pause, dtype=np.float32)
                joined.append(rng.standard_normal(pause, dtype=np.float32) * level)
                boundary = at + pause // 2
                at += pause - crossfade
        joined.append(sound)
        spans.append((at, at + len(sound), boundary))
        at += len(sound) - crossfade
    return overlap_add(joined, crossfade), spans


def _floor(sound: np.ndarray) -> float:
    """RMS amplitude of the quiet frames (their 5th percentile)."""
    levels = activity.frame_levels(sound)
    return float(10.0 ** (np.percentile(levels, 5) / 20.0)) if len(levels) else 0.0


def overlap_add(parts: Sequence[np.ndarray], crossfade: int) -> np.ndarray:
    """Parts one after another, neighbours overlapping by `crossfade` samples with an equal-power fade; outer ends stay hard."""
    out = np.zeros(sum(map(len, parts)) - crossfade * (len(parts) - 1), np.float32)
    rise = np.sin(0.5 * np.pi * (np.arange(crossfade) + 0.5) / max(crossfade, 1)).astype(np.float32)
    at = 0
    for i, part in enumerate(parts):
        faded = np.array(part, np.float32)
        if crossfade and i:
            faded[:crossfade] *= rise
        if crossfade and i < len(parts) - 1:
            faded[-crossfade:] *= rise[::-1]
        out[at : at + len(part)] += faded
        at += len(part) - crossfade
    return out


def label_frames(
    plan: Plan,
    spans: Sequence[tuple[int, int, int]],
    records: Sequence[Mapping[str, Any]],
    labels: tuple[str, ...],
    num_samples: int,
) -> dict[str, Any]:
    """Segments and frame labels of a joined recording, from the records' own frames.

    A frame belongs to the piece whose boundaries hold its centre, and has the label of the record's frame at the same
    moment; in a pause, of the piece's last or first frame, unless the pause is longer than 0.5 s: then it has none.
    """
    T = axes.num_speech_frames(num_samples)
    # Where each frame's centre lies before the change of speed, in samples.
    centres = axes.speech_frame_times(T) * axes.SAMPLE_RATE * plan.speed
    boundaries = np.array([boundary for _, _, boundary in spans[1:]])
    which = np.searchsorted(boundaries, centres, side="right")
    emotion, intensity = np.full(T, -1, np.int8), np.full(T, np.nan, np.float32)
    level, scale = np.full(T, -1, np.int32), np.full(T, -1, np.int32)
    segments: list[list] = []
    scales = list(LEVEL_SCALES)
    for i, (piece, (first, last, boundary), record) in enumerate(zip(plan.pieces, spans, records, strict=True)):
        own = which == i
        inside = np.clip(centres[own] - first, 0, last - first - 1) + piece.start
        frames = np.clip(np.rint((inside - axes.FRAME_WINDOW / 2) / axes.FRAME_HOP), 0, len(record["emotion"]) - 1).astype(int)
        to_model = np.array([labels.index(name) if name in labels else -1 for name in record["labels"]] + [-1], np.int8)
        emotion[own] = to_model[record["emotion"][frames]]
        intensity[own] = record["intensity"][frames]
        if record.get("level_scale") in scales:
            labelled = own & (emotion >= 0)
            level[labelled], scale[labelled] = record["level"], scales.index(record["level_scale"])
        end = spans[i + 1][2] if i + 1 < len(spans) else last
        segments += _own_segments(record, piece, first, boundary, end, plan.speed)
    for i, pause in enumerate(plan.pauses):
        if pause / plan.speed > activity.LONGEST_PAUSE_S * axes.SAMPLE_RATE:
            emotion[(centres >= spans[i][1]) & (centres < spans[i + 1][0])] = -1
    level[emotion < 0], scale[emotion < 0] = -1, -1
    return dict(labels=list(labels), segments=segments, emotion=emotion, intensity=intensity, level=level, level_scale=scale)


def _own_segments(record: Mapping[str, Any], piece: Piece, first: int, begin: int, end: int, speed: float) -> list[list]:
    """The record's segments inside the piece as [start_s, end_s, label] of the joined recording, filling [begin, end)."""
    rate = axes.SAMPLE_RATE * speed
    found = []
    for start_s, end_s, label, *_ in record["segments"]:
        start = max(start_s * axes.SAMPLE_RATE, piece.start) - piece.start + first
        stop = min(end_s * axes.SAMPLE_RATE, piece.stop) - piece.start + first
        if stop > start:
            found.append([start / rate, stop / rate, label])
    if found:
        found[0][0], found[-1][1] = begin / rate, end / rate
    return found
