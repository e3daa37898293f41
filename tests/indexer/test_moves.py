"""Files that were moved, renamed, copied or swapped: what keeps its id, and that nothing is embedded twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from index_reports import counts
from photo_library import Library

from mmsearch.encoder import OnnxEncoder
from mmsearch.indexer.pipeline import IndexOptions
from mmsearch.indexer.write import BatchLimits


@pytest.fixture
def no_model(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four pictures and a caption file are indexed; from here on using the model is an error."""
    for place, name in enumerate(["a.png", "b.png", "deep/c.png", "deep/d.png"]):
        library.photo(name, place)
    library.captions("deep/notes.csv", "one", "two", "three")
    library.index()

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("nothing here has to be embedded")

    for name in ("encode_pixels", "encode_tokens"):
        monkeypatch.setattr(OnnxEncoder, name, fail)


def ids(library: Library) -> dict[tuple[str, int], int]:
    return {
        (os.path.relpath(os.fsdecode(path), library.photos), part): item.id
        for (path, part), item in library.items().items()
    }


@pytest.mark.usefixtures("no_model")
def test_a_renamed_file_keeps_its_row(library: Library) -> None:
    before = library.item("a.png")
    (library.photos / "a.png").rename(library.photos / "z.png")
    assert counts(library.index()) == {"moved": 1, "unchanged": 4, "items": 7}
    after = library.item("z.png")
    assert (after.id, after.hash, after.missing_since) == (before.id, before.hash, None)
    assert "a.png" not in library.names()
    assert counts(library.index()) == {"unchanged": 5, "items": 7}


@pytest.mark.usefixtures("no_model")
def test_a_renamed_folder_takes_all_its_files_along(library: Library) -> None:
    before = ids(library)
    (library.photos / "deep").rename(library.photos / "shallow")
    assert counts(library.index()) == {"moved": 3, "unchanged": 2, "items": 7}
    assert ids(library) == {(name.replace("deep", "shallow"), part): id for (name, part), id in before.items()}


@pytest.mark.usefixtures("no_model")
def test_a_copy_is_an_item_of_its_own_with_the_same_embedding(library: Library) -> None:
    shutil.copy2(library.photos / "a.png", library.photos / "copy.png")
    shutil.copy2(library.photos / "deep/notes.csv", library.photos / "notes.csv")
    before = ids(library)
    assert counts(library.index()) == {"indexed": 2, "unchanged": 5, "items": 11}
    after = ids(library)
    assert before.items() <= after.items()
    assert len(set(after.values())) == 11
    found = library.found()
    for name, part in [("a.png", 0), ("deep/notes.csv", 2)]:
        other = {"a.png": "copy.png", "deep/notes.csv": "notes.csv"}[name]
        one, two = (found[os.fsencode(library.photos / each), part] for each in (name, other))
        assert one @ two > 0.9999


@pytest.mark.usefixtures("no_model")
def test_a_file_copied_and_then_moved_is_one_move_and_one_copy(library: Library) -> None:
    shutil.copy2(library.photos / "a.png", library.photos / "x.png")
    (library.photos / "a.png").rename(library.photos / "y.png")
    before = ids(library)["a.png", 0]
    assert counts(library.index()) == {"moved": 1, "indexed": 1, "unchanged": 4, "items": 8}
    after = ids(library)
    assert sorted([after["x.png", 0], after["y.png", 0]])[0] == before
    assert len(set(after.values())) == 8


@pytest.mark.usefixtures("no_model")
def test_two_files_that_swap_their_names_swap_their_embeddings(library: Library) -> None:
    found = library.found()
    a, b = (os.fsencode(library.photos / name) for name in ("a.png", "b.png"))
    (library.photos / "a.png").rename(library.photos / "t.png")
    (library.photos / "b.png").rename(library.photos / "a.png")
    (library.photos / "t.png").rename(library.photos / "b.png")
    before = ids(library)
    assert counts(library.index()) == {"indexed": 2, "unchanged": 3, "items": 7}
    assert ids(library) == before
    after = library.found()
    assert after[a, 0] @ found[b, 0] > 0.9999
    assert after[b, 0] @ found[a, 0] > 0.9999


@pytest.mark.usefixtures("no_model")
def test_a_file_that_replaces_another_takes_its_row_and_leaves_its_own_missing(library: Library) -> None:
    before = ids(library)
    (library.photos / "a.png").rename(library.photos / "b.png")
    assert counts(library.index()) == {"indexed": 1, "missing": 1, "unchanged": 3, "items": 7}
    assert ids(library) == before
    assert library.item("a.png").missing_since is not None


