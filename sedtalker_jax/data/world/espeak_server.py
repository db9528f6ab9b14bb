"""espeak-ng as a program of its own (see sedtalker_jax.data.world.speaking).

    python -m sedtalker_jax.data.world.espeak_server

espeak-ng is under the GPL: this file loads it into its own process, and nothing else does.

Request {"voice", "ssml", "rate", "pitch", "range"}; events [type, text_position, sample, symbol] with espeak's types: 1 word,
2 sentence, 7 phoneme.
"""

from __future__ import annotations

import ctypes
import functools
import os

from sedtalker_jax.data.world.speaking import answer, refusal, serve

AUDIO_OUTPUT_SYNCHRONOUS = 2
BUFFER_MS = 60_000
INITIALIZE_PHONEME_EVENTS = 1
PARAMETER_RATE, PARAMETER_VOLUME, PARAMETER_PITCH, PARAMETER_RANGE = 1, 2, 3, 4
CHARS_UTF8, SSML = 1, 0x10
EVENT_WORD, EVENT_PHONEME = 1, 7
UNSATURATED_VOLUME = 25  # of 200: some variants clip from 40, all at 180; gain belongs to the caller, in float


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h; its last member is a union whose char[8] view holds the phoneme's name."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def _load():
    """Returns (library, sample rate). Initialises espeak-ng once; the caller forks before it speaks."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data_path = os.fsencode(espeakng_loader.get_data_path())
    sample_rate = library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, BUFFER_MS, data_path, INITIALIZE_PHONEME_EVENTS)
    if sample_rate <= 0:
        raise RuntimeError(f"espeak_Initialize failed with data in {data_path!r}")
    return library, sample_rate


def _speak(library, sample_rate: int, request: dict) -> bytes:
    """Speaks one request in this process and returns the whole answer."""
    chunks: list[bytes] = []
    events: list[list] = []

    def receive(samples, num_samples, event):
        if num_samples > 0:
            chunks.append(ctypes.string_at(samples, 2 * num_samples))
        i = 0
        while event[i].type != 0:
            if event[i].type in (EVENT_WORD, EVENT_PHONEME):
                name = event[i].name.decode("utf-8", "replace") if event[i].type == EVENT_PHONEME else ""
                events.append([event[i].type, event[i].text_position, event[i].sample, name])
            i += 1
        return 0

    callback = _Callback(receive)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(request["voice"].encode()) != 0:
        return refusal(f"espeak-ng has no voice {request['voice']!r}")
    library.espeak_SetParameter(PARAMETER_RATE, int(request["rate"]), 0)
    library.espeak_SetParameter(PARAMETER_PITCH, int(request["pitch"]), 0)
    library.espeak_SetParameter(PARAMETER_RANGE, int(request["range"]), 0)
    library.espeak_SetParameter(PARAMETER_VOLUME, UNSATURATED_VOLUME, 0)
    # The breath of some variants is random numbers, which espeak-ng seeds with the time when it starts.
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    text = request["ssml"].encode()
    status = library.espeak_Synth(text, len(text) + 1, 0, 1, 0, CHARS_UTF8 | SSML, None, None)
    library.espeak_Synchronize()
    pcm = b"".join(chunks)
    if status != 0 or not pcm:
        return refusal(f"espeak-ng said nothing (status {status})")
    return answer(pcm, sample_rate, events)


if __name__ == "__main__":
    serve(functools.partial(_speak, *_load()))
