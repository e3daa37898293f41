"""How long one query takes, by percentiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Query = TypeVar("Query")


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of single queries: percentiles over `queries` of them, all 0 when there were none."""

    p50: float
    p95: float
    p99: float
    queries: int


def latency_of(work: Callable[[Query], object], queries: Iterable[Query]) -> Latency:
    """Return how long `work` takes for each of `queries`, one after the other, after one that is not counted."""
    queries = list(queries)
    for query in queries[:1]:
        work(query)
    milliseconds = []
    for query in queries:
        started = time.perf_counter()
        work(query)
        milliseconds.append(1000 * (time.perf_counter() - started))
    p50, p95, p99 = np.percentile(milliseconds or [0.0], [50, 95, 99])
    return Latency(float(p50), float(p95), float(p99), len(queries))


def spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Return at most `most` of the rows 0 to `count` - 1, evenly spread, so that a sample does not depend on chance."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64)) if count else np.empty(0, np.int64)
