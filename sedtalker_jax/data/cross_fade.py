"""Moving emotion from still ones: clips of one recording with different expressions, faded into each other.

EmoVOCA has each of VOCASET's recordings (one subject, sentence and sound) in several expressions and levels, each constant
over the clip. Between two of them, x_1(t) and x_2(t), the face goes over at its own pace in each region:

    x(t, v) = sum_k W_k(t, v) x_k(t, v),    W_k(t, v) = sum_r mask_r(v) w_k,r(t),    sum_k w_k,r = sum_r mask_r = 1

Regions differ in delay and in the length of onset and decay, and the whole face follows the schedule with a lag that the
schedule does not show. What the animator is told, `activation`, is the schedule. Motion and schedule are constructed truth:
they teach that a condition moves, and no claim about how real faces change rests on them.

In coefficients of a face space with orthonormal rows the same sum, projected, is
    c(t) = sum_k,r w_k,r(t) (B mask_r B^T) c_k(t),
so a fade costs a few small matrix products and no vertices. The fit of a data set's face space (faces.space_fit) sees motion
of single regions too; without that the projection would be off by millimetres where regions are at odds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import sparse

from sedtalker_jax.data.index import RecordIndex
from sedtalker_jax.emotion.labels import NEUTRAL
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.space import FaceSpace

REGIONS = ("upper_face", "lips", "rest")
"""Parts of the face that change at a pace of their own; `rest` is every other vertex."""


@dataclasses.dataclass(frozen=True)
class FadeConfig:
    """Attributes (times in seconds; pairs are the ends of a uniform range):
    share: of the clips that can fade, how many do.
    max_changes: most changes of expression in a clip; the number is uniform from 1 on, where the clip is long enough.
    margin: from the clip's ends to the first and the last change.
    min_gap: between two changes.
    onset: length of a change to a stronger expression.
    decay: length of a change to a weaker one: faces let go more slowly than they take hold.
    lag_mean, lag_deviation: of the face behind the schedule, drawn once a clip.
    lag_limit: largest lag, either way.
    region_delay: of each of REGIONS behind the face's lag; eyes and brows go first.
    region_pace: factor on each region's length of change.
    jitter: standard deviation of the random part of delay (times the length of change) and of the logarithm of pace.
    smoothing: how many rings of neighbours soften a mask's border, so that regions do not tear apart.
    """

    share: float = 0.5
    max_changes: int = 3
    margin: float = 0.4
    min_gap: float = 0.7
    onset: tuple[float, float] = (0.2, 0.6)
    decay: tuple[float, float] = (0.35, 0.9)
    lag_mean: float = 0.1
    lag_deviation: float = 0.08
    lag_limit: float = 0.3
    region_delay: tuple[float, float, float] = (-0.04, 0.04, 0.0)
    region_pace: tuple[float, float, float] = (0.8, 1.2, 1.0)
    jitter: float = 0.1
    smoothing: int = 12

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share={self.share} must lie between 0 and 1")


def same_recording(index: RecordIndex, wanted: Bool[np.ndarray, " N"] | None = None) -> list[np.ndarray]:
    """Rows of a split (or of several, joined) that are one recording with at least two different expressions.

    Args:
      index: RecordReader.index(), or that of several directories whose records share one face space.
      wanted: [N], rows that may be used; None = all.

    Returns:
      Sorted row numbers of each recording, in the order of the first rows.
    """
    groups: dict[tuple, list[int]] = {}
    for row in range(len(index)):
        if index.expression[row] and (wanted is None or wanted[row]):
            sound = int(index.sound[row]), int(index.num_samples[row]), float(index.fps[row])
            key = (index.speaker[row], index.sentence[row], *sound)
            groups.setdefault(key, []).append(row)
    kept = []
    for rows in groups.values():
        if len({(index.expression[row], float(index.strength[row])) for row in rows}) > 1:
            kept.append(np.array(rows))
    return kept


def draw_rows(rows: np.ndarray, index: RecordIndex, num_changes: int, rng: np.random.Generator) -> list[int]:
    """Which clips of a recording follow each other: num_changes + 1 rows, neighbours with different expressions or levels.

    Neutral starts half of the fades and otherwise comes as often as any emotion, however many levels an emotion has.
    """
    by_expression: dict[str, list[int]] = {}
    for row in rows:
        by_expression.setdefault(str(index.expression[row]), []).append(int(row))
    names = sorted(by_expression)

    def draw(name: str | None) -> int:
        return int(rng.choice(by_expression[str(rng.choice(names)) if name is None else name]))

    chosen = [draw(NEUTRAL if NEUTRAL in names and rng.random() < 0.5 else None)]
    while len(chosen) <= num_changes:
        row = draw(None)
        same = index.expression[row] == index.expression[chosen[-1]] and index.strength[row] == index.strength[chosen[-1]]
        if not same:
            chosen.append(row)
    return chosen


def change_times(duration: float, config: FadeConfig, rng: np.random.Generator) -> np.ndarray:
    """Times of the changes in a clip, rising; empty when the clip is too short for one."""
    room = duration - 2 * config.margin
    if room <= 0:
        return np.zeros(0)
    most = min(config.max_changes, 1 + int(room / config.min_gap))
    number = int(rng.integers(1, most + 1))
    # Uniform over all sets of times that keep the gap: draw without it, then put the gaps back in.
    free = np.sort(rng.uniform(0.0, room - (number - 1) * config.min_gap, number))
    return config.margin + free + config.min_gap * np.arange(number)


def region_masks(
    num_vertices: int, faces: np.ndarray, regions: Mapping[str, np.ndarray], smoothing: int = FadeConfig.smoothing
) -> Float[np.ndarray, "V 3"]:
    """mask_r(v) of REGIONS: in [0, 1], with soft borders, summing to one at every vertex.

    Args:
      num_vertices, faces, regions: of the mesh.
      smoothing: rings of neighbours over which a border is softened.

    Raises:
      UserError: the mesh has no upper face or lips by name.
    """
    lacking = [name for name in REGIONS[:-1] if name not in regions]
    if lacking:
        raise UserError(f"the face space names no {' and no '.join(lacking)}; prepare the data set with --option regions=PATH")
    V = num_vertices
    masks = np.zeros((V, len(REGIONS)))
    masks[regions["upper_face"], 0] = 1.0
    masks[regions["lips"], 1] = 1.0
    masks[regions["lips"], 0] = 0.0
    masks[:, 2] = 1.0 - masks[:, :2].sum(1)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    ones = np.ones(len(edges))
    graph = sparse.coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(V, V)).tocsr()
    graph = ((graph + graph.T) > 0).astype(np.float64) + sparse.eye_array(V, format="csr")
    # Rows that sum to one keep the masks' sum at one.
    average = sparse.diags_array(1.0 / graph.sum(axis=1)) @ graph
    for _ in range(smoothing):
        masks = average @ masks
    return masks


def region_projections(space: FaceSpace, smoothing: int = FadeConfig.smoothing) -> Float[np.ndarray, "3 R R"]:
    """B mask_r B^T of each region: what a region's part of a motion is in coefficients. They sum to the identity."""
    masks = region_masks(space.num_vertices, space.faces, space.regions, smoothing)
    basis = space.basis.astype(np.float64)
    return np.stack([(basis * np.repeat(mask, 3)) @ basis.T for mask in masks.T])


