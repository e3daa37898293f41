"""What stands beside given rows of several segments, in one array: their vectors, their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from mmsearch.exact_search import unit_float32
from mmsearch.segment import Segment, Tokens

Numbers = npt.NDArray[np.int64]


def gather_vectors(segments: Sequence[Segment], numbers: Numbers, rows: Numbers, dim: int) -> npt.NDArray[np.float32]:
    """The unit vectors (N, dim) of `rows` (N,) in the segments `numbers` (N,)."""
    found = np.empty((len(rows), dim), np.float32)
    for segment, places in _by_segment(segments, numbers):
        found[places] = unit_float32(segment.vectors[rows[places]])
    return found


def gather_tokens(segments: Sequence[Segment], numbers: Numbers, rows: Numbers) -> Tokens | None:
    """The tokens (N, T, C) of `rows` (N,) in the segments `numbers` (N,); None unless all have some of one shape."""
    shapes = {segment.info.tokens for segment, _ in _by_segment(segments, numbers)}
    shape = shapes.pop() if len(shapes) == 1 else None
    if shape is None:
        return None
    found = np.empty((len(rows), *shape), np.int8)
    for segment, places in _by_segment(segments, numbers):
        if segment.tokens is not None:
            found[places] = segment.tokens[rows[places]]
    return found


def _by_segment(segments: Sequence[Segment], numbers: Numbers) -> Iterator[tuple[Segment, Numbers]]:
    """Each segment that is asked for, and at which places of `numbers`."""
    for number in np.unique(numbers).tolist():
        yield segments[number], np.flatnonzero(numbers == number)
