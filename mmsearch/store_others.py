"""The embeddings of the models that are not in use: those of an old model that is kept, or of a new one on its way.

They belong to the same items as those in use. So that none ever stands beside an item with another content, whoever
changes items drops the embeddings here first, and drops them durably. For the same reason no table here falls back to
an older version: what was dropped since would be back.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from mmsearch.durable import fsync_dir, fsync_tree_new, make_directory
from mmsearch.errors import CollectionDamaged, CollectionError
from mmsearch.manifest_models import ModelRef
from mmsearch.store_errors import refusal
from mmsearch.store_prune import manifests
from mmsearch.store_tables import StoredTable
from mmsearch.store_vectors import TOKENS_FIELD, Ids, vector_schema

# A directory with this ending is on its way out: half of a table must not be taken for a damaged one.
_REMOVED = ".removed"


class OtherVectors:
    """All tables of embeddings in `directory` but the one called `own`, for the holder of the writer lock.

    One whose newest version is damaged is moved to `quarantine`; `warnings` says so in sentences for a person.

    Raises:
        CollectionError: the operating system does not let one be read, which says nothing about what it holds.
    """

    def __init__(self, directory: Path, own: str, *, quarantine: Path) -> None:
        self._directory = directory
        self._synced: set[tuple[str, int, int]] = set()
        self._tables: dict[str, StoredTable] = {}
        warnings = []
        for leftover in directory.glob(f"*{_REMOVED}"):
            shutil.rmtree(leftover)
        for path in sorted(directory.glob("*.lance")):
            if path.stem == own or not _is_committed(path):
                continue
            try:
                self._tables[path.stem] = _as_it_is(directory, path.stem)
            except CollectionDamaged as error:
                reason = str(error).removesuffix("; run `mmsearch repair`")
                warnings.append(f"{reason}; moved to {_aside(path, quarantine)}: what it held is embedded again")
        self.warnings = tuple(warnings)

    def __bool__(self) -> bool:
        return bool(self._tables)

    def models(self) -> Iterator[ModelRef]:
        """The models that have embeddings here. Tables know no names: a fingerprint is all the name they get."""
        for fingerprint, table in self._tables.items():
            one = table.take(["embedding"], table.ids()[:1])
            if len(one):
                yield ModelRef(fingerprint, fingerprint, one.schema.field("embedding").type.list_size)

    def drop(self, ids: Ids) -> None:
        """Remove the embeddings of `ids`, durably; ids without one are ignored."""
        for table in self._tables.values():
            stored = np.intersect1d(ids, table.ids())
            if len(stored):
                table.delete(stored)
                fsync_tree_new(table.path, self._synced)

    def sweep(self, found: Ids) -> int:
        """How many embeddings were removed because `found` has not their ids."""
        strays = [np.setdiff1d(table.ids(), found) for table in self._tables.values()]
        for table, stray in zip(self._tables.values(), strays, strict=True):
            table.delete(stray)
        return sum(map(len, strays))

    def sync(self) -> None:
        """Push to the disk what was written since the last call, and at the first call everything there is."""
        for table in self._tables.values():
            fsync_tree_new(table.path, self._synced)

    @property
    def tables(self) -> tuple[StoredTable, ...]:
        """The tables themselves."""
        return tuple(self._tables.values())

    def remove_all_but(self, kept: Collection[str]) -> None:
        """Remove the tables of all models whose fingerprints are not in `kept`.

        Raises:
            OSError: the operating system does not let one be removed; the next writer removes it.
        """
        for fingerprint in [each for each in self._tables if each not in kept]:
            table = self._tables.pop(fingerprint)
            table.close()
            removed = table.path.with_suffix(_REMOVED)
            table.path.rename(removed)
            fsync_dir(self._directory)
            shutil.rmtree(removed)

    def close(self) -> None:
        """Let go of the tables."""
        for table in self._tables.values():
            table.close()


def _is_committed(table: Path) -> bool:
    """Whether the table has a version: one whose making was killed before its first has none."""
    try:
        os.listdir(table / "_versions")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _refused(table, error.strerror or str(error)) from error
    return bool(manifests(table))


def _as_it_is(directory: Path, name: str) -> StoredTable:
    """The newest version of a table, whatever its dimension: no row is written here."""
    try:
        return StoredTable(directory, name, vector_schema(1), quarantine=None, optional=TOKENS_FIELD)
    except CollectionDamaged as error:
        reason = refusal(error)
        if reason is None:
            raise
        raise _refused(directory / f"{name}.lance", reason) from error


def _refused(table: Path, reason: str) -> CollectionError:
    return CollectionError(
        f"{table}: cannot be read ({reason}); see that this user may read it, that more files can be opened and that"
        " the disk is sound, then run it again; should it stay so, move it away: what it holds is embedded again"
    )


def _aside(table: Path, quarantine: Path) -> Path:
    make_directory(quarantine)
    aside = quarantine / f"{table.name}-{time.time_ns()}"
    table.rename(aside)
    fsync_dir(table.parent)
    fsync_dir(quarantine)
    return aside
