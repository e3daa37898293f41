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
from stored_collection import Stored, build, marker, write_photos

from mmsearch import store_compaction
from mmsearch.errors import CollectionDamaged, CollectionError
from mmsearch.indexer import optimize as optimizing
from mmsearch.indexer.check import check
from mmsearch.indexer.optimize import optimize
from mmsearch.indexer.pipeline import IndexOptions
from mmsearch.model import load_model
from mmsearch.store import Store
from mmsearch.store_tables import StoredTable
from mmsearch.store_vectors import vectors_to_arrow

CHECKOUT = Path(__file__).resolve().parents[2]
# Ends before the call number argv[3] of those of the kind argv[2], and prints the names of those before.
CALLS = 100
COMMITS = [
    f"{commit} {step}"
    for commit in ("delete vectors", "optimize items", "optimize vectors")
    for step in ("begins", "ends")
]
_KILLED_AT = """
import os, sys
from pathlib import Path
import mmsearch.durable as durable
from mmsearch.store import Store
from mmsearch import store_compaction
from mmsearch.store_tables import StoredTable
store_compaction.KEPT_VERSIONS, store_compaction.KEPT_SECONDS = 2, -1
left = int(sys.argv[3])
def step(name):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    os.write(1, f"{name}\\n".encode())
def counted(real):
    def call(*arguments, **options):
        step(real.__name__)
        return real(*arguments, **options)
    return call
def kind_of(table):
    return "items" if table.path.stem == "items" else "vectors"
def commit(real):
    def call(table, *arguments, **options):
        step(f"{real.__name__} {kind_of(table)} begins")
        result = real(table, *arguments, **options)
        step(f"{real.__name__} {kind_of(table)} ends")
        return result
    return call
if sys.argv[2] == "calls":
    for name in ("fsync", "rename", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
else:
    for name in ("add", "replace", "delete", "require_optional", "optimize", "restore"):
        setattr(StoredTable, name, commit(getattr(StoredTable, name)))
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


@pytest.fixture(scope="module")
def loose(built: Stored, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """The same, with work for every part of `optimize`: a row that is dead in its segment, and an embedding without an
    item, as a run that is killed leaves it. Shared, so only copied.
    """
    stored = built.copy(tmp_path_factory.mktemp("loose"))
    write_photos(stored.photos, range(60, 61))
    stored.index()
    (stored.photos / "060.png").unlink()
    stored.index(IndexOptions(prune=True))
    with Store.open(stored.directory, marker(stored).model) as store:
        stray = {int(store.known_files().ids.max()) + 1: store.vectors(store.revisions()[0][:1])[0]}
        store._vectors.add(vectors_to_arrow(store._vectors.schema, stray, {}))
        store.sync()
    return stored


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
def test_killed_anywhere_it_loses_nothing(loose: Stored, tmp_path: Path, every: int) -> None:
    steps = killed_at_every(every, "calls", loose, tmp_path)
    assert set(steps) == {"fsync", "rename", "unlink"}
    assert len(steps) >= CALLS, len(steps)


@pytest.mark.case("F3")
@pytest.mark.promise("R2")
def test_killed_before_or_after_any_commit_it_loses_nothing(loose: Stored, tmp_path: Path) -> None:
    steps = killed_at_every(1, "commits", loose, tmp_path)
    assert steps == COMMITS


def killed_at_every(every: int, kind: str, start: Stored, tmp_path: Path) -> list[str]:
    """The names of the steps that `optimize` takes of one kind, and it was killed before each `every`-th of them."""
    for left in range(min(3, every - 1), 10_000, every):
        stored = start.copy(tmp_path / str(left))
        before = stored.found()
        done = subprocess.run(
            [sys.executable, "-c", _KILLED_AT, stored.directory, kind, str(left)],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            timeout=300,
            check=False,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert done.returncode in (0, 9)
        assert_whole(stored, before)
        if done.returncode == 0:
            return done.stdout.split("\n")[:-1]
        optimize(stored.directory)
        assert_whole(stored, before)
    raise AssertionError("it never came to its end")
