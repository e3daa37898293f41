"""What a run has read for the model that is to come, the model that answers does not lose; nor what else has no
embedding any more and is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from index_reports import counts
from model_switches import (
    SMALL_BATCHES,
    assert_answers,
    assert_tables_are_true,
    interrupted_after,
    run_own,
    switch,
    wide_model,
)
from photo_library import Library

from mmsearch.indexer import pipeline
from mmsearch.indexer.pipeline import IndexOptions
from mmsearch.model import Model
from mmsearch.snapshot import Snapshot
from mmsearch.store_prune import manifests as table_manifests


@pytest.fixture
def wide(tmp_path: Path) -> Model:
    return wide_model(tmp_path / "wide")


@pytest.fixture
def apart(library: Library, tmp_path: Path) -> tuple[Library, Path]:
    """Four pictures and three captions in one folder, one picture in another, which is a root of its own."""
    for place in range(4):
        library.photo(f"{place}.png", place)
    library.captions("notes.csv", "a dog", "a cat", "a bird")
    more = tmp_path / "more"
    more.mkdir()
    library.photo("far.png", 9).rename(more / "far.png")
    library.index(library.photos, more)
    return library, more


@pytest.fixture
def read_ahead(apart: tuple[Library, Path], wide: Model) -> tuple[Library, Path]:
    """The same, on its way to `wide`, which has read a picture and captions that changed, and a picture that is new."""
    library, more = apart
    library.photo("1.png", 11)
    library.photo("new.png", 12)
    library.captions("notes.csv", "a horse", "a cat")
    report = switch(library, wide, library.photos)
    assert report.switch is not None and not report.switch.done
    assert report.switch.embedded == report.switch.items - 1
    return library, more


@pytest.mark.parametrize("over", ["the other folder", "the same folder", "both"])
@pytest.mark.parametrize("give_up", [False, True])
def test_what_the_coming_model_has_read_is_embedded_by_the_one_that_answers(
    read_ahead: tuple[Library, Path], wide: Model, over: str, give_up: bool
) -> None:
    library, more = read_ahead
    paths = {"the other folder": [more], "the same folder": [library.photos], "both": [library.photos, more]}[over]
    report = switch(library, library.model, *paths) if give_up else library.index(*paths)
    assert not report.skipped
    rows = library.items()
    # The new picture was not found before: it is read where it was asked for.
    names = {"0.png", "1.png", "2.png", "3.png", "notes.csv", "far.png"} | (
        {"new.png"} if more not in paths[:1] else set()
    )
    found = library.found()
    assert {Path(path.decode()).name for path, _ in found} == names
    expected = library.embeddings("1.png")[0]
    assert found[bytes(library.photos / "1.png"), 0] @ expected > 0.9999
    assert {rows[key].text for key in found if key[0].endswith(b".csv")} == {"a horse", "a cat"}
    assert_tables_are_true(library, library.model, *([] if give_up else [wide]))
    if more not in paths[:1]:
        assert_answers(library, library.model)


def test_a_file_that_cannot_be_read_any_more_is_told_of(read_ahead: tuple[Library, Path]) -> None:
    library, more = read_ahead
    before = library.names()
    library.photos.rename(library.photos.with_name("unplugged"))
    report = library.index(more)
    told = [each for each in report.warnings if "items that were found before are found as they were before" in each]
    assert len(told) == 1 and "1.png" in told[0]
    assert set(library.names()) == set(before)
    library.photos.with_name("unplugged").rename(library.photos)
    library.index()
    assert_answers(library, library.model)


def test_no_snapshot_lacks_them_while_the_run_goes_on_or_when_it_is_stopped(
    read_ahead: tuple[Library, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    library, more = read_ahead
    for place in range(4):
        library.photo(f"../more/{place}.png", 20 + place)
    before = library.names()
    monkeypatch.setattr(pipeline, "_GROUP_FILES", 1)
    options = replace(SMALL_BATCHES, batch=pipeline.BatchLimits(files=1), publish_every_s=0)
    seen = []
    real = pipeline._Run._committed

    def committed(run: pipeline._Run, *arguments: object) -> None:
        real(run, *arguments)  # type: ignore[arg-type]
        with Snapshot.open(library.collection) as snapshot:
            seen.append(len(snapshot.live_keys()[0]))

    monkeypatch.setattr(pipeline._Run, "_committed", committed)
    with interrupted_after(1):
        assert library.index(more, options=options).interrupted
    assert set(library.names()) >= set(before)
    assert not library.index(more, options=options).interrupted
    assert seen[0] == len(before)
    assert min(seen) >= len(before) - 1, "one caption of three is gone"
    assert len(seen) > 4


def test_embeddings_lost_to_damage_are_made_again_by_a_run_over_another_folder(apart: tuple[Library, Path]) -> None:
    library, more = apart
    library.photo("1.png", 11)
    library.index()
    table = library.collection / "vectors" / f"{library.model.fingerprint}.lance"
    newest = table_manifests(table)[0]
    newest.write_bytes(bytes(newest.stat().st_size))
    report = library.index(more)
    assert "could not be read" in report.warnings[0]
    assert_answers(library, library.model)


def test_a_run_that_lacks_nothing_looks_at_what_it_was_asked_to(apart: tuple[Library, Path], wide: Model) -> None:
    library, more = apart
    with interrupted_after(1):
        switch(library, wide)
    assert counts(library.index(more)) == {"unchanged": 1, "items": 8}
    assert counts(run_own(library)) == {"unchanged": 5, "items": 8}
    assert counts(library.index(more, options=IndexOptions(verify=True))) == {"unchanged": 1, "items": 8}
