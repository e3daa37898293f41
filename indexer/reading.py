"""One regular file -> all of its bytes, as they were at one moment."""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass

from mmsearch.errors import UnreadableFile
from mmsearch.types import Reason

_RETRY_AFTER_S = (0.2, 1.0)  # a file that changes while it is read is most often being written just now
_MOST_NS = (1 << 63) - 1
_CHUNK_BYTES = 64 * 1024 * 1024
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: a FIFO must not wait for a writer
_GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))


@dataclass(frozen=True, slots=True)
class FileContent:
    """All bytes of a file. `size` and `mtime_ns` held before and after the read, `checked_ns` is when it ended."""

    data: bytes
    size: int
    mtime_ns: int
    checked_ns: int


class ReadFailureError(Exception):
    """A file that could not be read: why, and its size, mtime and errno as far as they are known."""

    def __init__(self, cause: UnreadableFile, status: os.stat_result | None = None, code: int | None = None) -> None:
        super().__init__(str(cause))
        self.reason = cause.reason
        self.detail = cause.detail
        self.size = status.st_size if status is not None else None
        self.mtime_ns = stored_mtime_ns(status) if status is not None else None
        self.errno = code


def stored_mtime_ns(status: os.stat_result) -> int:
    """When the file was changed, as the tables hold it: int64, which ends in 2262. File systems go on beyond that."""
    return max(-_MOST_NS, min(status.st_mtime_ns, _MOST_NS))


def read_whole(path: bytes, most: int) -> FileContent:
    """Return the content of the regular file at `path`, which may have at most `most` bytes.

    Raises:
        ReadFailureError: `PERMISSION` (also for other refusals of the operating system), `TOO_LARGE`,
            `UNSUPPORTED_INSIDE` when it is not a regular file, `CHANGED` when it is gone, a link, or kept changing.
    """
    for pause in (*_RETRY_AFTER_S, None):
        content, status = _attempt(path, most)
        if content is not None:
            return content
        if pause is not None:
            time.sleep(pause)
    raise ReadFailureError(UnreadableFile(Reason.CHANGED, "it changed each time it was read"), status)


def _attempt(path: bytes, most: int) -> tuple[FileContent | None, os.stat_result]:
    try:
        _require_regular(os.lstat(path))  # before the open, which can wake a device
        file = os.open(path, _FLAGS)
        try:
            return _read_open(file, most)
        finally:
            os.close(file)
    except OSError as error:
        reason = Reason.CHANGED if error.errno in _GONE else Reason.PERMISSION
        detail = f"it cannot be read: {error.strerror}"
        raise ReadFailureError(UnreadableFile(reason, detail), code=error.errno) from error


def _read_open(file: int, most: int) -> tuple[FileContent | None, os.stat_result]:
    before = os.fstat(file)
    _require_regular(before)
    if before.st_size > most:
        detail = f"{before.st_size} bytes, expected at most {most}"
        raise ReadFailureError(UnreadableFile(Reason.TOO_LARGE, detail), before)
    data = _read_all(file, before.st_size)
    checked_ns = time.time_ns()
    after = os.fstat(file)
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    if not same or len(data) != before.st_size:
        return None, after
    return FileContent(data, before.st_size, stored_mtime_ns(before), checked_ns), after


def _read_all(file: int, size: int) -> bytes:
    chunks = []
    left = size + 1  # one more than there should be, to notice growth
    while left > 0 and (chunk := os.read(file, min(left, _CHUNK_BYTES))):
        chunks.append(chunk)
        left -= len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = stat.filemode(status.st_mode)[0]
        if stat.S_ISLNK(status.st_mode):
            raise ReadFailureError(UnreadableFile(Reason.CHANGED, "a symbolic link stands in its place"))
        detail = f"it is not a regular file (type {kind!r})"
        raise ReadFailureError(UnreadableFile(Reason.UNSUPPORTED_INSIDE, detail))