def smooth_step(times: np.ndarray, centre: float, length: float) -> np.ndarray:
    """0 before centre - length / 2, 1 after centre + length / 2, with continuous second derivatives between."""
    u = np.clip((times - centre) / max(length, 1e-6) + 0.5, 0.0, 1.0)
    return u**3 * (u * (6.0 * u - 15.0) + 10.0)


def fade_weights(times: np.ndarray, centres: Sequence[float], lengths: Sequence[float]) -> Float[np.ndarray, "F k+1"]:
    """Weights of k + 1 clips over time that go over into each other at `centres`; each row sums to one."""
    steps = [smooth_step(times, centre, length) for centre, length in zip(centres, lengths, strict=True)]
    weights = np.empty((len(times), len(steps) + 1))
    left = np.ones(len(times))
    for k, step in enumerate(reversed(steps)):
        weights[:, len(steps) - k] = left * step
        left = left * (1.0 - step)
    weights[:, 0] = left
    return weights


def cross_fade(
    records: Sequence[Mapping[str, Any]],
    projections: Float[np.ndarray, "3 R R"],
    times: Sequence[float] | np.ndarray,
    rng: np.random.Generator,
    config: FadeConfig | None = None,
) -> dict[str, Any]:
    """One record whose face goes from the expression of each record to the next one's.

    Args:
      records: k + 1 records of one recording (`same_recording`), in their order; none is changed.
      projections: `region_projections` of their face space.
      times: of the k changes in the schedule, in seconds from the clip's start (`change_times`).
      rng: draws lag, lengths and the regions' own delay and pace; the result depends on nothing else.
      config: ranges.

    Returns:
      The first record with `motion` [F, R] float32, `activation` [F, K-1] float16 (the schedule), expression '' (it changes),
      truth "constructed", condition "schedule", and `fade`: lag_s, and for each change its time_s, length_s, from and to
      (expression, strength) and the regions' centre_s and length_s. `residual` is gone: this truth lies in the face space.

    Raises:
      ValueError: not as many times as changes, or records that are not of one recording and face space.
    """
    config = config or FadeConfig()
    if len(times) != len(records) - 1 or len(records) < 2:
        raise ValueError(f"{len(records)} records need {len(records) - 1} times of change, got {len(times)}")
    first = records[0]
    for other in records[1:]:
        same = all(first[key] == other[key] for key in ("template", "fps", "num_samples", "speaker"))
        if not same or first["motion"].shape != other["motion"].shape:
            raise ValueError(f"{first['id']} and {other['id']} are not one recording of one face")
    motions = np.stack([np.asarray(record["motion"], np.float64) for record in records])
    activations = np.stack([np.asarray(record["activation"], np.float64) for record in records])
    num_frames, fps = motions.shape[1], float(first["fps"])
    frame_times = np.arange(num_frames) / fps

    lag = float(np.clip(rng.normal(config.lag_mean, config.lag_deviation), -config.lag_limit, config.lag_limit))
    changes, centres, lengths = [], [], []
    for k, time in enumerate(times):
        rises = activations[k + 1].sum(1).mean() >= activations[k].sum(1).mean()
        length = float(rng.uniform(*(config.onset if rises else config.decay)))
        own = rng.normal(0.0, config.jitter, (2, len(REGIONS)))
        delay = np.array(config.region_delay) + own[0] * length
        centres.append(float(time) + lag + delay)
        lengths.append(length * np.array(config.region_pace) * np.exp(own[1]))
        changes.append({
            "time_s": float(time),
            "length_s": length,
            "from": [records[k]["expression"], float(records[k]["strength"])],
            "to": [records[k + 1]["expression"], float(records[k + 1]["strength"])],
            "regions": {
                name: {"centre_s": float(centres[-1][r]), "length_s": float(lengths[-1][r])} for r, name in enumerate(REGIONS)
            },
        })  # fmt: skip
    motion = np.zeros(motions.shape[1:])
    for r, projection in enumerate(projections):
        weights = fade_weights(frame_times, [centre[r] for centre in centres], [length[r] for length in lengths])
        motion += np.einsum("fk,kfr->fr", weights, motions) @ projection.T
    schedule = fade_weights(frame_times, list(times), [change["length_s"] for change in changes])
    return {
        **{key: value for key, value in first.items() if key not in ("residual", "residual_bits", "rig")},
        "id": "+".join(str(record["id"]) for record in records),
        "motion": motion.astype(np.float32),
        "activation": np.einsum("fk,kfe->fe", schedule, activations).astype(np.float16),
        "expression": "",
        "strength": float("nan"),
        "native_expression": "",
        "expression_level": None,
        "truth": "constructed",
        # One voice went into every part of this face: it can't be what moves it.
        "condition": "schedule",
        "fade": {"lag_s": lag, "changes": changes},
    }


