"""Which rows of a segment a query may find: not dead, not missing, and below the directory it asks for."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container

import numpy as np
import numpy.typing as npt

from mmsearch.manifest import Root
from mmsearch.segment import Segment


def admitted_rows(
    segment: Segment,
    dead: npt.NDArray[np.int64],
    *,
    roots: tuple[Root, ...],
    under: bytes | None,
    include_missing: Container[int],
) -> npt.NDArray[np.bool_] | None:
    """Mask (N,) of the rows that may be found, or None for all of them, which is the quickest to search.

    `dead` are row numbers. Missing rows are admitted below roots whose id is in `include_missing`; `under` is an
    absolute directory, None for everywhere.
    """
    if under is None and not len(dead) and not segment.info.missing:
        return None
    admitted = np.ones(segment.info.rows, np.bool_) if under is None else _rows_under(segment, roots, under)
    admitted[dead] = False
    if segment.info.missing:
        visible = [root.id for root in roots if root.id in include_missing]
        admitted &= (segment.rows["missing"] == 0) | np.isin(segment.rows["root_id"], visible)
    return None if admitted.all() else admitted


def _rows_under(segment: Segment, roots: tuple[Root, ...], under: bytes) -> npt.NDArray[np.bool_]:
    admitted = np.zeros(segment.info.rows, np.bool_)
    for root in roots:
        for first, stop in _directory_ranges(segment, root, under):
            directories = segment.rows["directory"]
            admitted |= (directories >= first) & (directories < stop)
    return admitted


def _directory_ranges(segment: Segment, root: Root, under: bytes) -> list[tuple[int, int]]:
    """Ranges of directory numbers of `root` at or below `under`. Directories are sorted by (root id, path)."""
    numbers = range(segment.directory_count)

    def first(root_id: int, path: bytes) -> int:
        return bisect_left(numbers, (root_id, path), key=segment.directory)

    if root.path == under or root.path.startswith(under.rstrip(b"/") + b"/"):
        return [(first(root.id, b""), first(root.id + 1, b""))]
    if not root.holds(under):
        return []
    inside = under.removeprefix(root.path.rstrip(b"/")).strip(b"/")
    after = bisect_right(numbers, (root.id, inside), key=segment.directory)
    # '0' follows '/' in the alphabet of bytes, so everything that begins with "inside/" stands between the two.
    return [(first(root.id, inside), after), (first(root.id, inside + b"/"), first(root.id, inside + b"0"))]
