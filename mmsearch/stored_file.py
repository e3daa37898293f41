"""A file that does not change once it is written: what it must be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a stored file must be: sha256 in hex, and size."""

    sha256: str
    bytes: int


def file_info(path: Path, *, told: Callable[[int], None] | None = None) -> FileInfo:
    """Size and sha256 of a file; reads all of it. `told` hears of every block how many bytes it had.

    Raises:
        OSError: the operating system does not let it be read.
    """
    digest = hashlib.sha256()
    size = 0
    buffer = bytearray(_BLOCK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
            size += count
            if told is not None:
                told(count)
    return FileInfo(digest.hexdigest(), size)
