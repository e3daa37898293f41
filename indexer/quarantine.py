"""What is damaged, or stands where something else belongs, is moved aside: some of it may still be of use."""

from __future__ import annotations

import time
from pathlib import Path

from mmsearch.durable import fsync_dir, make_directory
from mmsearch.store_tables import QUARANTINE_DIRECTORY


def move_aside(directory: Path, path: Path) -> Path:
    """Where `path`, a file or directory of the collection in `directory`, stands now, durably.

    Raises:
        OSError: the disk is full, read-only or broken.
    """
    quarantine = directory / QUARANTINE_DIRECTORY
    aside = quarantine / f"{path.name}-{time.time_ns()}"
    # What has the name of the quarantine and is none has to make room first.
    waiting = path.with_name(f"{aside.name}.aside") if path == quarantine else path
    if waiting != path:
        path.rename(waiting)
    make_directory(quarantine)
    waiting.rename(aside)
    fsync_dir(quarantine)
    fsync_dir(path.parent)
    return aside
