"""What heals a collection may be killed at any moment, as everything else: the next run goes on with it, without a
photo, and nothing that stands in the tables tells of another content than its row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from killed_commits import Killed
from PIL import Image
from stored_collection import Place, Stored, damage, write_photos

from mmsearch import manifest as markers
from mmsearch.indexer import repair as repairing
from mmsearch.indexer import restore as restoring
from mmsearch.indexer.check import check
from mmsearch.indexer.pipeline import IndexOptions, index
from mmsearch.indexer.repair import repair
from mmsearch.model import Model, load_model
from mmsearch.store import Store
from mmsearch.store_checksums import read_record
from mmsearch.store_prune import manifests

Found = Mapping[Place, tuple[int, np.ndarray]]
Heal = Callable[[Stored], object]


@pytest.fixture(scope="module")
def model(tiny_itm_model_dir: Path) -> Model:
    return load_model(tiny_itm_model_dir, threads=1)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Stored:
    """Two photos in a folder of their own, then eight, then four more; all but the two are out of reach now."""
    base = tmp_path_factory.mktemp("mending")
    stored = Stored(base / "collection", base / "photos", model)
    write_photos(base / "other", range(50, 52))
    index_other(stored)
    for numbers in (range(8), range(8, 12)):
        write_photos(stored.photos, numbers)
        stored.index()
    stored.photos.rename(base / "away")
    return stored


@pytest.fixture
def stored(built: Stored, tmp_path: Path) -> Stored:
    return built.copy(tmp_path)


def index_other(stored: Stored) -> object:
    """A run that is not asked to look at most of the photos."""
    return index(stored.directory, [stored.photos.with_name("other")], stored.model, IndexOptions())


def repaired(stored: Stored) -> object:
    return repair(stored.directory)


HEALS = [pytest.param(repaired, id="repair"), pytest.param(index_other, id="index")]


def assert_same(stored: Stored, before: Found) -> None:
    after = stored.found()
    assert {place: id for place, (id, _) in after.items()} == {place: id for place, (id, _) in before.items()}
    for place, (_, vector) in before.items():
        np.testing.assert_allclose(after[place][1], vector, atol=2e-3)
    report = check(stored.directory, read_data=True)
    assert report.ok, report.damaged
    assert {table.lack for table in read_record(stored.directory).values()} == {""}


def killed(run: Heal, stored: Stored) -> None:
    with pytest.raises(Killed):
        run(stored)


def lose_data(stored: Stored, table: str) -> None:
    """Zeros in the place of the most rows of a table."""
    fragment = max(stored.head(table).fragments, key=lambda each: each.rows)
    damage(stored.tables[table] / next(iter(fragment.data)), "zeros")


@pytest.mark.case("F1", "F24")
@pytest.mark.promise("R2", "R7")
@pytest.mark.parametrize("heal", HEALS)
@pytest.mark.parametrize("table", ["items", "vectors"])
def test_rows_come_back_although_the_repair_that_dropped_them_was_killed(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, table: str, heal: Heal
) -> None:
    before = stored.found()
    lose_data(stored, table)

    def kill(*_: object) -> list[str]:
        raise Killed("restore")

    with monkeypatch.context() as patch:
        patch.setattr(repairing, "restore", kill)
        killed(repaired, stored)
    heal(stored)
    assert_same(stored, before)


@pytest.mark.case("F7")
@pytest.mark.promise("R2", "R3")
@pytest.mark.parametrize("heal", HEALS)
@pytest.mark.parametrize("table", ["items", "vectors"])
@pytest.mark.parametrize("puts", range(3))
def test_rows_come_back_although_the_run_that_put_them_back_was_killed(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, table: str, heal: Heal, puts: int
) -> None:
    before = stored.found()
    newest = manifests(stored.tables[table])
    for manifest in newest[: len(newest) // 2]:
        damage(manifest, "cut")
    left = iter(range(puts))
    for name in ("put", "embed"):
        real = getattr(Store, name)

        def limited(*arguments: object, real: Callable[..., None] = real, **options: bool) -> None:
            if next(left, None) is None:
                raise Killed("put")
            real(*arguments, **options)

        monkeypatch.setattr(Store, name, limited)
    monkeypatch.setattr(restoring, "_ROWS_AT_ONCE", 4)
    with suppress(Killed):
        heal(stored)
    monkeypatch.undo()
    heal(stored)
    assert_same(stored, before)


@pytest.mark.case("F23")
@pytest.mark.promise("R3")
@pytest.mark.parametrize("how", ["cut", "gone"])
@pytest.mark.parametrize("table", ["items", "vectors", "both"])
@pytest.mark.parametrize("heal", [pytest.param(repaired, id="repair"), pytest.param(Stored.index, id="index")])
def test_tables_that_are_many_versions_older_give_no_photo_the_embedding_of_another(
    tmp_path: Path, model: Model, heal: Heal, table: str, how: str
) -> None:
    stored = red_then_blue(tmp_path, model)
    before = stored.found()
    for name in ("items", "vectors") if table == "both" else (table,):
        for manifest in manifests(stored.tables[name])[:2]:
            damage(manifest, how)
    heal(stored)
    marker = markers.read(stored.directory)
    assert marker.model is not None
    with Store.open(stored.directory, marker.model) as store:
        ids = store.revisions()[0]
        assert ids.tolist() == [id for id, _ in before.values()]
        np.testing.assert_allclose(store.vectors(ids)[0], next(iter(before.values()))[1], atol=2e-3)
    assert_same(stored, before)


@pytest.mark.case("F7", "F23")
@pytest.mark.promise("R7")
def test_a_version_that_gets_the_number_of_a_lost_one_is_not_taken_for_it(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stored.found()
    lost = manifests(stored.tables["items"])[0]
    damage(lost, "cut")
    with monkeypatch.context() as patch:
        # The rows are back, by commits that nobody has recorded.
        patch.setattr(Store, "sync", kill_if(lost.exists))
        killed(index_other, stored)
    assert lost.exists()
    assert not [each for each in check(stored.directory, read_data=True).damaged if Path(each.path) == lost]
    index_other(stored)
    assert_same(stored, before)
    assert repair(stored.directory).mended == ()


def kill_if(true: Callable[[], bool]) -> Callable[[Store], None]:
    """`Store.sync`, but when `true` says so it is never come to."""
    real = Store.sync

    def sync(self: Store) -> None:
        if true():
            raise Killed("sync")
        real(self)

    return sync


@pytest.mark.case("F7", "F23")
@pytest.mark.promise("R7")
@pytest.mark.parametrize("heal", [pytest.param(repaired, id="repair"), pytest.param(Stored.index, id="index")])
def test_an_embedding_that_went_by_a_version_with_the_number_of_a_lost_one_stays_gone(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch, heal: Heal
) -> None:
    stored = red_then_blue(tmp_path, model)
    before = stored.found()
    lost = manifests(stored.tables["vectors"])[:2]
    for manifest in lost:
        damage(manifest, "cut")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "sync", kill_if(lambda: True))
        killed(heal, stored)
    assert lost[1].exists()
    assert not [each for each in check(stored.directory, read_data=True).damaged if Path(each.path) == lost[1]]
    heal(stored)
    assert_same(stored, before)


def red_then_blue(base: Path, model: Model) -> Stored:
    """A collection of one photo, which was another at first."""
    stored = Stored(base / "collection", base / "photos", model)
    stored.photos.mkdir()
    for colour, width in (("red", 16), ("blue", 24)):
        Image.new("RGB", (width, 16), colour).save(stored.photos / "a.png")
        stored.index()
    return stored


@pytest.mark.case("F23", "F24")
@pytest.mark.promise("R7")
def test_a_newest_version_and_a_file_of_the_one_before_are_damaged_and_one_repair_is_enough(stored: Stored) -> None:
    before = stored.found()
    newest = manifests(stored.tables["items"])[0]
    lose_data(stored, "items")
    damage(newest, "cut")
    repair(stored.directory)
    assert_same(stored, before)
    assert repair(stored.directory).mended == ()
