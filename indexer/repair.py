"""Makes a damaged collection answer again, from what of it can still be read: the tables, and the last snapshots.

Nothing is embedded here. What cannot be had back without the originals is named, and the next `mmsearch index` of their
folders brings it in.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmsearch import manifest as manifests
from mmsearch.durable import WriterLock
from mmsearch.errors import CollectionDamaged, CollectionError, CollectionNotFound
from mmsearch.indexer.publish import Publisher
from mmsearch.manifest import CollectionManifest, ModelRef
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_manifest import CURRENT_FILE, SNAPSHOTS_DIRECTORY, SnapshotHead, read_manifest
from mmsearch.store import Store
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
    if not directory.is_dir():
        raise CollectionNotFound(f"{directory}: there is no collection here; make one with `mmsearch index`")
    with WriterLock(directory):
        manifest, found = _manifest(directory)
        if manifest.model is None:
            return RepairReport(tuple(found), items=0, without_embedding=0)
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


def _manifest(directory: Path) -> tuple[CollectionManifest, list[str]]:
    """The manifest, and a sentence when it had to be written again from the newest snapshot that can be read."""
    try:
        return manifests.read(directory), []
    except CollectionDamaged as error:
        damaged = error
    except CollectionError:
        # Other things stand there, or nothing does. A snapshot makes it ours all the same.
        if not (directory / SNAPSHOTS_DIRECTORY).is_dir():
            raise
        damaged = CollectionDamaged(f"{directory / manifests.FILE_NAME}: is gone")
    head = _newest_head(directory, damaged)
    (directory / manifests.FILE_NAME).unlink(missing_ok=True)
    model = ModelRef(head.model_name, head.fingerprint, head.dim)
    manifest = CollectionManifest(roots=head.roots, model=model, next_id=_ID_GAP)
    with Store.open(directory, model, read_only=True) as store:
        newest = int(store.known_files().ids.max(initial=0))
    manifest = replace(manifest, next_id=newest + _ID_GAP)
    manifests.write(directory, manifest)
    return manifest, [f"{directory / manifests.FILE_NAME}: was damaged or gone; written again from a snapshot"]


def _newest_head(directory: Path, damaged: CollectionDamaged) -> SnapshotHead:
    names = [path.stem for path in (directory / SNAPSHOTS_DIRECTORY).glob("*.json")]
    for number in sorted((int(name) for name in names if name.isascii() and name.isdigit()), reverse=True):
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
        lost = any((directory / SNAPSHOTS_DIRECTORY).glob("*.json"))
        return [f"{directory / CURRENT_FILE}: is gone"] if lost else []
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
