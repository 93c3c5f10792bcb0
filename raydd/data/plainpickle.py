"""CIFAR's pickles read without unpickling anything that could run.

The published CIFAR archives are pickles of dicts of numpy arrays. The reader below lets a pickle name nothing but the
few constructors such a file needs, and puts inert stand-ins in their place: no function of numpy, or of anything else,
is ever called by a file. Whatever else a pickle names is refused by that name.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from raydd.errors import DataError


class _DType:
    """Stands in for `numpy.dtype`: keeps the type's text, refuses all but plain numbers and bytes."""

    def __init__(self, text: Any, *_flags: Any) -> None:
        text = text.decode("ascii") if isinstance(text, bytes) else text
        if not isinstance(text, str) or text.lstrip("<>|=")[:1] not in tuple("biufS"):
            raise DataError(f"holds an array of {text!r}")
        self.text = text.lstrip("<>|=")
        self.order = "="

    def __setstate__(self, state: tuple) -> None:
        order = state[1]
        self.order = order.decode("ascii") if isinstance(order, bytes) else order

    def plain(self) -> np.dtype:
        return np.dtype(("" if self.order == "|" else str(self.order)) + self.text)


class _Array:
    """Stands in for an array under construction; `value` is the real one once its state has come."""

    value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, fortran, raw = state
        self.value = _array(raw, dtype, shape, "F" if fortran else "C")


class _Call(NamedTuple):
    """A constructor that a file may call but, being immutable, not alter for the files after it."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def _array(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    sane = isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)
    if not (sane and isinstance(dtype, _DType) and isinstance(raw, bytes)):
        raise DataError("holds an array that is not plain numbers")
    plain = dtype.plain()
    if math.prod(shape) * plain.itemsize != len(raw):
        raise DataError(f"holds an array of shape {shape} with {len(raw)} bytes")
    return np.frombuffer(raw, dtype=plain).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(*_arguments: Any) -> _Array:
    return _Array()


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.value = _array(bytes(raw), dtype, shape, order)
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise DataError("holds text in an encoding other than latin1")
    return text.encode("latin1")


_ADMITTED = {
    ("numpy", "ndarray"): "ndarray",  # files only pass it on to _reconstruct
    ("numpy", "dtype"): _Call(_DType),
    ("numpy.core.multiarray", "_reconstruct"): _Call(_reconstruct),
    ("numpy._core.multiarray", "_reconstruct"): _Call(_reconstruct),
    ("numpy.core.numeric", "_frombuffer"): _Call(_from_buffer),
    ("numpy._core.numeric", "_frombuffer"): _Call(_from_buffer),
    ("_codecs", "encode"): _Call(_encode),
}


#: What Python's unpickler raises on malformed input.
_DAMAGED = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    KeyError,
    ImportError,
    OverflowError,
    MemoryError,
)


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise DataError(f"holds code: it names {module}.{name}") from None


def load(data: bytes, where: str) -> dict[str, Any]:
    """Return the dict that a pickle of arrays, bytes, numbers, text, lists and dicts holds; its keys as text.

    Lists and dicts within it come as they are: at worst they hold inert stand-ins, so check what you take from them.

    Args:
        data: The pickle.
        where: The file, for errors.

    Raises:
        DataError: It names anything else, is damaged, or is not a dict.
    """
    try:
        value = _Reader(io.BytesIO(data), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{where}: expected a pickle of arrays and text, got one that {error}: not read") from None
    except _DAMAGED as error:
        raise DataError(f"{where}: expected a pickle, got a damaged one ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a pickled dict, got {type(value).__name__}")
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): item.value if isinstance(item, _Array) else item
        for key, item in value.items()
    }
