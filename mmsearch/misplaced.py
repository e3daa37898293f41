"""What stands where a file or a directory of ours belongs, and is none. Opening it may never come back, as a FIFO does
not, so it is looked at from outside, before anything is opened.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmsearch.errors import CollectionDamaged

# The directories of a table. What LanceDB keeps in these are files.
_TABLE_FOLDERS = ("data", "_deletions", "_transactions", "_versions")
# How names of files in a collection end. Others are not ours: a NAS makes folders of its own in every folder, and file
# managers leave files.
_OUR_ENDINGS = frozenset((".lance", ".manifest", ".txn", ".arrow", ".bin", ".json", ".npy", ".faiss"))
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISREG, "a file"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, slots=True)
class Misplaced:
    """What is wrong at `path`, as the end of a sentence. `waits`: to open it may take for ever."""

    path: Path
    what: str
    waits: bool


def is_our_name(name: str) -> bool:
    """Whether a file of ours in a collection may have that name; unfinished files of the object store have a '#'."""
    return Path(name).suffix in _OUR_ENDINGS and not name.startswith(".") and "#" not in name


def misplaced_file(path: Path) -> Misplaced | None:
    """What stands at `path` if that is neither a file nor a link to one; None where nothing is."""
    return _misplaced(path, stat.S_IFREG)


def misplaced_directory(path: Path) -> Misplaced | None:
    """What stands at `path` if that is neither a directory nor a link to one; None where nothing is."""
    return _misplaced(path, stat.S_IFDIR)


def misplaced_files(folder: Path) -> Iterator[Misplaced]:
    """Every entry of `folder` that is not a file, but folders and links with a name that is not one of ours; none if
    `folder` cannot be listed.
    """
    for path in _entries(folder, but=stat.S_IFREG):
        found = misplaced_file(path)
        if found is not None and (found.waits or is_our_name(path.name)):
            yield found


def misplaced_directories(folder: Path) -> Iterator[Misplaced]:
    """Every entry of `folder` that is neither a directory nor a file: files among them are for others to judge."""
    for path in _entries(folder, but=stat.S_IFDIR):
        found = misplaced_directory(path)
        if found is not None and misplaced_file(path) is not None:
            yield found


def misplaced_in_table(table: Path) -> Iterator[Misplaced]:
    """What is out of place at or in the LanceDB table `table`."""
    if (found := misplaced_directory(table)) is not None:
        yield found
        return
    for name in _TABLE_FOLDERS:
        folder = table / name
        if (found := misplaced_directory(folder)) is not None:
            yield found
        else:
            yield from misplaced_files(folder)


def require_table_in_place(table: Path) -> None:
    """Returns when LanceDB can open what is in `table` without waiting for ever.

    Raises:
        CollectionDamaged: something in it is no file; names it.
    """
    require_none(each for each in misplaced_in_table(table) if each.waits)


def require_none(found: Iterator[Misplaced]) -> None:
    """Returns when nothing is `found`.

    Raises:
        CollectionDamaged: something is; names the first.
    """
    for each in found:
        raise CollectionDamaged(f"{each.path}: {each.what}; run `mmsearch repair`")


def _misplaced(path: Path, expected: int) -> Misplaced | None:
    name = "file" if expected == stat.S_IFREG else "directory"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if path.is_symlink() and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            leads = "in a circle" if error.errno == errno.ELOOP else "nowhere"
            return Misplaced(path, f"is a link that leads {leads}, not a {name}", waits=False)
        # It is gone, or it cannot be looked at: whoever opens it is told why.
        return None
    if stat.S_IFMT(mode) == expected:
        return None
    kind = next((kind for test, kind in _KINDS if test(mode)), "something else")
    return Misplaced(path, f"is {kind}, not a {name}", waits=not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)))


def _entries(folder: Path, *, but: int) -> list[Path]:
    """The entries of `folder` that are not evidently of the kind `but`, sorted."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                Path(entry.path)
                for entry in entries
                if not (entry.is_file if but == stat.S_IFREG else entry.is_dir)(follow_symlinks=False)
            )
    except OSError:
        return []
