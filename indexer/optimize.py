"""Many small files become few, and what nobody needs any more goes. What is found stays as it is, to the last bit."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path

from mmsearch import manifest as manifests
from mmsearch.durable import WriterLock, fsync_dir
from mmsearch.errors import CollectionError
from mmsearch.indexer.publish import Publisher
from mmsearch.indexer.restore import restored
from mmsearch.indexer.space import SMALLEST_FREE
from mmsearch.indexer.switch import settled
from mmsearch.indexer.workplace import wrapped_errors
from mmsearch.safe_text import safe_path
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_manifest import SEGMENTS_DIRECTORY
from mmsearch.snapshot_writer import SnapshotWriter
from mmsearch.store import ITEMS_TABLE, VECTORS_DIRECTORY, Store
from mmsearch.store_tables import QUARANTINE_DIRECTORY
from mmsearch.types import OptimizeReport

# What was moved aside may be looked at for so long.
_QUARANTINE_SECONDS = 30 * 24 * 3600


def optimize(directory: Path, *, threads: int | None = None) -> OptimizeReport:
    """What became smaller or fewer in the collection in `directory`. Killed at any point it loses nothing. `threads`
    build indexes, None is FAISS's own number.

    Raises:
        CollectionNotFound: there is no collection.
        CollectionBusy: another process is writing.
        CollectionDamaged: it is damaged, or merging changed a row, which was undone.
        CollectionError: there is not enough room, or it cannot be written.
    """
    started = time.monotonic()
    manifests.read(directory)
    with wrapped_errors(directory), WriterLock(directory):
        stands = manifests.read(directory)
        manifest = settled(directory, stands)
        if manifest != stands:
            manifests.write(directory, manifest)
        before = tree_bytes(directory)
        if manifest.model is None:
            return OptimizeReport(before, before, 0, 0, 0, 0, 0, (), time.monotonic() - started)
        with Store.open(directory, manifest.model) as store:
            warnings = [*store.warnings, *restored(directory, store, manifest.model)]
            store.sweep()
            fragments, segments = store.fragments(), _segments(directory)
            store.prune()
            _require_room(directory)
            store.optimize(force=True)
            writer = SnapshotWriter(directory, threads=threads)
            publisher = Publisher(directory, store, manifest.model, every_s=math.inf, writer=writer)
            # A snapshot of another model, as in a change, stays.
            items = publisher.publish(manifest, merge_all=True)
            store.sync()
            warnings += _emptied_quarantine(directory)
            return OptimizeReport(
                bytes_before=before,
                bytes_after=tree_bytes(directory),
                fragments_before=fragments,
                fragments_after=store.fragments(),
                segments_before=segments,
                segments_after=_segments(directory),
                items=items,
                warnings=tuple(warnings),
                seconds=time.monotonic() - started,
            )


def _require_room(directory: Path) -> None:
    """Returns when what is merged has room beside what it is merged from."""
    needed = SMALLEST_FREE + sum(
        tree_bytes(directory / name) for name in (f"{ITEMS_TABLE}.lance", VECTORS_DIRECTORY, SEGMENTS_DIRECTORY)
    )
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise CollectionError(
            f"{safe_path(str(directory))}: {free >> 20} MB are free on its disk, and merging needs"
            f" {-(-needed >> 20)} MB; old versions were dropped, nothing was merged: make room and run it again"
        )


def _segments(directory: Path) -> int:
    try:
        with Snapshot.open(directory) as snapshot:
            return len(snapshot.segments)
    except CollectionError:
        return 0  # nothing published yet, or damaged: then it is published anew


def _emptied_quarantine(directory: Path) -> list[str]:
    """A sentence for each thing that was moved aside long ago, and is removed now."""
    quarantine = directory / QUARANTINE_DIRECTORY
    old = [
        path
        for path in sorted(quarantine.glob("*"))
        # Moving a file changes its ctime, and nothing else.
        if time.time() - path.lstat().st_ctime > _QUARANTINE_SECONDS
    ]
    for path in old:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if old:
        fsync_dir(quarantine)
    return [f"{path}: removed, it was moved there more than 30 days ago" for path in old]


def tree_bytes(path: Path) -> int:
    """The size of all files below `path`, 0 where there is none."""
    return sum(each.lstat().st_size for each in path.rglob("*") if not each.is_dir()) if path.is_dir() else 0
