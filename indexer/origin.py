"""Where the rows of a file that was read come from: the file itself, one that moved, one it is a copy of, or nowhere.

A moved file is a new path with the bytes of a known file that is gone: its rows get the new path and keep everything
else. When that other file is still there, the new path is a copy: new rows, and the embedding for nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from mmsearch.indexer.discover import join_path, split_path
from mmsearch.indexer.known import KnownIndex
from mmsearch.indexer.lookup import NO_ROWS, Rows
from mmsearch.indexer.plan import Planned


@dataclass(frozen=True, slots=True)
class Origin:
    """In rows of `KnownIndex`: `takes_over`, the rows that become those of the file, and `donor`, the rows of a file
    with the same bytes and all its embeddings, which may be the same rows.

    `same_file`: it takes over its own rows, and its bytes are what they were. `moved`: it takes over those of another
    path.
    """

    takes_over: Rows = field(default_factory=lambda: NO_ROWS)
    donor: Rows = field(default_factory=lambda: NO_ROWS)
    same_file: bool = False
    moved: bool = False

    @property
    def keeps_embeddings(self) -> bool:
        """Whether the rows taken over have the right embeddings already."""
        return len(self.donor) > 0 and np.array_equal(self.donor, self.takes_over)


class Origins:
    """Finds origins, and marks what a file takes over as taken. `roots` are the paths of the roots by id; `healthy` are
    the ids of those that can be believed when they say that a file is gone.
    """

    def __init__(self, known: KnownIndex, roots: Mapping[int, bytes], healthy: Collection[int]) -> None:
        self._known = known
        self._roots = roots
        self._healthy = healthy

    def of(self, planned: Planned, digest: bytes | None) -> Origin:
        """The origin of a file whose content has that digest, None for content that nobody could read to the end."""
        own = planned.rows if not self._known.taken[planned.rows].any() else NO_ROWS
        origin = self._find(planned.found.path, own, digest)
        self._known.taken[origin.takes_over] = True
        return origin

    def release(self, origin: Origin) -> None:
        """Undoes `of`: nothing came of it."""
        self._known.taken[origin.takes_over] = False

    def _find(self, path: bytes, own: Rows, digest: bytes | None) -> Origin:
        if digest is None:
            return Origin(own)
        same_file = self._known.digest(own) == digest
        if same_file and self._is_embedded(own):
            return Origin(own, own, same_file=True)
        # Of several moved files with the same bytes, each keeps its name when a folder is renamed.
        others = sorted(self._known.files_with(digest), key=lambda rows: self._name(rows) != split_path(path)[1])
        if not len(own):
            for rows in others:
                if not self._known.taken[rows].any() and self._is_gone(rows):
                    return Origin(rows, rows if self._is_embedded(rows) else NO_ROWS, moved=True)
        donor = next((rows for rows in others if self._is_embedded(rows)), NO_ROWS)
        return Origin(own, donor, same_file=same_file)

    def _name(self, rows: Rows) -> bytes:
        return split_path(self._known.path(int(rows[0])))[1]

    def _is_embedded(self, rows: Rows) -> bool:
        return bool(self._known.embedded[rows].all()) and self._known.is_whole(rows)

    def _is_gone(self, rows: Rows) -> bool:
        row = int(rows[0])
        root = int(self._known.root_ids[row])
        if root not in self._healthy:
            return False
        path = join_path(self._roots[root], self._known.path(row))
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False
        # A walk passes over a link, and through a directory: the file that stood there is gone for it.
        return stat.S_ISLNK(mode) or stat.S_ISDIR(mode)
