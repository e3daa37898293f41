"""Search in two steps: something quick names candidates by rounded scores, the vectors themselves decide among them.

The score of a candidate is off by at most `error`, so every row whose similarity can be among the k best has a score of
at least that of the k-th best candidate less twice the error. These are all that is looked at; and when the worst
candidate lies below that line, none can have been missed, no tie cut off. Otherwise more candidates are asked for, and
beyond what the source can name another index.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mmsearch.exact_search import Vectors, best_rows, exact_similarities, search_exact
from mmsearch.types import IndexKind
from mmsearch.vector_index import FEW_ALLOWED, IndexInfo, VectorIndex

Similarities = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# A source that knows no masks is asked only where it names little in vain.
_MOSTLY_ALLOWED = 0.75
_MARGIN, _MORE = 44, 4

_log = logging.getLogger(__name__)


class CandidateSource(Protocol):
    """What names candidates among N vectors. Rows in `odd` (O,) it knows nothing of: they are looked at each time."""

    @property
    def place(self) -> str:
        """What it is and where it runs, in words."""

    @property
    def odd(self) -> Rows:
        """Rows, ascending, that have no place in it: damaged ones, whose length is not 1."""

    @property
    def most(self) -> int:
        """How many candidates it can name for one query."""

    @property
    def masks(self) -> bool:
        """True when it names only rows that are allowed."""

    @property
    def recall(self) -> float:
        """The share of its best rows that it names at all: 1 for one that looks at everything."""

    def error(self, queries: Similarities) -> npt.NDArray[np.float64]:
        """How far a score may be from the similarity, for each query (Q,)."""

    def propose(self, queries: Similarities, count: int, allowed: Mask | None) -> tuple[Similarities, Rows]:
        """The `count` best of its rows for each query, each once: scores (Q, count), falling, and rows; -inf and -1 for
        none.
        """


class RefinedIndex:
    """A VectorIndex over `vectors` (N, D) whose candidates come from `source`. Safe to use from several threads.

    `otherwise` gives the index to go on with when the source fails, for searches it cannot serve, and for queries whose
    best rows do not stand out from as many candidates as it can name.
    """

    def __init__(self, vectors: Vectors, source: CandidateSource, otherwise: Callable[[], VectorIndex]) -> None:
        self._vectors = vectors
        self._source: CandidateSource | None = source
        self._otherwise = otherwise
        self._substitute: VectorIndex | None = None
        self._lock = threading.RLock()
        # In an index of this kind the vectors decide, and nothing is stored.
        self._own_info = IndexInfo("exact", recall=source.recall)

    @property
    def info(self) -> IndexInfo:
        """What answers: a search of everything, or the substitute once the source has failed."""
        return self._own_info if self._source is not None else self._other().info

    @property
    def kind(self) -> IndexKind:
        return self.info.kind

    @property
    def place(self) -> str:
        """Where it runs, in words."""
        return f"{self._other().kind} on the CPU" if self._source is None else self._source.place

    def search(self, queries: Similarities, k: int, allowed: Mask | None = None) -> tuple[Similarities, Rows]:
        """As `VectorIndex.search`."""
        with self._lock:
            source = self._source
            if source is None or not self._serves(source, k, allowed):
                return self._other().search(queries, k, allowed)
            try:
                similarities, rows, unsure = self._search(source, queries, k, allowed)
            except (RuntimeError, MemoryError) as error:
                # Out of memory, or a device that is gone. What it holds is let go of with it.
                _log.warning("%s failed (%s); going on without it", source.place, str(error).split("\n", 1)[0][:200])
                self._source = None
                return self._other().search(queries, k, allowed)
            if len(unsure):
                similarities[unsure], rows[unsure] = self._other().search(queries[unsure], k, allowed)
            return similarities, rows

    def _serves(self, source: CandidateSource, k: int, allowed: Mask | None) -> bool:
        if min(k, len(self._vectors)) > source.most:
            return False
        return allowed is None or source.masks or int(np.count_nonzero(allowed)) >= _MOSTLY_ALLOWED * len(allowed)

    def _other(self) -> VectorIndex:
        if self._substitute is None:
            self._substitute = self._otherwise()
        return self._substitute

    def _search(
        self, source: CandidateSource, queries: Similarities, k: int, allowed: Mask | None
    ) -> tuple[Similarities, Rows, Rows]:
        """What `search` says, and the numbers of the queries that are left open."""
        similarities = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        admitted = len(self._vectors) if allowed is None else int(np.count_nonzero(allowed))
        pool = admitted if source.masks else len(self._vectors)
        waiting = np.arange(len(queries))
        if admitted <= FEW_ALLOWED:
            return *search_exact(self._vectors, queries, k, allowed), waiting[:0]
        wanted = 2 * k + _MARGIN
        while len(waiting):
            count = min(wanted, pool, source.most)
            found = source.propose(np.ascontiguousarray(queries[waiting]), count, allowed)
            errors = source.error(queries[waiting])
            unsure = []
            for number, scores, candidates, error in zip(waiting, *found, errors, strict=True):
                known = _known(candidates, source.odd, allowed)
                near, line = candidates[known], _line(scores[known], k, error)
                if _complete(scores, known, line, all_named=count == pool, wanted=min(k, admitted - len(source.odd))):
                    near = np.concatenate([near[scores[known] >= line], _allowed(source.odd, allowed)])
                    similarities[number], rows[number] = self._refined(near, queries[number], k)
                else:
                    unsure.append(number)
            waiting = np.array(unsure, np.int64)
            if count < wanted:
                break
            wanted *= _MORE
        return similarities, rows, waiting

    def _refined(self, near: Rows, query: Similarities, k: int) -> tuple[Similarities, Rows]:
        cosines = exact_similarities(self._vectors, near, query)
        whole = cosines > -np.inf
        return best_rows(near[whole], cosines[whole], k)


def _known(candidates: Rows, odd: Rows, allowed: Mask | None) -> Mask:
    """Which of the `candidates` (C,) are rows that may be found, and that the source has in their right place."""
    known: Mask = candidates >= 0
    if len(odd):
        known &= ~np.isin(candidates, odd)
    return known if allowed is None else known & allowed[candidates]


def _allowed(rows: Rows, allowed: Mask | None) -> Rows:
    return rows if allowed is None else rows[allowed[rows]]


def _line(scores: Similarities, k: int, error: float) -> float:
    """The score that everything has whose similarity can be among the k best."""
    return float(scores[k - 1]) - 2 * error if len(scores) >= k else -np.inf


def _complete(scores: Similarities, known: Mask, line: float, *, all_named: bool, wanted: int) -> bool:
    """True when no row at or above `line` can be missing from the candidates."""
    return int(np.count_nonzero(known)) >= wanted and (all_named or float(scores[-1]) < line)
