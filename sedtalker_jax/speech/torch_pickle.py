"""Reads the tensors of a PyTorch checkpoint (.bin, .pt) with numpy, without PyTorch and without running pickled code.

A pickle names functions to call. Here none is ever called: tensors and storages are known by name, and every other name
becomes an inert stand-in that keeps its arguments. Both container formats are read: the zip of torch >= 1.6 and the older
stream. Formats: torch/serialization.py and torch/_utils.py.
"""

from __future__ import annotations

import collections
import dataclasses
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from sedtalker_jax.errors import UserError

_STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class Inert:
    """Stands for an object of a class that is not loaded. Holds what the pickle gave it, in `__dict__` and `arguments`."""

    def __init__(self, *arguments, **named):
        self.arguments = arguments
        self.__dict__.update(named)

    def __setstate__(self, state):
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update({str(name): value for name, value in part.items()})

    def __setitem__(self, name, value):
        self.__dict__[str(name)] = value

    def append(self, value):
        """Pickles of list subclasses append; the values are of no use here."""

    def extend(self, values):
        """As `append`."""

    def __hash__(self):
        return id(self)


@dataclasses.dataclass
class _Storage:
    """A flat buffer of one tensor type; `read` fetches it, once."""

    dtype: np.dtype
    read: Callable[[], bytes]
    data: np.ndarray | None = None

    def array(self) -> np.ndarray:
        if self.data is None:
            self.data = np.frombuffer(self.read(), self.dtype)
        return self.data


@dataclasses.dataclass
class _Tensor:
    """A strided view of a storage, made into an array when all storages are known."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        flat = self.storage.array()
        needed = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)) if all(self.shape) else 0
        if self.offset < 0 or any(s < 0 for s in self.strides) or self.offset + needed > flat.size:
            raise ValueError("a tensor reaches beyond its storage: the file is cut or damaged")
        size = flat.dtype.itemsize
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, [s * size for s in self.strides])
        return view.copy()


def _rebuild_tensor(storage, offset, shape, strides, *_):
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_):
    return tensor


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BinaryIO, storage_of: Callable[[tuple], _Storage] | None = None):
        super().__init__(stream, encoding="utf-8")
        self._storage_of = storage_of

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module.startswith("torch") and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        return type(name, (Inert,), {})

    def persistent_load(self, pid):
        if self._storage_of is None or not isinstance(pid, tuple) or pid[0] != "storage":
            raise pickle.UnpicklingError("an unknown kind of persistent object")
        if not isinstance(pid[1], np.dtype):
            raise pickle.UnpicklingError(f"tensors of type {getattr(pid[1], '__name__', pid[1])} are not supported")
        return self._storage_of(pid)


def read_torch_file(path: Path) -> Any:
    """The object in a PyTorch file, tensors as numpy arrays, unknown objects as `Inert`.

    Raises:
      UserError: the file is missing, cut, or no PyTorch checkpoint.
    """
    try:
        with path.open("rb") as stream:
            if zipfile.is_zipfile(stream):
                return _materialise(_read_zip(stream))
            stream.seek(0)
            return _materialise(_read_stream(stream))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    # A damaged pickle can fail in any of these ways.
    except (
        OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, MemoryError, OverflowError,
        pickle.UnpicklingError, zipfile.BadZipFile, UnicodeDecodeError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cut, damaged or no PyTorch checkpoint ({reason}); fetch the file again") from None


def _read_zip(stream: BinaryIO) -> Any:
    archive = zipfile.ZipFile(stream)
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickles) != 1:
        raise ValueError("a zip without data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    storages: dict[str, _Storage] = {}

    def storage_of(pid: tuple) -> _Storage:
        _, dtype, key, *_ = pid
        if key not in storages:
            storages[key] = _Storage(dtype, lambda: archive.read(f"{root}data/{key}"))
        return storages[key]

    # Materialised here: the archive closes with its stream.
    return _materialise(_Unpickler(archive.open(pickles[0]), storage_of).load())


def _read_stream(stream: BinaryIO) -> Any:
    if _Unpickler(stream).load() != _LEGACY_MAGIC:
        raise ValueError("no PyTorch checkpoint")
    _Unpickler(stream).load()  # Protocol version.
    _Unpickler(stream).load()  # Sizes of the writer's machine; little-endian everywhere that matters.
    storages: dict[str, _Storage] = {}

    def storage_of(pid: tuple) -> _Storage:
        _, dtype, key, _, _, *view = pid
        if view and view[0] is not None:
            raise pickle.UnpicklingError("storages that are views of others are not supported")
        return storages.setdefault(key, _Storage(dtype, lambda: b""))

    loaded = _Unpickler(stream, storage_of).load()
    for key in _Unpickler(stream).load():
        count = int(np.frombuffer(stream.read(8), "<i8")[0])
        storage = storages[key]
        content = stream.read(count * storage.dtype.itemsize)
        if len(content) != count * storage.dtype.itemsize:
            raise ValueError("the file ends early")
        storage.data = np.frombuffer(content, storage.dtype)
    return loaded


def _materialise(value: Any) -> Any:
    if isinstance(value, _Tensor):
        return value.array()
    if isinstance(value, dict):
        return {name: _materialise(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_materialise(item) for item in value]
    return value
