"""Files that are gone, and roots that only look as if: what is marked, what comes back, what is never touched."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from failing_calls import failing
from index_reports import counts
from photo_library import Library

from mmsearch import manifest as manifests
from mmsearch.encoder import OnnxEncoder
from mmsearch.errors import PruneRefused
from mmsearch.indexer import pipeline
from mmsearch.indexer.discover import Found, Walk
from mmsearch.indexer.jobs import Failed
from mmsearch.indexer.pipeline import IndexOptions
from mmsearch.types import Reason

PRUNE = IndexOptions(prune=True)
FORCE = IndexOptions(prune=True, force=True)


@pytest.fixture
def five(library: Library) -> Library:
    """Five pictures in two folders, and three captions, indexed."""
    for place, name in enumerate(["a.png", "b.png", "deep/c.png", "deep/d.png", "deep/e.png"]):
        library.photo(name, place)
    library.captions("deep/notes.csv", "one", "two", "three")
    library.index()
    return library


def missing(library: Library) -> list[str]:
    return sorted(
        os.path.relpath(os.fsdecode(path), library.photos)
        for (path, part), item in library.items().items()
        if item.missing_since is not None and part == 0
    )


def test_a_file_that_vanished_is_marked_and_no_longer_found(five: Library) -> None:
    (five.photos / "a.png").unlink()
    (five.photos / "deep/notes.csv").unlink()
    before = time.time()
    assert counts(five.index()) == {"missing": 2, "unchanged": 4, "items": 8}
    assert missing(five) == ["a.png", "deep/notes.csv"]
    assert five.names() == ["b.png", "deep/c.png", "deep/d.png", "deep/e.png"]
    assert int(before) <= (five.item("a.png").missing_since or 0) <= time.time()


def test_missing_since_is_when_it_was_first_not_seen(five: Library) -> None:
    (five.photos / "a.png").unlink()
    five.index()
    with five.store() as store:
        item = five.item("a.png")
        store.put([replace(item, missing_since=12_345)], {})
    assert counts(five.index()) == {"missing": 1, "unchanged": 5, "items": 8}
    assert five.item("a.png").missing_since == 12_345


def test_a_file_that_returns_is_found_again_without_work(
    five: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = five.items()
    shutil.move(five.photos / "deep", tmp_path / "aside")
    assert counts(five.index()) == {"missing": 4, "unchanged": 2, "items": 8}
    shutil.move(tmp_path / "aside", five.photos / "deep")

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("what comes back unchanged needs no reading")

    monkeypatch.setattr(OnnxEncoder, "_session", fail)
    monkeypatch.setattr(pipeline, "DecodePool", fail)
    assert counts(five.index()) == {"unchanged": 6, "items": 8}
    assert {key: replace(item, revision=0) for key, item in five.items().items()} == {
        key: replace(item, revision=0) for key, item in before.items()
    }
    assert len(five.names()) == 8


def test_a_file_that_returns_changed_is_found_with_its_new_content(five: Library) -> None:
    (five.photos / "a.png").unlink()
    five.index()
    five.photo("a.png", 99)
    assert counts(five.index()) == {"indexed": 1, "unchanged": 5, "items": 8}
    assert five.item("a.png").missing_since is None
    assert five.found()[os.fsencode(five.photos / "a.png"), 0] @ five.embeddings("a.png")[0] > 0.9999


def test_a_failed_file_that_vanished_is_missing_too(five: Library) -> None:
    broken = five.data("broken.jpg", b"<html>")
    five.index()
    broken.unlink()
    assert counts(five.index()) == {"missing": 1, "unchanged": 6, "items": 8}
    assert missing(five) == ["broken.jpg"]


def test_looking_at_one_folder_says_nothing_about_the_others(five: Library) -> None:
    (five.photos / "a.png").unlink()
    (five.photos / "deep/c.png").unlink()
    assert counts(five.index(five.photos / "deep")) == {"missing": 1, "unchanged": 3, "items": 8}
    assert missing(five) == ["deep/c.png"]
    assert [root.path for root in five.manifest.roots] == [os.fsencode(five.photos)]


def test_looking_at_one_file_says_nothing_about_its_siblings(five: Library) -> None:
    (five.photos / "a.png").unlink()
    assert counts(five.index(five.photos / "b.png")) == {"unchanged": 1, "items": 8}
    assert missing(five) == []


# -- roots that cannot be believed -------------------------------------------------------------------------------


def vanish(library: Library) -> None:
    library.photos.rename(library.photos.with_name("unplugged"))


def empty(library: Library) -> None:
    vanish(library)
    library.photos.mkdir()


def another_device(library: Library) -> None:
    manifest = library.manifest
    roots = tuple(replace(root, device=root.device + 1) for root in manifest.roots)
    manifests.write(library.collection, replace(manifest, roots=roots))
    for name in ("a.png", "b.png", "deep/c.png"):
        (library.photos / name).unlink()


TROUBLES = [(vanish, "is not there"), (empty, "is empty"), (another_device, "another device")]


@pytest.mark.case("F32", "F34")
@pytest.mark.promise("R5")
@pytest.mark.parametrize(("trouble", "words"), TROUBLES)
def test_a_root_in_trouble_loses_nothing_and_is_warned_about(five: Library, trouble: object, words: str) -> None:
    trouble(five)  # type: ignore[operator]
    report = five.index()
    assert (report.missing, report.removed, report.items) == (0, 0, 8)
    assert len(report.warnings) == 1
    assert words in report.warnings[0]
    assert str(five.photos) in report.warnings[0]
    assert missing(five) == []
    assert len(five.names()) == 8


@pytest.mark.case("F32", "F34")
@pytest.mark.promise("R5")
@pytest.mark.parametrize(("trouble", "words"), TROUBLES)
def test_prune_refuses_a_root_in_trouble_and_force_does_not(five: Library, trouble: object, words: str) -> None:
    trouble(five)  # type: ignore[operator]
    with pytest.raises(PruneRefused, match=rf"nothing was removed: .*{words}.*--force"):
        five.index(options=PRUNE)
    assert len(five.items()) == 8
    report = five.index(options=FORCE)
    assert (report.removed, report.missing, report.items) == ((3, 0, 5) if trouble is another_device else (6, 0, 0))


def test_a_root_found_whole_on_another_device_lives_there_from_now_on(five: Library) -> None:
    manifest = five.manifest
    roots = tuple(replace(root, device=root.device + 1) for root in manifest.roots)
    manifests.write(five.collection, replace(manifest, roots=roots))
    report = five.index()
    assert (counts(report), report.warnings) == ({"unchanged": 6, "items": 8}, ())
    assert five.manifest.roots[0].device == five.photos.stat().st_dev
    (five.photos / "a.png").unlink()
    assert counts(five.index()) == {"missing": 1, "unchanged": 5, "items": 8}


@pytest.mark.case("F33")
@pytest.mark.promise("R5")
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN])
@pytest.mark.parametrize("options", [IndexOptions(), PRUNE, FORCE])
def test_a_drive_that_goes_away_during_the_walk_loses_nothing(
    five: Library, monkeypatch: pytest.MonkeyPatch, number: int, options: IndexOptions
) -> None:
    (five.photos / "a.png").unlink()
    failing(monkeypatch, "scandir", b"/deep", number)
    if options.prune:
        with pytest.raises(PruneRefused, match="could not be read to the end"):
            five.index(options=options)
    else:
        (warning,) = five.index().warnings
        assert os.strerror(number) in warning
    monkeypatch.undo()
    assert (len(five.items()), missing(five)) == (8, [])


@pytest.mark.case("F33")
@pytest.mark.promise("R5")
def test_a_drive_that_goes_away_after_the_walk_loses_nothing(five: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount point answers, empty, as soon as the drive is gone: only the second look at the root tells."""
    real = Walk.files

    def files(self: Walk) -> Iterator[Found]:
        empty(five)
        yield from real(self)

    monkeypatch.setattr(Walk, "files", files)
    report = five.index()
    assert (report.missing, missing(five)) == (0, [])
    assert "is empty" in report.warnings[0]


