"""Telling a publisher that was killed from a `CURRENT` that is not what was written.

Both leave a snapshot that is newer than the live one. A publisher keeps the snapshot before, and removes the one before
that as soon as `CURRENT` names the new one, so as long as three stand it has not come to its end. Where there is no
third one to tell, a mark stands for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from mmsearch import manifest as manifests
from mmsearch.durable import FILE_MODE, fsync_dir
from mmsearch.errors import CollectionError, CollectionNotFound
from mmsearch.manifest import SNAPSHOTS_DIRECTORY

_MARK = "unfinished"


def snapshot_numbers(directory: Path) -> list[int]:
    """The numbers of the snapshots whose manifests stand there, newest first."""
    names = [path.stem for path in (directory / SNAPSHOTS_DIRECTORY).glob("*.json")]
    return sorted((int(name) for name in names if name.isascii() and name.isdigit()), reverse=True)


def begin(directory: Path, live: int) -> None:
    """To be called, durably, before a snapshot is published after number `live`, 0 for none."""
    if all(number >= live for number in snapshot_numbers(directory)):
        _mark(directory).touch(mode=FILE_MODE)
        fsync_dir(directory / SNAPSHOTS_DIRECTORY)


def end(directory: Path) -> None:
    """To be called when nothing newer than the live snapshot is there. A mark that stays after all does no harm: the
    next publisher removes it, and sees two snapshots.
    """
    _mark(directory).unlink(missing_ok=True)


def note_published(directory: Path) -> None:
    """To be called when a snapshot is live and the tables' checksums are recorded: `collection.json` says so, durably,
    from then on.
    """
    with contextlib.suppress(CollectionNotFound):
        manifest = manifests.read(directory)
        if not manifest.published:
            manifests.write(directory, replace(manifest, published=True))


def was_published(directory: Path) -> bool:
    """Whether `collection.json`, as far as it can be read, says that a snapshot has been live in `directory`."""
    try:
        return manifests.read(directory).published
    except CollectionError:
        return False


def current_is_lost(directory: Path, numbers: Collection[int]) -> bool:
    """Whether `CURRENT`, which is not there, has been: snapshots with these `numbers` are."""
    return bool(numbers) and not _mark(directory).exists()


def current_went_back(directory: Path, number: int, numbers: Collection[int]) -> bool:
    """Whether `CURRENT` names the snapshot `number`, of those with `numbers`, and a newer one has been published."""
    newer, older = (any(each > number for each in numbers), any(each < number for each in numbers))
    return newer and not older and not _mark(directory).exists()


def _mark(directory: Path) -> Path:
    return directory / SNAPSHOTS_DIRECTORY / _MARK
