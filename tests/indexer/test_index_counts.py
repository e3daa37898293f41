"""What one run does to files that are new, unchanged or changed, and what its report says. Counts are files."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from index_reports import counts
from photo_library import Library

from mmsearch.encoder import OnnxEncoder
from mmsearch.indexer import pipeline
from mmsearch.indexer.pipeline import IndexOptions
from mmsearch.progress import Progress
from mmsearch.types import Reason


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of the image tower got."""
    calls: list[int] = []
    real = OnnxEncoder.encode_pixels

    def spy(self: OnnxEncoder, pixels: np.ndarray) -> np.ndarray:
        calls.append(len(pixels))
        return real(self, pixels)

    monkeypatch.setattr(OnnxEncoder, "encode_pixels", spy)
    return calls


def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a model or opening decode processes is an error from here on."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("this run has nothing to read and nothing to embed")

    monkeypatch.setattr(OnnxEncoder, "_session", fail)
    monkeypatch.setattr(pipeline, "DecodePool", fail)


def test_new_files_are_indexed_and_found_with_the_embeddings_of_the_model(library: Library) -> None:
    library.photo("a.png", 1)
    library.photo("deep/er/b.png", 2)
    library.captions("notes.csv", "one", "two", "three")
    library.data("tool.exe", b"MZ")
    report = library.index()
    assert counts(report) == {"indexed": 3, "ignored": 1, "items": 5}
    assert report.seconds > 0
    assert not report.interrupted
    found = library.found()
    for name, expected in zip(("a.png", "deep/er/b.png"), library.embeddings("a.png", "deep/er/b.png"), strict=True):
        assert found[os.fsencode(library.photos / name), 0] @ expected > 0.9999