@pytest.mark.case("F20", "F33")
@pytest.mark.promise("R5")
def test_a_file_that_answers_with_a_broken_drive_keeps_its_row(five: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    before = five.items()
    os.utime(five.photos / "a.png")
    monkeypatch.setattr(
        five.warm_pool,
        "run",
        lambda jobs: (Failed(job.token, Reason.PERMISSION, "I/O error", errno=errno.EIO) for job in jobs),
    )
    report = five.index()
    assert [each.path for each in report.skipped] == [str(five.photos / "a.png")]
    assert five.items() == before


# -- folders that cannot be read ---------------------------------------------------------------------------------


@pytest.mark.case("F35")
@pytest.mark.promise("R5")
def test_what_is_known_of_an_unreadable_folder_stays(five: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    (five.photos / "a.png").unlink()
    failing(monkeypatch, "scandir", b"/deep", errno.EACCES)
    report = five.index()
    assert (report.missing, report.unchanged) == (1, 1)
    assert [(each.path, each.reason.value) for each in report.skipped] == [(str(five.photos / "deep"), "permission")]
    assert "1 folder could not be read" in report.warnings[0]
    assert missing(five) == ["a.png"]
    report = five.index(options=PRUNE)
    assert (report.removed, report.items) == (1, 7)


def test_a_file_in_a_hidden_folder_is_not_gone_because_walks_pass_it_over(five: Library) -> None:
    five.photo(".private/x.png", 50)
    assert counts(five.index(five.photos / ".private")) == {"indexed": 1, "items": 9}
    assert counts(five.index()) == {"unchanged": 6, "items": 9}
    (five.photos / ".private/x.png").rename(five.photos / ".private/y.png")
    assert counts(five.index(five.photos / ".private")) == {"moved": 1, "items": 9}


# -- prune -------------------------------------------------------------------------------------------------------


def test_prune_removes_what_is_gone_and_nothing_else(five: Library) -> None:
    (five.photos / "a.png").unlink()
    five.index()
    (five.photos / "deep/notes.csv").unlink()
    assert counts(five.index(options=PRUNE)) == {"removed": 2, "unchanged": 4, "items": 4}
    assert five.names() == ["b.png", "deep/c.png", "deep/d.png", "deep/e.png"]
    assert len(five.items()) == 4
    assert counts(five.index(options=PRUNE)) == {"unchanged": 4, "items": 4}


def many(library: Library, count: int) -> None:
    for place in range(count):
        library.data(f"{place:03}.txt", f"text {place}".encode())
    library.index()


@pytest.mark.parametrize(
    ("total", "lost", "refused"), [(30, 20, False), (30, 21, True), (150, 30, False), (150, 31, True)]
)
def test_prune_refuses_when_more_than_20_files_and_20_percent_are_gone(
    library: Library, total: int, lost: int, refused: bool
) -> None:
    many(library, total)
    for place in range(lost):
        (library.photos / f"{place:03}.txt").unlink()
    if refused:
        with pytest.raises(PruneRefused, match=f"lost {lost} of its {total} files.*--force"):
            library.index(options=PRUNE)
        assert len(library.items()) == total
        assert len(library.names()) == total - lost
    report = library.index(options=FORCE if refused else PRUNE)
    assert (report.removed, report.items) == (lost, total - lost)


def test_a_refused_prune_has_done_everything_else(library: Library) -> None:
    many(library, 30)
    for place in range(25):
        (library.photos / f"{place:03}.txt").unlink()
    library.photo("new.png", 1)
    with pytest.raises(PruneRefused):
        library.index(options=PRUNE)
    assert library.names() == [*(f"{place:03}.txt" for place in range(25, 30)), "new.png"]


def test_moved_files_do_not_count_as_lost(library: Library) -> None:
    (library.photos / "old").mkdir()
    for place in range(30):
        library.data(f"old/{place}.txt", f"text {place}".encode())
    library.index()
    (library.photos / "old").rename(library.photos / "new")
    assert counts(library.index(options=PRUNE)) == {"moved": 30, "items": 30}


def test_prune_looks_at_the_folders_it_is_given(five: Library) -> None:
    (five.photos / "a.png").unlink()
    (five.photos / "deep/c.png").unlink()
    report = five.index(five.photos / "deep", options=PRUNE)
    assert (report.removed, report.items) == (1, 7)
    assert missing(five) == []


def test_a_folder_that_is_gone_inside_a_root_needs_force(five: Library) -> None:
    shutil.rmtree(five.photos / "deep")
    (warning,) = five.index(five.photos / "deep").warnings
    assert "deep is not there" in warning
    with pytest.raises(PruneRefused, match="deep is not there"):
        five.index(five.photos / "deep", options=PRUNE)
    assert five.index(five.photos / "deep", options=FORCE).removed == 4
    assert five.names() == ["a.png", "b.png"]
