"""Where the files and directories of a collection belong. One walk finds what is something else, before any is opened:
thousands of entries at most, and none of them is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmsearch import manifest as manifests
from mmsearch.durable import LOCK_NAME
from mmsearch.indexer.quarantine import move_aside
from mmsearch.manifest import SNAPSHOTS_DIRECTORY
from mmsearch.misplaced import (
    Misplaced,
    misplaced_directories,
    misplaced_directory,
    misplaced_file,
    misplaced_files,
    misplaced_in_table,
    require_none,
)
from mmsearch.snapshot_manifest import CURRENT_FILE, SEGMENTS_DIRECTORY
from mmsearch.store import ITEMS_TABLE, VECTORS_DIRECTORY
from mmsearch.store_checksums import FILE_NAME as CHECKSUMS_FILE
from mmsearch.store_tables import QUARANTINE_DIRECTORY

_FILES = (manifests.FILE_NAME, LOCK_NAME, CURRENT_FILE, CHECKSUMS_FILE)
_DIRECTORIES = (QUARANTINE_DIRECTORY, VECTORS_DIRECTORY, SEGMENTS_DIRECTORY, SNAPSHOTS_DIRECTORY)


def misplaced(directory: Path) -> Iterator[Misplaced]:
    """What is out of place in the collection at `directory`. Links to what belongs there are not; in the quarantine
    nothing is.
    """
    for name in _FILES:
        if (found := misplaced_file(directory / name)) is not None:
            yield found
    for name in _DIRECTORIES:
        if (found := misplaced_directory(directory / name)) is not None:
            yield found
    yield from misplaced_files(directory / SNAPSHOTS_DIRECTORY)
    segments = directory / SEGMENTS_DIRECTORY
    yield from misplaced_directories(segments)
    for segment in sorted(segments.glob("*")):
        yield from misplaced_files(segment)
    yield from misplaced_in_table(directory / f"{ITEMS_TABLE}.lance")
    for table in sorted((directory / VECTORS_DIRECTORY).glob("*.lance")):
        yield from misplaced_in_table(table)


def require_in_place(directory: Path) -> None:
    """Returns when all that stands in the collection at `directory` is what belongs there.

    Raises:
        CollectionDamaged: something is not; names it.
    """
    require_none(misplaced(directory))


def put_aside(directory: Path) -> list[str]:
    """A sentence for each thing that stood where something else belongs, and was moved to the quarantine. Everything
    that is left can be opened.

    Raises:
        OSError: the disk is full, read-only or broken.
    """
    return [moved(directory, each) for each in misplaced(directory)]


def moved(directory: Path, each: Misplaced) -> str:
    """A sentence on what was out of place, and is in the quarantine now.

    Raises:
        OSError: the disk is full, read-only or broken.
    """
    return f"{each.path}: {each.what.replace('is ', 'was ', 1)}; moved to {move_aside(directory, each.path)}"
