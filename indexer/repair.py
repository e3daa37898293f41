"""Makes a damaged collection answer again, from what of it can still be read: the tables, and the last snapshots.

Nothing is embedded here. What cannot be had back without the originals is named, and the next `mmsearch index` of their
folders brings it in.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmsearch import manifest as manifests
from mmsearch.durable import WriterLock, fsync_dir, make_directory
from mmsearch.errors import CollectionDamaged, CollectionError, CollectionNotFound
from mmsearch.indexer.publish import Publisher
from mmsearch.indexer.switch import settled
from mmsearch.indexer.workplace import DIRECTORIES
from mmsearch.manifest import SNAPSHOTS_DIRECTORY, CollectionManifest
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_manifest import CURRENT_FILE, SnapshotHead, read_manifest
from mmsearch.store import ITEMS_TABLE, VECTORS_DIRECTORY, Store
from mmsearch.store_prune import manifests as table_manifests
from mmsearch.store_tables import QUARANTINE_DIRECTORY
from mmsearch.types import RepairReport

# Ids above the largest one in use that a lost collection.json may have given away: to blocks of a run that was killed,
# and to items that were removed since. Ids are 64 bits wide, so a generous gap costs nothing.
_ID_GAP = 1_000_000


def repair(directory: Path) -> RepairReport:
    """What was found damaged in the collection at `directory`, and mended: its marker, its tables, its snapshot.

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
        with WriterLock(directory):
            return _repaired(directory)
    except OSError as error:
        raise CollectionError(
            f"{directory}: cannot be written ({error.strerror or error}); see that its disk has room and is not"
            " read-only, then run `mmsearch repair` again"
        ) from error


def _repaired(directory: Path) -> RepairReport:
    found = _put_aside(directory)
    manifest, sentences = _manifest(directory)
    found += sentences
    manifest = settled(directory, manifest)
    if manifest.model is None:
        return RepairReport(tuple(found), items=0, without_embedding=0)
    _require_items(directory)
    with Store.open(directory, manifest.model) as store:
        found += store.warnings
        found += _swept(store.sweep())
        # The marker may have come back from a snapshot: ids it does not know of are in the tables.
        newest = int(store.known_files().ids.max(initial=0))
        manifests.write(directory, replace(manifest, next_id=max(manifest.next_id, newest + 1)))
        damage = _snapshot_damage(directory)
        publisher = Publisher(directory, store, manifest.model, every_s=math.inf)
        items = publisher.publish(manifest.roots, anew=bool(damage))
        found += [f"{sentence}: published anew" for sentence in damage]
        return RepairReport(tuple(found), items=items, without_embedding=_without_embedding(store))


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
    _require_items(directory)
    with Store.open(directory, head.model) as store:
        healed = list(store.warnings)
        newest = int(store.known_files().ids.max(initial=0))
        # What is not named would be removed, and may be half of a change to another model.
        others = store.other_models()
    manifest = CollectionManifest(head.roots, head.model, next_id=newest + _ID_GAP, kept_models=others)
    path.unlink(missing_ok=True)
    manifests.write(directory, manifest)
    return manifest, [*healed, f"{path}: was damaged or gone; written again from a snapshot"]


def _require_items(directory: Path) -> None:
    """Return unless the items are gone while snapshots are there: publishing would empty what may still answer."""
    items = directory / f"{ITEMS_TABLE}.lance"
    if not table_manifests(items) and _snapshot_numbers(directory):
        raise CollectionDamaged(
            f"{items}: is gone, and nothing else says what all the items were: index the folders again, into this"
            " collection or a new one"
        )


def _snapshot_numbers(directory: Path) -> list[int]:
    """The numbers of the snapshots whose manifests stand there, newest first."""
    names = [path.stem for path in (directory / SNAPSHOTS_DIRECTORY).glob("*.json")]
    return sorted((int(name) for name in names if name.isascii() and name.isdigit()), reverse=True)


def _newest_head(directory: Path, damaged: CollectionDamaged) -> SnapshotHead:
    for number in _snapshot_numbers(directory):
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
        return [f"{directory / CURRENT_FILE}: is gone"] if _snapshot_numbers(directory) else []
    except CollectionDamaged as error:
        return [_bare(error)]


def _bare(error: CollectionDamaged) -> str:
    """The message without the advice to run what is running."""
    return str(error).removesuffix("; run `mmsearch repair`")


def _without_embedding(store: Store) -> int:
    known = store.known_files()
    failed = np.array([item.id for item in store.errors()], np.int64)
    return int((~known.has_vector & ~np.isin(known.ids, failed)).sum())


def _swept(count: int) -> list[str]:
    return [f"{count} embeddings without an item were removed"] if count else []
