"""Is everything that is stored what it was? Nothing is written, no lock is taken, and a writer may be at work.

A publication that comes in between makes files go and numbers change, which looks like damage. So whatever is found is
looked at again as long as the collection has changed since.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Container
from pathlib import Path

import numpy as np

from mmsearch import manifest as manifests
from mmsearch.durable import LOCK_NAME, lock_is_sound
from mmsearch.errors import CollectionDamaged, CollectionError
from mmsearch.examination import INDEX, REPAIR, Examination
from mmsearch.indexer.places import misplaced
from mmsearch.manifest import CollectionManifest, ModelRef
from mmsearch.progress import ProgressCallback
from mmsearch.snapshot_check import Live, examine_snapshots
from mmsearch.snapshot_manifest import CURRENT_FILE, active_model, manifest_path
from mmsearch.snapshot_unfinished import snapshot_numbers, was_published
from mmsearch.store_check import Rows, examine_files, examine_rows, table_paths
from mmsearch.store_checksums import FILE_NAME as CHECKSUMS_FILE
from mmsearch.store_checksums import Record, read_record
from mmsearch.store_prune import manifests as table_manifests
from mmsearch.store_tables import QUARANTINE_DIRECTORY
from mmsearch.types import CheckReport

_ATTEMPTS = 10


def check(directory: Path, *, read_data: bool = False, progress: ProgressCallback | None = None) -> CheckReport:
    """What is damaged of the collection in `directory`: by what can be seen without reading all of it, or with
    `read_data` to the last bit.

    Raises:
        CollectionNotFound: there is no collection.
        CollectionMismatch: a newer mmsearch built it.
        CollectionError: something else is there, or the operating system does not let it be read.
    """
    started = time.monotonic()
    with contextlib.suppress(CollectionDamaged):
        manifests.read(directory)
    state = _state(directory)
    found, rows = _examined(directory, None if read_data else frozenset(), progress)
    looked_at = found.files, found.bytes
    for _ in range(_ATTEMPTS):
        now = _state(directory)
        if not found.damaged or now == state:
            break
        state = now
        suspects = frozenset(Path(each.path) for each in found.damaged)
        found, rows = _examined(directory, suspects, None)
    quarantine = directory / QUARANTINE_DIRECTORY
    return CheckReport(
        ok=not found.damaged,
        read_data=read_data,
        files=looked_at[0],
        bytes=looked_at[1],
        damaged=tuple(sorted(found.damaged, key=lambda each: each.path)),
        unrecorded=found.unrecorded,
        without_embedding=0 if rows is None else len(rows.without_embedding),
        quarantine=tuple(sorted(str(path) for path in quarantine.glob("*"))),
        notes=tuple(found.notes),
        seconds=time.monotonic() - started,
    )


def _examined(
    directory: Path, read: Container[Path] | None, progress: ProgressCallback | None
) -> tuple[Examination, Rows | None]:
    """One look at everything; the files in `read` (None for all) by their bytes."""
    found = Examination()
    if not _examine_places(directory, found):
        return found, None
    manifest = _examine_marker(directory, found)
    record = _examine_record(directory, found)
    _examine_lock(directory, found)
    live = examine_snapshots(directory, found)
    model = _model(directory, manifest, live)
    named = manifest.models if manifest is not None else () if model is None else (model,)
    examine_files(directory, record, named, found)
    found.compare(read, progress)
    tables = table_paths(directory)
    sound = not any(Path(each.path).is_relative_to(table) for each in found.damaged for table in tables)
    # LanceDB reads a damaged file as it comes, and may answer anything.
    rows = examine_rows(directory, model, found) if model is not None and sound else None
    if rows is not None and live is not None:
        _compare(directory, rows, live, found)
    elif rows is not None and len(rows.ids) and not found.damaged:
        found.notes.append(
            f"nothing is published, and the tables hold {len(rows.ids):,} items: {INDEX} publishes those"
        )
    return found, rows


def _examine_places(directory: Path, found: Examination) -> bool:
    """Notes in `found` what is out of place; whether everything else can be opened without waiting for ever."""
    instead = list(misplaced(directory))
    for each in instead:
        found.blame(each.path, each.what, f"{REPAIR} puts it aside, and mends what is lacking then")
    waits = any(each.waits for each in instead)
    if waits:
        found.notes.append(f"nothing else was looked at: opening that may never end; run {REPAIR}, and check again")
    return not waits


def _examine_marker(directory: Path, found: Examination) -> CollectionManifest | None:
    path = directory / manifests.FILE_NAME
    try:
        manifest = manifests.read(directory)
        found.saw(path.stat().st_size)
        return manifest
    except CollectionDamaged as error:
        found.blame(path, _bare(path, error), f"{REPAIR} writes it anew from a snapshot")
        return None


def _examine_record(directory: Path, found: Examination) -> Record:
    path = directory / CHECKSUMS_FILE
    try:
        record = read_record(directory)
        if not path.exists() and was_published(directory):
            found.blame(path, "is gone", f"{REPAIR} records the tables anew, as they are")
        if record:
            found.saw(path.stat().st_size)
        return record
    except CollectionDamaged as error:
        found.blame(path, _bare(path, error), f"{REPAIR} records the tables anew, as they are")
        return {}


def _examine_lock(directory: Path, found: Examination) -> None:
    path = directory / LOCK_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        found.blame(path, f"cannot be read ({error.strerror})", f"{INDEX} writes it anew")
        return
    if lock_is_sound(content):
        found.saw(len(content))
    else:
        found.blame(path, "does not say who wrote last, or garbles it", f"{INDEX} writes it anew")


def _model(directory: Path, manifest: CollectionManifest | None, live: Live | None) -> ModelRef | None:
    """The model whose embeddings are in use."""
    if manifest is not None:
        return active_model(directory, manifest)
    return None if live is None else live.head.model


def _compare(directory: Path, rows: Rows, live: Live, found: Examination) -> None:
    """The snapshot holds what the tables hold, unless these have been changed since; and what lost its embedding, as it
    was before.
    """
    own = ~np.isin(live.ids, rows.without_embedding)
    same = np.array_equal(rows.ids, live.ids[own]) and np.array_equal(rows.revisions, live.revisions[own])
    if same:
        return
    counts = f"{np.count_nonzero(own):,} items, and the tables hold {len(rows.ids):,}"
    if rows.versions == live.head.table_versions and not found.damaged:
        path = manifest_path(directory, live.number)
        found.blame(path, f"holds {counts}", f"{REPAIR} publishes it anew from the tables")
    elif not found.damaged:
        found.notes.append(f"the snapshot that answers holds {counts}: {INDEX} publishes those")


def _state(directory: Path) -> tuple[object, ...]:
    """Something that is another when a writer has been at work."""
    files = [directory / name for name in (CURRENT_FILE, CHECKSUMS_FILE, manifests.FILE_NAME, LOCK_NAME)]
    stamps: list[object] = []
    for path in files:
        try:
            status = path.stat()
            stamps.append((status.st_ino, status.st_mtime_ns, status.st_size))
        except OSError:
            stamps.append(None)
    # Versions that are dropped, and snapshots, take files with them before anything else tells of it.
    versions = ((table.name, *(path.name for path in table_manifests(table))) for table in table_paths(directory))
    return (*stamps, *snapshot_numbers(directory), *versions)


def _bare(path: Path, error: CollectionError) -> str:
    """The complaint without the name of the file and without advice."""
    return str(error).removeprefix(f"{path}: ").removesuffix("; run `mmsearch repair`")
