"""Curves through key frames: what a person sets at a few moments, read at any time."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from sedtalker_jax.errors import UserError

INTERPOLATIONS = ("linear", "smooth", "hold")
"""Straight lines; smooth steps that start and end level; or each value until the next key."""


@dataclasses.dataclass(frozen=True, eq=False)
class KeyFrames:
    """Values at rising times; before the first key and after the last one their values hold.

    Attributes:
      times: seconds [n].
      values: [n] or [n, C].
      interpolation: one of INTERPOLATIONS.

    Raises:
      UserError: no keys, times that do not rise, anything that is not finite, an unknown interpolation.
    """

    times: Float[np.ndarray, " n"]
    values: Float[np.ndarray, "n ..."]
    interpolation: str = "linear"

    def __post_init__(self):
        times, values = np.asarray(self.times, np.float64), np.asarray(self.values, np.float64)
        if times.ndim != 1 or not len(times) or len(values) != len(times):
            raise UserError(f"key frames need at least one key, each with a value: {times.shape} and {values.shape}")
        if not (np.all(np.isfinite(times)) and np.all(np.isfinite(values))):
            raise UserError("key frames must have finite times and values")
        late = np.flatnonzero(np.diff(times) <= 0)
        if len(late):
            raise UserError(f"key frames must come in rising time: {times[late[0] + 1]:g} s follows {times[late[0]]:g} s")
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(f"unknown interpolation '{self.interpolation}'; use one of {', '.join(INTERPOLATIONS)}")
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "values", values)

    def at(self, times: Float[np.ndarray, " F"]) -> Float[np.ndarray, "F ..."]:
        """The curve at `times` (seconds); exact at the keys."""
        wanted = np.asarray(times, np.float64)
        after = np.clip(np.searchsorted(self.times, wanted, side="right"), 1, max(len(self.times) - 1, 1))
        if len(self.times) == 1:
            return np.broadcast_to(self.values[0], (len(wanted), *self.values.shape[1:])).copy()
        before = after - 1
        span = self.times[after] - self.times[before]
        fraction = np.clip((wanted - self.times[before]) / span, 0.0, 1.0)
        if self.interpolation == "smooth":
            fraction = fraction * fraction * (3.0 - 2.0 * fraction)
        elif self.interpolation == "hold":
            fraction = (fraction >= 1.0).astype(np.float64)
        fraction = fraction.reshape(-1, *[1] * (self.values.ndim - 1))
        return (1.0 - fraction) * self.values[before] + fraction * self.values[after]


def range_weight(
    times: Float[np.ndarray, " F"], start: float | None, end: float | None, fade: float
) -> Float[np.ndarray, " F"]:
    """1 inside [start, end], 0 outside [start - fade, end + fade], smooth steps between; None = without that bound.

    Raises:
      UserError: the range ends before it starts, or the fade is negative.
    """
    low, high = -math.inf if start is None else start, math.inf if end is None else end
    if not low < high:
        raise UserError(f"a time range needs start < end, not {low:g} to {high:g} s")
    if not fade >= 0:
        raise UserError(f"a fade lasts 0 s or more, not {fade:g} s")
    wanted = np.asarray(times, np.float64)
    if fade == 0:
        return ((wanted >= low) & (wanted <= high)).astype(np.float64)
    distance = np.maximum(np.maximum(low - wanted, wanted - high), 0.0) / fade
    ramp = np.clip(1.0 - distance, 0.0, 1.0)
    return ramp * ramp * (3.0 - 2.0 * ramp)
