"""What the tables have lost, put back from the live snapshot: it holds every item that was acknowledged.

A snapshot knows where an item lies, what it is and its embedding, but neither its file's hash nor its times. So an item
that comes from there looks changed to the next run, and is read again if its file can be; until then it is found as
before, under the same id. Embeddings fit the rows that have the same revision, and no others.

First every embedding goes that may tell of another content than its row, and that is made safe. Only then is put back
what is lacking: what is there fits from then on, and a run that is killed goes on there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmsearch import manifest as manifests
from mmsearch.errors import CollectionDamaged, CollectionNotFound
from mmsearch.indexer.publish import among
from mmsearch.manifest import ModelRef
from mmsearch.segment import CATALOG_FILES, SEGMENT_FILES, SegmentRow
from mmsearch.snapshot import Snapshot
from mmsearch.store import Item, Store, Tokens, Vectors

_ROWS_AT_ONCE = 4096
# How far a vector of length 1 may be from itself after its numbers were rounded to float16 twice.
_ROUNDING = 2e-3

Ids = NDArray[np.int64]
Chosen = NDArray[np.bool_]
_NONE: Ids = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class _Held:
    """The rows of a snapshot in columns of one length: ids, revisions, roots, and where they stand."""

    ids: Ids
    revisions: Ids
    root_ids: Ids
    segments: Ids
    rows: Ids


def restored(directory: Path, store: Store, model: ModelRef) -> list[str]:
    """Sentences on what the live snapshot gave back to tables that lack something since something befell them, none
    where none does.

    Raises:
        CollectionDamaged: what is needed was embedded by another model than `model`, that of `store`.
    """
    return restore(directory, store, model) if store.went_back or store.lacks_rows else []


def restore(directory: Path, store: Store, model: ModelRef) -> list[str]:
    """Sentences on what the live snapshot gave back to the tables, whatever they lack.

    Raises:
        CollectionDamaged: as `restored`.
    """
    try:
        snapshot = Snapshot.open(directory)
    except (CollectionNotFound, CollectionDamaged):
        if store.went_back:
            store.forget(store.known_files().ids)
        sentences = []
    else:
        with snapshot:
            sentences = list(_restored(directory, store, model, snapshot))
    store.settle(rows_too=True)
    return sentences


def _restored(directory: Path, store: Store, model: ModelRef, snapshot: Snapshot) -> Iterator[str]:
    held = _held(snapshot)
    lost = _lost_items(directory, store, held)
    same_model = snapshot.fingerprint == model.fingerprint
    if lost.any() and not same_model:
        raise CollectionDamaged(f"{directory}: the tables have lost {lost.sum():,} items; run `mmsearch repair`")
    usable = _sound(snapshot, held, SEGMENT_FILES)
    listed = usable if usable.all() else _sound(snapshot, held, CATALOG_FILES)
    if store.is_behind:
        store.forget(_doubtful(store, snapshot, held, usable & same_model))
    elif store.went_back:
        store.forget(_unproven(store, held))
    store.settle(rows_too=False)
    if not same_model:
        return
    items = _put_items(store, snapshot, held, lost & listed, usable)
    if items:
        yield f"{items:,} items were put back from snapshot {snapshot.number}; the next index reads their files again"
    if beyond := int(np.count_nonzero(lost & ~listed)):
        yield f"{beyond:,} items are lost: their files, if they are there, come in anew with the next index"
    vectors = _put_vectors(store, snapshot, held, _bare(store, held) & usable)
    if vectors:
        yield f"{vectors:,} embeddings were put back from snapshot {snapshot.number}"


def _sound(snapshot: Snapshot, held: _Held, files: frozenset[str]) -> Chosen:
    """For each row whether those `files` of its segment are what was published."""
    sound = [not segment.damaged_files(index_too=False, among=files) for segment in snapshot.segments]
    return np.array(sound, np.bool_)[held.segments] if len(held.segments) else np.zeros(0, np.bool_)


def _held(snapshot: Snapshot) -> _Held:
    columns: list[list[Ids]] = [[_NONE] * 5]
    for number, segment in enumerate(snapshot.segments):
        rows = snapshot.live_rows(number)
        table = segment.rows[rows]
        columns.append([table["id"], table["revision"], table["root_id"], np.full(len(rows), number), rows])
    return _Held(*(np.concatenate(each) for each in zip(*columns, strict=True)))


def _unproven(store: Store, held: _Held) -> Ids:
    """Ids of rows that the snapshot does not hold as they are: an older vector may be of what they were before. For
    tables that lack nothing that was acknowledged: of rows that a snapshot holds their vectors were safe as well.
    """
    ids, revisions = store.revisions()
    return ids[~_same(ids, revisions, held)]


def _doubtful(store: Store, snapshot: Snapshot, held: _Held, usable: Chosen) -> Ids:
    """Ids of rows whose vector is not the one of a `usable` row of the snapshot, which is as they are. Nothing else is
    proof: the vectors may be from any time before, and the rows too.
    """
    ids, revisions = store.revisions()
    compared = np.flatnonzero(usable & among(held.ids, held.revisions, ids, revisions))
    proven = [held.ids[block[_alike(store, snapshot, held, block)]] for block in _blocks(compared)]
    return np.setdiff1d(ids, np.concatenate([_NONE, *proven]))


def _alike(store: Store, snapshot: Snapshot, held: _Held, places: Ids) -> Chosen:
    """For each of the rows at `places` whether the tables have its vector, near enough for float16, and its tokens."""
    ids = held.ids[places]
    try:
        stored, stored_tokens = store.vectors(ids), store.tokens(ids)
    except CollectionDamaged:
        return np.zeros(len(ids), np.bool_)
    vectors, tokens = _embeddings(snapshot, held, places)
    same: Chosen = np.linalg.norm(stored - np.stack([vectors[id] for id in ids.tolist()]), axis=1) < _ROUNDING
    for place, (id, own) in enumerate(zip(ids.tolist(), stored_tokens, strict=True)):
        other = tokens.get(id)
        same[place] &= own is other if own is None or other is None else np.array_equal(own, other)
    return same


def _lost_items(directory: Path, store: Store, held: _Held) -> Chosen:
    """Which of the snapshot's rows the tables lack, or have as they were earlier; below roots that are registered."""
    ids, revisions = store.revisions(found_only=False)
    if not len(ids):
        lost = np.ones(len(held.ids), np.bool_)
    else:
        places = np.minimum(np.searchsorted(ids, held.ids), len(ids) - 1)
        lost = (ids[places] != held.ids) | (revisions[places] < held.revisions)
    known = {root.id for root in manifests.read(directory).roots}
    return lost & np.isin(held.root_ids, np.array(sorted(known), np.int64))


