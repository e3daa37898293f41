"""Old versions of a LanceDB table on the disk: which are kept, and dropping the others.

LanceDB drops old versions only after it has merged small files, and merging needs room. On a full disk that would be a
circle: no room to merge, so nothing is dropped, so no room. And what a kill leaves of it looks like damage.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

from mmsearch.durable import fsync_dir, make_directory
from mmsearch.store_manifest import Known, read_version

_NEWEST = 2**64 - 1
_ENDINGS = {"data": (".lance",), "_deletions": (".arrow", ".bin"), "_transactions": (".txn",)}

_log = logging.getLogger(__name__)


def manifests(table: Path) -> list[Path]:
    """The manifests of the table directory, newest version first."""
    found = [path for path in (table / "_versions").glob("*.manifest") if path.stem.isdigit()]
    return sorted(found, key=manifest_number, reverse=True)


def kept_manifests(table: Path, versions: int, seconds: float) -> list[Path]:
    """Those of `manifests` that belong to the newest `versions` or are younger than `seconds`."""
    oldest = time.time() - seconds
    return [path for place, path in enumerate(manifests(table)) if place < versions or path.stat().st_mtime >= oldest]


def prune_old_versions(table: Path, versions: int, seconds: float) -> int:
    """Bytes freed by removing all versions but the kept ones, and every file that no kept one names. For the holder of
    the writer lock: nobody else may be writing files that have no name yet.

    Should a kept manifest say what is not understood, nothing is removed. A kill leaves versions with all their files,
    and files without a version.
    """
    kept = kept_manifests(table, versions, seconds)
    known: Known = {}
    needed: set[str] = set()
    for manifest in kept:
        try:
            version = read_version(manifest, known)
        except (OSError, ValueError) as error:
            _log.warning("%s: not pruned, %s cannot be read (%s)", table, manifest.name, error)
            return 0
        if version.transaction is not None:
            needed.add(version.transaction)
    needed |= {name for fragment in known.values() for name in fragment.files}
    # The oldest goes first, and manifests before files: what a manifest names is there, and no version is left out.
    freed = _removed([path for path in reversed(manifests(table)) if path not in kept])
    return freed + _removed([path for path in _named_files(table) if path.relative_to(table).as_posix() not in needed])


def _removed(paths: list[Path]) -> int:
    """Bytes freed by removing `paths` in their order, and durably: what goes later may not go without these."""
    freed = 0
    for path in paths:
        freed += path.stat().st_size
        path.unlink()
    for directory in {path.parent for path in paths}:
        fsync_dir(directory)
    return freed


def _named_files(table: Path) -> Iterator[Path]:
    """The files of all versions of `table`, but the manifests."""
    for folder, endings in _ENDINGS.items():
        yield from (path for path in (table / folder).glob("*") if path.suffix in endings)


def move_aside(manifest: Path, quarantine: Path) -> tuple[Path, Path]:
    """Where `manifest` was, and where in `quarantine` it is now."""
    make_directory(quarantine)
    aside = quarantine / f"{manifest.parent.parent.name}-{time.time_ns()}-{manifest.name}"
    manifest.rename(aside)
    fsync_dir(manifest.parent)
    fsync_dir(quarantine)
    return manifest, aside


def manifest_number(manifest: Path) -> int:
    """Version number from a file name: LanceDB counts down from the largest 64-bit number, old releases counted up."""
    number = int(manifest.stem)
    return _NEWEST - number if len(manifest.stem) == len(str(_NEWEST)) else number


def manifest_name(number: int) -> str:
    """The name of the manifest of version `number`, as LanceDB gives it now."""
    return f"{_NEWEST - number:020}.manifest"
