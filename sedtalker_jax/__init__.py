"""Emotion-aware speech-driven 3D facial animation in JAX.

from sedtalker_jax import SEDTalker
model = SEDTalker.load("runs/demo")
track = model.diarize(waveform)
animation = model.animate(waveform, track)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sedtalker_jax.inference.pipeline import Animation, SEDTalker

__all__ = ["Animation", "SEDTalker"]


def __getattr__(name: str):
    # Loaded on first use: data workers import this package and must not start JAX.
    if name in __all__:
        from sedtalker_jax.inference import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
