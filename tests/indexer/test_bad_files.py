"""Files that cannot be read cost themselves alone: a row with a reason, and every neighbour is found."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from index_reports import counts
from photo_library import Library

from mmsearch.encoder import OnnxEncoder
from mmsearch.errors import ModelError
from mmsearch.indexer.jobs import Failed, Job
from mmsearch.indexer.pipeline import IndexOptions
from mmsearch.types import Reason

RETRY = IndexOptions(retry_failed=True)


@pytest.mark.promise("R4")
def test_rubbish_costs_itself_and_is_reported_once(library: Library) -> None:
    library.photo("good.png", 1)
    library.captions("good.csv", "one")
    os.mkfifo(library.photos / "pipe.jpg")
    rubbish = {
        "empty.jpg": (b"", Reason.EMPTY),
        "cut.png": ((library.photos / "good.png").read_bytes()[:40], Reason.TRUNCATED),
        "page.jpg": (b"<html>not found</html>", Reason.UNIDENTIFIED),
        "noise.txt": (bytes(range(32)) * 8, Reason.UNIDENTIFIED),
        "table.csv": (b"a,b\n1,2\n", Reason.UNSUPPORTED_INSIDE),
    }
    for name, (content, _) in rubbish.items():
        library.data(name, content)
    expected = {name: reason for name, (_, reason) in rubbish.items()} | {"pipe.jpg": Reason.UNIDENTIFIED}
    report = library.index()
    assert {Path(each.path).name: each.reason for each in report.skipped} == expected
    assert all(each.detail for each in report.skipped)
    assert (report.indexed, report.items, library.names()) == (2, 2, ["good.csv", "good.png"])
    rows = [item for item in library.items().values() if item.status == "error"]
    assert {os.fsdecode(item.path): item.reason for item in rows} == expected
    assert counts(library.index()) == {"unchanged": 2, "failed_before": 6, "items": 2}
    assert {Path(each.path).name for each in library.index(options=RETRY).skipped} == set(expected)


@pytest.mark.case("C82")
def test_names_that_are_not_utf_8_are_indexed_and_reported_exactly(library: Library) -> None:
    library.photo(b"\xff\n\x1b.png", 1)
    library.data(b"bad\xfe.jpg", b"<html>")
    report = library.index()
    assert [os.fsencode(each.path) for each in report.skipped] == [os.fsencode(library.photos) + b"/bad\xfe.jpg"]
    assert list(library.found()) == [(os.fsencode(library.photos) + b"/\xff\n\x1b.png", 0)]
    assert counts(library.index()) == {"unchanged": 1, "failed_before": 1, "items": 1}


@pytest.mark.case("F37")
@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR])
def test_a_file_that_vanishes_before_it_is_read_is_no_failure(
    library: Library, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    library.photo("a.png", 1)
    library.index()
    before = library.items()
    library.photo("a.png", 2)
    library.photo("b.png", 3)

    def run(jobs: list[Job]) -> object:
        return (Failed(job.token, Reason.CHANGED, "gone", errno=number) for job in jobs)

    monkeypatch.setattr(library.warm_pool, "run", run)
    assert counts(library.index()) == {"items": 1}
    assert library.items() == before


@pytest.mark.case("F36")
def test_a_file_that_changed_while_it_was_read_is_tried_again_by_itself(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.photo("a.png", 1)
    with monkeypatch.context() as patch:
        changed = lambda jobs: (Failed(job.token, Reason.CHANGED, "it changed", size=1, mtime_ns=2) for job in jobs)  # noqa: E731
        patch.setattr(library.warm_pool, "run", changed)
        assert counts(library.index()) == {"skipped": 1}
    assert counts(library.index()) == {"indexed": 1, "items": 1}


@pytest.mark.promise("R4")
def test_a_file_that_may_no_longer_be_read_keeps_its_row_as_long_as_it_looks_the_same(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.photo("a.png", 1)
    library.index()
    before = library.items()

    def run(jobs: list[Job]) -> object:
        return (Failed(job.token, Reason.PERMISSION, "not allowed", errno=errno.EACCES) for job in jobs)

    monkeypatch.setattr(library.warm_pool, "run", run)
    report = library.index(options=IndexOptions(verify=True))
    assert (report.skipped[0].reason, report.items) == (Reason.PERMISSION, 1)
    assert library.items() == before


# -- items that the model fails on -------------------------------------------------------------------------------


def failing_on(monkeypatch: pytest.MonkeyPatch, pixels: np.ndarray) -> list[int]:
    """The image tower fails on every batch with these pixels in it; returns the sizes of the batches it got."""
    calls: list[int] = []
    real = OnnxEncoder.encode_pixels

    def encode(self: OnnxEncoder, batch: np.ndarray) -> np.ndarray:
        calls.append(len(batch))
        if any(np.array_equal(each, pixels) for each in batch):
            raise ModelError("it gave an embedding of length nan, expected 1")
        return real(self, batch)

    monkeypatch.setattr(OnnxEncoder, "encode_pixels", encode)
    return calls


def pixels_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8).transpose(2, 0, 1)


def test_a_picture_that_the_model_fails_on_costs_itself(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in range(11):
        library.photo(f"{place:02}.png", place)
    library.photo("copy of 05.png", 5)
    calls = failing_on(monkeypatch, pixels_of(5))
    report = library.index()
    assert sorted(Path(each.path).name for each in report.skipped) == ["05.png", "copy of 05.png"]
    assert {each.reason for each in report.skipped} == {Reason.CRASHED}
    assert (report.indexed, report.items) == (10, 10)
    assert len(calls) < 12
    assert "length nan" in (library.item("05.png").detail or "")
    assert counts(library.index()) == {"unchanged": 10, "failed_before": 2, "items": 10}
    monkeypatch.undo()
    monkeypatch.setattr("mmsearch.indexer.pipeline.DecodePool", lambda *_, **__: library.warm_pool)
    assert counts(library.index(options=RETRY)) == {"unchanged": 10, "indexed": 2, "items": 12}


def test_a_sentence_that_the_model_fails_on_costs_itself(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.captions("notes.csv", "one", "two", "cursed", "three")
    real = type(library.model).encode_texts

    def encode(self: object, texts: list[str], **_: object) -> np.ndarray:
        if "cursed" in texts:
            raise ModelError("no")
        return real(self, texts)  # type: ignore[arg-type]

    monkeypatch.setattr(type(library.model), "encode_texts", encode)
    report = library.index()
    assert (report.indexed, report.items, [each.reason for each in report.skipped]) == (1, 3, [Reason.CRASHED])
    assert [library.item("notes.csv", part).status for part in range(4)] == ["ok", "ok", "error", "ok"]
    assert counts(library.index()) == {"unchanged": 1, "items": 3}


def test_a_model_that_fails_on_everything_fails_the_run_and_blames_no_file(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in range(3):
        library.photo(f"{place}.png", place)

    def encode(self: OnnxEncoder, batch: np.ndarray) -> np.ndarray:
        raise ModelError("the weights are damaged")

    with monkeypatch.context() as patch:
        patch.setattr(OnnxEncoder, "encode_pixels", encode)
        with pytest.raises(ModelError, match="weights are damaged"):
            library.index()
    assert library.items() == {}
    assert counts(library.index()) == {"indexed": 3, "items": 3}


# -- another user's files ----------------------------------------------------------------------------------------

AS_NOBODY = """
import os, sys
sys.path[:0] = {path!r}
from mmsearch.indexer.discover import Scope, Walk  # while it still may be read
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
walk = Walk(Scope(1, {folder!r}, b""))
print([found.path for found in walk.files()], walk.broken)
print({{path: error.strerror for path, error in walk.unread.items()}})
"""


@pytest.mark.case("F35")
@pytest.mark.promise("R4")
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_folders_that_another_user_may_not_read_cost_themselves() -> None:
    with tempfile.TemporaryDirectory() as name:  # tmp_path lies in a folder that is root's alone
        folder = Path(name)
        for place in ("a.png", "listed/b.png", "closed/c.png", "closed/deep/d.png", "open/e.png"):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).touch()
        for place, mode in (("", 0o755), ("closed", 0o700), ("listed", 0o744), ("open", 0o755)):
            (folder / place).chmod(mode)
        code = AS_NOBODY.format(path=sys.path, folder=os.fsencode(folder))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    files, unread = done.stdout.splitlines()
    assert files == "[b'a.png', b'open/e.png'] None"
    assert unread == "{b'closed': 'Permission denied', b'listed': 'Permission denied'}"
