"""Tables -> snapshot, as a difference: after a clean run, a kill or a lost snapshot it is the same act."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import CollectionDamaged, CollectionNotFound
from mmsearch.indexer.carry import NOTHING, carried, carried_blocks
from mmsearch.manifest import CollectionManifest, ModelRef
from mmsearch.segment import SegmentRow
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_manifest import SnapshotHead
from mmsearch.snapshot_unfinished import note_published
from mmsearch.snapshot_writer import Block, SnapshotWriter
from mmsearch.store import Item, Store

_ROWS_AT_ONCE = 4096

Ids = NDArray[np.int64]

_log = logging.getLogger(__name__)


class Publisher:
    """Publishes the tables of one collection, for the holder of the writer lock.

    With `hold`, what would be due for publication is only made safe from a power cut. `writer` makes the snapshots: it
    knows which kind of index they get and how many threads build it; None is one that leaves both open. `carried` are
    the ids of what the last publication took over as it was, for want of an embedding.
    """

    def __init__(
        self,
        directory: Path,
        store: Store,
        model: ModelRef,
        *,
        every_s: float,
        hold: bool = False,
        writer: SnapshotWriter | None = None,
    ) -> None:
        self._directory = directory
        self._store = store
        self._model = model
        self._every_s = every_s
        self.hold = hold
        self._writer = SnapshotWriter(directory) if writer is None else writer
        self.carried: Ids = NOTHING.ids
        self._durable = store.versions()
        self._next = time.monotonic() + every_s

    def publish_if_due(self, manifest: CollectionManifest) -> None:
        """Publishes when the last time is `every_s` seconds ago."""
        if time.monotonic() < self._next:
            return
        if self.hold:
            self.sync()
        else:
            self.publish(manifest)

    def sync(self) -> None:
        """Makes safe from a power cut what the tables hold, and publishes nothing."""
        self._store.sync()
        self._durable = self._store.versions()
        self._next = time.monotonic() + self._every_s

    def publish(self, manifest: CollectionManifest, *, anew: bool = False, merge_all: bool = False) -> int:
        """Makes the live snapshot hold exactly what the tables hold, durably, and what has lost its embedding as it
        held that before; the number of items in it.

        With `anew` no file of the live snapshot is used again; with `merge_all` its parts become as few as can be.
        """
        ids, revisions = self._store.revisions()
        head = SnapshotHead(
            fingerprint=self._model.fingerprint,
            model_name=self._model.name,
            dim=self._model.dim,
            roots=manifest.roots,
            counts=counts(self._store),
            table_versions=self._store.versions(),
            model_location=self._model.location,
            mounts=manifest.mounts,
        )
        if not anew:
            try:
                self._publish(head, ids, revisions, self._previous(), merge_all=merge_all)
            except CollectionDamaged as error:
                _log.warning("%s; publishing everything anew", error)
                anew = True
        if anew:
            self._publish_anew(head, ids)
        note_published(self._directory)
        self._next = time.monotonic() + self._every_s
        return len(ids) + len(self.carried)

    def _publish(
        self, head: SnapshotHead, ids: Ids, revisions: Ids, previous: Snapshot | None, *, merge_all: bool
    ) -> None:
        live_ids, live_revisions = previous.live_keys() if previous else (ids[:0], revisions[:0])
        added = ids[~among(ids, revisions, live_ids, live_revisions)]
        gone = ~among(live_ids, live_revisions, ids, revisions)
        self.carried = NOTHING.ids
        if previous is not None and not np.isin(live_ids[gone], ids).all():
            self.carried = carried(self._store, previous).ids
            gone &= ~np.isin(live_ids, self.carried)
        # Versions alone say nothing about what can be found: rows that failed, or files that were merged.
        same_head = previous is not None and replace(head, table_versions=previous.head.table_versions) == previous.head
        changed = not same_head or len(added) > 0 or bool(gone.any())
        changed = changed or any(self._writer.index_is_due(each) for each in (previous.segments if previous else ()))
        changed = changed or (merge_all and previous is not None and _has_loose_parts(previous))
        if changed or head.table_versions != self._durable or not self._store.is_recorded:
            self._make_durable(head)
        if not changed:
            return
        dead = (live_ids[gone], live_revisions[gone])
        self._writer.publish(head, previous=previous, added=self._blocks(added), dead=dead, merge_all=merge_all)

    def _publish_anew(self, head: SnapshotHead, ids: Ids) -> None:
        self._make_durable(head)
        try:
            previous = self._previous()
            what = NOTHING if previous is None else carried(self._store, previous, proven=True)
        except CollectionDamaged:
            previous, what = None, NOTHING
        blocks = self._blocks(ids)
        if previous is not None:
            blocks = itertools.chain(blocks, carried_blocks(previous, what))
        self.carried = what.ids
        self._writer.publish(head, previous=None, added=blocks)

    def _make_durable(self, head: SnapshotHead) -> None:
        self._store.sync()
        self._durable = head.table_versions

    def _previous(self) -> Snapshot | None:
        """The live snapshot, None when there is none that this one can build on."""
        try:
            previous = Snapshot.open(self._directory)
        except CollectionNotFound:
            return None
        return previous if previous.fingerprint == self._model.fingerprint else None

    def _blocks(self, ids: Ids) -> Iterator[Block]:
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            block = ids[start : start + _ROWS_AT_ONCE]
            rows = [_segment_row(item) for item in self._store.items(block)]
            yield from _blocks_alike(rows, self._store.vectors(block), self._store.tokens(block))


def published_items(directory: Path) -> int:
    """How many items the live snapshot holds."""
    try:
        with Snapshot.open(directory) as snapshot:
            return len(snapshot.live_keys()[0])
    except CollectionNotFound:
        return 0


def counts(store: Store) -> dict[str, Any]:
    """What `Collection.info` tells of the tables: rows that can be found, and failed files by reason."""
    images = texts = partial = missing = 0
    failed: dict[str, int] = {}
    for (kind, status, reason, is_missing), count in store.counts().items():
        if status == "error":
            if not is_missing:
                failed[str(reason)] = failed.get(str(reason), 0) + count
            continue
        images += count * (kind == "image")
        texts += count * (kind == "text")
        partial += count * (status == "partial")
        missing += count * is_missing
    return {"images": images, "texts": texts, "partial": partial, "missing": missing, "failed": failed}


def _blocks_alike(
    rows: list[SegmentRow], vectors: NDArray[np.float32], tokens: list[NDArray[np.int8] | None]
) -> Iterator[Block]:
    """`rows` in blocks in which all have tokens of one shape, or none has any."""
    shapes = [None if each is None else each.shape for each in tokens]
    for shape in dict.fromkeys(shapes):
        places = [place for place, each in enumerate(shapes) if each == shape]
        some = [each for place in places if (each := tokens[place]) is not None]
        yield Block([rows[place] for place in places], vectors[places], np.stack(some) if some else None)


def _has_loose_parts(snapshot: Snapshot) -> bool:
    """Whether some of its segments could be one, or have dead rows."""
    shapes = {(each.info.kind, each.info.tokens) for each in snapshot.segments}
    dead = any(len(snapshot.manifest.dead_rows(each.info)) for each in snapshot.segments)
    return dead or len(shapes) < len(snapshot.segments)


def among(ids: Ids, revisions: Ids, other_ids: Ids, other_revisions: Ids) -> NDArray[np.bool_]:
    """For each (id, revision) whether the others, ascending by id, have it."""
    if not len(other_ids):
        return np.zeros(len(ids), np.bool_)
    places = np.minimum(np.searchsorted(other_ids, ids), len(other_ids) - 1)
    same: NDArray[np.bool_] = (other_ids[places] == ids) & (other_revisions[places] == revisions)
    return same


def _segment_row(item: Item) -> SegmentRow:
    return SegmentRow(
        id=item.id,
        revision=item.revision,
        kind=item.kind,
        root_id=item.root_id,
        path=item.path,
        part=item.part,
        status=item.status,
        missing=item.missing_since is not None,
        width=item.width,
        height=item.height,
        text=item.text,
        locator=item.locator,
    )
