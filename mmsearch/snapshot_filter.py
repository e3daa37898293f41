"""Which rows of a segment a query may find: not dead, not missing, and below the directory it asks for."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Container
from itertools import product

import numpy as np
import numpy.typing as npt

from mmsearch.manifest import Root
from mmsearch.segment import Segment

# A directory of the collection: the id of its root, and its path relative to that root, empty for the root itself.
Place = tuple[int, bytes]


def places_under(roots: tuple[Root, ...], under: bytes) -> tuple[Place, ...]:
    """The directories of `roots` that together are everything in or below `under`, an absolute directory.

    Roots are kept as they were spelled, and people reach the same folder by links: `under` and the roots are compared
    as spelled and with links resolved. Empty when `under` lies in no root and holds none.
    """
    asked = _spellings(under)
    places: dict[Place, None] = {}
    for root in roots:
        for spelled, path in product(_spellings(root.path), asked):
            if _covers(path, spelled):
                places[root.id, b""] = None
            elif _covers(spelled, path):
                places[root.id, path[len(spelled) :].strip(b"/")] = None
    return tuple(places)


def _spellings(path: bytes) -> tuple[bytes, ...]:
    """`path` as given and with links resolved."""
    try:
        resolved = os.path.realpath(path)
    except (OSError, ValueError):
        return (path,)
    return (path,) if resolved == path else (path, resolved)


def _covers(directory: bytes, path: bytes) -> bool:
    """True when `path` is `directory` or lies below it."""
    return path == directory or path.startswith(directory.rstrip(b"/") + b"/")


def was_indexed(segment: Segment, places: tuple[Place, ...]) -> bool:
    """Whether `segment` has directories in or below `places`; their rows may be dead or missing by now."""
    return any(first < stop for place in places for first, stop in _directory_ranges(segment, place))


def admitted_rows(
    segment: Segment,
    dead: npt.NDArray[np.int64],
    *,
    roots: tuple[Root, ...],
    places: tuple[Place, ...] | None,
    include_missing: Container[int],
) -> npt.NDArray[np.bool_] | None:
    """Mask (N,) of the rows that may be found, or None for all of them, which is the quickest to search.

    `dead` are row numbers. Only rows in and below `places` are admitted, None standing for everywhere. Missing rows are
    admitted below roots whose id is in `include_missing`.
    """
    if places is None and not len(dead) and not segment.info.missing:
        return None
    admitted = np.ones(segment.info.rows, np.bool_) if places is None else _rows_in(segment, places)
    admitted[dead] = False
    if segment.info.missing:
        visible = [root.id for root in roots if root.id in include_missing]
        admitted &= (segment.rows["missing"] == 0) | np.isin(segment.rows["root_id"], visible)
    return None if admitted.all() else admitted


def _rows_in(segment: Segment, places: tuple[Place, ...]) -> npt.NDArray[np.bool_]:
    admitted = np.zeros(segment.info.rows, np.bool_)
    directories = segment.rows["directory"]
    for place in places:
        for first, stop in _directory_ranges(segment, place):
            admitted |= (directories >= first) & (directories < stop)
    return admitted


def _directory_ranges(segment: Segment, place: Place) -> list[tuple[int, int]]:
    """Ranges of directory numbers at or below `place`. Directories are sorted by (root id, path)."""
    numbers = range(segment.directory_count)

    def first(root_id: int, path: bytes) -> int:
        return bisect_left(numbers, (root_id, path), key=segment.directory)

    root_id, inside = place
    if not inside:
        return [(first(root_id, b""), first(root_id + 1, b""))]
    after = bisect_right(numbers, place, key=segment.directory)
    # '0' follows '/' in the alphabet of bytes, so everything that begins with "inside/" stands between the two.
    return [(first(root_id, inside), after), (first(root_id, inside + b"/"), first(root_id, inside + b"0"))]
