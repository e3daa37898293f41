"""A change of models that cannot begin, or that is given up; and what is remembered of wishes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from killed_commits import Killed
from model_switches import (
    assert_answers,
    assert_tables_are_true,
    interrupted_after,
    other_model,
    run_own,
    switch,
    tables,
    wide_model,
)
from photo_library import Library
from switch_kills import ONE_BY_ONE, killed_at, restored

from mmsearch.errors import ModelError
from mmsearch.indexer import pipeline
from mmsearch.model import Model, load_model


@pytest.fixture
def wide(tmp_path: Path) -> Model:
    return wide_model(tmp_path / "wide")


@pytest.fixture
def half(library: Library, wide: Model, monkeypatch: pytest.MonkeyPatch) -> Library:
    """Four pictures and two captions, some of which `wide` has embedded."""
    for place in range(4):
        library.photo(f"{place}.png", place)
    library.captions("notes.csv", "a dog", "a cat")
    library.index()
    monkeypatch.setattr(pipeline, "_GROUP_FILES", 2)
    with interrupted_after(1):
        report = switch(library, wide)
    assert report.switch is not None and 0 < report.switch.embedded < 6
    assert len(tables(library)) == 2
    return library


def test_naming_the_model_that_answers_gives_the_other_up(half: Library) -> None:
    report = switch(half, half.model)
    assert report.switch is None
    assert report.warnings == (
        "the change to 'wide' is given up: 'tiny' goes on answering, and what 'wide' had embedded is removed",
    )
    assert tables(half) == [half.model.fingerprint]
    assert (half.manifest.switch, half.manifest.kept_models, half.manifest.format) == (None, (), 1)
    assert_answers(half, half.model)
    assert switch(half, half.model).warnings == ()


def test_what_is_given_up_can_be_kept_for_later(half: Library, wide: Model) -> None:
    report = switch(half, half.model, keep_old=True)
    assert report.warnings[0].endswith("what 'wide' had embedded is kept")
    assert [each.name for each in half.manifest.kept_models] == ["wide"]
    assert_tables_are_true(half, half.model, wide)
    report = switch(half, wide)
    assert report.switch is not None and report.switch.done


def test_giving_up_leaves_other_models_that_are_kept(library: Library, wide: Model, tmp_path: Path) -> None:
    library.photo("a.png", 1)
    library.index()
    tiny = library.model
    switch(library, wide, keep_old=True)
    third = other_model(tmp_path / "third")
    with interrupted_after(1):
        switch(library, third)
    switch(library, wide)
    assert tables(library) == sorted([tiny.fingerprint, wide.fingerprint])
    assert [each.name for each in library.manifest.kept_models] == ["tiny"]


def test_dropping_what_is_kept_leaves_a_change_under_way(half: Library, wide: Model) -> None:
    before = tables(half)
    report = run_own(half, keep_old=False)
    (under_way,) = report.warnings
    assert under_way.startswith("the change to 'wide' is still under way")
    assert half.manifest.switch is not None
    assert tables(half) == before
    report = switch(half, wide, keep_old=False)
    assert report.switch is not None and report.switch.done


def test_a_change_that_is_held_back_says_how_to_go_on_and_how_to_stay(half: Library, wide: Model) -> None:
    with interrupted_after(1):
        (remark,) = switch(half, wide).warnings
    assert f"run `mmsearch index --model {wide.manifest.directory}` again to go on" in remark
    assert f"to stay with 'tiny' instead, `mmsearch index --model {half.model.manifest.directory}`" in remark
    (half.photos / "3.png").rename(half.photos.parent / "aside.png")
    report = switch(half, wide, half.photos / "0.png")
    assert "since they are not in the paths of this run" in report.warnings[-1]
    assert (
        f"to stay with 'tiny' instead, `mmsearch index --model {half.model.manifest.directory}`"
        in (report.warnings[-1])
    )


def test_keeping_is_remembered_when_a_change_goes_on(library: Library, wide: Model) -> None:
    tiny = library.model
    for place in range(3):
        library.photo(f"{place}.png", place)
    library.index()
    with interrupted_after(1):
        switch(library, wide, keep_old=True)
    assert library.manifest.switch is not None and library.manifest.switch.keep_old
    report = switch(library, wide)
    assert report.switch is not None and report.switch.done
    assert [each.name for each in library.manifest.kept_models] == ["tiny"]
    assert tables(library) == sorted([tiny.fingerprint, wide.fingerprint])


@pytest.mark.parametrize("keep_old", [True, False])
def test_the_last_word_on_keeping_counts(library: Library, wide: Model, keep_old: bool) -> None:
    for place in range(3):
        library.photo(f"{place}.png", place)
    library.index()
    with interrupted_after(1):
        switch(library, wide, keep_old=not keep_old)
    switch(library, wide, keep_old=keep_old)
    assert len(tables(library)) == 1 + keep_old


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("spoil", [truncate, Path.unlink], ids=["half", "gone"])
@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_model_that_cannot_be_loaded_begins_nothing(
    library: Library, tmp_path: Path, tower: str, spoil: Callable[[Path], None]
) -> None:
    library.photo("a.png", 1)
    library.index()
    broken = wide_model(tmp_path / "wide").manifest.directory
    (graph,) = [path for path in broken.glob("*.onnx") if tower in path.name]
    marker = (library.collection / "collection.json").read_bytes()
    model = load_model(broken, threads=1)
    spoil(graph)
    with pytest.raises(ModelError):
        switch(library, model)
    assert (library.collection / "collection.json").read_bytes() == marker
    assert tables(library) == [library.model.fingerprint]
    assert library.index().unchanged == 1


@pytest.mark.parametrize("keep_old", [None, True])
def test_giving_up_can_be_killed_anywhere(half: Library, wide: Model, keep_old: bool | None) -> None:
    half.photo("1.png", 11)
    before = half.collection.with_name("before")
    half.collection.rename(before)
    step = 0
    while True:
        restored(half, before)
        try:
            with killed_at(step):
                switch(half, half.model, keep_old=keep_old, options=ONE_BY_ONE)
            killed = False
        except Killed:
            killed = True
        # Whatever comes next finds one model, in full.
        run_own(half)
        assert_answers(half, half.model)
        others = [wide] if keep_old or half.manifest.switch else []
        assert tables(half) == sorted(each.fingerprint for each in [half.model, *others])
        assert_tables_are_true(half, half.model, *others)
        assert not list((half.collection / "vectors").glob("*.removed"))
        assert not (half.collection / "quarantine").exists()
        if not killed:
            assert half.manifest.switch is None
            break
        step += 1
    assert step > 3


def test_a_change_that_keeps_the_old_model_can_be_killed_anywhere(
    library: Library, wide: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = library.model
    library.photo("0.png", 0)
    library.photo("1.png", 1)
    library.index()
    library.photo("1.png", 11)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    before = library.collection.with_name("before")
    library.collection.rename(before)
    step = 0
    while True:
        library.model = tiny
        restored(library, before)
        try:
            with killed_at(step):
                switch(library, wide, keep_old=True, options=ONE_BY_ONE)
            killed = False
        except Killed:
            killed = True
        if library.manifest.model is not None and library.manifest.switch is not None:
            assert library.manifest.switch.keep_old
        # Killed before the change stood in collection.json, the wish has to be said again.
        switch(library, wide, keep_old=None if library.manifest.switch or not killed else True, options=ONE_BY_ONE)
        library.model = wide
        assert_answers(library, wide)
        if not killed:
            break
        assert tables(library) == sorted([tiny.fingerprint, wide.fingerprint]), step
        assert [each.name for each in library.manifest.kept_models] == ["tiny"]
        assert_tables_are_true(library, tiny, wide)
        switch(library, tiny)
        library.model = tiny
        assert_answers(library, tiny)
        step += 1
    assert step > 5
    shutil.rmtree(before)
