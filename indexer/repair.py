"""Makes a damaged collection answer again, and whole, from what of it can still be read.

What is damaged goes aside. Rows of the tables come back from older versions of them and from the live snapshot, a
snapshot from the tables; what neither has is embedded again from the originals, if they and the model are at hand.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmsearch import manifest as manifests
from mmsearch.durable import LOCK_NAME, WriterLock, lock_is_sound
from mmsearch.errors import CollectionDamaged, CollectionError, CollectionNotFound, ModelError
from mmsearch.indexer.interrupt import Interrupt, interruptible
from mmsearch.indexer.mend_snapshots import mend_current, set_aside_damaged
from mmsearch.indexer.mend_tables import mend_tables
from mmsearch.indexer.pipeline import IndexOptions
from mmsearch.indexer.places import moved, put_aside
from mmsearch.indexer.publish import Publisher, published_items
from mmsearch.indexer.quarantine import move_aside
from mmsearch.indexer.reembed import lacking, reembed
from mmsearch.indexer.restore import restore
from mmsearch.indexer.switch import settled
from mmsearch.manifest import CollectionManifest, ModelRef
from mmsearch.misplaced import misplaced_file
from mmsearch.model import Model
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_manifest import CURRENT_FILE, SnapshotHead, read_current, read_manifest
from mmsearch.snapshot_unfinished import snapshot_numbers, was_published
from mmsearch.snapshot_writer import SnapshotWriter
from mmsearch.store import ITEMS_TABLE, Store
from mmsearch.store_checksums import FILE_NAME as CHECKSUMS_FILE
from mmsearch.store_prune import manifests as table_manifests
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
    Interrupted, it has made safe what is mended, and leaves the snapshot that answers as it is.

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
        found = _with_a_lock(directory)
        with interruptible() as interrupt, WriterLock(directory):
            writer = SnapshotWriter(directory, threads=threads)
            report = _repaired(directory, remake, writer=writer, interrupt=interrupt)
            return replace(report, mended=(*found, *report.mended))
    except OSError as error:
        raise CollectionError(
            f"{error.filename or directory}: cannot be read or written ({error.strerror or error}); see that its disk"
            " is sound, has room and is not read-only, then run `mmsearch repair` again"
        ) from error


def _repaired(directory: Path, remake: Remake | None, *, writer: SnapshotWriter, interrupt: Interrupt) -> RepairReport:
    found = [*put_aside(directory), *mend_current(directory), *_record_is_gone(directory)]
    tables = mend_tables(directory)
    gone, beyond = _items_are_gone(directory)
    manifest, sentences = _manifest(directory)
    found += [*tables, *beyond, *sentences]
    stands, manifest = manifest, settled(directory, manifest)
    if manifest.model is None:
        return RepairReport(tuple(found), items=0, without_embedding=0, interrupted=interrupt.requested)
    model = manifest.model
    with Store.open(directory, model) as store:
        found += store.warnings
        # The marker may have come back from a snapshot: ids it does not know of are in the tables.
        newest = int(store.known_files().ids.max(initial=0))
        manifest = replace(manifest, next_id=max(manifest.next_id, newest + 1))
        if manifest != stands:
            manifests.write(directory, manifest)
        if tables or gone or store.went_back or store.lacks_rows:
            found += restore(directory, store, model)
        found += _swept(store.sweep())
        embedded = 0 if remake is None else _reembedded(directory, store, manifest, remake=remake, interrupt=interrupt)
        if interrupt.requested:
            # What is not embedded yet answers from the snapshot that stands, damaged or not.
            store.sync()
            items = _answering(directory)
        else:
            publisher = Publisher(directory, store, model, every_s=math.inf, writer=writer)
            sentences, items = _published(directory, publisher, manifest)
            found += sentences
            store.sync()
            writer.tidy()
        return RepairReport(
            tuple(found),
            items=items,
            without_embedding=lacking(store),
            embedded=embedded,
            interrupted=interrupt.requested,
        )


def _reembedded(
    directory: Path, store: Store, manifest: CollectionManifest, *, remake: Remake, interrupt: Interrupt
) -> int:
    """How many lost embeddings were made again."""
    before = lacking(store)
    if not before or manifest.model is None or interrupt.requested:
        return 0
    try:
        model = remake.load(manifest.model)
        reembed(directory, store, manifest.roots, model=model, options=remake.options, interrupt=interrupt)
    except ModelError as error:
        _log.warning("nothing is embedded: %s", error)
    return before - lacking(store)


def _published(directory: Path, publisher: Publisher, manifest: CollectionManifest) -> tuple[list[str], int]:
    """Sentences on what was wrong with the snapshots, the live one of which holds what the tables hold now; and how
    many items that is.
    """
    # Before anything is published: that removes what no snapshot needs, and these say what was damaged.
    found = set_aside_damaged(directory, live=_live(directory))
    damage = _snapshot_damage(directory)
    nothing = not damage and _live(directory) is None
    items = publisher.publish(manifest, anew=bool(damage))
    found += [f"{sentence}: published anew" for sentence in damage]
    if nothing and items:
        found.append(f"{directory}: nothing was published; {items:,} items are now, from the tables")
    if damage:
        # The one before answered up to now, as well as it could.
        found += set_aside_damaged(directory, live=read_current(directory))
    return found, items


def _live(directory: Path) -> int | None:
    """The number of the snapshot that answers, None when its manifest cannot be read."""
    try:
        return read_manifest(directory, read_current(directory)).number
    except (OSError, CollectionError):
        return None


def _answering(directory: Path) -> int:
    """How many items the live snapshot holds; none when it cannot be opened."""
    try:
        return published_items(directory)
    except CollectionError:
        return 0


def _with_a_lock(directory: Path) -> list[str]:
    """A sentence when the lock file is none, and was moved aside, or holds anything but what it may hold: taking the
    lock writes it anew.
    """
    path = directory / LOCK_NAME
    if (instead := misplaced_file(path)) is not None:
        return [moved(directory, instead)]
    try:
        return [] if lock_is_sound(path.read_bytes()) else [f"{path}: was garbled; written anew"]
    except OSError:
        return []


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
    manifest = CollectionManifest(
        head.roots, head.model, next_id=newest + _ID_GAP, kept_models=others, mounts=head.mounts
    )
    if path.exists():
        move_aside(directory, path)
    manifests.write(directory, manifest)
    return manifest, [*healed, f"{path}: was damaged or gone; written again from a snapshot"]


def _items_are_gone(directory: Path) -> tuple[bool, list[str]]:
    """Whether the table of items is gone though something was published; and a sentence when not all of it can be had
    back: roots are known all the same, and an empty table lets the next run fill it.
    """
    items = directory / f"{ITEMS_TABLE}.lance"
    if table_manifests(items) or not (snapshot_numbers(directory) or was_published(directory)):
        return False, []
    damage = _snapshot_damage(directory)
    return True, [
        f"{items}: is gone, and so is what the damaged snapshot ({sentence}) does not hold any more: the next `mmsearch"
        " index` reads all files again"
        for sentence in damage[:1]
    ]


def _record_is_gone(directory: Path) -> list[str]:
    path = directory / CHECKSUMS_FILE
    if path.exists() or not was_published(directory):
        return []
    return [f"{path}: was gone; the tables are recorded anew, as they are"]


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
