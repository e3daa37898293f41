"""A multimap of 64-bit integers that takes 16 bytes a pair, where a dictionary takes ten times that."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.int64]
NO_ROWS: Rows = np.empty(0, np.int64)


class Lookup:
    """int64 keys -> every value stored under a key, in 16 bytes a pair.

    New pairs gather in a small dictionary and are merged into the sorted arrays when it is full.
    """

    MERGE_AT = 16_384

    def __init__(self, keys: Rows = NO_ROWS, values: Rows | None = None) -> None:
        """Without `values`, those of `keys` are their positions."""
        order = np.argsort(keys, kind="stable").astype(np.int64)
        self._keys = keys[order]
        self._values = order if values is None else values[order]
        self._new: dict[int, list[int]] = {}
        self._new_count = 0

    def find(self, key: int, *, limit: int | None = None) -> Rows:
        """The values under `key` in the order they came in, at most `limit`; empty when there is none."""
        # A typed key: a bare int would make numpy guess, and convert the whole array, for keys above 2**31.
        start = int(np.searchsorted(self._keys, np.int64(key), side="left"))
        end = int(np.searchsorted(self._keys, np.int64(key), side="right"))
        if limit is not None:
            end = min(end, start + limit)
        values = self._values[start:end]
        if new := self._new.get(key):
            values = np.concatenate([values, np.asarray(new, np.int64)])[:limit]
        return values

    def add(self, key: int, value: int) -> None:
        """Stores one more value under `key`."""
        self._new.setdefault(key, []).append(value)
        self._new_count += 1
        if self._new_count >= self.MERGE_AT:
            self._merge()

    def _merge(self) -> None:
        pairs = [(key, value) for key, values in self._new.items() for value in values]
        new = np.asarray(pairs, np.int64).reshape(-1, 2)
        keys = np.concatenate([self._keys, new[:, 0]])
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._values = np.concatenate([self._values, new[:, 1]])[order]
        self._new, self._new_count = {}, 0
