"""The tables of a damaged collection, file by file: what is damaged goes aside, and the rows behind it come back from
wherever they still stand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmsearch.errors import CollectionDamaged, CollectionError
from mmsearch.snapshot import Snapshot
from mmsearch.store import ITEMS_TABLE
from mmsearch.store_check import table_paths
from mmsearch.store_checksums import FILE_NAME, TableRecord, read_record
from mmsearch.store_repair import drop_damaged, look
from mmsearch.store_rows import numbers
from mmsearch.store_tables import QUARANTINE_DIRECTORY

Ids = NDArray[np.int64]


def mend_tables(directory: Path) -> list[str]:
    """Sentences on what was done so that every file of the tables is one that was acknowledged, none when all were.

    For the holder of the writer lock, before the tables are opened. Rows may be gone afterwards, and embeddings, that
    the live snapshot has.

    Raises:
        CollectionDamaged: of a table no version is left.
        OSError: the disk is full, read-only or broken.
    """
    sentences = []
    try:
        record = read_record(directory)
    except CollectionDamaged:
        (directory / FILE_NAME).unlink()
        record = {}
        sentences.append(f"{directory / FILE_NAME}: was damaged; the tables are recorded anew, as they are")
    for table in table_paths(directory):
        sound = look(table, record.get(table.relative_to(directory).as_posix(), TableRecord()))
        rescued = _Published(directory) if table.stem == ITEMS_TABLE and sound.bad else None
        sentences += drop_damaged(sound, directory / QUARANTINE_DIRECTORY, rescued=rescued)
    return sentences


class _Published:
    """Chooses the rows of the items table that the live snapshot holds: those are rows that were lost, unchanged."""

    def __init__(self, directory: Path) -> None:
        self._ids, self._revisions = _published(directory)

    def __call__(self, rows: pa.Table) -> NDArray[np.bool_]:
        ids, revisions = numbers(rows, "id"), numbers(rows, "revision")
        if not len(self._ids):
            return np.zeros(len(ids), np.bool_)
        places = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        same: NDArray[np.bool_] = (self._ids[places] == ids) & (self._revisions[places] == revisions)
        return same


def _published(directory: Path) -> tuple[Ids, Ids]:
    """Ids, ascending, and revisions of the live snapshot, as far as its files are what was published."""
    none = np.empty(0, np.int64)
    try:
        with Snapshot.open(directory) as snapshot:
            if any(segment.damaged_files(index_too=False) for segment in snapshot.segments):
                return none, none
            ids, revisions = snapshot.live_keys()
            return ids.copy(), revisions.copy()
    except CollectionError:
        return none, none
