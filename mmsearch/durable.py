"""Writing so that a kill or a power cut leaves the old file or the new one, never half of one; and the writer lock.

Everything a collection stores goes through here: temporary file in the same directory, write, flush, fsync, close,
rename, fsync the directory. Directories are 0700 and files 0600: names and captions of private photos are in them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from mmsearch.checked_json import dump_checked, load_checked, parse_object
from mmsearch.errors import CollectionBusy, CollectionError

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
LOCK_NAME = "lock"
_TEMPORARY_SUFFIX = ".mmsearch-tmp"
_HOLDER = {"host", "pid", "since"}


def write_atomic(path: Path, data: bytes, *, mode: int = FILE_MODE) -> None:
    """Replace `path` by `data`, durably: after a crash at any moment it holds the old bytes or the new ones.

    Raises:
        OSError: the disk is full, read-only or broken. `path` is then what it was before (or holds the new bytes, when
            only the last step, pushing its name to the disk, failed), and no temporary file stays.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}{_TEMPORARY_SUFFIX}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        # close() can be the first to report a full disk, so it has to happen inside the try and before the rename.
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_dir(path.parent)


def is_leftover(name: str) -> bool:
    """True for the name of a temporary file that a killed `write_atomic` left behind."""
    return name.startswith(".") and name.endswith(_TEMPORARY_SUFFIX)


def remove_leftovers(directory: Path) -> int:
    """Number of temporary files of killed writers removed from `directory`. Only for the holder of the writer lock."""
    leftovers = [entry for entry in directory.iterdir() if is_leftover(entry.name)]
    for leftover in leftovers:
        leftover.unlink()
    return len(leftovers)


def make_directory(path: Path) -> None:
    """Create `path` (0700, parents too) durably; an existing directory is left alone."""
    if path.is_dir():
        return
    make_directory(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=DIRECTORY_MODE)
    fsync_dir(path.parent)


def fsync_file(path: Path) -> None:
    """Push the bytes of one file to the disk."""
    _fsync(path, os.O_RDONLY)


def fsync_dir(path: Path) -> None:
    """Push the names in one directory to the disk, so that a rename or a new file survives a power cut."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: Path, flags: int, *, mode: int | None = None) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        if mode is not None:
            with contextlib.suppress(PermissionError):  # it belongs to somebody else, who decides
                os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree_new(directory: Path, already: set[tuple[str, int, int]]) -> int:
    """Number of files under `directory` pushed to the disk: those that `already` does not know; it learns them.

    They and their directories become private: who wrote them may have left that to the umask. A file is known by path,
    inode and modification time. Files come before the directories that name them. A file that
    vanishes meanwhile is nobody's loss. The directory's own name in its parent is pushed too.
    """
    known_before = len(already)
    touched = {directory.parent}
    for path, key in _files_below(directory):
        if key in already:
            continue
        with contextlib.suppress(FileNotFoundError):
            _fsync(path, os.O_RDONLY, mode=FILE_MODE)
        already.add(key)
        touched.update(parent for parent in path.parents if parent.is_relative_to(directory))
    for parent in sorted(touched, key=lambda path: len(path.parts), reverse=True):
        inside = parent.is_relative_to(directory)
        _fsync(parent, os.O_RDONLY | os.O_DIRECTORY, mode=DIRECTORY_MODE if inside else None)
    return len(already) - known_before


def _files_below(directory: Path) -> Iterator[tuple[Path, tuple[str, int, int]]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(Path(entry.path))
                continue
            with contextlib.suppress(FileNotFoundError):
                info = entry.stat(follow_symlinks=False)
                yield Path(entry.path), (entry.path, info.st_ino, info.st_mtime_ns)


def probe_hard_links(directory: Path) -> None:
    """Return when hard links work in `directory`; LanceDB needs them to commit.

    Raises:
        CollectionError: the file system has none (FAT, exFAT, some network mounts).
    """
    token = secrets.token_hex(6)
    original = directory / f".probe-{token}{_TEMPORARY_SUFFIX}"
    link = directory / f".probe-link-{token}{_TEMPORARY_SUFFIX}"
    try:
        original.touch(mode=FILE_MODE)
        os.link(original, link)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
            raise
        raise CollectionError(
            f"{directory}: this file system has no hard links ({error.strerror}), and committing to a collection needs "
            "them; put the collection on a local disk with ext4, xfs, btrfs or APFS"
        ) from error
    finally:
        for path in (link, original):
            path.unlink(missing_ok=True)


class WriterLock:
    """The right to write to one collection, held from `with` to its end; readers never need it.

    The kernel's flock decides, so a dead holder never blocks anyone; the JSON in the file only says who holds it.

    Raises:
        CollectionBusy: another process, or this one, holds it; names host, pid and since when.
        CollectionError: the file system cannot lock files.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        path = self._directory / LOCK_NAME
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": int(time.time())}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, dump_checked(holder), 0)
        except BlockingIOError:
            holder_text = _describe_holder(os.pread(descriptor, 4096, 0))
            os.close(descriptor)
            raise CollectionBusy(
                f"{self._directory}: another process is writing to this collection ({holder_text}); "
                "wait until it is done"
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise CollectionError(
                f"{path}: cannot be locked ({error.strerror}), so two writers could meet; "
                "put the collection on a local disk"
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The file stays: removing it would let a third process lock a new file while a second waits on the old one.
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def lock_is_sound(data: bytes) -> bool:
    """Whether `data` is what a lock file may hold: a holder, as it is written now or was before, or nothing yet."""
    try:
        if not data or load_checked(data).keys() == _HOLDER:
            return True
    except ValueError:
        pass
    try:
        holder = parse_object(data)
    except ValueError:
        return False
    return holder.keys() == _HOLDER and json.dumps(holder).encode() == data


def _describe_holder(data: bytes) -> str:
    try:
        holder = json.loads(data)
        since = datetime.fromtimestamp(int(holder["since"]), UTC).isoformat()
        return f"host {str(holder['host'])[:64]!r}, pid {int(holder['pid'])}, since {since}"
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
        return "its host, pid and start time cannot be read from the lock file"
