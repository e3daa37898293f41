"""Directories -> the files worth looking at, in a fixed order and in memory that follows the depth of the tree.

What counts: regular files whose extension is one of ours. A FIFO, socket or device with such a name is reported as an
obstacle and never opened. What does not: symbolic links, whether to files or to directories (what they lead to is
indexed where it lies, so a loop cannot happen and nothing outside a root is read); names that begin with a dot;
the thumbnails and waste baskets of other programs; and every collection of ours.

Names are bytes from end to end. One that cannot be listed or stat-ed costs itself alone.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from mmsearch.image_formats import IMAGE_EXTENSIONS
from mmsearch.indexer.reading import stored_mtime_ns
from mmsearch.passages import TEXT_EXTENSIONS
from mmsearch.types import Kind

EXCLUDED_DIRECTORIES = frozenset({b"@eaDir", b"#recycle", b"$RECYCLE.BIN", b"System Volume Information", b"lost+found"})
# A collection has the first, and one of the others as soon as anything was written to it.
_MARKER = b"collection.json"
_BESIDE_MARKER = frozenset({b"items.lance", b"snapshots"})

# What a drive that went away answers. None of it says anything about the one file that was asked for.
DRIVE_GONE = frozenset(
    {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.EHOSTDOWN}
)
_SPECIAL = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What one PATH argument asks to look at: all of a root, a directory inside it, or a single file.

    `path` is relative to the root, "" for the root itself, which may be a file. `without` are paths, relative to the
    root, that are passed over with all beneath them: they belong to other roots. With `files`, relative to the root,
    it is those and nothing else: of `is_file` scopes there are several in one then, and `path` is "".
    """

    root_id: int
    root: bytes
    path: bytes
    is_file: bool = False
    without: frozenset[bytes] = frozenset()
    files: frozenset[bytes] = frozenset()

    @property
    def top(self) -> bytes:
        """The absolute path of the directory or file."""
        return self.absolute(self.path)

    def absolute(self, path: bytes) -> bytes:
        """The absolute path of `path`, relative to the root."""
        return join_path(self.root, path)

    def covers(self, path: bytes) -> bool:
        """Whether a scan of this scope would come across `path`, relative to the same root."""
        if self.files:
            return path in self.files
        inside = not self.path or path == self.path or path.startswith(self.path + b"/")
        return inside and not (self.without and self._is_left_out(path))

    def _is_left_out(self, path: bytes) -> bool:
        return any(path == each or path.startswith(each + b"/") for each in self.without)


@dataclass(frozen=True, slots=True)
class Found:
    """One file with an extension we know. `path` is relative to `root`; `extension` is lower case, with the dot.

    `obstacle` says what stands there instead of a regular file, None for a regular one.
    """

    root_id: int
    root: bytes
    path: bytes
    kind: Kind
    extension: str
    size: int
    mtime_ns: int
    obstacle: str | None = None

    @property
    def absolute(self) -> bytes:
        """The absolute path."""
        return join_path(self.root, self.path)


