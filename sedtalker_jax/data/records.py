"""Record files: every corpus, the built-in world or a real one, is a directory of ArrayRecord shards and a manifest.

    DIR/{train,valid,test}-00000-of-0000N.arrayrecord    random access by index
    DIR/manifest.json                                    written last: a directory without one is not finished
    DIR/face_space.npz                                   where there are faces (sedtalker_jax.face.space)
    DIR/{train,valid,test}.index.npz                     corpora: what planning needs of every record (data.index)

One record is a dict (arrays little-endian; T speech frames, F animation frames, K emotions, R rank, W rig weights):

    id, corpus, split, speaker, sentence   str
    template      str           name of the head in face_space.npz, '' without one
    audio         uint8 [n]     FLAC bytes, 16 kHz mono
    num_samples   int           S
    labels        list[str]     the label set that `emotion` indexes
    segments      list[[start_s, end_s, label]]       the voice's truth
    emotion       int8 [T]      -1 = unlabelled, silence or collar
    intensity     float16 [T]   in [0, 1], NaN = unlabelled
    fps           float
    motion        float16 or float32 [F, R]   coefficients in the directory's face space
    residual      bytes         what these leave, where that is more than 0.01 mm anywhere in the clip: zlib of little-endian
                                integers [F, V, 3] of `residual_bits` (8 or 16), in steps of 2^-17 m, so that template +
                                motion . basis + residual is the original to 0.007 mm (data.faces.motion_code.true_vertices)
    activation    float16 [F, K - 1]   the face's truth, non-neutral emotions in canonical order; NaN = unlabelled
    rig           float16 [F, W]       exact rig weights (world only)
    phonemes      list[[symbol, start_s, end_s]]      (world only)
    prosody       dict          true prosody parameters (world only), for the oracle row

Records of face data sets (data.faces) say where a face's emotion comes from:

    expression          str     canonical emotion of the face throughout the clip, '' where the data set does not say
    strength            float   of it, in [0, 1]: what `activation` holds; NaN where expression is ''
    native_expression, expression_level     str, int or None    the data set's own name and level of it
    voice_emotion       str     canonical emotion of the voice, '' where nobody labelled it
    condition           str     what may drive the face in training: "schedule" = `activation` alone, since the voice does not
                                carry the face's emotion (EmoVOCA, VOCASET); "voice" = the diarizer's output too

Records of speech corpora have no face fields and add what their annotation holds (a field that a corpus lacks is absent):

    label          str           the clip's one emotion; of ZED, its event's
    corpus_label   str           the corpus's own word for it
    label_kind     str           "intended" (an actor was asked for it) or "perceived" (listeners named it)
    perceived      list[str]     what listeners voted for, where it is kept apart from the intended label; several: a tie
    perceived_level  float       mean strength in [0, 1] that they gave; only where their vote is the intended label
    level          int           ordinal intensity, 0 = weakest, on
    level_scale    str           key of sedtalker_jax.emotion.labels.LEVEL_SCALES; scales can't be compared
    ratings        dict          valence, arousal, dominance (IEMOCAP, 1 to 5)
    sex            str           "female", "male" or '' (unknown)
    language       str           BCP 47
    licence        str
    official_split str           where the corpus publishes one that we can't use (MELD's shares speakers)
    session        str           recordings of a speaker may be joined when this is equal
    loudness_db    float         RMS level of the active frames in dBFS
    speech_span    [start_s, end_s]   from the first to the last active sound

This module imports numpy only at the top; it never imports jax, so data workers stay light.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sedtalker_jax.errors import UserError

if TYPE_CHECKING:
    from sedtalker_jax.data.index import RecordIndex

MANIFEST = "manifest.json"
FACE_SPACE = "face_space.npz"
_ARRAY_KEY = "__array__"


def encode_record(record: dict[str, Any]) -> bytes:
    """msgpack of a record; arrays as {"__array__": [dtype, shape, bytes]}. Equal records give equal bytes."""
    import msgpack

    return msgpack.packb(record, default=_encode_value, use_bin_type=True)


def _encode_value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        return {_ARRAY_KEY: [array.dtype.str, list(array.shape), array.tobytes()]}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a record cannot hold a {type(value).__name__}")


def _decode_object(value: dict) -> Any:
    if _ARRAY_KEY in value:
        dtype, shape, data = value[_ARRAY_KEY]
        return np.frombuffer(data, dtype=np.dtype(dtype)).reshape(shape)
    return value


def read_record(data: bytes, decode_audio: bool = False) -> dict[str, Any]:
    """A record from its bytes; with `decode_audio` it also holds waveform [S] float32 in [-1, 1]. Arrays are read-only.

    Raises:
      UserError: when the bytes are no record.
    """
    import msgpack

    try:
        record = msgpack.unpackb(data, object_hook=_decode_object, raw=False)
    except Exception as error:
        raise UserError(f"not a record of this project ({error}); build the directory again") from error
    if decode_audio:
        record["waveform"] = decode_flac(record["audio"])
    return record


def decode_flac(audio: np.ndarray) -> np.ndarray:
    """Waveform [S] float32 in [-1, 1] of FLAC bytes (uint8 [n])."""
    import soundfile

    waveform, _ = soundfile.read(io.BytesIO(audio.tobytes()), dtype="float32")
    return waveform


def shard_name(split: str, shard: int, num_shards: int) -> str:
    """File name of a shard: train-00000-of-00003.arrayrecord."""
    return f"{split}-{shard:05d}-of-{num_shards:05d}.arrayrecord"


def write_shard(path: str | Path, records: Iterable[bytes]) -> dict[str, Any]:
    """Writes one shard under a temporary name, then renames it: a shard that exists is whole.

    Returns {"records": count, "sha256": digest over the records}, the digest being independent of the file format.

    Raises:
      UserError: when the directory cannot be written.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --out") from error
    digest, count = hashlib.sha256(), 0
    # Group size 1 makes one record one read; audio is FLAC already, so more compression only costs time.
    writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
    try:
        for data in records:
            writer.write(data)
            digest.update(len(data).to_bytes(8, "little") + data)
            count += 1
        writer.close()
        os.replace(temporary, path)
    except BaseException:
        if writer.is_open():
            writer.close()
        temporary.unlink(missing_ok=True)
        raise
    return {"records": count, "sha256": digest.hexdigest()}


