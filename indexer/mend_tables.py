"""The tables of a damaged collection, file by file: what is damaged goes aside, and the rows behind it come back from
wherever they still stand.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmsearch.errors import CollectionDamaged, CollectionError
from mmsearch.indexer.publish import among
from mmsearch.indexer.quarantine import move_aside
from mmsearch.segment import ROWS_FILE
from mmsearch.snapshot import Snapshot
from mmsearch.store import ITEMS_TABLE
from mmsearch.store_check import table_paths
from mmsearch.store_checksums import FILE_NAME, VERSIONS, Checksums, Lack, TableRecord, read_record
from mmsearch.store_prune import manifest_number
from mmsearch.store_repair import Sound, drop_damaged, look
from mmsearch.store_rows import numbers
from mmsearch.store_tables import QUARANTINE_DIRECTORY

Ids = NDArray[np.int64]


def mend_tables(directory: Path) -> list[str]:
    """Sentences on what was done so that every file of the tables is one that was acknowledged, none when all were.

    For the holder of the writer lock, before the tables are opened. Rows may be gone afterwards, and embeddings, that
    the live snapshot has. The record says so before anything is done: should this process be killed, the next one that
    opens the tables puts them back.

    Raises:
        CollectionDamaged: of a table no version is left.
        OSError: the disk is full, read-only or broken.
    """
    sentences = []
    try:
        read_record(directory)
    except CollectionDamaged:
        move_aside(directory, directory / FILE_NAME)
        sentences.append(f"{directory / FILE_NAME}: was damaged; the tables are recorded anew, as they are")
    checksums = Checksums(directory)
    for table in table_paths(directory):
        record = checksums.table(table)
        sound = look(table, record)
        if lack := _lack(sound, record):
            checksums.note_lack(table, lack)
        rescued = _Published(directory) if table.stem == ITEMS_TABLE and sound.bad else None
        moved = partial(checksums.forget_gone_versions, table)
        sentences += drop_damaged(sound, directory / QUARANTINE_DIRECTORY, rescued=rescued, moved=moved)
    return sentences


def _lack(sound: Sound, record: TableRecord) -> Lack:
    """What the table will lack when it is without its damaged files."""
    if sound.head is None:
        return ""
    damaged = [Path(name) for name in sound.bad if name.startswith(VERSIONS)]
    newest = max([record.version, *(manifest_number(path) for path in damaged if path.stem.isdigit())])
    if newest > sound.head.number:
        return "newest"
    return "" if all(sound.is_whole(each) for each in sound.head.fragments) else "rows"


class _Published:
    """Chooses the rows of the items table that the live snapshot holds: those are rows that were lost, unchanged."""

    def __init__(self, directory: Path) -> None:
        self._ids, self._revisions = _published(directory)

    def __call__(self, rows: pa.Table) -> NDArray[np.bool_]:
        return among(numbers(rows, "id"), numbers(rows, "revision"), self._ids, self._revisions)


def _published(directory: Path) -> tuple[Ids, Ids]:
    """Ids, ascending, and revisions of the live snapshot, as far as its lists of rows are what was published."""
    ids, revisions = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    try:
        with Snapshot.open(directory) as snapshot:
            for number, segment in enumerate(snapshot.segments):
                if not segment.damaged_files(among=frozenset({ROWS_FILE})):
                    rows = segment.rows[snapshot.live_rows(number)]
                    ids.append(rows["id"])
                    revisions.append(rows["revision"])
            order = np.argsort(np.concatenate(ids), kind="stable")
            return np.concatenate(ids)[order], np.concatenate(revisions)[order]
    except CollectionError:
        return ids[0], revisions[0]
