"""What a collection says about itself, from its marker, its live snapshot, and while its model changes, its tables.

All of it is read beside whoever writes. A change of models that ends meanwhile takes the tables of the old one away:
then what was read is of two moments, and everything is read anew.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mmsearch import manifest as manifests
from mmsearch.errors import CollectionError, CollectionNotFound
from mmsearch.manifest import CollectionManifest
from mmsearch.manifest_models import ways_out
from mmsearch.root_health import root_trouble
from mmsearch.snapshot_manifest import active_model, read_current
from mmsearch.types import CollectionInfo, IndexUse, Reason, RootInfo, Skipped, SwitchInfo

if TYPE_CHECKING:
    from mmsearch.snapshot import Snapshot

T = TypeVar("T")

_TRIES = 3


def describe(directory: Path, open_snapshot: Callable[[], Snapshot]) -> CollectionInfo:
    """What the collection holds, as of the snapshot that `open_snapshot` gives, the live one.

    Raises:
        CollectionNotFound: there is no collection.
        CollectionDamaged: its files do not fit together.
    """

    def described(manifest: CollectionManifest) -> CollectionInfo:
        snapshot = None
        with contextlib.suppress(CollectionNotFound):
            snapshot = open_snapshot()
        return _described(directory, manifest, snapshot)

    return _undisturbed(directory, described)


def failed_files(directory: Path) -> list[Skipped]:
    """The files that could not be read and have not changed since, in no particular order.

    Raises:
        CollectionNotFound: there is no collection.
        CollectionDamaged: the tables cannot be read.
    """
    manifests.read(directory)
    try:
        return _undisturbed(directory, lambda manifest: _failed_files(directory, manifest))
    except CollectionNotFound:
        # Registered, and killed before the first tables were made: nothing has been tried yet.
        return []


def _undisturbed(directory: Path, read: Callable[[CollectionManifest], T]) -> T:
    """What `read` makes of the collection's marker; once more, whether it failed or not, if the models or the live
    snapshot are not those any more that were there when it began.
    """
    for _ in range(_TRIES - 1):
        manifest = manifests.read(directory)
        before = _state(directory, manifest)
        try:
            result = read(manifest)
        except (CollectionError, FileNotFoundError):
            if _state(directory, manifests.read(directory)) == before:
                raise
        else:
            if _state(directory, manifests.read(directory)) == before:
                return result
    return read(manifests.read(directory))


def _state(directory: Path, manifest: CollectionManifest) -> tuple[object, ...]:
    """What changes with every publication, and with every step of a change of models."""
    number = None
    with contextlib.suppress(CollectionError):
        number = read_current(directory)
    return number, manifest.model, manifest.switch, manifest.kept_models


def _described(directory: Path, manifest: CollectionManifest, snapshot: Snapshot | None) -> CollectionInfo:
    """What the collection holds, as of `snapshot`, None before the first publication."""
    counts = snapshot.head.counts if snapshot is not None else {}
    failed = [(Reason(reason), int(count)) for reason, count in counts.get("failed", {}).items()]
    model = active_model(directory, manifest)
    switch = None if model != manifest.model else _switch(directory, manifest, counts)
    segments = snapshot.segments if snapshot is not None else ()
    return CollectionInfo(
        path=str(directory),
        format=manifest.format,
        snapshot=snapshot.number if snapshot is not None else 0,
        model=model.name if model is not None else None,
        fingerprint=model.fingerprint if model is not None else None,
        dim=model.dim if model is not None else None,
        roots=tuple(RootInfo(os.fsdecode(root.path), root_trouble(root.path, root.device)) for root in manifest.roots),
        images=counts.get("images", 0),
        texts=counts.get("texts", 0),
        partial=counts.get("partial", 0),
        missing=counts.get("missing", 0),
        failed=tuple(sorted(failed, key=lambda each: (-each[1], each[0]))),
        index_kinds=tuple(sorted({segment.info.index.kind for segment in segments})),
        segments=len(segments),
        disk_bytes=_disk_bytes(directory),
        matchable=sum(
            len(snapshot.live_rows(number)) if snapshot is not None and segment.info.tokens is not None else 0
            for number, segment in enumerate(segments)
        ),
        switch=switch,
        kept_models=tuple(each.name for each in manifest.kept_models),
        indexes=tuple(IndexUse(segment.info.kind, segment.info.rows, segment.info.index.kind) for segment in segments),
        ways_out=None
        if switch is None or model is None or manifest.switch is None
        else ways_out(model, manifest.switch.to),
    )


def _failed_files(directory: Path, manifest: CollectionManifest) -> list[Skipped]:
    model = active_model(directory, manifest)
    if model is None:
        return []
    failed = []
    roots = {root.id: root.path for root in manifest.roots}
    from mmsearch.store import Store

    with Store.open(directory, model, read_only=True) as store:
        for item in store.errors():
            if item.missing_since is None and item.root_id in roots:
                root = roots[item.root_id]
                path = os.path.join(root, item.path) if item.path else root
                failed.append(Skipped(os.fsdecode(path), item.reason or Reason.CRASHED, item.detail or ""))
    return failed


def _switch(directory: Path, manifest: CollectionManifest, counts: dict[str, int]) -> SwitchInfo | None:
    """How far a change of model that is under way has come."""
    if manifest.switch is None:
        return None
    # The tables are opened for this alone: it takes as long as everything else that is told.
    from mmsearch.store import Store

    to = manifest.switch.to
    try:
        with Store.open(directory, to, read_only=True) as store:
            files = store.known_files()
    except CollectionNotFound:
        # Killed before its table was made.
        return SwitchInfo(to.name, to.fingerprint, to.dim, 0, counts.get("images", 0) + counts.get("texts", 0))
    embedded, items = int((files.live & files.has_vector).sum()), int(files.live.sum())
    return SwitchInfo(to.name, to.fingerprint, to.dim, embedded, items)


def _disk_bytes(directory: Path) -> int:
    total = 0
    # A walk passes over what a writer removes meanwhile.
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
