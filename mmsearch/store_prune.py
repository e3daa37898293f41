"""Old versions of a LanceDB table on the disk: which are kept, and dropping the others where LanceDB itself cannot.

LanceDB drops old versions only after it has merged small files, and merging needs room. On a full disk that would be a
circle: no room to merge, so nothing is dropped, so no room.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from mmsearch.durable import fsync_dir

_NEWEST = 2**64 - 1
_MAGIC = b"LANC"

_log = logging.getLogger(__name__)


def manifests(table: Path) -> list[Path]:
    """The manifests of the table directory, newest version first."""
    found = [path for path in (table / "_versions").glob("*.manifest") if path.stem.isdigit()]
    return sorted(found, key=_version, reverse=True)


def kept_manifests(table: Path, versions: int, seconds: float) -> list[Path]:
    """Those of `manifests` that belong to the newest `versions` or are younger than `seconds`."""
    oldest = time.time() - seconds
    return [path for place, path in enumerate(manifests(table)) if place < versions or path.stat().st_mtime >= oldest]


def prune_old_versions(table: Path, versions: int, seconds: float, *, data_files: int) -> int:
    """Bytes freed by removing all versions but the kept ones, and the data files that no kept manifest names.

    Manifests hold the names of their data files as plain text. Should that ever change, the newest one would not name
    exactly the `data_files` files that the table is known to have, and then nothing is removed.
    """
    kept = kept_manifests(table, versions, seconds)
    unneeded = {path.name: path for path in (table / "data").glob("*.lance")}
    file_count = len(unneeded)
    for place, manifest in enumerate(kept):
        content = manifest.read_bytes()
        for name in [name for name in unneeded if name.encode("ascii") in content]:
            del unneeded[name]
        named = file_count - len(unneeded)
        if not content.endswith(_MAGIC) or (place == 0 and named != data_files):
            _log.warning("%s: not pruned, %s names %d data files of %d", table, manifest.name, named, data_files)
            return 0
    dropped = [path for path in manifests(table) if path not in kept]
    freed = 0
    # Manifests go first: one that names a removed file would be a damaged version, a file without a name is litter.
    for path in [*dropped, *unneeded.values()]:
        freed += path.stat().st_size
        path.unlink()
    for directory in (table / "_versions", table / "data"):
        fsync_dir(directory)
    return freed


def _version(manifest: Path) -> int:
    """Version number from a file name: LanceDB counts down from the largest 64-bit number, old releases counted up."""
    number = int(manifest.stem)
    return _NEWEST - number if len(manifest.stem) == len(str(_NEWEST)) else number