@pytest.mark.usefixtures("no_model")
def test_a_missing_file_that_turns_up_elsewhere_is_a_move(library: Library, tmp_path: Path) -> None:
    before = ids(library)["a.png", 0]
    (library.photos / "a.png").rename(tmp_path / "aside.png")
    assert counts(library.index()) == {"missing": 1, "unchanged": 4, "items": 7}
    (tmp_path / "aside.png").rename(library.photos / "back.png")
    assert counts(library.index()) == {"moved": 1, "unchanged": 4, "items": 7}
    assert ids(library)["back.png", 0] == before
    assert library.item("back.png").missing_since is None


def test_of_moved_files_with_the_same_bytes_each_keeps_its_name(library: Library) -> None:
    for name in ("x/c.png", "x/a.png", "x/b.png"):
        library.photo(name, 1)
        library.index()
    before = ids(library)
    (library.photos / "x").rename(library.photos / "y")
    assert counts(library.index()) == {"moved": 3, "items": 3}
    assert ids(library) == {(name.replace("x/", "y/"), part): id for (name, part), id in before.items()}


def test_a_renamed_folder_of_many_files_with_the_same_bytes_is_all_moves(library: Library) -> None:
    for place in range(40):
        library.photo(f"x/{place:02}.png", 1)
    library.index()
    before = ids(library)
    (library.photos / "x").rename(library.photos / "y")
    assert counts(library.index(options=IndexOptions(batch=BatchLimits(files=4)))) == {"moved": 40, "items": 40}
    assert ids(library) == {(name.replace("x/", "y/"), part): id for (name, part), id in before.items()}


def test_a_move_to_another_root_is_a_move(library: Library, tmp_path: Path) -> None:
    library.photo("a.png", 1)
    library.index()
    before = ids(library)["a.png", 0]
    other = tmp_path / "other"
    other.mkdir()
    (library.photos / "a.png").rename(other / "a.png")
    library.photo("b.png", 2)
    assert counts(library.index(other)) == {"moved": 1, "items": 1}
    assert library.items()[os.fsencode(other / "a.png"), 0].id == before
    assert counts(library.index()) == {"indexed": 1, "items": 2}


def test_bytes_from_a_root_that_is_out_of_reach_are_a_copy(library: Library, tmp_path: Path) -> None:
    library.photo("a.png", 1)
    library.index()
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy2(library.photos / "a.png", other / "a.png")
    library.photos.rename(tmp_path / "unplugged")
    assert counts(library.index(other)) == {"indexed": 1, "items": 2}
    (tmp_path / "unplugged").rename(library.photos)
    assert counts(library.index()) == {"unchanged": 1, "items": 2}


def test_a_renamed_text_file_of_another_kind_is_read_again(library: Library) -> None:
    library.captions("notes.csv", "one", "two", "three")
    library.index()
    before = ids(library)["notes.csv", 0]
    (library.photos / "notes.csv").rename(library.photos / "notes.txt")
    report = library.index()
    assert (report.moved, report.items) == (1, 1)
    item = library.item("notes.txt")
    assert item.id == before
    assert item.text is not None and "caption" in item.text


def test_a_moved_file_that_cannot_be_read_moves_its_failure(library: Library) -> None:
    library.data("broken.jpg", b"<html>")
    library.index()
    before = library.item("broken.jpg")
    (library.photos / "broken.jpg").rename(library.photos / "still-broken.jpg")
    assert counts(library.index()) == {"skipped": 1}
    ((key, item),) = library.items().items()
    assert (key[0], item.id) == (os.fsencode(library.photos / "still-broken.jpg"), before.id)


def test_what_a_copy_was_to_come_from_may_change_in_the_same_run(library: Library) -> None:
    """The file is hashed, found to be a copy of one whose row was just given to another content, and read once more."""
    library.photo("b.png", 1)
    library.index()
    expected = library.embeddings("b.png")[0]
    shutil.copy2(library.photos / "b.png", library.photos / "c.png")
    library.photo("b.png", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmsearch.indexer.pipeline._GROUP_FILES", 1)
        options = IndexOptions(batch=BatchLimits(files=1))
        assert counts(library.index(options=options)) == {"indexed": 2, "items": 2}
    found = library.found()
    assert found[os.fsencode(library.photos / "c.png"), 0] @ expected > 0.9999
    assert found[os.fsencode(library.photos / "b.png"), 0] @ library.embeddings("b.png")[0] > 0.9999
    assert not np.allclose(*(found[os.fsencode(library.photos / name), 0] for name in ("b.png", "c.png")))
