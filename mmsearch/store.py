"""The system of record: one table of items and one of embeddings per model, in LanceDB.

Beside the vector of a picture stand its tokens, if the model has a matching head: in one row, so in one commit.

Every write is a commit of one table, and a kill may come between two. A vector never stands beside a row that tells of
another content: a new item's vector is written before it; an item that gets another vector loses the old one first, is
written, and then gets the new one. In between it has none, as if its embedding were lost, and is embedded again.
Vectors of other models follow: an item whose content changes loses them before it is written. Nothing is safe from a
power cut before `sync`; but of these three steps none reaches the disk before the one it follows.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmsearch.durable import fsync_tree_new
from mmsearch.manifest import ModelRef
from mmsearch.store_checksums import Checksums, Lack
from mmsearch.store_compaction import fragment_count, merge, prune
from mmsearch.store_others import OtherVectors
from mmsearch.store_reader import StoreReader
from mmsearch.store_rows import (
    CONTENT_COLUMNS,
    ITEM_SCHEMA,
    CountKey,
    Item,
    KnownFiles,
    items_to_arrow,
    numbers,
    same_content,
    texts,
)
from mmsearch.store_tables import QUARANTINE_DIRECTORY, StoredTable
from mmsearch.store_vectors import (
    TOKENS_FIELD,
    Ids,
    Tokens,
    Vectors,
    require_fitting,
    require_vectors,
    table_name,
    vector_schema,
    vectors_to_arrow,
)

__all__ = ["CountKey", "Item", "KnownFiles", "Store", "Tokens", "Vectors"]

ITEMS_TABLE = "items"
VECTORS_DIRECTORY = "vectors"

_NO_TOKENS: Mapping[int, Tokens] = {}


class Store(StoreReader):
    """The tables of one collection, for the holder of the writer lock, or to be read only. A context manager.

    `warnings` says what had to be mended when it was opened, in sentences for a person. `went_back` says whether the
    items or the vectors are older than they were, and `lacks_rows` whether some are gone from them: now, or in a run
    that was killed before the live snapshot had given them back.
    """

    def __init__(self, directory: Path, model: ModelRef, *, read_only: bool = False) -> None:
        self._directory = directory
        quarantine = None if read_only else directory / QUARANTINE_DIRECTORY
        vectors_directory = directory / VECTORS_DIRECTORY
        name, schema = table_name(model.fingerprint), vector_schema(model.dim)
        self._checksums = Checksums(directory) if quarantine is not None else None
        proven = None if self._checksums is None else self._checksums.acknowledged
        items = StoredTable(directory, ITEMS_TABLE, ITEM_SCHEMA, quarantine=quarantine, acknowledged=proven)
        vectors = StoredTable(
            vectors_directory, name, schema, quarantine=quarantine, optional=TOKENS_FIELD, acknowledged=proven
        )
        super().__init__(items, vectors)
        self._others = None if quarantine is None else OtherVectors(vectors_directory, name, quarantine=quarantine)
        older = [sentence for table in (items, vectors) if (sentence := self._older(table)) is not None]
        self.went_back = bool(older) or self.is_behind
        self.lacks_rows = bool(self._lacks())
        self.warnings = (*older, *(() if self._others is None else self._others.warnings))
        self._synced: set[tuple[str, int, int]] = set()
        # Time keeps revisions from coming back after a newest version was lost; counting on keeps them growing.
        newest = numbers(self._items.read(["revision"]), "revision").max(initial=0)
        self._revision = max(int(newest), time.time_ns() // 1000)

    @classmethod
    def open(cls, directory: Path, model: ModelRef, *, read_only: bool = False) -> Self:
        """The tables in `directory` with the embeddings of `model`; those that are absent are created.

        `read_only` needs no lock: nothing is created or mended, and nothing may be written.

        Raises:
            CollectionNotFound: a table is absent, with `read_only`.
            CollectionDamaged: no version of a table can be read; with `read_only`, the newest one cannot.
        """
        return cls(directory, model, read_only=read_only)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the tables."""
        self._items.close()
        self._vectors.close()
        if self._others is not None:
            self._others.close()

    def put(
        self,
        items: Sequence[Item],
        vectors: Mapping[int, Vectors],
        tokens: Mapping[int, Tokens] = _NO_TOKENS,
        *,
        bare: bool = False,
    ) -> None:
        """Insert or replace `items` by id, with the unit embeddings (dim,) in `vectors`, and `tokens` (T, C), by id.

        Items with status error have no vector, and lose the one they had. The others keep theirs when `vectors` has
        none for them. Tokens come and go with the vector, and vectors of other models stay with items whose content
        does. Each item gets a revision larger than any before. Every call is a few commits: pass hundreds.
        With `bare` new items may come without a vector, as after it was lost.

        Raises:
            ValueError: an id comes twice, a vector belongs to no item that can be found, or a new item has none;
                or tokens come without a vector.
            ModelError: a vector is not `dim` finite numbers of length 1, or tokens are not int8 of two dimensions.
            CollectionError: the disk is full or read-only.
        """
        if not items:
            return
        ids = np.array([item.id for item in items], np.int64)
        found = {item.id for item in items if item.found}
        require_fitting(ids, found, known=ids if bare else self._items.ids(), vectors=vectors, tokens=tokens)
        if tokens:
            self._vectors.require_optional()
        embeddings = vectors_to_arrow(self._vectors.schema, vectors, tokens)
        vector_ids = numbers(embeddings, "id")
        after = np.isin(vector_ids, self._items.ids())
        rows = items_to_arrow(items, self._next_revision())
        self._drop_other_vectors(rows)
        if self._drop_vectors(vector_ids) or after.any():
            # A power cut must not bring back an old vector beside a row that it lets stand: not one that a killed run
            # has dropped either.
            fsync_tree_new(self._vectors.path, self._synced)
        self._add_vectors(embeddings, ~after)
        self._items.write(rows)
        self._add_vectors_of_rows(embeddings, after)
        lost = np.array([item.id for item in items if not item.found], np.int64)
        self._drop_vectors(lost)
        if self._others:
            self._others.drop(lost)

    def embed(self, vectors: Mapping[int, Vectors], tokens: Mapping[int, Tokens] = _NO_TOKENS) -> None:
        """Give items, which stay as they are, the unit embeddings (dim,) in `vectors` and the `tokens` (T, C), by id.

        For items that lack the embedding of the model in use; should one have it, it is replaced.

        Raises:
            ValueError: there is no item with one of the ids, or tokens come without a vector.
            ModelError, CollectionError: as `put`.
        """
        strangers = np.setdiff1d(np.array(list(vectors), np.int64), self._items.ids())
        if len(strangers):
            raise ValueError(f"vector {strangers[0]} belongs to no item")
        require_vectors(tokens, vectors)
        if tokens:
            self._vectors.require_optional()
        embeddings = vectors_to_arrow(self._vectors.schema, vectors, tokens)
        self._drop_vectors(numbers(embeddings, "id"))
        self._add_vectors_of_rows(embeddings, np.ones(len(embeddings), np.bool_))

    def forget(self, ids: Ids) -> None:
        """Remove the embeddings of `ids`, whose items stay: they are read again."""
        self._drop_vectors(ids)

    def delete(self, ids: Ids) -> None:
        """Remove the items with `ids` and their vectors; ids without an item are ignored."""
        self._items.delete(np.intersect1d(ids, self._items.ids()))
        self._drop_vectors(ids)
        if self._others:
            self._others.drop(ids)

    def mark_missing(self, ids: Ids, since: int | None) -> None:
        """Note that the files of `ids` were not seen since the Unix second `since`, or with None that they are back.

        Raises:
            KeyError: there is no item with one of the ids.
        """
        if not len(ids):
            return
        rows = self._items.take(ITEM_SCHEMA.names, np.unique(ids))
        changed = {"missing_since": since, "revision": self._next_revision()}
        for name, value in changed.items():
            column = pa.array([value] * len(rows), ITEM_SCHEMA.field(name).type)
            rows = rows.set_column(rows.schema.get_field_index(name), ITEM_SCHEMA.field(name), column)
        self._items.replace(rows)

    def sweep(self) -> int:
        """How many vectors were removed because no item that can be found has their id: what a killed run leaves."""
        table = self._items.read(["id", "status"])
        found = numbers(table, "id")[texts(table, "status") != "error"]
        stray = np.setdiff1d(self._vectors.ids(), found)
        self._vectors.delete(stray)
        return len(stray) + (self._others.sweep(found) if self._others else 0)

    def other_models(self) -> tuple[ModelRef, ...]:
        """The other models that have embeddings here, under their fingerprints: names are not in the tables."""
        return tuple(self._others.models()) if self._others else ()

    def remove_models_but(self, kept: Collection[ModelRef]) -> None:
        """Remove the embeddings of all models that are neither in use nor among `kept`.

        Raises:
            OSError: the operating system does not let some be removed; what is left can be removed later.
        """
        if self._others:
            self._others.remove_all_but({each.fingerprint for each in kept})

    def sync(self) -> None:
        """Push to the disk what was written since the last call, and at the first call everything there is.

        Files are pushed before the directories that name them. LanceDB itself never does this.

        Raises:
            OSError: the disk refuses; nothing written since the last call may be called safe.
        """
        if self._others:
            self._others.sync()
        for table in (self._vectors, self._items):
            fsync_tree_new(table.path, self._synced)
        if self._checksums is not None:
            self._checksums.refresh(self._all_versions())

    @property
    def is_behind(self) -> bool:
        """Whether the items or the vectors are older than what was acknowledged: a vector may then tell of what its
        item was once, or will be.
        """
        return "newest" in self._lacks()

    def settle(self, *, rows_too: bool) -> None:
        """Note durably that each vector fits its item again, and with `rows_too` that nothing is lacking that can be
        had back.

        Raises:
            OSError: as `sync`.
        """
        if self._checksums is not None and self._lacks():
            own = (self._items.path, self._vectors.path)
            self._checksums.settle_lack(own, "" if rows_too else "rows")
            self.sync()

    @property
    def is_recorded(self) -> bool:
        """Whether the checksums of all files of the tables are stored; `sync` sees to it."""
        return self._checksums is None or self._checksums.covers(self._all_versions())

    def optimize(self, *, force: bool = False) -> None:
        """Merge small files and drop old versions, where there are many of them; cheap to call when there are not.

        Nothing of an old version is dropped before what takes its place is on the disk.

        Raises:
            CollectionDamaged: merging changed the rows of a table; it was undone.
        """
        for step in (merge, prune):
            if sum(step(table, force=force) for table in self._tables()):
                self.sync()

    def prune(self) -> None:
        """Drop old versions, which needs no room: the newest 10 and those of the last 24 hours stay."""
        if sum(prune(table, force=True) for table in self._tables()):
            self.sync()

    def fragments(self) -> int:
        """How many files hold the rows of all tables: searching through them takes longer the more there are."""
        return sum(fragment_count(table) for table in self._tables())

    def _drop_other_vectors(self, rows: pa.Table) -> None:
        """Remove other models' vectors of those of `rows`, about to be written, that have another content now."""
        if not self._others:
            return
        ids = numbers(rows, "id")
        known = np.isin(ids, self._items.ids())
        stored = self._items.take(CONTENT_COLUMNS, ids[known])
        same = same_content(rows.filter(pa.array(known)), stored)
        self._others.drop(ids[known][~same])

    def _add_vectors(self, rows: pa.Table, chosen: npt.NDArray[np.bool_]) -> None:
        if chosen.any():
            self._vectors.add(rows.filter(pa.array(chosen)))

    def _add_vectors_of_rows(self, rows: pa.Table, chosen: npt.NDArray[np.bool_]) -> None:
        """Adds vectors of items that are written, after these are safe: a power cut must not leave an item as it was
        before beside what it has become.
        """
        if chosen.any():
            fsync_tree_new(self._items.path, self._synced)
            self._add_vectors(rows, chosen)

    def _drop_vectors(self, ids: Ids) -> int:
        """How many vectors with `ids` were removed; ids without one are ignored."""
        stored = np.intersect1d(ids, self._vectors.ids())
        if len(stored):
            self._vectors.delete(stored)
        return len(stored)

    def _all_versions(self) -> dict[Path, int]:
        return {table.path: table.version for table in self._tables()}

    def _tables(self) -> tuple[StoredTable, ...]:
        """Every table, those of the models that are not in use too."""
        return (self._items, self._vectors, *(() if self._others is None else self._others.tables))

    def _older(self, table: StoredTable) -> str | None:
        """A sentence if `table` is older than it was."""
        healed = table.healed is not None
        behind = self._checksums is not None and self._checksums.went_back(table.path, table.version, healed=healed)
        if behind and table.is_new:
            return f"{table.path}: was gone; an empty table was made in its place"
        if behind and table.healed is None:
            return f"{table.path}: its newest version is gone; version {table.version} is used"
        return table.healed

    def _lacks(self) -> set[Lack]:
        tables = () if self._checksums is None else (self._items, self._vectors)
        return {self._checksums.lack(each.path) for each in tables if self._checksums is not None} - {""}

    def _next_revision(self) -> int:
        self._revision += 1
        return self._revision
