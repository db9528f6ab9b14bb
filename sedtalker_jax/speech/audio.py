"""Audio in and out: any common file to a 16 kHz mono float32 waveform, and the encoder family's input normalisation.

This module needs numpy, soundfile, soxr and av only; data workers import it without starting a JAX back end.
"""

from __future__ import annotations

import io
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
import soundfile
import soxr
from jaxtyping import Float, UInt8

from sedtalker_jax.errors import UserError

Waveform = Float[np.ndarray, "S"]
SoundBlock = Float[np.ndarray, "S C"]
Encoded = UInt8[np.ndarray, "N"]

MINIMUM_SAMPLES = 400
"""Samples at 16 kHz of one speech frame (axes.FRAME_WINDOW): a shorter waveform has no frame at all."""

_LOGGER = logging.getLogger(__name__)
_MINIMUM_SECONDS = MINIMUM_SAMPLES / 16_000
_NORMALISATION_EPSILON = 1e-7
# Rates outside are damaged headers, not recordings; resampling from 1 Hz would ask for terabytes.
_LOWEST_RATE, _HIGHEST_RATE = 1_000, 1_000_000
_BLOCK_FRAMES = 1 << 16
_SAMPLE_BYTES = 4
_Whole = TypeVar("_Whole", Waveform, "StoredWaveform")


def load_audio(path: str | os.PathLike, sample_rate: int = 16_000) -> Waveform:
    """Reads the sound of a file as float32 [S], mono, at `sample_rate` Hz.

    WAV, FLAC, MP3, Ogg, AIFF and the like are read by libsndfile, everything else that holds sound (MP4, M4A, WebM, MOV)
    by FFmpeg. Channels are averaged. Full scale is [-1, 1]; float files that exceed it are left as they are. A file whose
    end is missing gives what can be decoded; damaged packets amid those that FFmpeg decodes are heard as silence, and a warning
    is logged. Decoding goes block by block, so memory is that of the result.

    Raises:
        UserError: there is no such file, it is a folder, empty, not audio, damaged, has no channels, holds samples that are
            not finite, or is shorter than one speech frame (0.025 s).
    """
    return _read(Path(path), sample_rate, _concatenated)


class StoredWaveform:
    """A waveform float32 [S] in a temporary file, for recordings of hours: `len`, and slices, which are read when asked for.

    Use it in a `with` statement; the file goes with its end.
    """

    ndim = 1

    def __init__(self, pieces: Iterable[Waveform]):
        self._file = tempfile.TemporaryFile()
        try:
            for piece in pieces:
                self._file.write(piece.astype(np.float32, copy=False).data)
            self._size = self._file.tell() // _SAMPLE_BYTES
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, piece: slice) -> Waveform:
        start, stop, step = piece.indices(self._size)
        if step != 1:
            raise ValueError(f"a stored waveform has no steps of {step}; read a slice and take every {step}th of it")
        self._file.seek(start * _SAMPLE_BYTES)
        return np.frombuffer(self._file.read(max(0, stop - start) * _SAMPLE_BYTES), np.float32)

    def __enter__(self) -> StoredWaveform:
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()


def store_audio(path: str | os.PathLike, sample_rate: int = 16_000) -> StoredWaveform:
    """As `load_audio`, but the waveform lies in a temporary file: memory is that of a block, however long the recording."""
    return _read(Path(path), sample_rate, StoredWaveform)


def save_audio(path: str | os.PathLike, waveform: Waveform, sample_rate: int = 16_000) -> None:
    """Writes a mono waveform as 16-bit sound; the suffix names the format (.wav, .flac, .ogg). Atomic.

    Raises:
        UserError: the suffix is no format that libsndfile writes.
    """
    path = Path(path)
    sound_format = path.suffix.lstrip(".").upper()
    if sound_format not in soundfile.available_formats():
        raise UserError(f"{path}: cannot write sound as '{path.suffix}'; use .wav or .flac")
    subtype = "PCM_16" if soundfile.check_format(sound_format, "PCM_16") else None
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        soundfile.write(temporary, np.clip(waveform, -1.0, 1.0), sample_rate, subtype=subtype, format=sound_format)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def encode_flac(waveform: Waveform, sample_rate: int = 16_000) -> Encoded:
    """A mono waveform as the bytes of a 16-bit FLAC file (uint8 array): the form in which records hold sound.

    Samples beyond [-1, 1] are clipped; the error is at most one half of 2^-15.
    """
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(waveform, -1.0, 1.0), sample_rate, format="FLAC", subtype="PCM_16")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def decode_flac(encoded: Encoded | bytes) -> Waveform:
    """The inverse of `encode_flac`: float32 [S]."""
    waveform, _ = soundfile.read(io.BytesIO(bytes(encoded)), dtype="float32")
    return waveform


