"""Ending what a process does between two commits of the tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mmsearch.store_tables import StoredTable


class Killed(BaseException):
    """What stands in for the end of the process: nothing catches it."""


@contextmanager
def killed_after(commits: int) -> Iterator[list[str]]:
    """Within, the tables take `commits` commits, and what would be the next one raises `Killed`.

    Gives the commits that were made, each as what it does and to which table.
    """
    made: list[str] = []

    def limited(name: str) -> Any:
        real = getattr(StoredTable, name)

        def commit(self: StoredTable, rows: Any) -> None:
            if len(rows) and len(made) == commits:
                raise Killed(f"{name} {self.path.name}")
            real(self, rows)
            if len(rows):
                made.append(f"{name} {self.path.parent.name}/{self.path.name}")

        return commit

    with pytest.MonkeyPatch.context() as patched:
        for name in ("add", "replace", "delete"):
            patched.setattr(StoredTable, name, limited(name))
        yield made
