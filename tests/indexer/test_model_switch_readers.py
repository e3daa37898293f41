"""A collection is asked about itself while a change of models ends: no false alarm, and nothing is left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from model_switches import interrupted_after, switch, wide_model
from photo_library import Library

from mmsearch.collection import Collection
from mmsearch.errors import CollectionDamaged, CollectionNotFound
from mmsearch.model import Model
from mmsearch.settings import Settings
from mmsearch.store import Store

SETTINGS = Settings(threads=1, workers=1)


@pytest.fixture
def wide(tmp_path: Path) -> Model:
    return wide_model(tmp_path / "wide")


@pytest.fixture
def half(library: Library, wide: Model) -> Library:
    for place in range(4):
        library.photo(f"{place}.png", place)
    library.data("broken.jpg", b"<html>")
    library.index()
    with interrupted_after(1):
        switch(library, wide)
    return library


@contextmanager
def ends_before(name: str, library: Library, model: Model) -> Iterator[list[str]]:
    """Within, the change of models ends right before the first reader calls `name` of the store."""
    real: Any = getattr(Store, name)
    ended: list[str] = []

    def late(store: Any, *arguments: Any, **named: Any) -> Any:
        if not ended and _reads_only(store, named):
            ended.append(name)
            switch(library, model)
        return real(store, *arguments, **named)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Store, name, late)
        yield ended


def _reads_only(store: Any, named: dict[str, Any]) -> bool:
    return bool(named.get("read_only")) or getattr(store, "_others", 1) is None


@pytest.mark.parametrize("name", ["__init__", "errors"])
def test_the_list_of_errors_is_whole(half: Library, wide: Model, name: str) -> None:
    with Collection.open(half.collection, settings=SETTINGS) as collection, ends_before(name, half, wide) as ended:
        failed = list(collection.errors())
    assert ended
    assert [Path(each.path).name for each in failed] == ["broken.jpg"]


@pytest.mark.parametrize("name", ["__init__", "known_files"])
@pytest.mark.parametrize("to_old", [False, True])
def test_what_it_says_of_itself_is_of_one_moment(half: Library, wide: Model, name: str, to_old: bool) -> None:
    into = half.model if to_old else wide
    with Collection.open(half.collection, settings=SETTINGS) as collection, ends_before(name, half, into) as ended:
        about = collection.info()
    assert ended
    assert (about.model, about.images, about.switch, about.format) == (into.name, 4, None, 1)


def test_damage_that_stays_is_told_of(half: Library) -> None:
    for path in (half.collection / "items.lance/_versions").iterdir():
        path.write_bytes(b"")
    with Collection.open(half.collection, settings=SETTINGS) as collection:
        with pytest.raises(CollectionDamaged, match=r"items\.lance"):
            collection.info()
        with pytest.raises(CollectionDamaged, match=r"items\.lance"):
            list(collection.errors())


def test_where_there_is_no_collection_that_is_what_is_said(tmp_path: Path) -> None:
    collection = Collection(tmp_path / "none", settings=SETTINGS)
    with pytest.raises(CollectionNotFound):
        collection.info()
    with pytest.raises(CollectionNotFound):
        list(collection.errors())
