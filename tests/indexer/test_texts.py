"""Text files: one file, many rows. What stays when the file changes, and that rows never contradict each other."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_reports import counts
from photo_library import Library

from mmsearch.encoder import OnnxEncoder
from mmsearch.store import Store


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call of the text tower got."""
    calls: list[int] = []
    real = OnnxEncoder.encode_tokens

    def spy(self: OnnxEncoder, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        calls.append(len(ids))
        return real(self, ids, mask)

    monkeypatch.setattr(OnnxEncoder, "encode_tokens", spy)
    return calls


def texts(library: Library, name: str = "notes.csv") -> list[str | None]:
    """The texts of a file's rows by part, which must be numbered from 0 and agree on the file's content."""
    path = os.fsencode(library.photos / name)
    items = {key[1]: item for key, item in library.items().items() if key[0] == path}
    assert sorted(items) == list(range(len(items)))
    assert len({(item.hash, item.size, item.mtime_ns) for item in items.values()}) == 1
    return [items[part].text for part in sorted(items)]


def found_texts(library: Library) -> None:
    """Every row can be found, with the embedding of its text."""
    found, items = library.found(), library.items()
    assert found.keys() == items.keys()
    expected = library.model.encode_texts([items[key].text or "" for key in found])
    for vector, right in zip(found.values(), expected, strict=True):
        assert vector @ right > 0.999


def test_every_row_of_a_file_is_an_item(library: Library) -> None:
    library.captions("notes.csv", "a dog", "a cat", "a bird")
    assert counts(library.index()) == {"indexed": 1, "items": 3}
    assert texts(library) == ["a dog", "a cat", "a bird"]
    assert [library.item("notes.csv", part).locator for part in range(3)] == ["row 1", "row 2", "row 3"]
    found_texts(library)


def test_a_changed_file_embeds_only_the_texts_it_did_not_have(library: Library, embedded: list[int]) -> None:
    library.captions("notes.csv", "one", "two", "three", "four")
    library.index()
    ids = [library.item("notes.csv", part).id for part in range(4)]
    embedded.clear()
    library.captions("notes.csv", "zero", "one", "three", "four", "two")
    assert counts(library.index()) == {"indexed": 1, "items": 5}
    assert embedded == [1]
    assert texts(library) == ["zero", "one", "three", "four", "two"]
    assert [library.item("notes.csv", part).id for part in range(4)] == ids
    found_texts(library)


def test_a_shorter_file_loses_its_surplus_rows(library: Library, embedded: list[int]) -> None:
    library.captions("notes.csv", "one", "two", "three", "four")
    library.index()
    embedded.clear()
    library.captions("notes.csv", "three")
    assert counts(library.index()) == {"indexed": 1, "items": 1}
    assert embedded == []
    assert texts(library) == ["three"]
    found_texts(library)
    with library.store() as store:
        assert store.sweep() == 0


def test_the_same_sentence_in_many_places_is_embedded_once(library: Library, embedded: list[int]) -> None:
    for name in ("a.csv", "b.csv", "c.csv"):
        library.captions(name, "same", "same", f"only in {name}")
    assert counts(library.index()) == {"indexed": 3, "items": 9}
    assert sum(embedded) == 4
    found_texts(library)


def test_a_sidecar_for_every_photo_is_embedded_in_batches(library: Library, embedded: list[int]) -> None:
    for place in range(60):
        library.data(f"{place}.txt", f"photo number {place}".encode())
    assert counts(library.index()) == {"indexed": 60, "items": 60}
    assert len(embedded) <= 4


@pytest.mark.parametrize("step", ["delete", "put", "put again"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(["one", "two", "three", "four"], ["two", "five"]), (["one", "two"], ["five", "one", "six", "two"])],
    ids=["shrinks", "grows"],
)
def test_a_kill_between_the_commits_of_one_file_is_mended_by_the_next_run(
    library: Library, monkeypatch: pytest.MonkeyPatch, step: str, before: list[str], after: list[str]
) -> None:
    library.captions("notes.csv", *before)
    library.index()
    library.captions("notes.csv", *after)
    method, allowed = {"delete": ("delete", 0), "put": ("put", 0), "put again": ("put", 1)}[step]
    monkeypatch.setattr(Store, method, _killed_after(getattr(Store, method), allowed))
    try:
        library.index()
    except KeyboardInterrupt:
        assert counts_after_kill(library, monkeypatch)["indexed"] == 1
    assert texts(library) == after
    found_texts(library)
    with library.store() as store:
        assert store.sweep() == 0


def counts_after_kill(library: Library, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    monkeypatch.undo()
    monkeypatch.setattr("mmsearch.indexer.pipeline.DecodePool", lambda *_, **__: library.warm_pool)
    return counts(library.index())


def _killed_after(real: Callable[..., None], allowed: int) -> Callable[..., None]:
    """`real`, which on its call after `allowed` ends the process, as far as the code under test can tell."""
    calls = []

    def method(*arguments: object) -> None:
        if len(calls) == allowed:
            raise KeyboardInterrupt
        calls.append(arguments)
        real(*arguments)

    return method


SENTENCES = st.lists(st.sampled_from(["one", "two", "three", "four", "five"]), min_size=1, max_size=7)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(versions=st.lists(SENTENCES, min_size=2, max_size=4))
def test_whatever_a_file_held_before_its_rows_are_those_of_now(library: Library, versions: list[list[str]]) -> None:
    for each in versions:
        library.captions("notes.csv", *each)
        library.index()
        assert texts(library) == each
    found_texts(library)
