"""`check` names what is damaged and nothing else; what it names, `repair` mends, and embeds again only what it must."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stored_collection import DAMAGES, Stored, build, damage, flip, write_photos

from mmsearch.checked_json import dump_checked, load_checked
from mmsearch.durable import WriterLock
from mmsearch.errors import CollectionDamaged
from mmsearch.indexer.check import check
from mmsearch.indexer.embed import Embedder
from mmsearch.indexer.repair import Remake, repair
from mmsearch.model import load_model
from mmsearch.store_checksums import FILE_NAME, HINT
from mmsearch.store_prune import manifests
from mmsearch.stored_file import FileInfo, file_info
from mmsearch.types import RepairReport

SEEN_BY_SIZE = ("empty", "cut", "gone")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_itm_model_dir: Path) -> Stored:
    """Eleven photos and two texts, indexed in four runs. Shared, so only copied."""
    return build(tmp_path_factory.mktemp("checked"), load_model(tiny_itm_model_dir, threads=1))


@pytest.fixture
def stored(built: Stored, tmp_path: Path) -> Stored:
    return built.copy(tmp_path)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures and texts each call of the encoder got, from now on."""
    counts: list[int] = []
    for name in ("_encode_images", "_encode_texts"):
        real = getattr(Embedder, name)

        def counting(self: Embedder, rows: list[object], real: object = real) -> object:
            counts.append(len(rows))
            return real(self, rows)  # type: ignore[operator]

        monkeypatch.setattr(Embedder, name, counting)
    return counts


def mended(stored: Stored) -> RepairReport:
    return repair(stored.directory, remake=Remake(lambda _: stored.model))


def named(stored: Stored, *, read_data: bool = True) -> set[Path]:
    return {Path(each.path) for each in check(stored.directory, read_data=read_data).damaged}


def write_old_marker(stored: Stored) -> None:
    """`collection.json` as it was before it told of a publication."""
    path = stored.directory / "collection.json"
    body = load_checked(path.read_bytes())
    assert body.pop("published")
    path.write_bytes(dump_checked(body))


def assert_same(stored: Stored, before: dict[tuple[bytes, int], tuple[int, np.ndarray]]) -> None:
    """What can be found is what could be found, under the same ids, near enough for float16."""
    after = stored.found()
    assert {place: id for place, (id, _) in after.items()} == {place: id for place, (id, _) in before.items()}
    for place, (_, vector) in before.items():
        np.testing.assert_allclose(after[place][1], vector, atol=2e-3)


@pytest.mark.case("F24")
@pytest.mark.promise("R7")
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("table", ["items", "vectors"])
def test_a_damaged_data_file_is_named_and_its_rows_come_back(
    built: Stored, tmp_path: Path, encoded: list[int], table: str, how: str
) -> None:
    for number, name in enumerate(sorted(built.head(table).files)):
        stored = built.copy(tmp_path / str(number))
        before = stored.found()
        path = stored.tables[table] / name
        damage(path, how)
        assert path in named(stored)
        if how in SEEN_BY_SIZE:
            assert path in named(stored, read_data=False)
        report = mended(stored)
        assert report.mended
        assert (report.without_embedding, report.embedded, encoded) == (0, 0, [])
        assert check(stored.directory, read_data=True).ok
        assert_same(stored, before)
        assert mended(stored).mended == ()


@pytest.mark.case("F24")
@pytest.mark.parametrize("originals", ["there", "away"])
def test_only_rows_that_nobody_has_any_more_are_embedded_again(
    built: Stored, stored: Stored, encoded: list[int], originals: str
) -> None:
    before = stored.found()
    fragment = max(stored.head("vectors").fragments, key=lambda each: each.id)
    assert 0 < fragment.rows < len(before)
    (name,) = fragment.data
    flip(stored.tables["vectors"] / name, 40, 3)
    for vectors in stored.directory.glob("segments/*/vectors.npy"):
        flip(vectors, vectors.stat().st_size - 2, 1)
    if originals == "away":
        stored.photos.rename(stored.photos.with_name("away"))
    try:
        report = mended(stored)
    finally:
        if originals == "away":
            stored.photos.with_name("away").rename(stored.photos)
    assert check(stored.directory, read_data=True).ok
    if originals == "away":
        assert (report.embedded, report.without_embedding) == (0, fragment.rows)
        assert stored.index().indexed == fragment.rows
    else:
        assert (report.embedded, report.without_embedding) == (fragment.rows, 0)
    assert sum(encoded) == fragment.rows
    assert_same(stored, before)


def test_rows_that_were_acknowledged_are_not_given_up_for_an_older_version(stored: Stored) -> None:
    before = stored.found()
    (name, *_) = stored.head("items").files
    damage(stored.tables["items"] / name, "cut")
    with pytest.raises(CollectionDamaged, match=r"items\.lance: cannot be read .*run `mmsearch repair`"):
        stored.index()
    assert not (stored.directory / "quarantine").exists()
    mended(stored)
    stored.index()
    assert_same(stored, before)


