"""Snapshots that no query opens, and that are damaged: they go. `CURRENT` is written as it should be."""

from __future__ import annotations

from pathlib import Path

from mmsearch.errors import CollectionError
from mmsearch.snapshot_check import snapshot_numbers
from mmsearch.snapshot_manifest import (
    CURRENT_FILE,
    SEGMENTS_DIRECTORY,
    SnapshotManifest,
    manifest_path,
    read_current,
    read_manifest,
    write_current,
)
from mmsearch.snapshot_writer import SnapshotWriter
from mmsearch.stored_file import FileInfo, file_info


def drop_damaged_snapshots(directory: Path) -> list[str]:
    """A sentence for each snapshot beside the live one that is not what was published, and was removed with what only
    it needed. The live one has to be whole.
    """
    if not (directory / CURRENT_FILE).exists():
        return []
    live = read_current(directory)
    found = []
    if (directory / CURRENT_FILE).read_bytes() != f"{live}\n".encode("ascii"):
        write_current(directory, live)
        found.append(f"{directory / CURRENT_FILE}: was garbled; written anew")
    for number in snapshot_numbers(directory):
        if number != live and not _is_whole(directory, number):
            manifest_path(directory, number).unlink()
            found.append(f"{manifest_path(directory, number)}: an older snapshot, was damaged; removed")
    SnapshotWriter(directory).tidy()
    return found


def _is_whole(directory: Path, number: int) -> bool:
    try:
        manifest = read_manifest(directory, number)
    except (OSError, CollectionError):
        return False
    return all(_is(path, info) for path, info in _files(directory, manifest).items())


def _files(directory: Path, manifest: SnapshotManifest) -> dict[Path, FileInfo]:
    place = directory / SEGMENTS_DIRECTORY
    return {place / each.name / name: info for each in manifest.segments for name, info in each.files.items()}


def _is(path: Path, expected: FileInfo) -> bool:
    try:
        return file_info(path) == expected
    except OSError:
        return False
