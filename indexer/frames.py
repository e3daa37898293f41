"""What passes between the pool and its processes: a length, a JSON header, and the raw bytes that it announces."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

LENGTH_BYTES = 4  # little-endian, of the header
MAX_HEADER_BYTES = 16 * 1024 * 1024
MAX_PAYLOAD_BYTES = 1024 * 1024 * 1024

Header = dict[str, Any]
ReadExactly = Callable[[int], bytearray]


class BrokenFrameError(Exception):
    """The other side ended, or sent what is no frame."""


def pack_frame(header: Mapping[str, Any], payload_bytes: int = 0) -> bytes:
    """Return the bytes of a frame up to its payload, which the caller sends after them."""
    encoded = json.dumps({**header, "payload": payload_bytes}).encode("ascii")
    return len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded


def read_frame(read_exactly: ReadExactly) -> tuple[Header, bytearray]:
    """Return the next header and payload that `read_exactly(count)` delivers.

    Raises:
        BrokenFrameError: the header or a length is none.
    """
    length = int.from_bytes(read_exactly(LENGTH_BYTES), "little")
    if length > MAX_HEADER_BYTES:
        raise BrokenFrameError(f"a header of {length} bytes, expected at most {MAX_HEADER_BYTES}")
    try:
        header = json.loads(read_exactly(length))
    except (ValueError, RecursionError) as error:
        raise BrokenFrameError("a header that is not JSON") from error
    size = header.get("payload") if isinstance(header, dict) else None
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_PAYLOAD_BYTES:
        raise BrokenFrameError(f"a payload of {size} bytes, expected at most {MAX_PAYLOAD_BYTES}")
    return header, read_exactly(size)


def pack_path(path: bytes) -> str:
    """Return `path` as a str that survives JSON, whatever bytes it has."""
    return path.decode("utf-8", "surrogateescape")


def unpack_path(path: str) -> bytes:
    """Return what `pack_path` was given."""
    return path.encode("utf-8", "surrogateescape")
