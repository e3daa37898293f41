"""The tables of a collection, read: items and their embeddings by the model in use."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from mmsearch.errors import CollectionDamaged
from mmsearch.store_rows import (
    COUNTED_COLUMNS,
    ITEM_SCHEMA,
    CountKey,
    Item,
    KnownFiles,
    counted,
    items_from_arrow,
    known_files,
    numbers,
    texts,
)
from mmsearch.store_tables import StoredTable, filters
from mmsearch.store_vectors import TOKENS_FIELD, Ids, Tokens, Vectors, tokens_from_arrow, vectors_from_arrow


class StoreReader:
    """What the tables of items and of embeddings hold."""

    def __init__(self, items: StoredTable, vectors: StoredTable) -> None:
        self._items = items
        self._vectors = vectors

    def known_files(self) -> KnownFiles:
        """All rows, in columns."""
        return known_files(self._items.read(KnownFiles.COLUMNS), self._vectors.ids())

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
        return counted(self._items.read(COUNTED_COLUMNS))

    def versions(self) -> dict[str, int]:
        """The version of each table."""
        return {"items": self._items.version, "vectors": self._vectors.version}

    def _damaged(self, error: ValueError) -> CollectionDamaged:
        return CollectionDamaged(f"{self._vectors.path}: {error}; run `mmsearch repair`")
