"""Which gallery items are right for which query: ragged, many to many, never the diagonal of a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsearch.errors import UsageError

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Relevance:
    """The positives of every query, as rows of the gallery.

    The positives of query `q` are `items[offsets[q]:offsets[q + 1]]`, ascending and distinct. A query may have none.
    """

    offsets: Rows
    items: Rows
    gallery: int

    @property
    def queries(self) -> int:
        """The number of queries, those without a positive included."""
        return len(self.offsets) - 1

    @property
    def counts(self) -> Rows:
        """The number of positives of every query, int64 (Q,)."""
        return np.diff(self.offsets)

    def of(self, query: int) -> Rows:
        """Return the gallery rows that are right for `query`, ascending."""
        return self.items[self.offsets[query] : self.offsets[query + 1]]

    def subset(self, queries: Rows) -> Relevance:
        """Return the relevance of some of the queries, in the order given."""
        counts = self.counts[queries]
        items = [self.of(query) for query in queries.tolist()]
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        return Relevance(offsets, np.concatenate([np.empty(0, np.int64), *items]), self.gallery)


def relevance_from_pairs(pairs: npt.ArrayLike, *, queries: int, gallery: int) -> Relevance:
    """Return the relevance that the (query row, gallery row) `pairs` (P, 2) describe. A pair given twice counts once.

    >>> relevance_from_pairs([(0, 2), (1, 0), (0, 1)], queries=2, gallery=3).of(0)
    array([1, 2])

    Raises:
        UsageError: a row is outside the queries or the gallery.
    """
    rows = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    for name, column, size in (("query", rows[:, 0], queries), ("gallery", rows[:, 1], gallery)):
        if len(column) and (column.min() < 0 or column.max() >= size):
            raise UsageError(f"pairs name {name} rows {column.min()} to {column.max()}, expected 0 to {size - 1}")
    keys = np.unique(rows[:, 0] * max(gallery, 1) + rows[:, 1])
    counts = np.bincount(keys // max(gallery, 1), minlength=queries)
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return Relevance(offsets, keys % max(gallery, 1), gallery)
