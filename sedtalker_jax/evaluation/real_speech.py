"""Does the mouth follow speech that nobody animated? Lip opening against the loudness of recordings, beside chance.

    python -m sedtalker_jax.evaluation.real_speech RECORDING... --checkpoint runs/demo

Per recording: the lag at which the opening follows the speech envelope best (positive: the mouth comes later), Pearson's
correlation there, and the 95th percentile of what the same search finds when the envelope is turned round by random times.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sedtalker_jax import axes
from sedtalker_jax.axes import WaveformArray
from sedtalker_jax.errors import UserError, exit_code
from sedtalker_jax.evaluation import lip_metrics
from sedtalker_jax.face.lip_points import lip_points
from sedtalker_jax.inference.pipeline import SEDTalker


@dataclasses.dataclass(frozen=True)
class EnvelopeFit:
    """Attributes:
    lag_frames: of the opening behind the envelope.
    correlation: at that lag; NaN for a still mouth.
    chance: 95th percentile of the correlations with turned envelopes.
    """

    lag_frames: int
    correlation: float
    chance: float


def envelope_fit(model: SEDTalker, waveform: WaveformArray) -> EnvelopeFit:
    """How a model's mouth follows a recording.

    Args:
      model: with an animator of a topology whose lip points are known.
      waveform: [S] at 16 kHz, at least two seconds.

    Raises:
      UserError: too short, or no known lip points.
    """
    animation = model.animate(waveform)
    points = lip_points(model.codec.space.topology)
    if points is None:
        raise UserError(f"no lip points are known for the topology {model.codec.space.topology!r}")
    opening = lip_metrics.lip_distance(animation.vertices, *points)
    envelope = lip_metrics.speech_envelope(waveform, axes.SAMPLE_RATE, model.fps, len(opening))
    by_chance = lip_metrics.shuffled_envelope_correlations(opening, envelope)
    return EnvelopeFit(*lip_metrics.envelope_lag(opening, envelope), float(np.nanpercentile(by_chance, 95)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    from sedtalker_jax.speech import load_audio

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("audio", nargs="+", help="recordings of at least two seconds")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="workdir of train.py")
    options = parser.parse_args(arguments)

    def run() -> None:
        model = SEDTalker.load(options.checkpoint)
        for path in map(Path, options.audio):
            fit = envelope_fit(model, load_audio(path))
            print(f"{path.name}: lag {fit.lag_frames:+d} frames, correlation {fit.correlation:.3f}, chance {fit.chance:.3f}")

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
