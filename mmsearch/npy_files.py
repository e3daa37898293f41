"""`.npy` files that are written in blocks and mapped without trust: numpy's format, version 1.0, with one spelling.

numpy reads a header by evaluating it as a Python literal, which a flipped bit makes fail in many ways, and which
CPython 3.11 cannot always do in two threads at once. Here the header that a file must have is known beforehand, so it
is compared, not evaluated.
"""

from __future__ import annotations

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
    header = npy_header(dtype, shape)
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            raise ValueError(f"its header is not that of {shape} numbers of {dtype.itemsize} bytes")
        expected = len(header) + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        size = file.seek(0, 2)
        if size != expected:
            raise ValueError(f"it has {size} bytes, not {expected}")
        return np.memmap(file, dtype, mode="r", offset=len(header), shape=shape)
