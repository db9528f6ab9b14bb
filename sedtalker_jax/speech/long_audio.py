"""Encoding of long recordings window by window, in memory that does not grow with their length."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from sedtalker_jax.axes import SAMPLE_RATE
from sedtalker_jax.speech.audio import Waveform
from sedtalker_jax.speech.encoder import SpeechEncoder

_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class EncodedWindow:
    """Consecutive frames of a long recording.

    Attributes:
      start_frame: index of the first frame in the whole recording.
      last_hidden_state: [T, D].
      hidden_states: [n + 1, T, D], or None when not asked for.
    """

    start_frame: int
    last_hidden_state: Float[Array, "T D"]
    hidden_states: Float[Array, "layers T D"] | None


def encode_long(
    encoder: SpeechEncoder,
    params: Any,
    waveform: Waveform,
    window_s: float = 20.0,
    context_s: float = 5.0,
    return_hidden_states: bool = False,
) -> Iterator[EncodedWindow]:
    """Yields the frames of a recording in order, each frame exactly once, encoded with `context_s` of sound on both sides.

    All windows have one shape, so there is one compilation; the first and the last carry their missing context as padding,
    which changes nothing. A recording that fits into one window with its context is encoded whole, and then equals
    `encoder.apply`. Input normalisation uses the whole recording. What differs from a whole-clip encoding is attention
    beyond the context and, in group-normed models, first-layer statistics per window: `context_error` measures it.

    Args:
      encoder, params: as `load_pretrained_encoder` gives them.
      waveform: float [S] at 16 kHz; a memory map will do. Beside it, memory is that of one window.
      window_s: seconds whose frames each window yields.
      context_s: seconds of sound before and after that each window also sees.
      return_hidden_states: yield all layers.

    Raises:
      ValueError: the window is shorter than one frame, the context is negative, or the recording has no frame.
    """
    config = encoder.config
    receptive_field, hop = config.frame_grid()
    window, context = int(window_s * SAMPLE_RATE) // hop, int(context_s * SAMPLE_RATE) // hop
    if window < 1 or context < 0:
        raise ValueError(f"window_s = {window_s} and context_s = {context_s} give no frames")
    total = config.num_frames(len(waveform))
    if total < 1:
        raise ValueError(f"a waveform of {len(waveform)} samples has no frame")
    # The last window also takes the samples after the last frame, which count in first-layer statistics.
    width = min((window + 2 * context) * hop + receptive_field - 1, len(waveform))
    if total <= window + 2 * context:
        window, width = total, len(waveform)
    mean, scale = _moments(waveform) if config.normalise_input else (0.0, 1.0)
    plain = encoder.clone(config=dataclasses.replace(config, normalise_input=False), parent=None)

    for start in range(0, total, window):
        first = max(0, start - context)
        last = min(total, start + window + context)
        piece = np.zeros((1, width), np.float32)
        sound = waveform[first * hop : len(waveform) if last == total else (last - 1) * hop + receptive_field]
        piece[0, : len(sound)] = (sound - mean) * scale
        output = _encode(plain, return_hidden_states, params, piece, np.array([len(sound)]))
        # A caller that doesn't read its windows would otherwise queue all of them, each with its buffers.
        jax.block_until_ready(output)
        kept = slice(start - first, min(start + window, total) - first)
        states = output.hidden_states[:, 0, kept] if return_hidden_states else None
        yield EncodedWindow(start, output.last_hidden_state[0, kept], states)


def context_error(
    encoder: SpeechEncoder, params: Any, waveform: Waveform, window_s: float, contexts_s: tuple[float, ...]
) -> dict[float, float]:
    """Relative L2 difference of `encode_long` from the whole-clip encoding, per context in seconds."""
    whole = np.asarray(encoder.apply({"params": params}, waveform[None], return_hidden_states=False).last_hidden_state[0])
    errors = {}
    for context_s in contexts_s:
        windows = encode_long(encoder, params, waveform, window_s, context_s)
        joined = np.concatenate([np.asarray(window.last_hidden_state) for window in windows])
        errors[context_s] = float(np.linalg.norm(joined - whole) / np.linalg.norm(whole))
    return errors


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(encoder: SpeechEncoder, return_hidden_states: bool, params, waveforms, lengths):
    return encoder.apply({"params": params}, waveforms, lengths, return_hidden_states=return_hidden_states)


def _moments(waveform: Waveform) -> tuple[float, float]:
    """Mean and 1 / sqrt(var + 1e-7) in blocks, so that a memory-mapped recording is never held whole."""
    blocks = [slice(i, i + _BLOCK) for i in range(0, len(waveform), _BLOCK)]
    mean = sum(float(np.sum(waveform[block], dtype=np.float64)) for block in blocks) / len(waveform)
    squares = sum(float(np.sum(np.square(waveform[block] - np.float32(mean)), dtype=np.float64)) for block in blocks)
    return mean, 1.0 / (squares / len(waveform) + 1e-7) ** 0.5
