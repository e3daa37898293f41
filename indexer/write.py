"""Changes -> rows in the tables, committed a few hundred files at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mmsearch import manifest as manifests
from mmsearch.indexer.change import Change, Embedding
from mmsearch.store import Item, Store, Tokens, Vectors


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When to commit: after so many files, so many rows (text files have many each), or so many seconds.

    A commit takes LanceDB a few files and some milliseconds, so commits of single files would bloat the table; a kill
    costs at most one batch.
    """

    files: int = 256
    rows: int = 4096
    seconds: float = 5.0


@dataclass(slots=True)
class _Batch:
    """Items in the order of writing, those that stand and only get their embeddings, and the embeddings by id."""

    standing: list[Item] = field(default_factory=list)
    first: list[Item] = field(default_factory=list)
    last: list[Item] = field(default_factory=list)
    embeddings: dict[int, Embedding] = field(default_factory=dict)

    def embeddings_of(self, items: Sequence[Item]) -> tuple[dict[int, Vectors], dict[int, Tokens]]:
        """The new vectors of `items`, and their tokens, by id."""
        found = {item.id: self.embeddings[item.id] for item in items if item.id in self.embeddings}
        tokens = {id: each.tokens for id, each in found.items() if each.tokens is not None}
        return {id: each.vector for id, each in found.items()}, tokens


class Writer:
    """Commits changes in batches, and hands each batch to `committed`, with its items, once it is in the tables."""

    def __init__(
        self,
        directory: Path,
        store: Store,
        committed: Callable[[Sequence[Change], Sequence[Item]], None],
        limits: BatchLimits,
    ) -> None:
        self._directory = directory
        self._store = store
        self._committed = committed
        self._limits = limits
        self._pending: list[Change] = []
        self._rows = 0
        self._oldest = 0.0

    def add(self, changes: Sequence[Change]) -> None:
        """Takes `changes`, all embedded, and commits when there are enough of them or they have waited long enough."""
        for change in changes:
            if not self._pending:
                self._oldest = time.monotonic()
            self._pending.append(change)
            self._rows += len(change.rows)
            waited = time.monotonic() - self._oldest
            limits = self._limits
            if len(self._pending) >= limits.files or self._rows >= limits.rows or waited >= limits.seconds:
                self.commit()

    def commit(self) -> None:
        """Writes what waits, so that a file which is killed halfway still looks changed to the next run.

        Its size and mtime, which say that it is done, stand in its first row: that one is written last, after the rows
        that the file no longer has are gone and those it has more of are there.
        """
        # Decode processes race each other; sorted, the same files get the same ids, up to the bounds of batches.
        changes = sorted(self._pending, key=lambda change: (change.found.root_id, change.found.path))
        self._pending, self._rows = [], 0
        if not changes:
            return
        surplus = [change.takes_over[len(change.rows) :] for change in changes if change.rows]
        if any(map(len, surplus)):
            self._store.delete(np.concatenate(surplus))
        batch = self._numbered(changes)
        if batch.standing:
            self._store.embed(*batch.embeddings_of(batch.standing))
        for items in filter(None, (batch.first, batch.last)):
            self._store.put(items, *batch.embeddings_of(items))
        self._committed(changes, [*batch.standing, *batch.first, *batch.last])

    def _numbered(self, changes: Sequence[Change]) -> _Batch:
        """The items of `changes` with their ids: those taken over as far as they go, then new ones."""
        short = sum(max(len(change.rows) - len(change.takes_over), 0) for change in changes)
        fresh = iter(manifests.reserve_ids(self._directory, short) if short else ())
        batch = _Batch()
        for change in changes:
            taken = change.takes_over.tolist()
            grows = 0 < len(taken) < len(change.rows)
            for place, row in enumerate(change.rows):
                item = replace(row.item, id=taken[place] if place < len(taken) else next(fresh))
                part = batch.last if grows and place < len(taken) else batch.first
                (batch.standing if row.stands else part).append(item)
                if row.embedding is not None:
                    batch.embeddings[item.id] = row.embedding
        return batch
