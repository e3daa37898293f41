"""What a file of weights is, told by its bytes: its name proves nothing. Imports neither torch nor safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, TypeAlias

from mmsearch.errors import ModelError
from mmsearch.regular_file import open_regular
from mmsearch.safe_text import safe_path

WeightsKind: TypeAlias = Literal["safetensors", "pickle", "neither"]

# How many bytes `weights_kind` needs.
START_BYTES = 16
TRUST_REMEDY = (
    "which can run anything when it is opened: if you trust its makers, convert it once with"
    " `mmsearch models import FILE --trust --architecture NAME`"
)

# The limit of the safetensors library.
_MAX_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8
_ZIP = b"PK\x03\x04"
_PICKLE_PROTOCOLS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def weights_kind(start: bytes) -> WeightsKind:
    """What begins with the bytes `start`; "pickle" is any file of `torch.save`, which is a zip archive with one."""
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    if start[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and length <= _MAX_HEADER_BYTES:
        return "safetensors"
    return "pickle" if start.startswith((_ZIP, *_PICKLE_PROTOCOLS)) else "neither"


def file_kind(path: Path) -> WeightsKind:
    """What the file `path` is.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            return weights_kind(file.read(START_BYTES))
    except OSError as error:
        raise ModelError(f"{safe_path(str(path))} cannot be read: {error.strerror}") from error


def safetensors_damage(path: Path) -> str:
    """What is wrong with the safetensors file `path`, as far as its header and its length say; "" where nothing is.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = file.read(min(length, _MAX_HEADER_BYTES))
            size = file.seek(0, 2)
    except OSError as error:
        raise ModelError(f"{safe_path(str(path))} cannot be read: {error.strerror}") from error
    if len(header) < length:
        return f"it ends after {size:,} bytes, within its header of {length:,}"
    try:
        places = [each["data_offsets"] for name, each in json.loads(header).items() if name != "__metadata__"]
        expected = _LENGTH_BYTES + length + max((int(end) for _, end in places), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return "its header is no table of tensors"
    return f"it has {size:,} bytes, and its header tells of {expected:,}" if size != expected else ""
