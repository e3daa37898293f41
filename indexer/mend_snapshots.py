"""Snapshots that are damaged are moved aside, each with the damaged parts of it that no other one needs; and `CURRENT`
is written as it should be.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mmsearch.errors import CollectionError
from mmsearch.indexer.quarantine import move_aside
from mmsearch.snapshot_manifest import (
    CURRENT_FILE,
    SEGMENTS_DIRECTORY,
    SnapshotManifest,
    manifest_path,
    read_current,
    read_manifest,
    write_current,
)
from mmsearch.snapshot_unfinished import current_is_lost, snapshot_numbers
from mmsearch.stored_file import FileInfo, file_info


def mend_current(directory: Path) -> list[str]:
    """A sentence when `CURRENT` was gone or garbled, and names the newest snapshot again. Nothing where the manifest of
    that one cannot be read: an older one may hold what was removed since.
    """
    path, numbers = directory / CURRENT_FILE, snapshot_numbers(directory)
    try:
        live = read_current(directory)
        if path.read_bytes() == f"{live}\n".encode("ascii"):
            return []
    except (OSError, CollectionError):
        live = numbers[0] if numbers and (path.exists() or current_is_lost(directory, numbers)) else 0
    if _manifest(directory, live) is None:
        return []
    what = "garbled" if path.exists() else "gone"
    # A publisher writes a manifest when all that it names is on the disk.
    write_current(directory, live)
    return [f"{path}: was {what}; names snapshot {live} again"]


def set_aside_damaged(directory: Path, *, live: int | None) -> list[str]:
    """A sentence for each snapshot but the `live` one that is not what was published, and was moved to the quarantine
    with its damaged parts. What the live one needs stays, damaged or not.
    """
    found = []
    for number in snapshot_numbers(directory):
        if number == live or _is_whole(directory, number):
            continue
        manifest = _manifest(directory, number)
        parts = _damaged_parts(directory, manifest) if manifest else _unnamed_parts(directory)
        kept = _parts_of(directory, [live]) if live is not None else frozenset()
        for part in parts:
            if part not in kept:
                move_aside(directory, part)
        path = manifest_path(directory, number)
        found.append(f"{path}: was damaged; moved to {move_aside(directory, path)}")
    return found


def _is_whole(directory: Path, number: int) -> bool:
    manifest = _manifest(directory, number)
    return manifest is not None and not _damaged_parts(directory, manifest, even_if_gone=True)


def _damaged_parts(directory: Path, manifest: SnapshotManifest, *, even_if_gone: bool = False) -> list[Path]:
    """The directories of those segments of which a file is not what was published."""
    parts = [(directory / SEGMENTS_DIRECTORY / each.name, each.files) for each in manifest.segments]
    return [
        part
        for part, files in parts
        if (even_if_gone or part.is_dir()) and not all(_is(part / name, info) for name, info in files.items())
    ]


def _unnamed_parts(directory: Path) -> list[Path]:
    """The directories of segments that no manifest names, as far as they can be read."""
    named = _parts_of(directory, snapshot_numbers(directory))
    place = directory / SEGMENTS_DIRECTORY
    return [part for part in sorted(place.glob("*")) if part not in named]


def _parts_of(directory: Path, numbers: Collection[int]) -> frozenset[Path]:
    manifests = filter(None, (_manifest(directory, number) for number in numbers))
    return frozenset(directory / SEGMENTS_DIRECTORY / each.name for manifest in manifests for each in manifest.segments)


def _manifest(directory: Path, number: int) -> SnapshotManifest | None:
    """The manifest of a snapshot, None when it cannot be read."""
    try:
        return read_manifest(directory, number)
    except (OSError, CollectionError):
        return None


def _is(path: Path, expected: FileInfo) -> bool:
    try:
        return file_info(path) == expected
    except OSError:
        return False