@dataclass(slots=True)
class Walk:
    """What a walk through one scope met besides files. Complete once the walk has ended.

    `unread` are the paths, relative to the root, that could not be listed or stat-ed, with the error; nothing beneath
    them was seen, so nothing beneath them is known to be gone. `broken` is the error of a drive that went away: the
    walk ended there. `mounts` are the directories, relative to the root, on which another device is mounted. `ignored`
    counts files of no use to us, `links` those symbolic links among them that lead to a directory or are named like a
    file of ours.
    """

    scope: Scope
    unread: dict[bytes, OSError] = field(default_factory=dict)
    broken: OSError | None = None
    mounts: set[bytes] = field(default_factory=set)
    ignored: int = 0
    links: int = 0

    def files(self) -> Iterator[Found]:
        """The files of the scope: those of a directory by name, then its directories by name, each with all beneath
        it. Lazy; ends early when the drive breaks; a name that vanishes meanwhile is not reported.
        """
        for path, extension in self.names():
            try:
                status = os.lstat(self.scope.absolute(path))
            except FileNotFoundError:
                continue
            except OSError as error:
                # lstat fails for want of the right to search the directory, so all of the directory is in question.
                self._trouble(path if self.scope.is_file else split_path(path)[0], error)
                continue
            if stat.S_ISLNK(status.st_mode) or stat.S_ISDIR(status.st_mode):
                continue  # replaced since its directory was listed
            obstacle = next((words for test, words in _SPECIAL if test(status.st_mode)), None)
            kind: Kind = "text" if extension in TEXT_EXTENSIONS else "image"
            yield Found(
                root_id=self.scope.root_id,
                root=self.scope.root,
                path=path,
                kind=kind,
                extension=extension,
                size=status.st_size,
                mtime_ns=stored_mtime_ns(status),
                obstacle=obstacle,
            )

    def names(self) -> Iterator[tuple[bytes, str]]:
        """The (path, extension) of what `files` would give, without a stat for each."""
        if self.scope.is_file:
            for path in sorted(self.scope.files) or [self.scope.path]:
                yield path, known_extension(self.scope.absolute(path)) or ""
            return
        pending = [iter([self.scope.path])]
        while pending and not self.broken:
            directory = next(pending[-1], None)
            if directory is None:
                pending.pop()
                continue
            files, directories = self._listing(directory)
            for name, extension in files:
                yield _join(directory, name), extension
            pending.append(iter([_join(directory, name) for name in directories]))

    def _listing(self, directory: bytes) -> tuple[list[tuple[bytes, str]], list[bytes]]:
        """The names in one directory, sorted: files of a known extension, and directories to enter."""
        files: list[tuple[bytes, str]] = []
        directories: list[bytes] = []
        names = set()
        if directory and _is_mount(self.scope.absolute(directory)):
            self.mounts.add(directory)
        try:
            with os.scandir(self.scope.absolute(directory)) as entries:
                for entry in entries:
                    if entry.name == _MARKER or entry.name in _BESIDE_MARKER:
                        names.add(entry.name)
                    self._sort_in(entry, files, directories)
        except OSError as error:
            self._trouble(directory, error)
        if is_collection(names):
            return [], []
        if without := self.scope.without:
            files = [each for each in files if _join(directory, each[0]) not in without]
            directories = [name for name in directories if _join(directory, name) not in without]
        return sorted(files), sorted(directories)

    def _sort_in(self, entry: os.DirEntry[bytes], files: list[tuple[bytes, str]], directories: list[bytes]) -> None:
        if entry.is_symlink():
            self.ignored += 1
            self.links += known_extension(entry.name) is not None or _leads_to_folder(entry)
        elif entry.is_dir(follow_symlinks=False):
            if not is_excluded(entry.name):
                directories.append(entry.name)
        elif (extension := known_extension(entry.name)) and not is_excluded(entry.name):
            files.append((entry.name, extension))
        else:
            self.ignored += 1

    def _trouble(self, path: bytes, error: OSError) -> None:
        if error.errno in DRIVE_GONE or (path == self.scope.path and not self.scope.is_file):
            self.broken = error
        else:
            self.unread[path] = error


def _leads_to_folder(link: os.DirEntry[bytes]) -> bool:
    try:
        return stat.S_ISDIR(link.stat().st_mode)
    except OSError:
        return False


def _is_mount(directory: bytes) -> bool:
    try:
        return os.lstat(directory).st_dev != os.lstat(directory + b"/..").st_dev
    except OSError:
        return False


def known_extension(name: bytes) -> str | None:
    """The extension of `name` in lower case with its dot, None when it is not one of ours."""
    stem, dot, last = split_path(name)[1].rpartition(b".")
    extension = (dot + last).lower().decode("latin-1") if stem else ""
    return extension if extension in IMAGE_EXTENSIONS or extension in TEXT_EXTENSIONS else None


def is_collection(names: Container[bytes]) -> bool:
    """Whether a directory that holds these names is a collection of ours."""
    return _MARKER in names and any(name in names for name in _BESIDE_MARKER)


def is_excluded(name: bytes) -> bool:
    """Whether a walk passes over a file or directory of that name: hidden ones, and other programs' own."""
    return name.startswith(b".") or name in EXCLUDED_DIRECTORIES


def is_link(path: bytes) -> bool:
    """Whether a symbolic link stands at the absolute `path`, or something that cannot be examined."""
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def split_path(path: bytes) -> tuple[bytes, bytes]:
    """The directory and the last name of a path; pathlib does not take bytes."""
    directory, _, name = path.rpartition(b"/")
    return directory, name


def join_path(root: bytes, path: bytes) -> bytes:
    """`path` below `root`; with an empty path `root` itself, which may be a file and so takes no slash."""
    return os.path.join(root, path) if path else root


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name
