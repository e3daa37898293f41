"""A run that ends between two commits never leaves a file with the embedding of another content."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from killed_commits import Killed, killed_after
from photo_library import Library


def swap(library: Library) -> None:
    """Old content moves to other names and the old names get new content; captions trade places, and one is new."""
    (library.photos / "a.png").rename(library.photos / "zz.png")
    library.photo("a.png", 9)
    library.photo("b.png", 10)
    library.captions("notes.csv", "a bird", "a dog", "two cats and a fish")
    library.captions("other.csv", "a cat", "a red house")


def assert_true_to_content(library: Library) -> None:
    """Every file that can be found has the embedding, and every picture the tokens, that the model makes of it now."""
    found = library.found()
    texts = {key: str(item.text) for key, item in library.items().items() if item.kind == "text"}
    names = ["a.png", "b.png", "c.png", "zz.png"]
    assert library.names() == sorted([*names, *["notes.csv"] * 3, *["other.csv"] * 2])
    assert sorted(texts.values()) == ["a bird", "a cat", "a dog", "a red house", "two cats and a fish"]
    for name, expected in zip(names, library.embeddings(*names), strict=True):
        assert found[str(library.photos / name).encode(), 0] @ expected > 0.9999, name
    library.assert_tokens(*names)
    embeddings = library.model.encode_texts(list(texts.values()))
    for (key, text), expected in zip(texts.items(), embeddings, strict=True):
        assert found[key] @ expected > 0.9999, (key, text)


@pytest.mark.case("F2")
@pytest.mark.promise("R2")
def test_content_that_changed_places_is_embedded_right_wherever_runs_were_killed(itm_library: Library) -> None:
    library = itm_library
    for place, name in enumerate(["a.png", "b.png", "c.png"]):
        library.photo(name, place)
    library.captions("notes.csv", "a dog", "a cat")
    library.index()
    before = library.collection.with_name("before")
    library.collection.rename(before)
    swap(library)
    commits = 0
    while True:
        restored(library, before)
        if not killed(library, commits):
            break
        # A row that lost its vector in the first kill gets another one in the second run, which is killed as well.
        killed(library, 1 + commits % 2)
        library.index()
        assert_true_to_content(library)
        commits += 1
    assert commits >= 4


def restored(library: Library, before: Path) -> None:
    shutil.rmtree(library.collection, ignore_errors=True)
    shutil.copytree(before, library.collection)


def killed(library: Library, commits: int) -> bool:
    """Whether a run that is killed after so many commits came to that."""
    try:
        with killed_after(commits):
            library.index()
    except Killed:
        return True
    return False
