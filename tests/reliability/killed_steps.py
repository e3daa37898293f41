"""Ending a run in this process before any one of the steps that it takes on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from killed_commits import Killed

from mmsearch import manifest, snapshot_manifest, store_others
from mmsearch.segment_writer import SegmentWriter
from mmsearch.snapshot_writer import SnapshotWriter
from mmsearch.store_tables import StoredTable


class Steps:
    """Counts steps, and ends the run in place of the one after `most`. What is dead takes no further step."""

    def __init__(self, most: int) -> None:
        self.taken: list[str] = []
        self.dead = False
        self._most = most

    def take(self, what: str) -> None:
        """One step is about to be taken."""
        if self.dead or len(self.taken) >= self._most:
            self.dead = True
            raise Killed(what)
        self.taken.append(what)


@contextmanager
def killed_after_steps(most: int) -> Iterator[Steps]:
    """Within, indexing takes `most` steps (commits, replaced files, finished segments, removals) and then `Killed`."""
    steps = Steps(most)

    def stepping(real: Callable[..., Any]) -> Callable[..., Any]:
        def limited(*arguments: Any, **options: Any) -> Any:
            steps.take(real.__name__)
            return real(*arguments, **options)

        return limited

    with pytest.MonkeyPatch.context() as patched:
        for owner, names in (
            (StoredTable, ("add", "replace", "delete", "optimize")),
            (SegmentWriter, ("finish",)),
            (SnapshotWriter, ("_remove_all_but", "_remove_leftovers")),
            (manifest, ("write_atomic",)),
            (snapshot_manifest, ("write_atomic",)),
        ):
            for name in names:
                patched.setattr(owner, name, stepping(getattr(owner, name)))
        patched.setattr(store_others, "shutil", SimpleNamespace(rmtree=stepping(shutil.rmtree)))
        yield steps