def test_a_picture_keeps_what_its_file_says(library: Library) -> None:
    path = library.photo("a.png", 1)
    before = time.time_ns()
    library.index()
    item = library.item("a.png")
    assert (item.kind, item.status, item.part, item.width, item.height) == ("image", "ok", 0, 8, 8)
    assert (item.size, item.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert before <= item.checked_ns <= time.time_ns()
    assert item.missing_since is None


def test_a_second_run_touches_nothing(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.photo("a.png", 1)
    library.captions("notes.csv", "one", "two")
    library.data("broken.jpg", b"<html>")
    library.index()
    before = library.items()
    no_work(monkeypatch)
    with library.store() as store:
        versions = store.versions()
    report = library.index()
    assert counts(report) == {"unchanged": 2, "failed_before": 1, "items": 3}
    with library.store() as store:
        assert store.versions() == versions
    assert library.items() == before


def test_a_changed_picture_is_embedded_again_and_keeps_its_id(library: Library) -> None:
    library.photo("a.png", 1)
    library.photo("b.png", 2)
    library.index()
    before = library.item("a.png")
    library.photo("a.png", 3)
    assert counts(library.index()) == {"indexed": 1, "unchanged": 1, "items": 2}
    after = library.item("a.png")
    assert after.id == before.id
    assert after.hash != before.hash
    assert library.found()[os.fsencode(library.photos / "a.png"), 0] @ library.embeddings("a.png")[0] > 0.9999


def test_a_touched_file_is_hashed_but_not_embedded(library: Library, encoded: list[int]) -> None:
    path = library.photo("a.png", 1)
    library.index()
    encoded.clear()
    os.utime(path, ns=(1_600_000_000 * 10**9,) * 2)
    assert counts(library.index()) == {"unchanged": 1, "items": 1}
    assert library.item("a.png").mtime_ns == 1_600_000_000 * 10**9
    assert counts(library.index()) == {"unchanged": 1, "items": 1}
    assert encoded == []


@pytest.mark.case("F42")
def test_the_same_size_and_mtime_hide_a_change_from_all_but_verify(library: Library) -> None:
    path = library.data("a.txt", b"one")
    library.index()
    stamp = path.stat().st_mtime_ns
    path.write_bytes(b"two")
    os.utime(path, ns=(stamp, stamp))
    assert counts(library.index()) == {"unchanged": 1, "items": 1}
    assert library.item("a.txt").text == "one"
    assert counts(library.index(options=IndexOptions(verify=True))) == {"indexed": 1, "items": 1}
    assert library.item("a.txt").text == "two"


def test_verifying_what_has_not_changed_writes_nothing(library: Library, encoded: list[int]) -> None:
    library.photo("a.png", 1)
    library.captions("notes.csv", "one", "two")
    library.data("broken.jpg", b"<html>")
    library.index()
    before = library.items()
    encoded.clear()
    report = library.index(options=IndexOptions(verify=True))
    assert (report.unchanged, report.failed_before, report.indexed, report.skipped) == (2, 1, 0, ())
    assert library.items() == before
    assert encoded == []


@pytest.mark.case("F42")
def test_a_file_written_at_the_moment_it_was_read_is_hashed_once_more(library: Library) -> None:
    path = library.data("a.txt", b"one")
    stamp = time.time_ns()
    os.utime(path, ns=(stamp, stamp))
    library.index()
    path.write_bytes(b"two")
    os.utime(path, ns=(stamp, stamp))
    assert counts(library.index()) == {"indexed": 1, "items": 1}
    assert library.item("a.txt").text == "two"


def test_the_second_look_is_remembered(library: Library, encoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    library.photo("a.png", 1)
    library.index()
    encoded.clear()
    first = library.item("a.png")
    with library.store() as store:
        store.put([replace(first, checked_ns=first.mtime_ns + 10**9)], {})
    assert counts(library.index()) == {"unchanged": 1, "items": 1}
    assert library.item("a.png").checked_ns > first.checked_ns
    assert encoded == []
    no_work(monkeypatch)
    assert counts(library.index()) == {"unchanged": 1, "items": 1}


@pytest.mark.promise("R4")
def test_a_file_that_failed_is_tried_again_when_it_changes_or_when_asked(library: Library) -> None:
    library.data("a.png", b"<html>")
    first = library.index()
    assert counts(first) == {"skipped": 1}
    assert first.skipped[0].path == str(library.photos / "a.png")
    assert first.skipped[0].reason is Reason.UNIDENTIFIED
    assert counts(library.index()) == {"failed_before": 1}
    again = library.index(options=IndexOptions(retry_failed=True))
    assert (counts(again), again.skipped[0].reason) == ({"skipped": 1}, Reason.UNIDENTIFIED)
    failed = library.item("a.png")
    library.photo("a.png", 1)
    assert counts(library.index()) == {"indexed": 1, "items": 1}
    repaired = library.item("a.png")
    assert (repaired.id, repaired.status, repaired.reason, repaired.detail) == (failed.id, "ok", None, None)


def test_a_good_file_that_breaks_is_no_longer_found(library: Library) -> None:
    library.photo("a.png", 1)
    library.captions("notes.csv", "one", "two", "three")
    library.index()
    library.data("a.png", b"<html>")
    library.data("notes.csv", b"\0\1\2\3" * 50)
    report = library.index()
    assert (len(report.skipped), report.items) == (2, 0)
    assert library.found() == {}
    assert {key[1]: item.status for key, item in library.items().items()} == {0: "error"}


def test_files_that_are_not_what_their_name_says_are_read_and_remarked_on(library: Library) -> None:
    library.photo("a.jpg", 1)
    library.photo("b.png", 2)
    report = library.index()
    assert counts(report) == {"indexed": 2, "items": 2}
    assert report.warnings == ("1 file is not what the name says (first: a.jpg: named .jpg, is PNG)",)
    assert library.item("a.jpg").detail == "named .jpg, is PNG"


def test_links_are_remarked_on(library: Library) -> None:
    library.photo("a.png", 1)
    (library.photos / "link.png").symlink_to("a.png")
    report = library.index()
    assert counts(report) == {"indexed": 1, "ignored": 1, "items": 1}
    assert report.warnings == ("1 link was not followed: give the folders they lead into",)


def test_two_new_files_with_the_same_bytes_are_embedded_once(library: Library, encoded: list[int]) -> None:
    for place in range(5):
        library.photo(f"{place}.png", 1)
    library.data("a.txt", b"same")
    library.data("b.txt", b"same")
    report = library.index()
    assert counts(report) == {"indexed": 7, "items": 7}
    assert encoded == [1]
    assert len({item.id for item in library.items().values()}) == 7


def test_the_same_bytes_in_a_batch_that_is_not_written_yet_are_embedded_once(
    library: Library, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.indexer.pipeline._GROUP_FILES", 2)
    for place in range(4):
        library.photo(f"a{place}.png", place)
        library.photo(f"z{place}.png", place)
    assert counts(library.index()) == {"indexed": 8, "items": 8}
    assert sum(encoded) == 4


def test_the_same_bytes_far_apart_are_embedded_once(
    library: Library, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.indexer.embed._REMEMBERED", 2)
    monkeypatch.setattr("mmsearch.indexer.pipeline._GROUP_FILES", 2)
    for place in range(8):
        library.photo(f"a{place}.png", place)
        library.photo(f"z{place}.png", place)
    report = library.index(options=IndexOptions(batch=pipeline.BatchLimits(files=4)))
    assert counts(report) == {"indexed": 16, "items": 16}
    assert sum(encoded) == 8
    found = library.found()
    for place in range(8):
        one, other = (found[os.fsencode(library.photos / f"{each}{place}.png"), 0] for each in "az")
        assert one @ other > 0.9999


def test_a_single_file_is_indexed_alone(library: Library) -> None:
    first = library.photo("a.png", 1)
    library.photo("b.png", 2)
    other = library.data("x.doc", b"x")
    assert counts(library.index(first)) == {"indexed": 1, "items": 1}
    assert counts(library.index(other, first)) == {"unchanged": 1, "ignored": 1, "items": 1}
    assert counts(library.index()) == {"indexed": 1, "unchanged": 1, "ignored": 1, "items": 2}


def test_progress_counts_files_and_ends_at_the_total(library: Library) -> None:
    for place in range(3):
        library.photo(f"{place}.png", place)
    library.data("broken.jpg", b"<html>")
    heard: list[Progress] = []
    library.index(options=IndexOptions(progress=heard.append))
    phases = [each.phase for each in heard]
    assert phases == sorted(phases, key=["scan", "index", "publish"].index)
    assert [each for each in heard if each.phase == "scan"][-1] == Progress("scan", 4, 4)
    assert [each for each in heard if each.phase == "index"][-1] == Progress("index", 4, 4)
    assert heard[-1] == Progress("publish", 1, 1)
    done = [each.done for each in heard if each.phase == "index"]
    assert done == sorted(done)


def test_what_a_progress_callback_raises_ends_the_run_and_loses_nothing(library: Library) -> None:
    library.photo("a.png", 1)

    def impatient(progress: Progress) -> None:
        if progress.phase == "publish":
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        library.index(options=IndexOptions(progress=impatient))
    assert counts(library.index()) == {"unchanged": 1, "items": 1}
    assert library.names() == ["a.png"]


@pytest.mark.promise("R1")
def test_originals_are_only_read(library: Library) -> None:
    library.photo("a.png", 1)
    library.data("notes.txt", b"one")
    library.data("broken.jpg", b"<html>")

    def tree() -> dict[Path, tuple[bytes, int, int]]:
        return {
            path: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode)
            for path in library.photos.rglob("*")
            if path.is_file()
        }

    before = tree()
    library.index()
    library.photo("new.png", 5)
    (library.photos / "new.png").unlink()
    library.index(options=IndexOptions(prune=True, verify=True, retry_failed=True))
    assert tree() == before
