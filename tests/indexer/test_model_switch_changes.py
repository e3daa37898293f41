"""Files change while a collection gets another model: both models are right about them; and what becomes of damage."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from model_switches import (
    assert_answers,
    assert_tables_are_true,
    embeddings_made,
    interrupted_after,
    run_own,
    switch,
    tables,
    wide_model,
)
from photo_library import Library

from mmsearch import manifest as manifests
from mmsearch.collection import Collection
from mmsearch.errors import CollectionError, CollectionMismatch
from mmsearch.indexer import pipeline
from mmsearch.indexer.jobs import Failed
from mmsearch.indexer.repair import repair
from mmsearch.model import Model
from mmsearch.settings import Settings
from mmsearch.snapshot_writer import SnapshotWriter
from mmsearch.types import Reason, SwitchInfo


@pytest.fixture
def wide(tmp_path: Path) -> Model:
    return wide_model(tmp_path / "wide", itm=True)


@pytest.fixture
def half(library: Library, wide: Model, monkeypatch: pytest.MonkeyPatch) -> Library:
    """A collection of six pictures and four captions that is on its way to `wide`: some have their embedding."""
    for place in range(6):
        library.photo(f"{place}.png", place)
    library.captions("notes.csv", "a dog", "a cat", "a bird", "a fish")
    library.index()
    # Batches are filled group by group.
    monkeypatch.setattr(pipeline, "_GROUP_FILES", 2)
    with interrupted_after(1):
        report = switch(library, wide)
    assert report.switch is not None and 0 < report.switch.embedded < 10
    return library


def upheaval(library: Library) -> None:
    """Of six pictures: two trade places, one moves, one is copied, one is other, one is gone, one is no picture now;
    captions grow at the front.
    """
    photos = library.photos
    (photos / "0.png").rename(photos / "aside.png")
    (photos / "1.png").rename(photos / "0.png")
    (photos / "aside.png").rename(photos / "1.png")
    (photos / "2.png").rename(photos / "deep.png")
    library.photo("copy.png", 3)
    library.photo("3.png", 33)
    (photos / "4.png").unlink()
    library.data("5.png", b"\x89PNG and no more")
    library.captions("notes.csv", "a horse", "a dog", "a cow", "a bird", "a fish", "a cat")


@pytest.mark.parametrize("plain_first", [True, False])
def test_files_that_changed_meanwhile_are_right_by_both_models(half: Library, wide: Model, plain_first: bool) -> None:
    tiny = half.model
    ids = {item.hash: item.id for item in half.items().values() if item.kind == "image"}
    upheaval(half)
    if plain_first:
        run_own(half)
        assert_answers(half, tiny)
        assert_tables_are_true(half, tiny, wide)
    with interrupted_after(1):
        switch(half, wide)
    assert_tables_are_true(half, tiny, wide)
    half.photo("5.png", 5)
    half.captions("notes.csv", "a cat", "a dog")
    report = switch(half, wide, keep_old=True)
    assert report.switch is not None and report.switch.done
    half.model = wide
    assert_answers(half, wide)
    half.assert_tokens("0.png", "1.png", "3.png", "5.png", "copy.png", "deep.png")
    assert_tables_are_true(half, tiny, wide)
    assert half.item("deep.png").id == ids[half.item("deep.png").hash]
    switch(half, tiny)
    half.model = tiny
    assert_answers(half, tiny)


def test_a_drive_that_fails_makes_no_errors_of_what_the_old_model_has(
    half: Library, wide: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = half.items()

    def run(jobs: Any) -> Any:
        for job in jobs:
            yield Failed(job.token, Reason.PERMISSION, "Input/output error", errno=errno.EIO)

    with monkeypatch.context() as patched:
        patched.setattr(half.warm_pool, "run", run)
        report = switch(half, wide)
    assert report.switch is not None and not report.switch.done
    assert report.skipped
    assert half.items() == before
    assert switch(half, wide).switch == SwitchInfo("wide", wide.fingerprint, 24, embedded=10, items=10, done=True)


@pytest.mark.case("F17")
def test_a_disk_too_full_for_the_new_snapshot_leaves_the_old_model_in_its_place(
    half: Library, wide: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(SnapshotWriter, "publish", full)
        with pytest.raises(CollectionError, match="No space left"):
            switch(half, wide)
    half.photo("new.png", 7)
    run_own(half)
    assert_answers(half, half.model)
    with embeddings_made() as made:
        switch(half, wide)
    assert made == {"images": 1}


def test_a_lost_marker_costs_nothing_of_the_half_that_is_done(half: Library, wide: Model) -> None:
    (half.collection / "collection.json").unlink()
    repair(half.collection)
    assert half.manifest.switch is None
    assert [each.fingerprint for each in half.manifest.kept_models] == [wide.fingerprint]
    run_own(half)
    with embeddings_made() as rest:
        report = switch(half, wide)
    assert report.switch is not None and report.switch.done
    assert sum(rest.values()) < 10


def test_an_unreadable_table_of_another_model_is_put_aside_and_made_again(half: Library, wide: Model) -> None:
    versions = half.collection / "vectors" / f"{wide.fingerprint}.lance" / "_versions"
    for path in versions.glob("*.manifest"):
        path.write_bytes(b"")
    report = run_own(half)
    assert any("quarantine" in each for each in report.warnings)
    assert tables(half) == [half.model.fingerprint]
    assert_answers(half, half.model)
    with embeddings_made() as made:
        switch(half, wide)
    assert made == {"images": 6, "texts": 4}


def test_a_version_that_knows_one_model_only_is_kept_out_while_there_are_several(half: Library, wide: Model) -> None:
    def version() -> int:
        found: int = json.loads((half.collection / "collection.json").read_text("utf-8"))["format"]
        return found

    assert version() == 2
    switch(half, wide, keep_old=True)
    assert version() == 2
    half.model = wide
    run_own(half, keep_old=False)
    assert version() == 1


def test_a_collection_tells_how_far_it_is_and_what_is_kept(half: Library, wide: Model) -> None:
    tiny = half.model
    settings = Settings(threads=1, workers=1)
    with Collection.open(half.collection, settings=settings) as collection:
        about = collection.info()
        assert (about.model, about.format, about.kept_models) == ("tiny", 2, ())
        assert about.switch is not None
        assert (about.switch.model, about.switch.items, about.switch.done) == ("wide", 10, False)
        assert 0 < about.switch.embedded < 10
        assert collection.model.fingerprint == tiny.fingerprint
        # Another object, or process, finishes it: this one follows.
        switch(half, wide, keep_old=True)
        assert len(collection.search("red", k=20)) == 6
        assert collection.model.fingerprint == wide.fingerprint
        about = collection.info()
        assert (about.model, about.dim, about.switch, about.kept_models) == ("wide", 24, None, ("tiny",))
    with pytest.raises(CollectionMismatch, match=r"'wide'.*'tiny'.*mmsearch index --collection .* --model"):
        Collection.open(half.collection, model=tiny.manifest.directory, settings=settings)


def test_collections_of_before_name_no_place_of_their_model(half: Library) -> None:
    manifest = manifests.read(half.collection)
    assert manifest.model is not None
    assert manifest.model.location == str(half.model.manifest.directory)
    old = {"name": "tiny", "fingerprint": half.model.fingerprint, "dim": 16}
    body = {"format": 1, "roots": [], "model": old, "next_id": 7}
    from mmsearch.checked_json import dump_checked

    (half.collection / "collection.json").write_bytes(dump_checked(body))
    assert manifests.read(half.collection).model == manifests.ModelRef("tiny", half.model.fingerprint, 16)
