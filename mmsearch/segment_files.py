"""The files of a segment as bytes: what they must be, and whether somebody else could have made them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mmsearch.stored_file import FileInfo as FileInfo
from mmsearch.stored_file import file_info as file_info


def distrust(path: Path) -> str | None:
    """Why the index file at `path` may be forged, with what to do: FAISS is not safe against such bytes, and whoever
    can write to the collection can make the checksums fit. None when only this user and root can.
    """
    # The file, its directory, the directory of the segments, the collection.
    for place in (path, *path.parents[:3]):
        status = place.stat()
        if status.st_uid not in (os.geteuid(), 0):
            return f"{place}: belongs to somebody else (user {status.st_uid}); `chown` makes it yours"
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"{place}: others can write to it; `chmod go-w` on it ends that"
    return None
