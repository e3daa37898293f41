"""Whether a root can be believed when it says that a file is gone.

A drive that is not plugged in, a mount point with nothing mounted on it and a folder that moved to another device all
look like "every file was deleted". Results are never dropped on such evidence.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mmsearch.types import RootTrouble


def root_trouble(path: bytes, device: int) -> RootTrouble | None:
    """What is wrong with the root at `path` that was registered on `device` (`st_dev`), None when it looks healthy.

    A root that cannot be listed counts as gone. A root that is a single file is healthy as long as it is there.
    """
    try:
        status = Path(os.fsdecode(path)).stat()
        if status.st_dev != device:
            return "another device"
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(path) as entries:
                if next(entries, None) is None:
                    return "empty"
    except OSError:
        return "gone"
    return None


def is_absent(directory: bytes) -> bool:
    """Whether there is nothing in `directory`, or no such directory, or one that cannot be listed."""
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is None
    except OSError:
        return True
