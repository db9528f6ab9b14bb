"""Flite's Clustergen voices as a program of its own (see sedtalker_jax.data.world.speaking).

    python -m sedtalker_jax.data.world.flite_server

Flite (Black and Lenzo 2001, http://cmuflite.org, BSD-like licence) predicts, from text, 5 ms frames of pitch, mel-cepstrum and
strength of excitation in five bands (Clustergen, Black 2006), which an MLSA filter with mixed excitation turns into sound. The
prosody of single words is set between the two: frames are stretched, held for pauses, and given another pitch, so that a
change of prosody is no splice but another trajectory.

Request {"voice", "stretch", "words": [[text, pitch_st, range_log2, rate_log2, pause_s], ...]}; events [phone, start_s, end_s,
stress, word], without gaps, phones as Flite names them ("pau" for silence, then with word -1).
"""

from __future__ import annotations

import ctypes
import ctypes.util

import numpy as np

from sedtalker_jax.data.world.speaking import answer, refusal, serve

VOICES = ("slt", "awb", "rms")
"""Clustergen voices that come with Flite 2: an American woman, a Scottish and an American man."""

_FRAME_S = 0.005
_LEAD_S, _TAIL_S = 0.03, 0.12  # of silence that is left before and after the words
_SMOOTH_S = 0.10  # over which one word's prosody passes into the next one's
_LOWEST_HZ, _HIGHEST_HZ = 55.0, 500.0
_HEADROOM = np.log(3.0)  # Flite wraps round where a sample exceeds 16 bits; gain belongs to the caller, in float
_STOP = -1  # CST_AUDIO_STREAM_STOP

_POINTER, _TEXT = ctypes.c_void_p, ctypes.c_char_p


