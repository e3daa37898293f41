"""`.npy` files that are written in blocks and mapped without trust: numpy's format, version 1.0, with one spelling.

numpy reads a header by evaluating it as a Python literal, which a flipped bit makes fail in many ways, and which
CPython 3.11 cannot always do in two threads at once. Here the header that a file must have is known beforehand, so it
is compared, not evaluated.
"""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_MAGIC = b"\x93NUMPY\x01\x00"
_ALIGNMENT = 64


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The bytes before the data of a C-ordered array of `dtype` and `shape`."""
    description = dtype.descr if dtype.names else dtype.str
    text = repr({"descr": description, "fortran_order": False, "shape": shape}).encode("ascii")
    padding = -(len(_MAGIC) + 2 + len(text) + 1) % _ALIGNMENT
    text += b" " * padding + b"\n"
    return _MAGIC + len(text).to_bytes(2, "little") + text


def map_npy(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The array in `path`, mapped read-only.

    Raises:
        FileNotFoundError: it is gone.
        ValueError: it is not exactly an array of `dtype` and `shape`, as this module writes it.
    """
    if not all(0 <= length <= sys.maxsize for length in shape):
        raise ValueError(f"no array has the shape {shape}")
    header = npy_header(dtype, shape)
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            raise ValueError(f"its header is not that of {shape} numbers of {dtype.itemsize} bytes")
        expected = len(header) + dtype.itemsize * math.prod(shape)
        size = file.seek(0, 2)
        if size != expected:
            raise ValueError(f"it has {size} bytes, not {expected}")
        return np.memmap(file, dtype, mode="r", offset=len(header), shape=shape)


def read_npy_rows(data: bytes, dtype: np.dtype[Any], columns: int) -> npt.NDArray[Any]:
    """The array (N, columns) of `dtype` in the bytes of a `.npy` file, as this module or `numpy.save` writes it.

    Raises:
        ValueError: the bytes are anything else.
    """
    for start in range(_ALIGNMENT, 4 * _ALIGNMENT, _ALIGNMENT):
        rows, rest = divmod(len(data) - start, dtype.itemsize * columns)
        if rows >= 0 and rest == 0 and data[:start] in _spellings(dtype, (rows, columns)):
            return np.frombuffer(data, dtype, offset=start).reshape(rows, columns)
    raise ValueError(f"it is not an array of rows of {columns} numbers, {dtype.itemsize} bytes each ({dtype})")


def _spellings(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """The header as this module writes it, and as numpy does."""
    theirs = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        theirs, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return npy_header(dtype, shape), theirs.getvalue()
