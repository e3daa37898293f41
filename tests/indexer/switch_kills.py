"""Ending a run that changes the model at any of its steps on the disk, and putting back what was there before."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from killed_commits import Killed
from photo_library import Library

from mmsearch.indexer.pipeline import IndexOptions
from mmsearch.indexer.write import BatchLimits
from mmsearch.store_tables import StoredTable

ONE_BY_ONE = IndexOptions(batch=BatchLimits(files=1))


@contextmanager
def killed_at(step: int) -> Iterator[list[str]]:
    """Within, the process may take `step` steps on the disk; what would be the next one raises `Killed`.

    Steps are commits of tables, replacements of files, and removals. A removal that is killed has removed something.
    """
    taken: list[str] = []

    def note(what: str) -> None:
        if len(taken) == step:
            raise Killed(what)
        taken.append(what)

    def commit(name: str) -> Any:
        real = getattr(StoredTable, name)

        def limited(self: StoredTable, rows: Any) -> None:
            if len(rows):
                note(f"{name} {self.path.name}")
            real(self, rows)

        return limited

    def replacement(real: Any) -> Any:
        def limited(path: Path, data: bytes) -> None:
            note(f"replace {path.name}")
            real(path, data)

        return limited

    def removal(real: Any) -> Any:
        def limited(path: Path) -> None:
            for file in path.rglob("data/*"):
                file.unlink()
            note(f"remove {path.name}")
            real(path)

        return limited

    from mmsearch import manifest, snapshot_manifest, store_others

    with pytest.MonkeyPatch.context() as patched:
        for name in ("add", "replace", "delete"):
            patched.setattr(StoredTable, name, commit(name))
        for module in (manifest, snapshot_manifest):
            patched.setattr(module, "write_atomic", replacement(module.write_atomic))
        patched.setattr(store_others, "shutil", SimpleNamespace(rmtree=removal(shutil.rmtree)))
        yield taken


def restored(library: Library, before: Path) -> None:
    """Makes the collection what was copied to `before`."""
    shutil.rmtree(library.collection, ignore_errors=True)
    shutil.copytree(before, library.collection)
