"""Small files of a table become large ones, and old versions go: when it is worth it, and at the cost of no row."""

from __future__ import annotations

import logging

import numpy as np

from mmsearch.errors import CollectionDamaged, CollectionError
from mmsearch.store_prune import kept_manifests, manifests, prune_old_versions
from mmsearch.store_tables import StoredTable

KEPT_VERSIONS = 10
KEPT_SECONDS = 24 * 3600

# LanceDB calls a file small up to a million rows, and merging writes all of them anew with all that stands beside them:
# so the largest one counts only when what is beside it is worth that, or when there are very many.
_SMALL_FRAGMENTS = 20
_MANY_FRAGMENTS = 400
_SMALL_PART = 0.1
_OLD_VERSIONS = 20
_ROWS_AT_ONCE = 8192

_log = logging.getLogger(__name__)


def fragment_count(table: StoredTable) -> int:
    """How many files hold the rows of `table`: reading it takes longer the more there are."""
    return int(table.statistics()["fragment_stats"]["num_fragments"])


def merge(table: StoredTable, *, force: bool = False) -> bool:
    """Merge small files when there are many of them, or always; true when there is a new version.

    Raises:
        CollectionDamaged: the rows were not the same afterwards, so it was undone.
    """
    if not (force or _has_many_files(table)):
        return False
    version = table.version
    try:
        table.optimize()
    except CollectionError as error:
        _log.warning("small files could not be merged: %s", error)
    if table.version == version:
        return False
    if not _same_rows(table, table.at(version)):
        table.restore(version)
        raise CollectionDamaged(f"{table.path}: merging small files changed the rows, so it was undone")
    return True


def prune(table: StoredTable, *, force: bool = False) -> bool:
    """Drop old versions when there are many, or always; true when some were. The newest 10 and those of the last 24
    hours stay. Readers of the snapshot are not concerned.
    """
    old = len(manifests(table.path)) - len(kept_manifests(table.path, KEPT_VERSIONS, KEPT_SECONDS))
    if old <= 0 or not (force or old >= _OLD_VERSIONS):
        return False
    return prune_old_versions(table.path, KEPT_VERSIONS, KEPT_SECONDS) > 0


def _has_many_files(table: StoredTable) -> bool:
    statistics = table.statistics()
    rows, fragments = int(statistics["num_rows"]), statistics["fragment_stats"]
    count = int(fragments["num_small_fragments"])
    worthwhile = rows - int(fragments["lengths"]["max"]) >= _SMALL_PART * rows
    return count >= _SMALL_FRAGMENTS and (worthwhile or count >= _MANY_FRAGMENTS)


def _same_rows(table: StoredTable, older: StoredTable) -> bool:
    """Whether both hold the same rows, in all columns."""
    ids = table.ids()
    if not np.array_equal(ids, older.ids()):
        return False
    columns = table.schema.names
    blocks = (ids[start : start + _ROWS_AT_ONCE] for start in range(0, len(ids), _ROWS_AT_ONCE))
    return all(table.take(columns, block).equals(older.take(columns, block)) for block in blocks)