def fade_recording(
    reader: Sequence[Mapping[str, Any]],
    index: RecordIndex,
    rows: np.ndarray,
    projections: Float[np.ndarray, "3 R R"],
    rng: np.random.Generator,
    config: FadeConfig | None = None,
) -> dict[str, Any]:
    """A fade through clips of one recording, all of it drawn; one of the clips itself where there is no time for a change.

    Args:
      reader: gives a record for a row (RecordReader, or several joined).
      index: of the same rows.
      rows: one of `same_recording(index)`.
      projections: `region_projections` of the records' face space.
      rng: the example's own.
      config: ranges.
    """
    config = config or FadeConfig()
    times = change_times(float(index.num_samples[rows[0]]) / 16_000, config, rng)
    if not len(times):
        return dict(reader[int(rng.choice(rows))])
    chosen = draw_rows(rows, index, len(times), rng)
    return cross_fade([reader[row] for row in chosen], projections, times, rng, config)


class CrossFader:
    """Reads rows of a split, some of them as fades of their recording. Pickles to data workers.

    Args:
      index: of the reader's rows.
      space: the records' face space.
      config: share and ranges.
      wanted: [N], rows that may take part in a fade; None = all.

    Raises:
      UserError: there are rows that can fade, and the face space has no upper face or lips by name.
    """

    def __init__(
        self,
        index: RecordIndex,
        space: FaceSpace,
        config: FadeConfig | None = None,
        wanted: Bool[np.ndarray, " N"] | None = None,
    ) -> None:
        self._index, self._config = index, config or FadeConfig()
        self._recording_of = {int(row): rows for rows in same_recording(index, wanted) for row in rows}
        self._projections = region_projections(space, self._config.smoothing) if self._recording_of else None

    @property
    def num_rows(self) -> int:
        """How many rows can fade; none in a data set without several expressions of one recording."""
        return len(self._recording_of)

    def __call__(self, reader: Sequence[Mapping[str, Any]], row: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """The record of a row, or a fade through clips of its recording; a function of the row and the generator."""
        rows = self._recording_of.get(int(row))
        if rows is None or rng.random() >= self._config.share:
            return reader[int(row)]
        return fade_recording(reader, self._index, rows, self._projections, rng, self._config)
