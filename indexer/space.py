"""Whether there is room to index: a clear sentence at the start instead of a full disk in the middle."""

from __future__ import annotations

import shutil
from pathlib import Path

from mmsearch.errors import CollectionError
from mmsearch.safe_text import safe_path

# A run that begins writes tables, a snapshot and LanceDB's old versions; what it needs beyond depends on what it finds.
SMALLEST_FREE = 64 << 20
# Merging writes rows anew while the old ones stay for a day: an item takes its embedding and about 512 bytes more.
_ROW_BYTES = 512
_TIMES = 2


def require_space(directory: Path, *, items: int, embedding_bytes: int) -> None:
    """Returns when the disk of the collection in `directory`, with so many items, has room for a run. The directory
    need not be there yet.

    Raises:
        CollectionError: it has not; the message says how much there is and how much is needed.
    """
    needed = SMALLEST_FREE + _TIMES * items * (_ROW_BYTES + embedding_bytes)
    free = shutil.disk_usage(_standing(directory)).free
    if free < needed:
        raise CollectionError(
            f"{safe_path(str(directory))}: {free >> 20} MB are free on its disk, and indexing needs"
            f" {-(-needed >> 20)} MB; make room, or keep the collection elsewhere with --collection"
        )


def _standing(directory: Path) -> Path:
    """The directory, or the nearest one above it that is there: they are on one disk when it is made."""
    absolute = directory.absolute()
    return next((each for each in (absolute, *absolute.parents) if each.is_dir()), absolute)
