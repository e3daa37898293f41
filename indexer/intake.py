"""Planned files -> what reading them gave. Decode processes start with the first file that needs one."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, TypeAlias, TypeVar

from mmsearch.indexer.decode import DecodePool
from mmsearch.indexer.interrupt import Interrupt, StopWaiting
from mmsearch.indexer.jobs import Decoded, Failed, Job
from mmsearch.indexer.plan import Planned
from mmsearch.types import Reason

Read: TypeAlias = tuple[Planned, Decoded | Failed]
T = TypeVar("T")


class Intake:
    """Reads files through one decode pool, which is opened when the first file comes. A context manager."""

    def __init__(self, open_pool: Callable[[], DecodePool], interrupt: Interrupt) -> None:
        self._open_pool = open_pool
        self._interrupt = interrupt
        self._pool: DecodePool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.close()

    def read(self, planned: Iterable[Planned]) -> Iterator[Read]:
        """Each file with its result, in order of completion. `planned` is pulled a bounded number ahead.

        Asked to stop, it ends at once: what was under way is not reported.
        """
        waiting: dict[int, Planned] = {}
        blocked: deque[Read] = deque()
        jobs = _jobs(planned, waiting, blocked)
        first = self._next(jobs)
        if first is not None:
            if self._pool is None:
                self._pool = self._open_pool()
            results = self._pool.run(itertools.chain([first], jobs))
            while (result := self._next(results)) is not None:
                yield waiting.pop(result.token), result
                while blocked:
                    yield blocked.popleft()
        if not self._interrupt.requested:
            yield from blocked

    def _next(self, values: Iterator[T]) -> T | None:
        try:
            with self._interrupt.waiting():
                value = next(values, None)
        except StopWaiting:
            return None
        # A signal to the whole process group may have ended a decode process before it reached us.
        return None if self._interrupt.requested else value


def _jobs(planned: Iterable[Planned], waiting: dict[int, Planned], blocked: deque[Read]) -> Iterator[Job]:
    """A job for every regular file; it goes to `waiting` by its token. The others go to `blocked` as failed."""
    for token, each in enumerate(planned):
        found = each.found
        if found.obstacle is not None:
            blocked.append((each, Failed(token, Reason.UNIDENTIFIED, f"{found.obstacle}, not a regular file")))
            continue
        waiting[token] = each
        yield Job(token, found.absolute, found.kind, found.extension, each.known_hashes)
