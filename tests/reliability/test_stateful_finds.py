"""What the stateful properties found, each as one plain test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from photo_library import Library
from same_process import patch_the_world

from mmsearch.indexer.decode import DecodePool
from mmsearch.indexer.pipeline import IndexOptions
from mmsearch.model import load_model


@pytest.fixture
def locked() -> set[bytes]:
    """The files that nobody may read."""
    return set()


@pytest.fixture
def library(tmp_path: Path, tiny_model_dir: Path, locked: set[bytes]) -> Iterator[Library]:
    """An empty folder of photos, and a collection that does not exist yet."""
    pool = DecodePool(load_model(tiny_model_dir).preprocess, workers=1, deadline_s=20)
    with pytest.MonkeyPatch.context() as patched:
        patch_the_world(patched, locked.__contains__, lambda path: False)
        yield Library(tmp_path, tiny_model_dir, pool)


def leave_a_link(old: Path, new: Path) -> None:
    old.symlink_to(new)


def leave_a_directory(old: Path, new: Path) -> None:
    old.mkdir()


@pytest.mark.case("L11")
@pytest.mark.parametrize("leave", [leave_a_link, leave_a_directory])
def test_a_photo_that_moved_keeps_its_id_whatever_stands_in_its_place_now(
    library: Library, leave: Callable[[Path, Path], None]
) -> None:
    old, new = library.photo("a.png", 1), library.photos / "sorted" / "a.png"
    library.photo("b.png", 2)
    library.index()
    before = library.item("a.png").id
    new.parent.mkdir()
    old.rename(new)
    leave(old, new)
    report = library.index()
    assert (report.moved, report.indexed, report.missing) == (1, 0, 0)
    assert library.item("sorted/a.png").id == before
    assert library.names() == ["b.png", "sorted/a.png"]


@pytest.mark.case("L11")
@pytest.mark.promise("R4")
def test_a_photo_that_comes_back_unreadable_is_no_longer_missing(library: Library, locked: set[bytes]) -> None:
    photo, aside = library.photo("a.png", 1), library.photos.parent / "aside.png"
    library.photo("b.png", 2)
    library.index()
    photo.rename(aside)
    assert library.index().missing == 1
    aside.rename(photo)
    locked.add(os.fsencode(photo))
    report = library.index(options=IndexOptions(verify=True))
    assert [each.path for each in report.skipped] == [str(photo)]
    assert library.names() == ["a.png", "b.png"]
