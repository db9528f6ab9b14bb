"""Shaping what drives the face: contrast, fewest emotions, easing, a preferred mood, strength, and keys set by the user.

The steps and their order are those of Audio2Emotion's post-processing, with its faults left out: smoothing is given in
seconds and does not depend on the frame rate; the first frame starts from itself and not from zero; a limit on the number of
emotions is checked instead of wrapping around; a preferred mood works only where one is given.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import signal

from sedtalker_jax.emotion import decoding
from sedtalker_jax.emotion.formats import read_text
from sedtalker_jax.emotion.keyframes import KeyFrames, range_weight
from sedtalker_jax.emotion.labels import ACTIVE, NEUTRAL, resolve_label
from sedtalker_jax.emotion.track import EmotionTrack
from sedtalker_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Shaping:
    """Options, applied in this order. The defaults change nothing.

    Attributes:
      contrast: exponent on the posterior (decoding.sharpen); Audio2Emotion allows 0.3 to 3.
      max_emotions: only so many of the strongest emotions are kept in each frame; None = all.
      live_blend: time constant in seconds of a first easing (Audio2Emotion's live blend coefficient 0.7 at 30 fps is 0.093 s).
      preferred: emotion -> strength that the result is drawn to; None = no preference.
      preferred_strength: share of the preferred mood, 0 to 1.
      transition: time constant in seconds of a second easing (Audio2Emotion: 0.5 s).
      strength: factor on the result, last, so that it scales a preferred mood too.

    Raises:
      UserError: a value outside its range, an unknown emotion.
    """

    contrast: float = decoding.SHARPNESS
    max_emotions: int | None = None
    live_blend: float = 0.0
    preferred: Mapping[str, float] | None = None
    preferred_strength: float = 0.5
    transition: float = 0.0
    strength: float = 1.0

    def __post_init__(self):
        if self.max_emotions is not None and not 1 <= self.max_emotions <= len(ACTIVE):
            raise UserError(f"max_emotions must lie between 1 and {len(ACTIVE)}, not {self.max_emotions}")
        if not (self.contrast > 0 and math.isfinite(self.contrast)):
            raise UserError(f"contrast must be positive, not {self.contrast}")
        for name in ("live_blend", "transition", "strength"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise UserError(f"{name} must not be negative, not {getattr(self, name)}")
        if not 0 <= self.preferred_strength <= 1:
            raise UserError(f"preferred_strength must lie in [0, 1], not {self.preferred_strength}")
        if self.preferred is not None:
            strengths(self.preferred)

    def apply(self, track: EmotionTrack) -> Float[np.ndarray, "T K-1"]:
        """The track's activation after shaping, in [0, 1], at the track's frames.

        Neutral time stays weak whatever is kept: the kept emotions are not scaled up to fill a frame that is mostly neutral.
        """
        activation = track.activation(sharpness=self.contrast).astype(np.float64)
        if self.max_emotions is not None and self.max_emotions < activation.shape[1]:
            order = np.argsort(-activation, axis=1, kind="stable")
            np.put_along_axis(activation, order[:, self.max_emotions :], 0.0, axis=1)
        activation = ease(activation, track.frame_rate, self.live_blend)
        if self.preferred is not None:
            wanted = strengths(self.preferred)
            activation = (1.0 - self.preferred_strength) * activation + self.preferred_strength * wanted
        activation = ease(activation, track.frame_rate, self.transition)
        return np.clip(activation * self.strength, 0.0, 1.0).astype(np.float32)

    @classmethod
    def audio2emotion(cls) -> Shaping:
        """Audio2Emotion's sample settings: contrast 1, three emotions, live blend 0.7 per 33 ms, 0.5 s, strength 0.6."""
        return cls(contrast=1.0, max_emotions=3, live_blend=-0.033 / math.log(0.7), transition=0.5, strength=0.6)


def strengths(emotions: Mapping[str, float]) -> Float[np.ndarray, " K-1"]:
    """{emotion: strength} as one activation, in the order of ACTIVE; unnamed emotions are 0, neutral may only be 0.

    Raises:
      UserError: an unknown emotion, a strength outside [0, 1], a strength for neutral.
    """
    result = np.zeros(len(ACTIVE))
    for name, value in emotions.items():
        label = resolve_label(name)
        if not (isinstance(value, (int, float)) and 0 <= value <= 1):
            raise UserError(f"the strength of '{name}' must lie in [0, 1], not {value}")
        if label != NEUTRAL:
            result[ACTIVE.index(label)] = value
        elif value:
            raise UserError("neutral has no strength: it is the absence of the other emotions; set those to 0")
    return result


def ease(activation: Float[np.ndarray, "T C"], frame_rate: float, time_constant: float) -> Float[np.ndarray, "T C"]:
    """Exponential moving average over time that starts from the first frame's own value; causal, so it lags.

    Args:
      time_constant: seconds after which 63% of a step is reached, at any frame rate; 0 changes nothing.
    """
    if time_constant == 0 or len(activation) == 0:
        return activation
    keep = math.exp(-1.0 / (frame_rate * time_constant))
    return signal.lfilter([1.0 - keep], [1.0, -keep], activation, axis=0, zi=keep * activation[:1])[0]


@dataclasses.dataclass(frozen=True)
class EmotionKeys:
    """What the user wants to be felt when.

    Attributes:
      curve: activation [n, K-1] over time.
      mode: "override" puts the keys in place of the track, "blend" mixes them in.
      weight: share of the keys in a blend, 0 to 1.
      extent: "all" lets the first and last key hold to the ends, "keys" keeps to the time between them.
      fade: seconds over which the keys come in and go out at the ends of their extent.

    Raises:
      UserError: an unknown mode or extent, a weight outside [0, 1].
    """

    curve: KeyFrames
    mode: str = "override"
    weight: float = 0.5
    extent: str = "all"
    fade: float = 0.2

    def __post_init__(self):
        if self.mode not in ("override", "blend") or self.extent not in ("all", "keys"):
            raise UserError(f"keys have the mode override or blend, the extent all or keys, not {self.mode}, {self.extent}")
        if not (isinstance(self.fade, (int, float)) and 0 <= self.fade < math.inf):
            raise UserError(f"the fade of the keys must be seconds, not {self.fade!r}")
        if not 0 <= self.weight <= 1:
            raise UserError(f"the weight of the keys must lie in [0, 1], not {self.weight}")
        if self.extent == "keys" and len(self.curve.times) < 2:
            raise UserError("one key alone has no extent; add a second key, or let it hold with the extent 'all'")

    @classmethod
    def from_list(cls, keys: Sequence[Mapping], *, interpolation: str = "linear", **options) -> EmotionKeys:
        """Keys like {"time": 1.5, "happy": 0.8, "surprise": 0.2}; emotions that a key does not name are 0 there."""
        if not keys:
            raise UserError("no emotion keys were given")
        rows, times = [], []
        for key in keys:
            if not isinstance(key, Mapping) or not isinstance(key.get("time"), (int, float)):
                raise UserError(f"an emotion key needs a 'time' in seconds: {key}")
            times.append(key["time"])
            rows.append(strengths({name: value for name, value in key.items() if name != "time"}))
        return cls(KeyFrames(np.array(times), np.array(rows), interpolation), **options)

    @classmethod
    def load(cls, path: str | os.PathLike) -> EmotionKeys:
        """Reads JSON: {"keys": [{"time": 0, "happy": 0.8}, ...], "interpolation", "mode", "weight", "extent", "fade"}.

        Raises:
          UserError: missing or malformed file, unknown emotion or option, times that do not rise.
        """
        try:
            document = json.loads(read_text(path))
            if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
                raise UserError('an object with a list "keys" is expected')
            return cls.from_list(document.pop("keys"), **document)
        except UserError as error:
            raise UserError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
        except (ValueError, OverflowError) as error:  # also a number of thousands of digits
            raise UserError(f"{path}: not JSON that can be used ({error}); mend the file") from error
        except TypeError as error:
            raise UserError(f"{path}: unknown option or wrong type ({error})") from error

    def apply(self, activation: Float[np.ndarray, "F K-1"], times: Float[np.ndarray, " F"]) -> Float[np.ndarray, "F K-1"]:
        """The activation at `times` (seconds) with the keys laid over it."""
        if self.extent == "keys":
            share = range_weight(times, float(self.curve.times[0]), float(self.curve.times[-1]), self.fade)
        else:
            share = np.ones(len(times))
        share = share * (self.weight if self.mode == "blend" else 1.0)
        mixed = (1.0 - share[:, None]) * np.asarray(activation) + share[:, None] * self.curve.at(times)
        return np.clip(mixed, 0.0, 1.0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class ShapedTrack(EmotionTrack):
    """A track that drives the face otherwise than its probabilities and intensity would; in files it is the track as it was.

    Attributes:
      shaping: what is done to the activation.
      keys: laid over the result; None = none.
    """

    shaping: Shaping = Shaping()
    keys: EmotionKeys | None = None

    @classmethod
    def of(cls, track: EmotionTrack, shaping: Shaping | None = None, keys: EmotionKeys | None = None) -> ShapedTrack:
        """Shapes a track."""
        return cls(**_fields(track), shaping=shaping or Shaping(), keys=keys)

    def activation(self, **options) -> Float[np.ndarray, "T K-1"]:
        """The shaped activation; shaping.contrast takes the place of a sharpness.

        Raises:
          UserError: the track has labels without a face.
        """
        shaped = self.shaping.apply(EmotionTrack(**_fields(self)))
        return shaped if self.keys is None else self.keys.apply(shaped, self.times)


def _fields(track: EmotionTrack) -> dict[str, Any]:
    return {field.name: getattr(track, field.name) for field in dataclasses.fields(EmotionTrack)}
