"""Speech: sound files, the wav2vec 2.0 / HuBERT / WavLM encoders, and what is built on their features.

Names load on first use, so that `from sedtalker_jax.speech import load_audio` starts no JAX back end in a data worker.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sedtalker_jax.speech.audio import (
        StoredWaveform,
        decode_flac,
        encode_flac,
        load_audio,
        normalise,
        save_audio,
        store_audio,
    )
    from sedtalker_jax.speech.config import SpeechEncoderConfig
    from sedtalker_jax.speech.encoder import EncoderOutput, SpeechEncoder
    from sedtalker_jax.speech.features import WeightedLayerSum, resample_align_corners, resample_to_fps
    from sedtalker_jax.speech.long_audio import encode_long
    from sedtalker_jax.speech.pretrained import load_pretrained_encoder, save_pretrained_encoder

_HOME = {
    "load_audio": "audio",
    "store_audio": "audio",
    "StoredWaveform": "audio",
    "save_audio": "audio",
    "encode_flac": "audio",
    "decode_flac": "audio",
    "normalise": "audio",
    "SpeechEncoderConfig": "config",
    "EncoderOutput": "encoder",
    "SpeechEncoder": "encoder",
    "WeightedLayerSum": "features",
    "resample_to_fps": "features",
    "resample_align_corners": "features",
    "encode_long": "long_audio",
    "load_pretrained_encoder": "pretrained",
    "save_pretrained_encoder": "pretrained",
}

__all__ = [
    "EncoderOutput",
    "SpeechEncoder",
    "SpeechEncoderConfig",
    "StoredWaveform",
    "WeightedLayerSum",
    "decode_flac",
    "encode_flac",
    "encode_long",
    "load_audio",
    "load_pretrained_encoder",
    "normalise",
    "resample_align_corners",
    "resample_to_fps",
    "save_audio",
    "save_pretrained_encoder",
    "store_audio",
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
