"""Reads pickles of arrays without running anything that they contain.

A pickle names functions to call. Here numpy arrays, scalars and plain containers are rebuilt by this module's own code, the
chumpy arrays and sparse matrices of FLAME's files become numpy arrays, and every other name is refused.
"""

from __future__ import annotations

import collections
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct, scalar

from sedtalker_jax.errors import UserError


class _StandIn:
    """An object of a class that is not loaded: keeps the state that the pickle gives it, and does nothing."""

    def __init__(self, *_arguments, **_named):
        self.state: dict[str, Any] = {}

    def __setstate__(self, state):
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"a {type(self).__name__} without named parts")
        self.state = {str(name): value for name, value in state.items()}


class _Chumpy(_StandIn):
    """chumpy.ch.Ch: its value is `x`; chumpy.reordering.Select: entries `idxs` of `a`, flat, in `preferred_shape`."""

    def array(self) -> np.ndarray:
        if "x" in self.state:
            return np.asarray(_materialise(self.state["x"]))
        if "a" in self.state and "idxs" in self.state:
            chosen = np.asarray(_materialise(self.state["a"])).ravel()[np.asarray(self.state["idxs"]).astype(np.int64).ravel()]
            shape = self.state.get("preferred_shape")
            return chosen if shape is None else chosen.reshape(shape)
        raise pickle.UnpicklingError(f"a chumpy expression of {', '.join(sorted(self.state)) or 'nothing'}, not an array")


class _Sparse(_StandIn):
    """scipy.sparse: compressed rows or columns."""

    by_column = False

    def array(self) -> np.ndarray:
        from scipy import sparse

        state = self.state
        kind = sparse.csc_matrix if self.by_column else sparse.csr_matrix
        shape = state["_shape"] if "_shape" in state else state["shape"]
        parts = (np.asarray(state["data"]), np.asarray(state["indices"]), np.asarray(state["indptr"]))
        return kind(parts, shape=tuple(shape)).toarray()


class _SparseByColumn(_Sparse):
    by_column = True


def _rebuild_object(kind: type, *_: Any) -> Any:
    """copyreg._reconstructor, for stand-ins only."""
    if not (isinstance(kind, type) and issubclass(kind, _StandIn)):
        raise pickle.UnpicklingError(f"it makes a {getattr(kind, '__name__', kind)}, which is not an array")
    return kind()


def _rebuild_object_of(kind: type, *_arguments: Any) -> Any:
    """copyreg.__newobj__, for stand-ins only."""
    return _rebuild_object(kind)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """_codecs.encode, as Python 3 writes bytes into old pickles: latin1 and nothing that decompresses or executes."""
    if encoding not in ("latin1", "latin-1", "iso-8859-1"):
        raise pickle.UnpicklingError(f"it asks for the codec {encoding}")
    return text.encode("latin1")


def _plain_dict(*_: Any) -> dict:
    """collections.defaultdict without its factory."""
    return {}


_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): _plain_dict,
    ("copy_reg", "_reconstructor"): _rebuild_object,
    ("copyreg", "_reconstructor"): _rebuild_object,
    ("copyreg", "__newobj__"): _rebuild_object_of,
}
_GLOBALS |= {(module, "_reconstruct"): _reconstruct for module in ("numpy.core.multiarray", "numpy._core.multiarray")}
_GLOBALS |= {(module, "scalar"): scalar for module in ("numpy.core.multiarray", "numpy._core.multiarray")}
_GLOBALS |= {
    (module, kind.__name__): kind
    for module in ("builtins", "__builtin__")
    for kind in (object, dict, list, tuple, set, int, float, bool, str, bytes)
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _GLOBALS:
            return _GLOBALS[module, name]
        if module.split(".")[0] == "chumpy":
            return _Chumpy
        if module.startswith("scipy.sparse") and name in ("csc_matrix", "csc_array"):
            return _SparseByColumn
        if module.startswith("scipy.sparse") and name in ("csr_matrix", "csr_array"):
            return _Sparse
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not an array")


def _materialise(value: Any) -> Any:
    """Stand-ins made into arrays, through dictionaries, lists and tuples."""
    if isinstance(value, _Chumpy | _Sparse):
        return value.array()
    if isinstance(value, Mapping):
        return {name: _materialise(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_materialise(item) for item in value)
    return value


def load_pickled_arrays(path: str | os.PathLike, expected: str = "a dictionary of arrays") -> dict[Any, Any]:
    """The dictionary in a pickle of arrays, of Python 2 or 3, without executing anything from it.

    Args:
      path: a .pkl file.
      expected: what the file should hold, for the message when it holds something else.

    Raises:
      UserError: missing file, damaged pickle, one that asks for other code, or no dictionary.
    """
    source = Path(path)
    try:
        with source.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's about the type codes of old files
            # latin1 reads the Python 2 pickles in which VOCASET, BIWI and FLAME were published.
            content = _materialise(_ArrayUnpickler(stream, encoding="latin1").load())
    except FileNotFoundError:
        raise UserError(f"{source}: no such file; check the path") from None
    except Exception as error:  # a damaged pickle may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{source}: not a pickle of arrays ({reason}); fetch the file again") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{source}: {expected} is expected, not a {type(content).__name__}")
    return dict(content)
