"""Memory of long recordings, and its measurement."""

from __future__ import annotations

import tracemalloc

import jax
import numpy as np
import pytest

from sedtalker_jax.speech import SpeechEncoder, encode_long
from sedtalker_jax.speech.resident_memory import peak_rise
from tests.speech.support import small_config, small_params


def test_memory_does_not_grow_with_the_recording():
    config = small_config("wavlm-base", normalise_input=True)
    encoder, params = SpeechEncoder(config), small_params(config)

    def peaks(seconds: int) -> tuple[int, int]:
        """Most bytes in numpy arrays and in JAX arrays; the recording itself has a stride of zero."""
        recording = np.broadcast_to(np.float32(0.1), seconds * 16_000)
        before = sum(array.nbytes for array in jax.live_arrays())
        most = 0
        tracemalloc.start()
        for _ in encode_long(encoder, params, recording, window_s=1.0, context_s=0.5):
            most = max(most, sum(array.nbytes for array in jax.live_arrays()) - before)
        host = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return host, most

    peaks(5)  # Compiles.
    # Above one block of the normalisation's sums (66 s), the longest piece that is ever read.
    shorter, longer = peaks(70), peaks(280)
    assert longer[0] < 1.1 * shorter[0]
    assert longer[1] < 1.1 * shorter[1]


def test_peak_memory_counts_what_a_call_frees_again():
    rise = peak_rise(lambda: np.ones(100 << 20, np.uint8).sum())
    if rise is None:
        pytest.skip("this system has no /proc/self/clear_refs")
    assert 90 << 20 < rise < 130 << 20
