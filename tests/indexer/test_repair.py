"""A damaged collection answers again, with the ids it had."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from photo_library import Library

from mmsearch import manifest as manifests
from mmsearch.durable import WriterLock
from mmsearch.errors import CollectionBusy, CollectionDamaged, CollectionNotFound
from mmsearch.indexer.repair import repair
from mmsearch.segment import INDEX_FILE, SEGMENT_FILES
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_manifest import SEGMENTS_DIRECTORY, manifest_path

Damage = Callable[[Path], object]


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 4])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


@pytest.fixture
def indexed(itm_library: Library) -> Library:
    itm_library.photo("red.png", 1)
    itm_library.photo("blue.png", 2)
    itm_library.captions("words.csv", "a red square", "a blue square")
    itm_library.index()
    return itm_library


def published(directory: Path) -> dict[int, int]:
    with Snapshot.open(directory) as snapshot:
        return dict(zip(*(column.tolist() for column in snapshot.live_keys()), strict=True))


@pytest.mark.promise("R7")
@pytest.mark.parametrize("damage", [cut, zero, flip, remove])
@pytest.mark.parametrize("place", ["collection.json", "CURRENT", "manifest", *sorted(SEGMENT_FILES - {INDEX_FILE})])
def test_damaged_files_are_found_and_mended(indexed: Library, damage: Damage, place: str) -> None:
    before = published(indexed.collection)
    damage(file_of(indexed.collection, place))
    report = repair(indexed.collection)
    assert report.mended
    assert report.items == len(before)
    assert published(indexed.collection) == before
    with Snapshot.open(indexed.collection) as snapshot:
        assert snapshot.verify() == []
    indexed.assert_tokens("red.png", "blue.png")


def file_of(directory: Path, place: str) -> Path:
    """A file that the live snapshot needs: by name at the top, its manifest, or one of its first segment."""
    with Snapshot.open(directory) as snapshot:
        if place == "manifest":
            return manifest_path(directory, snapshot.number)
        if place in SEGMENT_FILES:
            return directory / SEGMENTS_DIRECTORY / snapshot.segments[0].info.name / place
    return directory / place


def test_nothing_is_written_where_nothing_is_damaged(indexed: Library) -> None:
    with Snapshot.open(indexed.collection) as snapshot:
        number = snapshot.number
    report = repair(indexed.collection)
    assert (report.mended, report.items, report.without_embedding) == ((), 4, 0)
    with Snapshot.open(indexed.collection) as snapshot:
        assert snapshot.number == number


def test_ids_are_not_given_twice_after_the_marker_was_lost(indexed: Library) -> None:
    taken = manifests.read(indexed.collection).next_id
    (indexed.collection / "collection.json").unlink()
    repair(indexed.collection)
    assert manifests.read(indexed.collection).next_id > taken


def test_indexing_goes_on_after_a_repair(indexed: Library) -> None:
    before = published(indexed.collection)
    remove(indexed.collection / "collection.json")
    repair(indexed.collection)
    indexed.photo("green.png", 3)
    report = indexed.index()
    assert (report.indexed, report.unchanged) == (1, 3)
    assert before.items() <= published(indexed.collection).items()


@pytest.mark.case("F24")
@pytest.mark.promise("R7")
def test_items_whose_embeddings_are_lost_come_back_with_the_next_index(indexed: Library) -> None:
    shutil.rmtree(indexed.collection / "vectors")
    shutil.rmtree(indexed.collection / "segments")
    report = repair(indexed.collection)
    assert (report.items, report.without_embedding) == (0, 4)
    assert indexed.index().items == 4
    assert repair(indexed.collection).without_embedding == 0


def test_a_collection_of_which_nothing_is_left_to_read_says_so(indexed: Library) -> None:
    cut(indexed.collection / "collection.json")
    shutil.rmtree(indexed.collection / "snapshots")
    with pytest.raises(CollectionDamaged, match="index the folders again"):
        repair(indexed.collection)


def test_only_the_one_writer_repairs(indexed: Library) -> None:
    with WriterLock(indexed.collection), pytest.raises(CollectionBusy):
        repair(indexed.collection)


def test_nothing_to_repair_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(CollectionNotFound):
        repair(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