def normalise(waveform: Waveform) -> Waveform:
    """Zero mean and unit variance, as the Hugging Face feature extractor makes them: (x - mean) / sqrt(var + 1e-7).

    The moments are taken in float64, so that an hour of sound loses nothing. Silence stays silence.
    """
    mean = waveform.mean(dtype=np.float64)
    variance = np.mean(np.square(waveform - waveform.dtype.type(mean)), dtype=np.float64)
    scale = 1.0 / np.sqrt(variance + _NORMALISATION_EPSILON)
    return ((waveform - waveform.dtype.type(mean)) * waveform.dtype.type(scale)).astype(waveform.dtype)


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; give a sound file")
        if not path.exists():
            raise UserError(f"{path}: no such file")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty")
        with path.open("rb"):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {_reason(error).lower()}") from None


def _open_with_libsndfile(path: Path) -> tuple[Iterator[SoundBlock], int]:
    sound = soundfile.SoundFile(path)

    def blocks() -> Iterator[np.ndarray]:
        with sound:
            while len(block := sound.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
                yield block

    return blocks(), sound.samplerate


def _open_with_ffmpeg(path: Path) -> tuple[Iterator[SoundBlock], int]:
    # Playlists can name other files and hosts: only this file may be opened.
    # Tags in another encoding than UTF-8 are no reason to refuse the sound.
    container = av.open(str(path.absolute()), options={"protocol_whitelist": "file"}, metadata_errors="ignore")
    if not container.streams.audio:
        container.close()
        raise ValueError("no sound track")
    stream = container.streams.audio[0]
    native_rate = stream.codec_context.sample_rate
    if not native_rate or not stream.codec_context.channels:
        container.close()
        raise ValueError("a sound track without channels or rate")

    def blocks() -> Iterator[np.ndarray]:
        # Planar floats of the same rate and layout: only the sample format changes.
        to_float = av.AudioResampler(format="fltp")
        damaged = 0
        with container:
            for frame in _frames(container, stream):
                if frame is None:
                    damaged += 1
                    continue
                if damaged:  # a packet holds one frame: what follows must not come early
                    missing, damaged = damaged * frame.samples, 0
                    _LOGGER.warning("%s: %.2f s of its sound are damaged and heard as silence", path, missing / native_rate)
                    yield np.zeros((missing, len(frame.layout.channels)), np.float32)
                for converted in to_float.resample(frame):
                    yield converted.to_ndarray().T

    return blocks(), native_rate


def _frames(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame | None]:
    """The frames of a stream, None for a packet that can't be decoded. A cut file ends where its packets do."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except av.FFmpegError:
            yield None


def _read(path: Path, sample_rate: int, collect: Callable[[Iterator[Waveform]], _Whole]) -> _Whole:
    """`collect` of a file's sound in pieces, as load_audio has it; once more from the start where libsndfile gives up."""
    _check_file(path)
    try:
        whole = collect(_pieces(path, *_open_with_libsndfile(path), sample_rate))
    except soundfile.LibsndfileError as sndfile_error:
        # Not its format, or damaged half-way, where libsndfile gives up whole blocks and FFmpeg goes on to the cut.
        try:
            whole = collect(_pieces(path, *_open_with_ffmpeg(path), sample_rate))
        except (av.FFmpegError, ValueError) as ffmpeg_error:
            raise UserError(
                f"{path}: not a sound file that can be read ({_reason(sndfile_error)}; {_reason(ffmpeg_error)}); "
                "give a WAV, FLAC, MP3, Ogg or MP4 file"
            ) from None
    if len(whole) < _MINIMUM_SECONDS * sample_rate:
        raise UserError(
            f"{path}: holds {len(whole) / sample_rate:.4f} s of sound; at least {_MINIMUM_SECONDS} s "
            f"({MINIMUM_SAMPLES} samples at 16 kHz) are needed"
        )
    return whole


def _pieces(path: Path, blocks: Iterator[np.ndarray], native_rate: int, sample_rate: int) -> Iterator[Waveform]:
    """Averages the channels and resamples, block by block."""
    if not _LOWEST_RATE <= native_rate <= _HIGHEST_RATE:
        raise UserError(f"{path}: its header names a sample rate of {native_rate} Hz; the file is damaged, export it again")
    resampler = None if native_rate == sample_rate else soxr.ResampleStream(native_rate, sample_rate, 1, dtype="float32")
    for block in blocks:
        if not np.isfinite(block).all():
            raise UserError(f"{path}: holds samples that are not finite (NaN or infinity); export it again")
        mono = np.ascontiguousarray(block.mean(axis=1, dtype=np.float32))
        yield mono if resampler is None else resampler.resample_chunk(mono)
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _concatenated(pieces: Iterator[Waveform]) -> Waveform:
    return np.concatenate([np.zeros(0, np.float32), *pieces], dtype=np.float32)


def _reason(error: Exception) -> str:
    """The library's own words, in one line, without the path that the message already names."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()).rstrip(".")
