"""How far a run is, told a few times a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from mmsearch.indexer.discover import Found, Walk
from mmsearch.progress import Phase, Progress, ProgressCallback

_EVERY_S = 0.2


class Meter:
    """Tells `progress`, if there is one, how many files are `done` of those that were counted."""

    def __init__(self, progress: ProgressCallback | None, done: Callable[[], int]) -> None:
        self._progress = progress
        self._done = done
        self._total: int | None = None
        self._next = 0.0

    def count(self, walks: Sequence[Walk]) -> None:
        """Counts the files to come by their names, which costs little; not at all when nobody wants to know."""
        if self._progress is None:
            return
        total = 0
        for walk in walks:
            for _ in walk.names():
                total += 1
                self._tell("scan", total)
        self._total = total
        self._tell("scan", total, now=True)

    def watch(self, files: Iterable[Found]) -> Iterator[Found]:
        """`files`, with a sign of life for each."""
        for found in files:
            self.tick()
            yield found

    def tick(self, *, now: bool = False) -> None:
        """Some files more may be done."""
        self._tell("index", self._done, now=now)

    def publishing(self, *, done: bool) -> None:
        """The snapshot is about to be published, or has been."""
        self._tell("publish", int(done), total=1, now=True)

    def _tell(
        self, phase: Phase, done: int | Callable[[], int], *, total: int | None = None, now: bool = False
    ) -> None:
        if self._progress is None or (not now and time.monotonic() < self._next):
            return
        self._next = time.monotonic() + _EVERY_S
        # Counting may cost more than a file does.
        done = done if isinstance(done, int) else done()
        if total is None and self._total is not None:
            total = max(self._total, done)
        self._progress(Progress(phase, done, total))
