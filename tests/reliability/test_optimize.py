"""`optimize` makes few files of many, and nothing else changes; killed anywhere, or out of room, it loses nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from stored_collection import Stored, build

from mmsearch import store_compaction
from mmsearch.errors import CollectionDamaged, CollectionError
from mmsearch.indexer import optimize as optimizing
from mmsearch.indexer.check import check
from mmsearch.indexer.optimize import optimize
from mmsearch.model import load_model
from mmsearch.store_tables import StoredTable

CHECKOUT = Path(__file__).resolve().parents[2]
_KILLED_AT = """
import os, sys
from pathlib import Path
import mmsearch.durable as durable
left = int(sys.argv[2])
def counted(real):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return real(*arguments, **options)
    return call
for name in ("fsync", "rename", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
from mmsearch.indexer.optimize import optimize
optimize(Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_itm_model_dir: Path) -> Stored:
    """Eleven photos and two texts, indexed in four runs. Shared, so only copied."""
    return build(tmp_path_factory.mktemp("optimized"), load_model(tiny_itm_model_dir, threads=1))


@pytest.fixture
def stored(built: Stored, tmp_path: Path) -> Stored:
    return built.copy(tmp_path)


def assert_whole(stored: Stored, before: dict[tuple[bytes, int], tuple[int, np.ndarray]]) -> None:
    """Nothing is damaged, and exactly what could be found can be found, to the last bit."""
    report = check(stored.directory, read_data=True)
    assert report.ok, report.damaged
    after = stored.found()
    assert {place: id for place, (id, _) in after.items()} == {place: id for place, (id, _) in before.items()}
    assert all(np.array_equal(after[place][1], vector) for place, (_, vector) in before.items())


def test_few_files_hold_what_many_held(stored: Stored) -> None:
    before = stored.found()
    report = optimize(stored.directory)
    assert report.fragments_before > report.fragments_after == 2
    assert report.segments_before >= report.segments_after == 2
    assert report.items == len(before)
    assert_whole(stored, before)
    assert check(stored.directory).unrecorded == 0
    again = optimize(stored.directory)
    assert (again.fragments_after, again.segments_after) == (2, 2)
    assert stored.index().indexed == 0


def test_old_versions_go_and_so_does_what_was_moved_aside_long_ago(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stored.found()
    aside = stored.directory / "quarantine" / "old"
    aside.mkdir(parents=True)
    optimize(stored.directory)
    assert aside.is_dir()
    monkeypatch.setattr(store_compaction, "KEPT_VERSIONS", 2)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 40 * 24 * 3600)
    report = optimize(stored.directory)
    assert not aside.exists()
    assert any(str(aside) in sentence for sentence in report.warnings)
    assert report.bytes_after < report.bytes_before
    for table in stored.tables.values():
        assert len(list((table / "_versions").glob("*.manifest"))) == store_compaction.KEPT_VERSIONS
    assert_whole(stored, before)


@pytest.mark.case("F3")
def test_a_merge_that_changes_rows_is_undone(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stored.found()
    real = StoredTable.optimize

    def losing_a_row(self: StoredTable) -> None:
        real(self)
        self.delete(self.ids()[:1])

    monkeypatch.setattr(StoredTable, "optimize", losing_a_row)
    with pytest.raises(CollectionDamaged, match="changed the rows, so it was undone"):
        optimize(stored.directory)
    monkeypatch.undo()
    assert_whole(stored, before)
    optimize(stored.directory)
    assert_whole(stored, before)


@pytest.mark.case("F3")
def test_a_merge_that_changes_a_value_is_undone(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    real = StoredTable.optimize

    def changing_a_value(self: StoredTable) -> None:
        real(self)
        if "width" in self.schema.names:
            rows = self.take(self.schema.names, self.ids()[:1])
            place = rows.schema.get_field_index("size")
            self.replace(rows.set_column(place, rows.schema.field(place), [[7]]))

    monkeypatch.setattr(StoredTable, "optimize", changing_a_value)
    with pytest.raises(CollectionDamaged, match="changed the rows"):
        optimize(stored.directory)


@pytest.mark.case("F3")
def test_versions_are_dropped_although_merging_fails(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stored.found()

    def failing(self: StoredTable) -> None:
        raise CollectionError("no room")

    monkeypatch.setattr(StoredTable, "optimize", failing)
    monkeypatch.setattr(store_compaction, "KEPT_SECONDS", -1)
    monkeypatch.setattr(store_compaction, "KEPT_VERSIONS", 2)
    report = optimize(stored.directory)
    assert report.fragments_after == report.fragments_before
    for table in stored.tables.values():
        assert len(list((table / "_versions").glob("*.manifest"))) == 2
    assert_whole(stored, before)


def test_without_room_it_says_so_before_it_merges(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stored.found()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(optimizing.shutil, "disk_usage", lambda _: usage(1 << 40, 1 << 40, 1 << 20))
    with pytest.raises(CollectionError, match=r"1 MB are free on its disk, and merging needs \d+ MB"):
        optimize(stored.directory)
    assert_whole(stored, before)


@pytest.mark.case("F3")
@pytest.mark.promise("R2")
@pytest.mark.parametrize("every", [40, pytest.param(5, marks=pytest.mark.full)])
def test_killed_anywhere_it_loses_nothing(built: Stored, tmp_path: Path, every: int) -> None:
    steps = 0
    for left in range(3, 10_000, every):
        stored = built.copy(tmp_path / str(left))
        before = stored.found()
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        done = subprocess.run(
            [sys.executable, "-c", _KILLED_AT, stored.directory, str(left)], env=environment, timeout=120, check=False
        )
        assert done.returncode in (0, 9)
        assert_whole(stored, before)
        steps += 1
        if done.returncode == 0:
            break
        optimize(stored.directory)
        assert_whole(stored, before)
    assert steps > 2