@pytest.mark.case("F23")
@pytest.mark.promise("R3")
@pytest.mark.parametrize("how", [each for each in DAMAGES if each != "one bit"])
@pytest.mark.parametrize("table", ["items", "vectors"])
def test_a_lost_newest_version_heals_by_itself_and_says_so(stored: Stored, table: str, how: str) -> None:
    before = stored.found()
    newest = manifests(stored.tables[table])[0]
    damage(newest, how)
    assert newest in named(stored, read_data=False)
    report = stored.index()
    assert any(str(stored.tables[table]) in sentence for sentence in report.warnings)
    assert_same(stored, before)
    assert check(stored.directory, read_data=True).ok
    again = stored.index()
    assert (again.indexed, again.missing, again.warnings) == (0, 0, ())


@pytest.mark.case("F23")
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("table", ["items", "vectors"])
def test_repair_needs_no_original_to_mend_a_newest_version(
    stored: Stored, encoded: list[int], table: str, how: str
) -> None:
    before = stored.found()
    damage(manifests(stored.tables[table])[0], how)
    away = stored.photos.rename(stored.photos.with_name("away"))
    try:
        report = mended(stored)
    finally:
        away.rename(stored.photos)
    assert (report.without_embedding, encoded) == (0, [])
    assert_same(stored, before)
    assert check(stored.directory, read_data=True).ok


@pytest.mark.promise("R7")
@pytest.mark.parametrize("how", DAMAGES)
def test_whatever_file_is_damaged_repair_leaves_a_collection_that_is_whole(
    built: Stored, tmp_path: Path, how: str
) -> None:
    for number, path in enumerate(built.files()):
        if how == "gone" and path.name in ("lock", FILE_NAME, Path(HINT).name):
            continue  # nobody misses it
        if number % len(DAMAGES) != DAMAGES.index(how):
            continue
        stored = built.copy(tmp_path / str(number))
        before = stored.found()
        damage(stored.directory / path.relative_to(built.directory), how)
        mended(stored)
        report = check(stored.directory, read_data=True)
        assert report.ok, (path, report.damaged)
        assert_same(stored, before)


@pytest.mark.case("F27")
def test_garbage_in_lock_and_hints_is_named_and_does_no_harm(stored: Stored) -> None:
    before = stored.found()
    garbage = [stored.directory / "lock", *(table / HINT for table in stored.tables.values())]
    for path in garbage:
        path.write_bytes(b"\0garbage")
    assert named(stored, read_data=False) == set(garbage)
    assert stored.index().indexed == 0
    assert_same(stored, before)
    assert mended(stored).mended
    assert check(stored.directory, read_data=True).ok


def test_a_collection_without_checksums_gets_them_with_the_next_run(stored: Stored) -> None:
    (stored.directory / FILE_NAME).unlink()
    write_old_marker(stored)
    report = check(stored.directory, read_data=True)
    assert report.ok and report.unrecorded > 20
    stored.index()
    assert check(stored.directory).unrecorded == 0


def test_a_hundred_new_photos_hash_their_own_files_only(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def hashed(path: Path) -> FileInfo:
        read.append(path)
        return file_info(path)

    monkeypatch.setattr("mmsearch.store_checksums.file_info", hashed)
    before = {path for table in stored.tables.values() for path in table.rglob("*") if path.is_file()}
    write_photos(stored.photos, range(50, 52))
    try:
        stored.index()
    finally:
        for number in (50, 51):
            (stored.photos / f"{number:03}.png").unlink()
    once = [path for path in read if path.name != Path(HINT).name]
    assert len(once) > 4 and not before.intersection(once)
    assert len(once) == len(set(once))


def test_checking_writes_nothing_and_takes_no_lock(stored: Stored) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in stored.files()}
    with WriterLock(stored.directory):
        assert check(stored.directory, read_data=True).ok
    (stored.directory / "lock").write_bytes(before[stored.directory / "lock"][1])
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in stored.files()}
    lock = stored.directory / "lock"
    assert {path: each for path, each in after.items() if path != lock} == {
        path: each for path, each in before.items() if path != lock
    }


def test_a_record_that_leads_elsewhere_is_not_followed(stored: Stored) -> None:
    files = {"../../photos/000.png": {"sha256": "0", "bytes": 1}}
    body = {"format": 1, "tables": {"items.lance": {"version": 1, "files": files}}}
    (stored.directory / FILE_NAME).write_bytes(dump_checked(body))
    (damaged,) = check(stored.directory, read_data=True).damaged
    assert damaged.path == str(stored.directory / FILE_NAME)
    assert "outside" in damaged.what
