"""What the tables and the snapshot of a collection hold, read as they are, in the terms of the oracle."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from stateful_disk import Place
from stateful_oracle import Known, Part

from mmsearch import manifest as manifests
from mmsearch.errors import CollectionNotFound
from mmsearch.manifest import ModelRef
from mmsearch.snapshot import Candidate, Snapshot
from mmsearch.store import Item, Store

Key = tuple[Place, int]


@dataclass(frozen=True)
class Shown:
    """One row of a snapshot."""

    id: int
    missing: bool
    embedding: NDArray[np.float32]


@dataclass(frozen=True)
class Tables:
    """`rows` of all files, the `items` behind them, and for each model the embeddings by id."""

    rows: dict[Place, Known]
    items: tuple[Item, ...]
    embeddings: dict[str, dict[int, NDArray[np.float32]]]


def read_tables(collection: Path, base: Path, models: Iterable[ModelRef]) -> Tables:
    """The tables in `collection`, of files in roots below `base`. A model without a table has no embeddings."""
    embeddings: dict[str, dict[int, NDArray[np.float32]]] = {}
    items: list[Item] = []
    for model in models:
        try:
            store = Store.open(collection, model, read_only=True)
        except CollectionNotFound:
            continue
        with store:
            known = store.known_files()
            items = store.items(known.ids)
            # Of all rows, not only of those that a query should find.
            ids = store._vectors.ids()
            embeddings[model.fingerprint] = dict(zip(ids.tolist(), store.vectors(ids), strict=True))
    by = {model: frozenset(own) for model, own in embeddings.items()}
    return Tables(_rows(_by_place(items, collection, base), by), tuple(items), embeddings)


def read_snapshot(collection: Path, base: Path) -> tuple[str, dict[Key, Shown]] | None:
    """The fingerprint and the rows of the live snapshot, None before the first."""
    rows: dict[Key, Shown] = {}
    try:
        snapshot = Snapshot.open(collection)
    except CollectionNotFound:
        return None
    with snapshot:
        for number, segment in enumerate(snapshot.segments):
            for place in snapshot.live_rows(number).tolist():
                row = snapshot.row(Candidate(number, place, int(segment.ids[place]), 0.0))
                vector = snapshot.vector(row.id)
                assert vector is not None
                key = place_of(row.path, base), row.part
                assert key not in rows, f"two rows of a snapshot have the key {key}"
                rows[key] = Shown(row.id, row.missing, vector.copy())
        return snapshot.fingerprint, rows


def place_of(path: bytes | str, base: Path) -> Place:
    """The place that an absolute path names."""
    root, _, below = os.path.relpath(os.fsdecode(path), base).partition("/")
    return root, below


def _by_place(items: Iterable[Item], collection: Path, base: Path) -> dict[Place, list[Item]]:
    roots = {root.id: Path(os.fsdecode(root.path)).name for root in manifests.read(collection).roots}
    files: dict[Place, list[Item]] = {}
    for item in items:
        files.setdefault((roots[item.root_id], os.fsdecode(item.path)), []).append(item)
    return files


def _rows(files: Mapping[Place, list[Item]], by: Mapping[str, frozenset[int]]) -> dict[Place, Known]:
    return {place: _known(sorted(items, key=lambda item: item.part), by) for place, items in files.items()}


def _known(items: list[Item], by: Mapping[str, frozenset[int]]) -> Known:
    first = items[0]
    stats = {(item.size, item.mtime_ns) for item in items}
    known = Known(
        kind=first.kind,
        digest=first.hash,
        stat=stats.pop() if len(stats) == 1 else (-1, -1),
        parts=tuple(_part(item, by) for item in items),
        reason=first.reason,
        missing=first.missing_since is not None,
    )
    numbers = [item.part for item in items]
    torn = numbers != list(range(len(items))) or len({item.hash for item in items}) > 1
    return replace(known, torn=torn, headless=numbers[0] != 0)


def _part(item: Item, by: Mapping[str, frozenset[int]]) -> Part:
    embeds: bytes | str | None = None
    if item.found:
        embeds = item.text if item.kind == "text" else item.hash
    return Part(item.id, embeds, frozenset(model for model, ids in by.items() if item.id in ids))
