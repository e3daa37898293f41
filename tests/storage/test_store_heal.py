"""Tables after kills and power cuts: open at the newest readable version, say so, go on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from storage_builders import MODEL, item, vector_of

from mmsearch.errors import CollectionDamaged, CollectionNotFound
from mmsearch.store import Store
from mmsearch.store_prune import manifests
from mmsearch.store_tables import StoredTable

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "tail of zeros": lambda data: data[:-64] + bytes(64),
}
TABLES = {"items": "items.lance", "vectors": f"vectors/{MODEL.fingerprint}.lance"}


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    with Store.open(tmp_path, MODEL) as store:
        for id in (1, 2, 3):
            store.put([item(id)], {id: vector_of(id)})
    return tmp_path


def newest_data_file(table: Path) -> Path:
    return max((table / "data").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def damage(path: Path, how: str) -> None:
    path.write_bytes(DAMAGES[how](path.read_bytes()))


@pytest.mark.case("F23")
@pytest.mark.promise("R3")
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("which", ["manifest", "data"])
def test_items_fall_back_one_version_and_say_so(collection: Path, which: str, how: str) -> None:
    table = collection / TABLES["items"]
    damage(manifests(table)[0] if which == "manifest" else newest_data_file(table), how)
    with Store.open(collection, MODEL) as store:
        (warning,) = store.warnings
        assert "items.lance: the newest version could not be read" in warning
        assert "quarantine" in warning
        assert store.known_files().ids.tolist() == [1, 2]
        assert store.sweep() == 1
        store.put([item(4)], {4: vector_of(4)})
    with Store.open(collection, MODEL) as store:
        assert store.warnings == ()
        assert store.revisions()[0].tolist() == [1, 2, 4]
        assert store.vectors(np.array([1, 4])).shape == (2, 16)
    assert len(list((collection / "quarantine").iterdir())) == 1


@pytest.mark.parametrize("how", DAMAGES)
def test_items_whose_vectors_are_lost_are_not_published_and_wait_to_be_embedded(collection: Path, how: str) -> None:
    damage(newest_data_file(collection / TABLES["vectors"]), how)
    with Store.open(collection, MODEL) as store:
        assert len(store.warnings) == 1
        known = store.known_files()
        assert known.ids.tolist() == [1, 2, 3]
        assert known.has_vector.tolist() == [True, True, False]
        assert store.revisions()[0].tolist() == [1, 2]
        store.put([item(3)], {3: vector_of(3)})
        assert store.revisions()[0].tolist() == [1, 2, 3]


def test_revision_of_a_lost_version_does_not_come_back(collection: Path) -> None:
    with Store.open(collection, MODEL) as store:
        lost = int(store.revisions()[1][2])
    damage(manifests(collection / TABLES["items"])[0], "empty")
    with Store.open(collection, MODEL) as store:
        store.put([item(3)], {3: vector_of(3)})
        assert int(store.revisions()[1][2]) > lost


@pytest.mark.promise("R2")
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("left", ["directory", "versions directory", "data"])
def test_table_killed_before_its_first_commit_is_empty_not_damaged(collection: Path, table: str, left: str) -> None:
    directory = collection / TABLES[table]
    if left == "directory":
        shutil.rmtree(directory)
        directory.mkdir()
    else:
        shutil.rmtree(directory / "_versions")
        if left == "versions directory":
            (directory / "_versions").mkdir()
    with Store.open(collection, MODEL) as store:
        assert store.warnings == ()
        assert len(store.revisions()[0]) == 0
        store.sweep()
        store.put([item(9)], {9: vector_of(9)})
        assert store.revisions()[0].tolist() == [9]


@pytest.mark.case("F27")
def test_garbage_in_the_version_hint_does_no_harm(collection: Path) -> None:
    for hint in collection.rglob("latest_version_hint.json"):
        hint.write_bytes(b"\0garbage")
    with Store.open(collection, MODEL) as store:
        assert store.known_files().ids.tolist() == [1, 2, 3]


def test_table_without_any_readable_version_is_damaged_and_left_as_it_was(collection: Path) -> None:
    table = collection / TABLES["items"]
    for manifest in manifests(table):
        damage(manifest, "half")
    before = {path.name: path.read_bytes() for path in manifests(table)}
    with pytest.raises(CollectionDamaged, match=r"items\.lance: cannot be read .*mmsearch repair"):
        Store.open(collection, MODEL)
    assert {path.name: path.read_bytes() for path in manifests(table)} == before


def test_table_with_other_columns_is_damage_not_an_empty_one(tmp_path: Path) -> None:
    other = pa.schema([pa.field("id", pa.int64()), pa.field("word", pa.string())])
    StoredTable(tmp_path, "items", other, quarantine=tmp_path / "quarantine")
    with pytest.raises(CollectionDamaged, match=r"items\.lance: .*columns are not ours \(id, word\)"):
        Store.open(tmp_path, MODEL)


def test_reading_only_creates_and_mends_nothing(collection: Path, tmp_path: Path) -> None:
    with Store.open(collection, MODEL, read_only=True) as store:
        assert store.known_files().ids.tolist() == [1, 2, 3]
    damage(manifests(collection / TABLES["items"])[0], "zeros")
    before = sorted(collection.rglob("*"))
    with pytest.raises(CollectionDamaged, match=r"items\.lance"):
        Store.open(collection, MODEL, read_only=True)
    with pytest.raises(CollectionNotFound, match=r"items\.lance: there is no such table"):
        Store.open(tmp_path / "absent", MODEL, read_only=True)
    assert sorted(collection.rglob("*")) == before


def test_damage_that_is_met_later_names_the_table(collection: Path) -> None:
    with Store.open(collection, MODEL) as store:
        for path in (collection / TABLES["items"] / "data").iterdir():
            path.write_bytes(b"")
        with pytest.raises(CollectionDamaged, match=r"items\.lance: cannot be read .*mmsearch repair"):
            store.known_files()
