"""Opening a file that somebody named, when it may turn out to be anything."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | os.PathLike[str], *, follow_links: bool = True) -> BinaryIO:
    """The regular file at `path`, opened for reading. A FIFO or a device is neither waited for nor read.

    Raises:
        OSError: it does not exist or cannot be opened; `ELOOP` for a link that is not to be followed, `EINVAL` for
            what is no regular file.
        ValueError: no file can have that name.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_file(path: Path) -> bytes:
    """All bytes of a file of ours. What may stand in its place is not waited for: a FIFO, a socket, a device.

    Raises:
        OSError: it does not exist or cannot be read; `EINVAL` for one of these.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    return path.read_bytes()
