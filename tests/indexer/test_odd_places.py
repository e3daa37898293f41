"""What stands in a collection where a directory or a file belongs, and is something else, is named and put aside."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from photo_library import Library

from mmsearch.collection import Collection
from mmsearch.errors import CollectionDamaged
from mmsearch.indexer.repair import repair
from mmsearch.settings import Settings

SETTINGS = Settings(threads=1, workers=1)
KINDS: dict[str, Callable[[Path], object]] = {"file": Path.touch, "FIFO": os.mkfifo}


@pytest.fixture
def filled(library: Library) -> Library:
    library.photo("a.png", 1)
    library.index()
    return library


def put(kind: str, place: Path) -> None:
    if os.path.lexists(place):
        place.rename(place.with_name("before"))
    KINDS[kind](place)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["vectors", "vectors/OWN.lance", "segments", "snapshots", "quarantine"])
def test_a_directory_that_is_none_is_told_of_and_mended(filled: Library, place: str, kind: str) -> None:
    path = filled.collection / place.replace("OWN", filled.model.fingerprint)
    put(kind, path)
    with pytest.raises(CollectionDamaged, match=rf"{path}: is a {kind}, not a directory; run `mmsearch repair`"):
        filled.index()
    report = repair(filled.collection)
    assert any(f"{path}: was a {kind}, not a directory; moved to" in each for each in report.mended)
    filled.index()
    assert filled.names() == ["a.png"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["items.lance", "items.lance/_versions"])
def test_items_that_are_no_table_are_told_of(filled: Library, place: str, kind: str) -> None:
    path = filled.collection / place
    put(kind, path)
    with pytest.raises(CollectionDamaged, match=rf"{path}: is a {kind}, not a directory"):
        filled.index()
    assert any(f"{path}: was a {kind}, not a directory" in each for each in repair(filled.collection).mended)
    filled.index()
    assert filled.names() == ["a.png"]


@pytest.mark.parametrize("place", ["collection.json", "CURRENT", "snapshots/1.json"])
def test_a_fifo_is_not_waited_for(filled: Library, place: str) -> None:
    put("FIFO", filled.collection / place)
    with Collection(filled.collection, settings=SETTINGS) as collection:
        with pytest.raises(CollectionDamaged, match=rf"{Path(place).name}: cannot be read .*mmsearch repair"):
            collection.search("red")
        with pytest.raises(CollectionDamaged, match=Path(place).name):
            collection.info()
    assert any("was a FIFO, not a file; moved to" in each for each in repair(filled.collection).mended)
    filled.index()
    assert filled.names() == ["a.png"]
