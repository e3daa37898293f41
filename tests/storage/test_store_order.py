"""What a power cut may leave: none of the steps that exchange a vector is on the disk before the one it follows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from storage_builders import MODEL, item, vector_of

from mmsearch import store_prune
from mmsearch.store import Store
from mmsearch.store_checksums import table_files
from mmsearch.store_prune import manifests, prune_old_versions
from mmsearch.store_tables import StoredTable

DAY = 24 * 3600


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Files and directories that were pushed to the disk, by their paths."""
    paths: set[str] = set()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        paths.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    with Store.open(tmp_path, MODEL) as store:
        store.put([item(id) for id in (1, 2)], {id: vector_of(id) for id in (1, 2)})
        store.sync()
    return tmp_path


def unsafe(table: Path, pushed: set[str]) -> list[str]:
    """The files of a table that a power cut may take."""
    names = [name for name in table_files(table) if not name.startswith("_transactions") and "hint" not in name]
    return [name for name in names if str(table / name) not in pushed]


def watched(monkeypatch: pytest.MonkeyPatch, look: Callable[[str, StoredTable], None]) -> None:
    """Lets `look` at each commit before it is made."""
    for name in ("add", "replace", "delete"):
        real = getattr(StoredTable, name)

        def commit(self: StoredTable, rows: Any, name: str = name, real: Any = real) -> None:
            look(name, self)
            real(self, rows)

        monkeypatch.setattr(StoredTable, name, commit)


@pytest.mark.case("F29")
@pytest.mark.promise("R3")
@pytest.mark.parametrize("how", ["put", "embed"])
def test_an_item_is_safe_before_its_new_vector_is_written(
    collection: Path, pushed: set[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with Store.open(collection, MODEL) as store:
        left: list[list[str]] = []

        def look(name: str, table: StoredTable) -> None:
            if name == "add" and table.path.parent.name == "vectors":
                left.append(unsafe(collection / "items.lance", pushed))

        if how == "embed":
            store.mark_missing(np.array([1]), 5)  # something that was not pushed
        watched(monkeypatch, look)
        if how == "put":
            store.put([item(1, width=7)], {1: vector_of(1, 2)})
        else:
            store.embed({1: vector_of(1, 2)})
    assert left == [[]]


@pytest.mark.case("F29")
@pytest.mark.promise("R3")
def test_an_old_vector_is_gone_for_good_before_its_item_changes_even_when_a_killed_run_dropped_it(
    collection: Path, pushed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(collection, MODEL) as store:
        store.forget(np.array([1]))
    pushed.clear()
    left: list[list[str]] = []

    def look(name: str, table: StoredTable) -> None:
        if table.path.name == "items.lance":
            left.append(unsafe(collection / "vectors" / f"{MODEL.fingerprint}.lance", pushed))

    with Store.open(collection, MODEL) as store:
        watched(monkeypatch, look)
        store.put([item(1, width=7)], {1: vector_of(1, 2)})
    assert left == [[]]


def test_new_items_need_no_push(collection: Path, pushed: set[str]) -> None:
    with Store.open(collection, MODEL) as store:
        store.put([item(3)], {3: vector_of(3)})
    assert not [path for path in pushed if ".lance" in path]


@pytest.mark.case("F17")
def test_old_versions_are_gone_for_good_before_the_files_they_name(
    collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(collection, MODEL) as store:
        for width in range(4):
            store.put([item(1, width=width)], {})
    table = collection / "items.lance"
    steps: list[tuple[str, str]] = []
    real = Path.unlink

    def unlink(path: Path) -> None:
        steps.append(("gone", path.parent.name))
        real(path)

    monkeypatch.setattr(Path, "unlink", unlink)
    monkeypatch.setattr(store_prune, "fsync_dir", lambda path: steps.append(("safe", path.name)))
    assert len(manifests(table)) > 2
    assert prune_old_versions(table, 1, 0) > 0
    assert ("gone", "data") in steps
    assert steps.index(("safe", "_versions")) < min(
        place for place, (what, name) in enumerate(steps) if what == "gone" and name != "_versions"
    )
