"""The system of record: one table of items and one of embeddings per model, in LanceDB.

Beside the vector of a picture stand its tokens, if the model has a matching head: in one row, so in one commit.

Every write is a commit of one table, and a kill may come between two. A vector never stands beside a row that tells of
another content: a new item's vector is written before it; an item that gets another vector loses the old one first, is
written, and then gets the new one. In between it has none, as if its embedding were lost, and is embedded again.
Nothing is safe from a power cut before `sync`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmsearch.durable import fsync_tree_new
from mmsearch.errors import CollectionDamaged
from mmsearch.manifest import ModelRef
from mmsearch.store_rows import (
    ITEM_SCHEMA,
    Item,
    KnownFiles,
    items_from_arrow,
    items_to_arrow,
    known_files,
    numbers,
    texts,
)
from mmsearch.store_tables import QUARANTINE_DIRECTORY, StoredTable, filters
from mmsearch.store_vectors import (
    TOKENS_FIELD,
    Tokens,
    Vectors,
    table_name,
    tokens_from_arrow,
    vector_schema,
    vectors_from_arrow,
    vectors_to_arrow,
)

__all__ = ["CountKey", "Item", "KnownFiles", "Store"]

ITEMS_TABLE = "items"
VECTORS_DIRECTORY = "vectors"

Ids = npt.NDArray[np.int64]
_NO_TOKENS: Mapping[int, Tokens] = {}
# kind, status, reason (None unless the status is error), missing
CountKey = tuple[str, str, str | None, bool]


class Store:
    """The tables of one collection, for the holder of the writer lock, or to be read only. A context manager.

    `warnings` says what had to be mended when it was opened, in sentences for a person.
    """

    def __init__(self, directory: Path, model: ModelRef, *, read_only: bool = False) -> None:
        self._directory = directory
        self._dim = model.dim
        quarantine = None if read_only else directory / QUARANTINE_DIRECTORY
        vectors_directory = directory / VECTORS_DIRECTORY
        self._items = StoredTable(directory, ITEMS_TABLE, ITEM_SCHEMA, quarantine=quarantine)
        self._vectors = StoredTable(
            vectors_directory,
            table_name(model.fingerprint),
            vector_schema(model.dim),
            quarantine=quarantine,
            optional=TOKENS_FIELD,
        )
        self.warnings = tuple(table.healed for table in (self._items, self._vectors) if table.healed is not None)
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

    def known_files(self) -> KnownFiles:
        """All rows, in columns."""
        return known_files(self._items.read(KnownFiles.COLUMNS), self._vectors.ids())

    def put(
        self, items: Sequence[Item], vectors: Mapping[int, Vectors], tokens: Mapping[int, Tokens] = _NO_TOKENS
    ) -> None:
        """Insert or replace `items` by id, with the unit embeddings (dim,) in `vectors`, and `tokens` (T, C), by id.

        Items with status error have no vector, and lose the one they had. The others keep theirs when `vectors` has
        none for them. Tokens come and go with the vector. Each item gets a revision larger than any before. Every call
        is a few commits: pass hundreds.

        Raises:
            ValueError: an id comes twice, a vector belongs to no item that can be found, or an item has none at all;
                or tokens come without a vector.
            ModelError: a vector is not `dim` finite numbers of length 1, or tokens are not int8 of two dimensions.
            CollectionError: the disk is full or read-only.
        """
        if not items:
            return
        ids = np.array([item.id for item in items], np.int64)
        found = {item.id for item in items if item.found}
        self._check_put(ids, found, vectors, tokens)
        if tokens:
            self._vectors.require_optional()
        embeddings = vectors_to_arrow(self._vectors.schema, vectors, tokens)
        vector_ids = numbers(embeddings, "id")
        after = np.isin(vector_ids, self._items.ids())
        self._drop_vectors(vector_ids)
        self._add_vectors(embeddings, ~after)
        self._items.write(items_to_arrow(items, self._next_revision()))
        self._add_vectors(embeddings, after)
        self._drop_vectors(np.array([item.id for item in items if not item.found], np.int64))

    def delete(self, ids: Ids) -> None:
        """Remove the items with `ids` and their vectors; ids without an item are ignored."""
        self._items.delete(np.intersect1d(ids, self._items.ids()))
        self._drop_vectors(ids)

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

    def items(self, ids: Ids) -> list[Item]:
        """The items with `ids`, in that order.

        Raises:
            KeyError: there is no item with one of the ids.
        """
        return list(items_from_arrow(self._items.take(ITEM_SCHEMA.names, ids)))

    def vectors(self, ids: Ids) -> Vectors:
        """The embeddings (N, dim) of `ids`, in that order, float32, normalised after their rest in float16.

        Raises:
            KeyError: one of the ids has no vector.
            CollectionDamaged: a vector is not finite or has lost its length.
        """
        column = self._vectors.take(["embedding"], ids).column("embedding")
        try:
            return vectors_from_arrow(column, ids)
        except ValueError as error:
            raise self._damaged(error) from error

    def tokens(self, ids: Ids) -> list[Tokens | None]:
        """The tokens (T, C) of each of `ids`, in that order, None for those that have none.

        Raises:
            KeyError: one of the ids has no vector.
            CollectionDamaged: tokens are not what was written.
        """
        if not self._vectors.has_optional:
            return [None] * len(ids)
        column = self._vectors.take([TOKENS_FIELD.name], ids).column(TOKENS_FIELD.name)
        try:
            return tokens_from_arrow(column, ids)
        except ValueError as error:
            raise self._damaged(error) from error

    def revisions(self, *, found_only: bool = True) -> tuple[Ids, Ids]:
        """Ids (N,), ascending, and revisions (N,) of the items; with `found_only` of those a snapshot has to hold.

        These have status ok or partial, and an embedding of the model in use.
        """
        table = self._items.read(["id", "revision", "status"])
        ids, revisions = numbers(table, "id"), numbers(table, "revision")
        if found_only:
            found = (texts(table, "status") != "error") & np.isin(ids, self._vectors.ids())
            ids, revisions = ids[found], revisions[found]
        order = np.argsort(ids, kind="stable")
        return ids[order], revisions[order]

    def errors(self) -> Iterator[Item]:
        """The items with status error."""
        expressions = filters()
        only_errors = expressions.col("status") == expressions.lit("error")
        for batch in self._items.batches(ITEM_SCHEMA.names, where=only_errors):
            yield from items_from_arrow(pa.Table.from_batches([batch]))

    def counts(self) -> dict[CountKey, int]:
        """How many items there are of each kind, status, reason, and missing or not."""
        table = self._items.read(["kind", "status", "reason", "missing_since"])
        columns = [table.column(name) for name in ("kind", "status", "reason")]
        missing = table.column("missing_since").is_valid()
        keys = pa.table([*columns, missing], names=["kind", "status", "reason", "missing"])
        grouped = keys.group_by(keys.column_names).aggregate([([], "count_all")])
        rows = zip(*(grouped.column(name).to_pylist() for name in grouped.column_names), strict=True)
        return {(kind, status, reason, missing): count for kind, status, reason, missing, count in rows}

    def sweep(self) -> int:
        """How many vectors were removed because no item that can be found has their id: what a killed run leaves."""
        table = self._items.read(["id", "status"])
        found = numbers(table, "id")[texts(table, "status") != "error"]
        stray = np.setdiff1d(self._vectors.ids(), found)
        self._vectors.delete(stray)
        return len(stray)

    def sync(self) -> None:
        """Push to the disk what was written since the last call, and at the first call everything there is.

        Files are pushed before the directories that name them. LanceDB itself never does this.

        Raises:
            OSError: the disk refuses; nothing written since the last call may be called safe.
        """
        for table in (self._vectors, self._items):
            fsync_tree_new(table.path, self._synced)

    def versions(self) -> dict[str, int]:
        """The version of each table."""
        return {"items": self._items.version, "vectors": self._vectors.version}

    def optimize(self, *, force: bool = False) -> None:
        """Merge small files and drop old versions, where there are many of them; cheap to call when there are not.

        Raises:
            CollectionDamaged: merging changed the rows of a table; it was undone.
        """
        for table in (self._items, self._vectors):
            table.optimize(force=force)

    def _check_put(
        self, ids: Ids, found: set[int], vectors: Mapping[int, Vectors], tokens: Mapping[int, Tokens]
    ) -> None:
        if len(np.unique(ids)) != len(ids):
            raise ValueError("an item id comes twice in one put")
        strangers = vectors.keys() - found
        if strangers:
            raise ValueError(f"vector {min(strangers)} belongs to no item that can be found")
        bare = tokens.keys() - vectors.keys()
        if bare:
            raise ValueError(f"tokens {min(bare)} come without a vector")
        expected = np.array(sorted(found - vectors.keys()), np.int64)
        without = np.setdiff1d(expected, self._vectors.ids())
        if len(without):
            raise ValueError(f"item {without[0]} can be found but has no vector, neither new nor stored")

    def _add_vectors(self, rows: pa.Table, chosen: npt.NDArray[np.bool_]) -> None:
        if chosen.any():
            self._vectors.add(rows.filter(pa.array(chosen)))

    def _drop_vectors(self, ids: Ids) -> None:
        """Remove the vectors with `ids`; ids without one are ignored."""
        stored = np.intersect1d(ids, self._vectors.ids())
        if len(stored):
            self._vectors.delete(stored)

    def _damaged(self, error: ValueError) -> CollectionDamaged:
        return CollectionDamaged(f"{self._vectors.path}: {error}; run `mmsearch repair`")

    def _next_revision(self) -> int:
        self._revision += 1
        return self._revision