def _bare(store: Store, held: _Held) -> Chosen:
    """Which of the snapshot's rows stand in the tables as they are, but for their embedding."""
    ids, revisions = store.revisions(found_only=False)
    known = store.known_files()  # in the same order
    lacking = (known.statuses != "error") & ~known.has_vector
    if not lacking.any():
        return np.zeros(len(held.ids), np.bool_)
    return among(held.ids, held.revisions, ids[lacking], revisions[lacking])


def _put_items(store: Store, snapshot: Snapshot, held: _Held, chosen: Chosen, usable: Chosen) -> int:
    """How many of the `chosen` rows were written, the `usable` ones with their embeddings; one whose place was taken by
    another item is left out.
    """
    taken = _taken(store, held.ids[chosen]) if chosen.any() else set()
    written = 0
    for block in _blocks(np.flatnonzero(chosen)):
        rows = [snapshot.segments[held.segments[each]].row(int(held.rows[each])) for each in block.tolist()]
        free = np.array([(row.root_id, row.path, row.part) not in taken for row in rows], np.bool_)
        items = [_item(row) for row, is_free in zip(rows, free.tolist(), strict=True) if is_free]
        store.put(items, *_embeddings(snapshot, held, block[free & usable[block]]), bare=True)
        written += len(items)
    return written


def _put_vectors(store: Store, snapshot: Snapshot, held: _Held, chosen: Chosen) -> int:
    for block in _blocks(np.flatnonzero(chosen)):
        store.embed(*_embeddings(snapshot, held, block))
    return int(np.count_nonzero(chosen))


def _embeddings(snapshot: Snapshot, held: _Held, places: Ids) -> tuple[dict[int, Vectors], dict[int, Tokens]]:
    """The vectors of the rows at `places`, and their tokens where there are some, by id."""
    vectors: dict[int, Vectors] = {}
    tokens: dict[int, Tokens] = {}
    for place in places.tolist():
        segment, row, id = snapshot.segments[held.segments[place]], int(held.rows[place]), int(held.ids[place])
        vector = np.asarray(segment.vectors[row], np.float32)
        vectors[id] = vector / np.linalg.norm(vector)
        if segment.tokens is not None:
            tokens[id] = np.array(segment.tokens[row])
    return vectors, tokens


def _taken(store: Store, replaced: Ids) -> set[tuple[int, bytes, int]]:
    """The places of all items but those with the ids `replaced`."""
    known = store.known_files()
    kept = np.flatnonzero(~np.isin(known.ids, replaced)).tolist()
    return {(int(known.root_ids[row]), known.path(row), int(known.parts[row])) for row in kept}


def _item(row: SegmentRow) -> Item:
    return Item(
        id=row.id,
        root_id=row.root_id,
        path=row.path,
        kind=row.kind,
        status=row.status,
        part=row.part,
        width=row.width,
        height=row.height,
        text=row.text,
        locator=row.locator,
        missing_since=int(time.time()) if row.missing else None,
    )


def _same(ids: Ids, revisions: Ids, held: _Held) -> Chosen:
    """For each (id, revision) whether the snapshot holds it."""
    order = np.argsort(held.ids, kind="stable")
    return among(ids, revisions, held.ids[order], held.revisions[order])


def _blocks(places: Ids) -> Iterator[Ids]:
    for start in range(0, len(places), _ROWS_AT_ONCE):
        yield places[start : start + _ROWS_AT_ONCE]