class _Track(ctypes.Structure):
    """cst_track of cst_track.h."""

    _fields_ = [
        ("type", ctypes.c_char_p),
        ("num_frames", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("times", ctypes.POINTER(ctypes.c_float)),
        ("frames", ctypes.POINTER(ctypes.POINTER(ctypes.c_float))),
    ]


class _Wave(ctypes.Structure):
    """cst_wave of cst_wave.h."""

    _fields_ = [
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_int, ctypes.c_int, ctypes.c_int, _POINTER)


class _Streaming(ctypes.Structure):
    """cst_audio_streaming_info of cst_audio.h."""

    _fields_ = [
        ("min_buffsize", ctypes.c_int),
        ("asc", _Callback),
        ("utt", ctypes.c_void_p),
        ("item", ctypes.c_void_p),
        ("userdata", ctypes.c_void_p),
    ]


_TRACK, _WAVE, _STREAMING = ctypes.POINTER(_Track), ctypes.POINTER(_Wave), ctypes.POINTER(_Streaming)
_SIGNATURES = {
    "flite_init": (ctypes.c_int, []),
    "flite_synth_text": (_POINTER, [_TEXT, _POINTER]),
    "flite_path_to_item": (_POINTER, [_POINTER, _TEXT]),
    "utt_relation": (_POINTER, [_POINTER, _TEXT]),
    "relation_head": (_POINTER, [_POINTER]),
    "item_next": (_POINTER, [_POINTER]),
    "item_feat_string": (_TEXT, [_POINTER, _TEXT]),
    "item_feat_float": (ctypes.c_float, [_POINTER, _TEXT]),
    "ffeature_string": (_TEXT, [_POINTER, _TEXT]),
    "get_param_val": (_POINTER, [_POINTER, _TEXT, _POINTER]),
    "feat_set": (None, [_POINTER, _TEXT, _POINTER]),
    "new_audio_streaming_info": (_STREAMING, []),
    "audio_streaming_info_val": (_POINTER, [_STREAMING]),
    "val_track": (_TRACK, [_POINTER]),
    "val_cg_db": (_POINTER, [_POINTER]),
    "mlpg": (_TRACK, [_TRACK, _POINTER]),
    "mlsa_resynthesis": (_WAVE, [_TRACK, _TRACK, _POINTER, _POINTER, ctypes.c_int]),
}


def find_library(name: str) -> str | None:
    """What the dynamic linker calls a library of Flite 2 here: libflite.so.1, libflite.dylib, ...; None without one."""
    candidates = [f"lib{name}.so.1", f"lib{name}.dylib", f"lib{name}.so", ctypes.util.find_library(name)]
    for candidate in filter(None, candidates):
        try:
            ctypes.CDLL(candidate, ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return candidate
    return None


class Flite:
    """The library, with its voices registered; says nothing itself before a fork."""

    def __init__(self) -> None:
        path = find_library("flite")
        if path is None:
            raise OSError("libflite is not installed")
        # The voices' libraries look for the symbols of this one, and of the language's between them.
        self._library = ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self.flite_init()
        self._voices = {}
        # Of the first synthesis only the frames are wanted: its sound is stopped before it begins.
        self._stop = _Callback(lambda *_: _STOP)
        for name in VOICES:
            library = find_library(f"flite_cmu_us_{name}")
            if library is not None:
                register = getattr(ctypes.CDLL(library, ctypes.RTLD_GLOBAL), f"register_cmu_us_{name}")
                register.restype, register.argtypes = _POINTER, [_TEXT]
                self._voices[name] = register(None)
                # struct cst_voice begins with its name and its features.
                features = ctypes.cast(self._voices[name], ctypes.POINTER(_POINTER))[1]
                streaming = self.new_audio_streaming_info()
                streaming.contents.min_buffsize = 0
                streaming.contents.asc = self._stop
                self.feat_set(features, b"streaming_info", self.audio_streaming_info_val(streaming))

    def items(self, utterance: int, relation: bytes):
        """The items of a relation of an utterance, in order."""
        item = self.relation_head(self.utt_relation(utterance, relation))
        while item:
            yield item
            item = self.item_next(item)

    def speak(self, request: dict) -> bytes:
        """Speaks one request in this process and returns the whole answer."""
        voice = self._voices.get(request["voice"])
        if voice is None:
            return refusal(f"flite has no voice {request['voice']!r} here; it has {', '.join(self._voices) or 'none'}")
        words = request["words"]
        utterance = self.flite_synth_text(" ".join(word[0] for word in words).encode(), voice)
        if not utterance:
            return refusal("flite said nothing")
        tokens = {item: i for i, item in enumerate(self.items(utterance, b"Token"))}
        if len(tokens) != len(words):
            return refusal(f"flite reads {len(tokens)} words where {len(words)} were given")
        segments, end = [], 0.0
        for item in self.items(utterance, b"Segment"):
            token = self.flite_path_to_item(item, b"R:SylStructure.parent.parent.R:Token.parent")
            stress = int(self.ffeature_string(item, b"R:SylStructure.parent.stress") == b"1")
            begin, end = end, float(self.item_feat_float(item, b"end"))
            segments.append((self.item_feat_string(item, b"name").decode(), begin, end, stress, tokens.get(token, -1)))

        features = ctypes.cast(utterance, ctypes.POINTER(_POINTER))[0]  # struct cst_utterance begins with its features

        def feature(name: bytes) -> int | None:
            return self.get_param_val(features, name, None)

        database = self.val_cg_db(feature(b"cg_db"))
        frames = _read(self.mlpg(self.val_track(feature(b"param_track")), database))
        strength = _read(self.val_track(feature(b"str_track")))
        source, spoken = plan_time(segments, words, request["stretch"], len(frames))
        frames, strength = _interpolate(frames, source), _interpolate(strength, source)
        frames[:, 0] = plan_pitch(frames[:, 0], spoken, words)
        frames[:, 1] -= _HEADROOM
        ctypes.CDLL(None).srand(1)  # the noise in the excitation is the C library's
        wave = self.mlsa_resynthesis(_track(frames), _track(strength), database, None, 0).contents
        pcm = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).astype("<i2").tobytes()
        return answer(pcm, wave.sample_rate, [list(event) for event in spoken])


def plan_time(
    segments: list[tuple], words: list[list], stretch: float, num_frames: int
) -> tuple[np.ndarray, list[tuple[str, float, float, int, int]]]:
    """When each phone is said, and from which frame each moment's sound is taken.

    Args:
      segments: (phone, start_s, end_s, stress, word) as Flite predicts them, silence first and last.
      words: [text, pitch_st, range_log2, rate_log2, pause_s] of each.
      stretch: factor on all durations.
      num_frames: of the source.

    Returns:
      source: [frames] position in source frames, float; spoken: the segments with their new times and inserted pauses.
    """
    rows = []  # (phone, stress, word, length, begin and end of its source)
    for i, (phone, begin, end, stress, word) in enumerate(segments):
        length = (end - begin) * stretch * (2.0 ** -words[word][3] if word >= 0 else 1.0)
        before = segments[i - 1][4] if i else -1
        pause = words[before][4] if before >= 0 and word != before else 0.0
        if phone == "pau":
            length = max(length, pause)
            if i == 0:
                length, begin = _LEAD_S, end - _LEAD_S
            elif i == len(segments) - 1:
                length, end = _TAIL_S, begin + _TAIL_S
        elif pause > 0.0:
            # Silence as it is before the first word, held.
            quiet = 0.5 * segments[0][2]
            rows.append(("pau", 0, -1, pause, quiet, quiet))
        rows.append((phone, stress, word, length, begin, end))
    ends = np.cumsum([row[3] for row in rows])
    starts = ends - np.array([row[3] for row in rows])
    times = np.arange(int(ends[-1] / _FRAME_S)) * _FRAME_S
    place = np.searchsorted(ends, times, side="right")
    share = (times - starts[place]) / np.array([row[3] for row in rows])[place]
    begin, end = np.array([row[4] for row in rows])[place], np.array([row[5] for row in rows])[place]
    source = np.clip((begin + share * (end - begin)) / _FRAME_S, 0.0, num_frames - 1.0)
    spoken = [(row[0], float(a), float(b), row[1], row[2]) for row, a, b in zip(rows, starts, ends, strict=True)]
    return source, spoken


def plan_pitch(pitch: np.ndarray, spoken: list[tuple], words: list[list]) -> np.ndarray:
    """The pitch of each frame with the words' own: pitch [n] Hz, 0 unvoiced -> [n].

    Semitones from the utterance's mean are multiplied by 2^range and shifted by the pitch of the word; between words both
    pass smoothly, and silence belongs to the word before it.
    """
    voiced = pitch > 0.0
    if not voiced.any():
        return pitch
    semitones = 12.0 * np.log2(np.where(voiced, pitch, 1.0))
    mean = semitones[voiced].mean()
    times = np.arange(len(pitch)) * _FRAME_S
    word_of = np.maximum.accumulate([word for *_, word in spoken])  # words come in order; silence is -1
    place = np.searchsorted([end for _, _, end, _, _ in spoken], times, side="right")
    word = np.maximum(word_of[np.minimum(place, len(spoken) - 1)], 0)
    width = int(round(_SMOOTH_S / _FRAME_S)) | 1
    window = np.hanning(width + 2)[1:-1]
    window /= window.sum()

    def curve(column: int) -> np.ndarray:
        held = np.array([row[column] for row in words])[word]
        return np.convolve(np.pad(held, width // 2, mode="edge"), window, mode="valid")

    moved = mean + 2.0 ** curve(2) * (semitones - mean) + curve(1)
    return np.where(voiced, np.clip(2.0 ** (moved / 12.0), _LOWEST_HZ, _HIGHEST_HZ), 0.0)


def _interpolate(frames: np.ndarray, source: np.ndarray) -> np.ndarray:
    """frames [m, C] at positions source [n] -> [n, C]: linear; column 0 too where both neighbours are voiced, else nearest."""
    low = np.minimum(source.astype(int), len(frames) - 2)
    part = (source - low)[:, None]
    mixed = frames[low] * (1.0 - part) + frames[low + 1] * part
    both = (frames[low, 0] > 0.0) & (frames[low + 1, 0] > 0.0)
    mixed[:, 0] = np.where(both, mixed[:, 0], frames[np.rint(source).astype(int), 0])
    return mixed


def _read(track) -> np.ndarray:
    """A track's values, [frames, channels] float64."""
    content = track.contents
    return np.array([content.frames[i][: content.num_channels] for i in range(content.num_frames)])


def _track(values: np.ndarray):
    """A track of values [n, C], for Flite to read; it lives as long as the result."""
    values = np.ascontiguousarray(values, np.float32)
    times = (np.arange(len(values)) * _FRAME_S).astype(np.float32)
    pointer = ctypes.POINTER(ctypes.c_float)
    rows = (pointer * len(values))(*(row.ctypes.data_as(pointer) for row in values))
    track = _Track(None, len(values), values.shape[1], times.ctypes.data_as(pointer), rows)
    track.kept = values, times, rows
    return ctypes.pointer(track)


def main() -> None:
    try:
        speak = Flite().speak
    except OSError as error:
        reason = str(error)

        def speak(request: dict) -> bytes:
            return refusal(reason)

    serve(speak)


if __name__ == "__main__":
    main()