def write_json(path: str | Path, content: Any) -> None:
    """Writes JSON through a temporary name, so that a reader sees the old file or the new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    os.replace(temporary, path)


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """The manifest of a finished record directory.

    Raises:
      UserError: when there is none, or it is no JSON.
    """
    path = Path(directory) / MANIFEST
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UserError(
            f"{directory} is no finished record directory ({MANIFEST}: {error.strerror}); make one with "
            "`python -m sedtalker_jax.data.synthetic --out DIR` or `python -m sedtalker_jax prepare`"
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); build the directory again") from error


class RecordReader(Sequence):
    """Random access to the records of one split: len(reader), reader[i] -> dict. Pickles; opens files when first read.

    Args:
      directory: a finished record directory.
      split: "train", "valid" or "test".
      decode_audio: whether records also hold waveform [S] float32.

    Raises:
      UserError: when the directory is unfinished, lacks the split, or lost a shard.
    """

    def __init__(self, directory: str | Path, split: str, decode_audio: bool = True) -> None:
        self.directory, self.split, self.decode_audio = Path(directory), split, decode_audio
        self.manifest = read_manifest(directory)
        if split not in self.manifest["splits"]:
            raise UserError(f"{directory} has no split {split!r}; it has {', '.join(self.manifest['splits'])}")
        shards = self.manifest["splits"][split]["shards"]
        self.paths = [str(self.directory / shard["file"]) for shard in shards]
        lost = [path for path in self.paths if not os.path.exists(path)]
        if lost:
            raise UserError(f"{lost[0]} is missing though the manifest names it; build the directory again")
        self._length = sum(shard["records"] for shard in shards)
        self._source = None

    def _open(self):
        if self._source is None:
            from array_record.python.array_record_data_source import ArrayRecordDataSource

            self._source = ArrayRecordDataSource(self.paths)
        return self._source

    def __getstate__(self) -> dict:
        # An open file handle neither pickles nor survives a fork; each process opens its own.
        return {**self.__dict__, "_source": None}

    def __len__(self) -> int:
        return self._length

    def read_bytes(self, index: int) -> bytes:
        """The stored bytes of record `index`."""
        if not 0 <= index < self._length:
            raise IndexError(index)
        return self._open()[index]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return read_record(self.read_bytes(int(index)), self.decode_audio)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def index(self) -> RecordIndex:
        """What planning needs of every record: the stored file, or, without one, read from the records."""
        from sedtalker_jax.data.index import RecordIndex, index_name, index_row

        path = self.directory / index_name(self.split)
        if path.exists():
            index = RecordIndex.load(path)
            if len(index) != len(self):
                raise UserError(f"{path} has {len(index)} rows for {len(self)} records; build the directory again")
            return index
        return RecordIndex.from_rows([index_row(read_record(self.read_bytes(i))) for i in range(len(self))])
