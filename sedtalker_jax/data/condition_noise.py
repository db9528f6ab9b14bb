"""Disturbs a true emotion track the way a diarizer errs, and draws edits as a user makes them, so that the animator meets in
training what it meets in use."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

MAX_DELAY_S = 0.25
"""Largest shift of the whole track in seconds, either way."""

CONFUSION_PROBABILITY = 0.35
"""Chance that a span of the clip is given to another emotion."""

CONFUSION_SPAN_S = (0.2, 1.0)
"""Length of such a span in seconds."""

STRENGTH_RANGE = (0.6, 1.3)
"""Range of the factor on all strengths."""

FLICKER = 0.08
"""Standard deviation of the slow additive error of a strength."""

LARGEST_EDIT_MARGIN = 5.0
"""Of edits in training, in logits: from the boundary (0) to where the diarizer is all but certain."""


def disturb(activation: Float[np.ndarray, "F K-1"], fps: float, rng: np.random.Generator) -> Float[np.ndarray, "F K-1"]:
    """A shifted, rescaled, partly confused and flickering copy of an activation, in [0, 1].

    Args:
      activation: [F, K-1] true strengths.
      fps: frames per second.
      rng: the example's generator.
    """
    F, kinds = activation.shape
    shift = int(round(rng.uniform(-MAX_DELAY_S, MAX_DELAY_S) * fps))
    disturbed = activation[np.clip(np.arange(F) - shift, 0, F - 1)] * rng.uniform(*STRENGTH_RANGE)
    if rng.random() < CONFUSION_PROBABILITY:
        span = min(F, int(rng.uniform(*CONFUSION_SPAN_S) * fps))
        start = int(rng.integers(F - span + 1))
        # Rolling the emotions keeps the strength and changes the name.
        disturbed[start : start + span] = np.roll(disturbed[start : start + span], int(rng.integers(1, kinds)), axis=1)
    knots = max(2, int(F / fps * 2) + 1)
    walk = rng.normal(0.0, FLICKER, (knots, kinds))
    position = np.linspace(0, knots - 1, F)
    low = np.minimum(position.astype(int), knots - 2)
    fraction = (position - low)[:, None]
    flicker = walk[low] * (1 - fraction) + walk[low + 1] * fraction
    return np.clip(disturbed + flicker * (activation.max(initial=0.0) > 0), 0.0, 1.0).astype(np.float32)


def random_edit(duration: float, num_labels: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """An edit for the training of a clip: edit_target, a label; edit_margin, how far on the target's side of the boundary the
    embedding is to lie (models.emotion_edit); edit_span, seconds [2] in which it acts, half of the time all of the clip."""
    start, end = np.sort(rng.uniform(0.0, duration, 2)) if rng.random() < 0.5 else (0.0, duration)
    return dict(
        edit_target=np.int32(rng.integers(num_labels)),
        edit_margin=np.float32(rng.uniform(0.0, LARGEST_EDIT_MARGIN)),
        edit_span=np.array([start, end], np.float32),
    )
