"""A collection gets another model: the old one answers until everything is embedded by the new one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_reports import counts
from model_switches import (
    SMALL_BATCHES,
    assert_answers,
    embeddings_made,
    facts,
    interrupted_after,
    other_model,
    run_own,
    switch,
    tables,
    wide_model,
)
from photo_library import Library

from mmsearch.errors import CollectionMismatch
from mmsearch.indexer import pipeline
from mmsearch.indexer.pipeline import IndexOptions
from mmsearch.indexer.switch import Wish
from mmsearch.model import Model, load_model
from mmsearch.search import Query, search_collection
from mmsearch.snapshot import Snapshot
from mmsearch.store import Store
from mmsearch.types import SwitchInfo

PHOTOS = [f"{place}.png" for place in range(5)]


@pytest.fixture
def filled(library: Library) -> Library:
    """Five pictures, three captions in one file, one file that cannot be read."""
    for place, name in enumerate(PHOTOS):
        library.photo(name, place)
    library.captions("notes.csv", "a dog", "a cat", "a bird")
    library.data("broken.jpg", b"<html>")
    library.index()
    return library


@pytest.fixture
def wide(tmp_path: Path) -> Model:
    return wide_model(tmp_path / "wide")


def asked(library: Library) -> str:
    """The model that answers when nobody names one; all items are found."""
    result = search_collection(library.collection, Query("red", k=20, rerank=False), threads=1)
    assert len(result.hits) == len(PHOTOS)
    return result.model


@pytest.mark.parametrize("old_itm", [False, True])
@pytest.mark.parametrize("make", [wide_model, other_model])
def test_the_new_model_answers_for_every_item_under_its_old_id(
    filled: Library, tiny_itm_model_dir: Path, tmp_path: Path, make: Any, old_itm: bool
) -> None:
    if old_itm:
        switch(filled, load_model(tiny_itm_model_dir, threads=1))
        filled.model = load_model(tiny_itm_model_dir, threads=1)
    before = facts(filled)
    new: Model = make(tmp_path / "new", itm=not old_itm)
    report = switch(filled, new)
    assert report.switch == SwitchInfo("new", new.fingerprint, new.dim, embedded=8, items=8, done=True)
    assert counts(report) == {"indexed": 6, "failed_before": 1, "items": 8}
    filled.model = new
    # Not even their revisions: rows stay as they are, and only embeddings are written.
    assert facts(filled) == before
    assert_answers(filled, new)
    assert tables(filled) == [f"{new.fingerprint}"]
    assert filled.manifest.format == 1
    if old_itm:
        assert set(filled.tokens().values()) == {None}
    else:
        filled.assert_tokens(*PHOTOS)
    assert counts(filled.index()) == {"unchanged": 6, "failed_before": 1, "items": 8}


def test_the_old_model_answers_until_the_switch_and_the_new_one_by_itself_after(
    filled: Library, wide: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = []
    real = Store.embed

    def embed(self: Store, *arguments: Any) -> None:
        real(self, *arguments)
        answered.append(asked(filled))

    monkeypatch.setattr(Store, "embed", embed)
    with Snapshot.open(filled.collection) as held:
        vector = filled.model.encode_texts(["red"])
        before = held.search(vector, 5, kind="image")
        switch(filled, wide, options=replace(SMALL_BATCHES, publish_every_s=0))
        assert held.search(vector, 5, kind="image") == before
    assert answered == ["tiny"] * 3
    assert asked(filled) == "wide"


def test_a_run_that_may_not_change_the_model_is_refused_with_the_way_to_do_it(filled: Library, wide: Model) -> None:
    way = rf"'tiny'.*'wide'.*mmsearch index --collection {filled.collection} --model {wide.manifest.directory}`"
    tiny, filled.model = filled.model, wide
    with pytest.raises(CollectionMismatch, match=way):
        filled.index()
    filled.model = tiny
    assert counts(filled.index())["unchanged"] == 6


def test_an_interrupted_switch_goes_on_where_it_stopped(filled: Library, wide: Model) -> None:
    with embeddings_made() as made, interrupted_after(1):
        report = switch(filled, wide)
    assert report.interrupted
    assert report.switch is not None and not report.switch.done
    assert report.switch.embedded == sum(made.values()) > 0
    assert report.items == 8
    assert "'tiny' still answers" in report.warnings[-1]
    assert filled.manifest.format == 2
    assert asked(filled) == "tiny"
    with embeddings_made() as rest:
        report = switch(filled, wide)
    assert report.switch is not None and report.switch.done
    assert made + rest == {"images": 5, "texts": 3}
    filled.model = wide
    assert_answers(filled, wide)


def test_plain_runs_in_between_keep_what_the_switch_has_made(filled: Library, wide: Model) -> None:
    with embeddings_made() as made, interrupted_after(1):
        switch(filled, wide)
    with embeddings_made() as plain:
        assert counts(run_own(filled)) == {"unchanged": 6, "failed_before": 1, "items": 8}
    assert not plain
    with embeddings_made() as rest:
        switch(filled, wide)
    assert made + rest == {"images": 5, "texts": 3}


def test_kept_embeddings_make_going_back_quick(filled: Library, wide: Model) -> None:
    tiny = filled.model
    switch(filled, wide, keep_old=True)
    filled.model = wide
    assert tables(filled) == sorted([tiny.fingerprint, wide.fingerprint])
    assert [each.name for each in filled.manifest.kept_models] == ["tiny"]
    filled.photo("1.png", 50)
    filled.photo("new.png", 51)
    (filled.photos / "2.png").unlink()
    run_own(filled)
    with embeddings_made() as made:
        report = switch(filled, tiny, keep_old=True)
    assert made == {"images": 2}
    assert report.switch is not None and report.switch.done
    filled.model = tiny
    assert_answers(filled, tiny)
    with embeddings_made() as made:
        switch(filled, wide)
    assert not made
    filled.model = wide
    assert_answers(filled, wide)
    assert tables(filled) == [wide.fingerprint]


def test_what_lies_outside_the_given_folders_holds_the_switch_back(
    filled: Library, wide: Model, tmp_path: Path
) -> None:
    filled.index(_another_folder(filled, tmp_path))
    report = switch(filled, wide, filled.photos)
    assert report.switch is not None
    assert (report.switch.embedded, report.switch.items, report.switch.done) == (8, 9, False)
    assert "(first: " + str(tmp_path / "more/6.png") in report.warnings[-1]
    report = switch(filled, wide)
    assert report.switch is not None and report.switch.done
    filled.model = wide
    assert_answers(filled, wide)


def test_a_folder_that_is_gone_holds_the_switch_back_until_it_is_there_or_given_up(
    filled: Library, wide: Model, tmp_path: Path
) -> None:
    more = _another_folder(filled, tmp_path)
    filled.index(more)
    more.rename(tmp_path / "unplugged")
    report = switch(filled, wide)
    assert report.switch is not None and not report.switch.done
    (tmp_path / "unplugged").rename(more)
    with embeddings_made() as made:
        report = switch(filled, wide, keep_old=True)
    assert made == {"images": 1}
    assert report.switch is not None and report.switch.done
    other = other_model(tmp_path / "other")
    more.rename(tmp_path / "unplugged")
    report = switch(filled, other, options=IndexOptions(prune=True, force=True))
    assert report.switch is not None and report.switch.done
    assert (report.removed, report.items) == (1, 8)


def _another_folder(library: Library, base: Path) -> Path:
    library.photo("6.png", 6).rename(_made(base / "more") / "6.png")
    return base / "more"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_missing_files_hold_nothing_back_and_are_embedded_when_they_return(
    filled: Library, wide: Model, tmp_path: Path
) -> None:
    id = filled.item("0.png").id
    (filled.photos / "0.png").rename(tmp_path / "aside.png")
    run_own(filled)
    report = switch(filled, wide)
    assert report.switch is not None and report.switch.done
    filled.model = wide
    assert_answers(filled, wide)
    (tmp_path / "aside.png").rename(filled.photos / "0.png")
    assert counts(run_own(filled)) == {"indexed": 1, "unchanged": 5, "failed_before": 1, "items": 8}
    assert_answers(filled, wide)
    assert filled.item("0.png").id == id


def test_copies_of_what_an_interrupted_switch_has_embedded_cost_nothing(
    library: Library, wide: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_GROUP_FILES", 1)
    for place in range(6):
        library.photo(f"{place}.png", 5)
    library.index()
    with embeddings_made() as made, interrupted_after(1):
        report = switch(library, wide)
    assert report.switch is not None and report.switch.embedded < 6
    with embeddings_made() as rest:
        report = switch(library, wide)
    assert report.switch is not None and report.switch.done
    assert made + rest == {"images": 1}
    library.model = wide
    assert_answers(library, wide)


def test_a_third_model_takes_its_turn_and_what_the_second_has_made_is_kept_until_then(
    filled: Library, wide: Model, tmp_path: Path
) -> None:
    with interrupted_after(1):
        switch(filled, wide)
    third = other_model(tmp_path / "third")
    with interrupted_after(1):
        switch(filled, third)
    assert [each.name for each in filled.manifest.kept_models] == ["wide"]
    assert len(tables(filled)) == 3
    switch(filled, third)
    assert tables(filled) == [third.fingerprint]


def test_the_first_run_of_a_collection_switches_nothing(library: Library) -> None:
    library.photo("a.png", 1)
    report = library.index(options=IndexOptions(models=Wish(switch=True, keep_old=True)))
    assert report.switch is None
    assert np.isclose(next(iter(library.found().values())) @ library.embeddings("a.png")[0], 1, atol=1e-4)
