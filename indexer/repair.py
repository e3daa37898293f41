"""Makes a damaged collection answer again, and whole, from what of it can still be read.

What is damaged goes aside. Rows of the tables come back from older versions of them and from the live snapshot, a
snapshot from the tables; what neither has is embedded again from the originals, if they and the model are at hand.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmsearch import manifest as manifests
from mmsearch.durable import LOCK_NAME, WriterLock, fsync_dir, lock_is_sound, make_directory
from mmsearch.errors import CollectionDamaged, CollectionError, CollectionNotFound, ModelError
from mmsearch.indexer.mend_snapshots import drop_damaged_snapshots
from mmsearch.indexer.mend_tables import mend_tables
from mmsearch.indexer.pipeline import IndexOptions
from mmsearch.indexer.publish import Publisher
from mmsearch.indexer.reembed import lacking, reembed
from mmsearch.indexer.restore import restore
from mmsearch.indexer.switch import settled
from mmsearch.indexer.workplace import DIRECTORIES
from mmsearch.manifest import SNAPSHOTS_DIRECTORY, CollectionManifest, ModelRef, Root
from mmsearch.model import Model
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_check import snapshot_numbers
from mmsearch.snapshot_manifest import CURRENT_FILE, SnapshotHead, read_manifest
from mmsearch.snapshot_writer import SnapshotWriter
from mmsearch.store import ITEMS_TABLE, VECTORS_DIRECTORY, Store
from mmsearch.store_prune import manifests as table_manifests
from mmsearch.store_tables import QUARANTINE_DIRECTORY
from mmsearch.types import RepairReport

# Ids above the largest one in use that a lost collection.json may have given away: to blocks of a run that was killed,
# and to items that were removed since. Ids are 64 bits wide, so a generous gap costs nothing.
_ID_GAP = 1_000_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Remake:
    """How lost embeddings are made again: `load` gives the model, or raises ModelError."""

    load: Callable[[ModelRef], Model]
    options: IndexOptions = field(default_factory=IndexOptions)


def repair(directory: Path, *, remake: Remake | None = None, threads: int | None = None) -> RepairReport:
    """What was found damaged in the collection at `directory`, and mended: its marker, its tables, its snapshots.
    Without `remake` nothing is embedded and no original is read. `threads` build indexes, None is FAISS's own number.

    Raises:
        CollectionNotFound: there is no collection.
        CollectionBusy: another process is writing to it.
        CollectionDamaged: too little of it is left to read; says what.
        CollectionError: it cannot be written.
    """
    # Before the lock, which makes a file: what is not a collection is left as it is.
    with contextlib.suppress(CollectionDamaged):
        manifests.read(directory)
    try:
        found = _without_garbled_lock(directory)
        with WriterLock(directory):
            report = _repaired(directory, remake, SnapshotWriter(directory, threads=threads))
            return replace(report, mended=(*found, *report.mended))
    except OSError as error:
        raise CollectionError(
            f"{directory}: cannot be written ({error.strerror or error}); see that its disk has room and is not"
            " read-only, then run `mmsearch repair` again"
        ) from error


def _repaired(directory: Path, remake: Remake | None, writer: SnapshotWriter) -> RepairReport:
    found = _put_aside(directory)
    tables = mend_tables(directory)
    gone = _items_are_gone(directory)
    manifest, sentences = _manifest(directory)
    found += [*tables, *sentences]
    stands, manifest = manifest, settled(directory, manifest)
    if manifest.model is None:
        return RepairReport(tuple(found), items=0, without_embedding=0)
    model = manifest.model
    with Store.open(directory, model) as store:
        found += store.warnings
        # The marker may have come back from a snapshot: ids it does not know of are in the tables.
        newest = int(store.known_files().ids.max(initial=0))
        manifest = replace(manifest, next_id=max(manifest.next_id, newest + 1))
        if manifest != stands:
            manifests.write(directory, manifest)
        if tables or gone or store.went_back:
            found += restore(directory, store, model)
        found += _swept(store.sweep())
        embedded = 0 if remake is None else _reembedded(directory, store, manifest, remake)
        publisher = Publisher(directory, store, model, every_s=math.inf, writer=writer)
        found += _published(directory, store, publisher, manifest.roots)
        items = len(store.revisions()[0])
        return RepairReport(tuple(found), items=items, without_embedding=lacking(store), embedded=embedded)


def _reembedded(directory: Path, store: Store, manifest: CollectionManifest, remake: Remake) -> int:
    """How many lost embeddings were made again."""
    before = lacking(store)
    if not before or manifest.model is None:
        return 0
    try:
        model = remake.load(manifest.model)
        reembed(directory, store, manifest.roots, model, remake.options)
    except ModelError as error:
        _log.warning("nothing is embedded: %s", error)
    return before - lacking(store)


def _published(directory: Path, store: Store, publisher: Publisher, roots: tuple[Root, ...]) -> list[str]:
    """Sentences on what was wrong with the snapshots, which hold what the tables hold now."""
    damage = _snapshot_damage(directory)
    publisher.publish(roots, anew=bool(damage))
    store.sync()
    return [*(f"{sentence}: published anew" for sentence in damage), *drop_damaged_snapshots(directory)]


def _without_garbled_lock(directory: Path) -> list[str]:
    """A sentence when the lock file holds anything but what a lock file may hold: taking the lock writes it anew."""
    path = directory / LOCK_NAME
    try:
        return [] if lock_is_sound(path.read_bytes()) else [f"{path}: was garbled; written anew"]
    except OSError:
        return []


def _put_aside(directory: Path) -> list[str]:
    """A sentence for each thing that stood where a file belongs, or a directory, and was moved to the quarantine."""
    quarantine = directory / QUARANTINE_DIRECTORY
    folders = [directory / name for name in DIRECTORIES]
    tables = [directory / f"{ITEMS_TABLE}.lance", *sorted((directory / VECTORS_DIRECTORY).glob("*.lance"))]
    manifest_files = sorted((directory / SNAPSHOTS_DIRECTORY).glob("*.json"))
    found = []
    for path in (*folders, *tables):
        if os.path.lexists(path) and not path.is_dir():
            found.append(_moved(path, quarantine, "no directory"))
    for path in (directory / manifests.FILE_NAME, directory / CURRENT_FILE, *manifest_files):
        if os.path.lexists(path) and not path.is_file():
            found.append(_moved(path, quarantine, "no file"))
    return found


def _moved(path: Path, quarantine: Path, what: str) -> str:
    aside = quarantine / f"{path.name}-{time.time_ns()}"
    waiting = path.with_name(f"{aside.name}.aside") if path == quarantine else path
    if waiting != path:
        path.rename(waiting)
    make_directory(quarantine)
    waiting.rename(aside)
    fsync_dir(quarantine)
    fsync_dir(path.parent)
    return f"{path}: was {what}; moved to {aside}"


def _manifest(directory: Path) -> tuple[CollectionManifest, list[str]]:
    """The manifest, and sentences when it had to be written again from the newest snapshot that can be read."""
    path = directory / manifests.FILE_NAME
    try:
        return manifests.read(directory), []
    except CollectionDamaged as error:
        damaged = error
    head = _newest_head(directory, damaged)
    with Store.open(directory, head.model) as store:
        healed = list(store.warnings)
        newest = int(store.known_files().ids.max(initial=0))
        # What is not named would be removed, and may be half of a change to another model.
        others = store.other_models()
    manifest = CollectionManifest(head.roots, head.model, next_id=newest + _ID_GAP, kept_models=others)
    path.unlink(missing_ok=True)
    manifests.write(directory, manifest)
    return manifest, [*healed, f"{path}: was damaged or gone; written again from a snapshot"]


def _items_are_gone(directory: Path) -> bool:
    """Whether the table of items is gone while there are snapshots; a live one that is whole brings the items back.

    Raises:
        CollectionDamaged: it is, and there is none: publishing would empty what may still answer.
    """
    items = directory / f"{ITEMS_TABLE}.lance"
    if table_manifests(items) or not snapshot_numbers(directory):
        return False
    damage = _snapshot_damage(directory)
    if damage:
        raise CollectionDamaged(
            f"{items}: is gone, and the snapshot that could say what the items were is damaged ({damage[0]}): index the"
            " folders again, into this collection or a new one"
        )
    return True


def _newest_head(directory: Path, damaged: CollectionDamaged) -> SnapshotHead:
    for number in snapshot_numbers(directory):
        try:
            return read_manifest(directory, number).head
        except (OSError, CollectionDamaged):
            continue
    raise CollectionDamaged(
        f"{_bare(damaged)}, and no snapshot says what was in it: move {directory} away and index the folders again"
    )


def _snapshot_damage(directory: Path) -> list[str]:
    """What of the live snapshot is not as it was written; reads all of it."""
    try:
        with Snapshot.open(directory) as snapshot:
            return snapshot.verify()
    except CollectionNotFound:
        return [f"{directory / CURRENT_FILE}: is gone"] if snapshot_numbers(directory) else []
    except CollectionDamaged as error:
        return [_bare(error)]


def _bare(error: CollectionDamaged) -> str:
    """The message without the advice to run what is running."""
    return str(error).removesuffix("; run `mmsearch repair`")


def _swept(count: int) -> list[str]:
    return [f"{count} embeddings without an item were removed"] if count else []
