"""What the tables hold, in columns, with the look-ups that planning needs: by path, by size, by content.

A library of a million files is a million rows in a few arrays, never a million Python objects. A row number here is a
position in those columns; `ids` turns it into the row's id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmsearch.indexer.discover import known_extension
from mmsearch.indexer.lookup import Lookup, Rows
from mmsearch.types import Reason

if TYPE_CHECKING:
    from mmsearch.store import KnownFiles

# A file that is written twice within one tick of a coarse clock keeps its mtime; FAT's ticks are 2 seconds long.
RACE_NS = 2_000_000_000

_CHUNK = 65_536
_SAME_SIZE = 64
_SAME_CONTENT = 16
# How many rows of the same content are looked at, at most, each time that one of them is needed.
_GATHERED = 4096


@dataclass(frozen=True, slots=True)
class Stored:
    """What the tables know of one file. `rows` are its rows by part.

    `reason` is set for a file that could not be read. `whole` is false when its rows contradict each other or an
    embedding is lost, as a kill or a repair may leave them: such a file has to be read again.
    """

    rows: Rows
    size: int
    mtime_ns: int
    checked_ns: int
    reason: Reason | None
    missing: bool
    whole: bool

    @property
    def may_have_raced(self) -> bool:
        """Whether the file could have been written once more within the tick of its mtime after it was read."""
        return abs(self.mtime_ns - self.checked_ns) < RACE_NS

    def is_current(self, size: int, mtime_ns: int) -> bool:
        """Whether nothing of this needs to be written again for a file with the same bytes and this stat."""
        return (self.size, self.mtime_ns) == (size, mtime_ns) and not self.missing and not self.may_have_raced


class KnownIndex:
    """The rows of the tables at the start of a run, and what the run has learnt about each.

    `seen`: the walk came across its file. `taken`: a file of this run has taken the row over, be it the same file,
    read again, or the same content at another path. `rewritten`: that was committed, so the tables no longer hold what
    they held. `returned`: marked missing, and there again, unchanged.
    """

    def __init__(self, files: KnownFiles, reasons: dict[int, Reason]) -> None:
        """`reasons` are those of the rows with status error, by id."""
        self._files = files
        self._reasons = reasons
        self.ids: Rows = files.ids
        self.root_ids = files.root_ids
        self.parts = files.parts
        self.failed: NDArray[np.bool_] = files.statuses == "error"
        self.missing: NDArray[np.bool_] = files.missing_since >= 0
        self.embedded: NDArray[np.bool_] = files.has_vector
        self.seen = np.zeros(len(files), np.bool_)
        self.taken = np.zeros(len(files), np.bool_)
        self.rewritten = np.zeros(len(files), np.bool_)
        self.returned = np.zeros(len(files), np.bool_)
        self._content = _keys(files.hashes, lambda row, digest: content_key(digest or b""))
        roots = files.root_ids.tolist()
        self._by_path = Lookup(_keys(files.paths, lambda row, path: path_key(roots[row], path)))
        first = np.flatnonzero(files.parts == 0)
        usable = first[files.has_vector[first]]
        self._by_size = Lookup(files.sizes[usable], usable)
        self._by_content = Lookup(self._content[first], first)
        # For a content, how many of its rows have been passed by because all of them were taken.
        self._used_up: dict[int, int] = {}

    def count_files(self, rows: Rows) -> int:
        """The number of files that have these rows, each with all of its rows."""
        return int(np.count_nonzero(self.parts[rows] == 0))

    def path(self, row: int) -> bytes:
        """The path of a row, relative to its root."""
        return self._files.path(row)

    def stored(self, root_id: int, path: bytes) -> Stored | None:
        """What is known of the file at `path`, None for nothing."""
        rows = self.rows_at(root_id, path)
        return self.describe(rows) if len(rows) else None

    def describe(self, rows: Rows) -> Stored:
        """What is known of the file with these rows, at least one."""
        first = int(rows[0])
        return Stored(
            rows=rows,
            size=int(self._files.sizes[first]),
            mtime_ns=int(self._files.mtime_ns[first]),
            checked_ns=int(self._files.checked_ns[first]),
            reason=self._reasons.get(int(self.ids[first]), Reason.CRASHED) if self.failed[first] else None,
            missing=bool(self.missing[first]),
            whole=self.is_whole(rows),
        )

    def is_whole(self, rows: Rows) -> bool:
        """Whether the rows of one file belong together and have the embeddings they should have."""
        numbered = np.array_equal(self.parts[rows], np.arange(len(rows)))
        same = np.all(self._content[rows] == self._content[rows[0]])
        return bool(numbered and same and np.all(self.embedded[rows] | self.failed[rows]))

    def rows_at(self, root_id: int, path: bytes) -> Rows:
        """The rows of the file at `path`, by part; empty when there is none."""
        found = self._by_path.find(path_key(root_id, path))
        rows = [row for row in found.tolist() if self.root_ids[row] == root_id and self.path(row) == path]
        return np.asarray(sorted(rows, key=lambda row: int(self.parts[row])), np.int64)

    def digest(self, rows: Rows) -> bytes | None:
        """The sha256 of the file that has these rows; None for a new file, and for one that could not be read."""
        return self._files.digest(int(rows[0])) if len(rows) else None

    def looks_stored(self, rows: Rows, size: int, mtime_ns: int) -> bool:
        """Whether all `rows` of a file were stored of one with this size and time."""
        return bool((self._files.sizes[rows] == size).all() and (self._files.mtime_ns[rows] == mtime_ns).all())

    def hashes_of_size(self, size: int, extension: str) -> tuple[bytes, ...]:
        """Digests of embedded files with that size and extension: should a new file be one of them, it needs no
        decoding. At most a few, a handful of sizes being shared by very many files.
        """
        rows = self._by_size.find(size, limit=_SAME_SIZE).tolist()
        digests = {self._files.digest(row) for row in rows if known_extension(self.path(row)) == extension}
        return tuple(sorted(digest for digest in digests if digest is not None))

    def note_rewritten(self, ids: Rows) -> None:
        """The rows with these ids, all known at the start, were written anew or removed."""
        self.rewritten[np.searchsorted(self.ids, ids)] = True

    def files_with(self, digest: bytes) -> list[Rows]:
        """The rows of each file whose rows in the tables have that content; of very many some, free ones first."""
        rows = self._gathered(content_key(digest))
        rows = rows[~self.rewritten[rows]]
        rows = rows[np.argsort(self.taken[rows], kind="stable")][:_SAME_CONTENT]
        same = [row for row in rows.tolist() if self._files.digest(row) == digest]
        return [self.rows_at(int(self.root_ids[row]), self.path(row)) for row in same]

    def _gathered(self, key: int) -> Rows:
        """First rows of files with that content key: a few thousand, those before them being taken, if possible not
        all taken themselves. What is passed by is passed by for good, so asking for each of many takes linear time.
        """
        rows = self._by_content.find(key)
        start = self._used_up.get(key, 0)
        while start + _GATHERED < len(rows) and self.taken[rows[start : start + _GATHERED]].all():
            start += _GATHERED
            self._used_up[key] = start
        return rows[start : start + _GATHERED]


def content_key(digest: bytes) -> int:
    """The first 64 bits of a sha256 digest as int64: enough to look up by, the caller compares the rest."""
    return int.from_bytes(digest[:8], "little", signed=True)


def path_key(root_id: int, path: bytes) -> int:
    """A 64-bit key of a path, good within this process; the caller compares the path itself."""
    return hash((root_id, path))


def _keys(column: Any, key_of: Callable[[int, Any], int]) -> Rows:
    """`key_of` of every row number and value of an Arrow column, without holding all values at once."""
    keys = np.empty(len(column), np.int64)
    for start in range(0, len(column), _CHUNK):
        values = column.slice(start, _CHUNK).to_pylist()
        keys[start : start + len(values)] = [key_of(start + place, value) for place, value in enumerate(values)]
    return keys
