"""Runs as a whole: one writer, room on the disk, publishing on the way, and stopping when asked."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from index_reports import counts
from photo_library import Library
from tiny_model import write_tiny_model

from mmsearch.durable import WriterLock
from mmsearch.encoder import OnnxEncoder
from mmsearch.errors import CollectionBusy, CollectionError, CollectionMismatch
from mmsearch.indexer.interrupt import Interrupt, StopWaiting, interruptible
from mmsearch.indexer.pipeline import IndexOptions, index
from mmsearch.indexer.publish import Publisher
from mmsearch.indexer.write import BatchLimits
from mmsearch.model import load_model
from mmsearch.progress import Progress
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_manifest import read_current

EAGER = IndexOptions(publish_every_s=0, batch=BatchLimits(files=1))


def photos(library: Library, count: int) -> None:
    for place in range(count):
        library.photo(f"{place:03}.png", place)


@pytest.fixture(autouse=True)
def talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is told for every file, not a few times a second."""
    monkeypatch.setattr("mmsearch.indexer.meter._EVERY_S", 0.0)


# -- one writer, the right model, room ---------------------------------------------------------------------------


def test_a_second_writer_is_turned_away(library: Library) -> None:
    photos(library, 1)
    library.index()
    with WriterLock(library.collection), pytest.raises(CollectionBusy, match=str(os.getpid())):
        library.index()
    assert counts(library.index()) == {"unchanged": 1, "items": 1}


def test_another_model_is_turned_away_by_name(library: Library, tmp_path: Path) -> None:
    photos(library, 1)
    library.index()
    other = load_model(write_tiny_model(tmp_path / "other", name="other", seed=1))
    with pytest.raises(CollectionMismatch, match=r"'tiny'.*'other'"):
        index(library.collection, [library.photos], other, IndexOptions())
    assert counts(library.index()) == {"unchanged": 1, "items": 1}


def test_a_foreign_folder_is_not_made_a_collection(library: Library) -> None:
    photos(library, 1)
    library.collection.mkdir()
    (library.collection / "letter.txt").touch()
    with pytest.raises(CollectionError, match="not a collection"):
        library.index()
    assert [path.name for path in library.collection.iterdir()] == ["letter.txt"]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.case("L7")
def test_a_disk_without_room_is_noticed_at_the_start(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(library, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100 << 20, 70 << 20, 30 << 20))
    with pytest.raises(CollectionError, match=r"30 MB are free .* needs 64 MB.*make room"):
        library.index()
    assert not library.collection.exists()
    monkeypatch.undo()
    monkeypatch.setattr("mmsearch.indexer.pipeline.DecodePool", lambda *_, **__: library.warm_pool)
    assert counts(library.index()) == {"indexed": 1, "items": 1}


@pytest.mark.case("F17")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_refuses_ends_the_run_with_a_sentence_and_the_next_one_goes_on(
    library: Library, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    photos(library, 2)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("mmsearch.manifest.reserve_ids", refuse)
        with pytest.raises(
            CollectionError, match=rf"{library.collection}: cannot be written \({os.strerror(number)}\)"
        ):
            library.index()
    assert counts(library.index()) == {"indexed": 2, "items": 2}


@pytest.mark.promise("R2")
def test_embeddings_of_rows_that_a_killed_run_left_unfinished_are_swept(library: Library) -> None:
    photos(library, 2)
    library.index()
    with library.store() as store:
        one, two = sorted(library.items().values(), key=lambda item: item.id)
        store.put([replace(one, id=1000), replace(two, id=1001)], dict.fromkeys([1000, 1001], np.eye(16)[0]))
        store._items.delete(np.array([1000, 1001]))
    library.index()
    with library.store() as store:
        assert store.sweep() == 0


def test_an_embedding_that_was_lost_is_made_again(library: Library) -> None:
    photos(library, 3)
    library.captions("notes.csv", "one", "two")
    library.index()
    lost = [library.item("001.png").id, library.item("notes.csv", 1).id]
    with library.store() as store:
        store._vectors.delete(np.array(lost))
    assert counts(library.index()) == {"indexed": 2, "unchanged": 2, "items": 5}
    found = library.found()
    assert found[os.fsencode(library.photos / "001.png"), 0] @ library.embeddings("001.png")[0] > 0.9999


# -- publishing --------------------------------------------------------------------------------------------------


def test_what_is_committed_is_published_while_the_run_goes_on(library: Library) -> None:
    photos(library, 4)
    published: list[int] = []

    def listen(progress: Progress) -> None:
        if progress.phase == "index" and (library.collection / "CURRENT").exists():
            with Snapshot.open(library.collection) as snapshot:
                published.append(len(snapshot.live_keys()[0]))

    assert counts(library.index(options=replace(EAGER, progress=listen))) == {"indexed": 4, "items": 4}
    assert published == sorted(published)
    assert 0 < published[0] < 4


def test_nothing_is_published_on_the_way_before_it_is_time(library: Library) -> None:
    photos(library, 4)
    library.index(options=replace(EAGER, publish_every_s=3600))
    assert read_current(library.collection) == 1


@pytest.mark.promise("R2")
def test_a_run_that_died_after_its_commits_is_published_by_the_next_without_work(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(library, 3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Publisher, "publish", _killed)
        library.index()
    monkeypatch.setattr(OnnxEncoder, "_session", _killed)
    monkeypatch.setattr("mmsearch.indexer.pipeline.DecodePool", _killed)
    assert counts(library.index()) == {"unchanged": 3, "items": 3}
    assert len(library.names()) == 3


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.case("F24")
@pytest.mark.promise("R7")
@pytest.mark.parametrize("damage", ["CURRENT", "snapshots", "segments"])
def test_a_lost_or_damaged_snapshot_is_made_anew_without_embedding(
    library: Library, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    photos(library, 3)
    library.index()
    expected = library.found()
    if damage == "CURRENT":
        (library.collection / damage).unlink()
    else:
        for path in (library.collection / damage).rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(OnnxEncoder, "_session", _killed)
    assert counts(library.index()) == {"unchanged": 3, "items": 3}
    found = library.found()
    assert found.keys() == expected.keys()
    assert all(found[key] @ expected[key] > 0.9999 for key in expected)


def test_many_runs_leave_few_segments_and_the_same_collection(library: Library) -> None:
    for place in range(12):
        library.photo(f"{place}.png", place)
        library.index(options=EAGER)
    assert len(library.names()) == 12
    with Snapshot.open(library.collection) as snapshot:
        assert len(snapshot.segments) <= 4


# -- stopping ----------------------------------------------------------------------------------------------------


@pytest.mark.case("F8")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_in_good_order(library: Library, number: signal.Signals) -> None:
    photos(library, 40)
    (library.photos / "000.png").unlink()
    library.photo("gone.png", 99)
    library.index(library.photos / "gone.png")
    (library.photos / "gone.png").unlink()
    handler = signal.getsignal(number)
    raised: list[Progress] = []

    def listen(progress: Progress) -> None:
        if progress.phase == "index" and progress.done == 3 and not raised:
            raised.append(progress)
            signal.raise_signal(number)

    report = library.index(options=replace(EAGER, progress=listen))
    assert signal.getsignal(number) is handler
    assert report.interrupted
    assert 3 <= report.indexed < 39
    assert report.items == report.indexed + 1 == len(library.names())
    assert report.missing == 0
    rest = library.index()
    assert (rest.unchanged, rest.indexed, rest.missing, rest.interrupted) == (
        report.indexed, 39 - report.indexed, 1, False
    )  # fmt: skip


def test_asked_to_stop_it_does_not_finish_the_texts_of_a_long_file(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.captions("long.csv", *(f"text number {place}" for place in range(500)))
    calls = []
    real = OnnxEncoder.encode_tokens

    def encode(self: OnnxEncoder, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        calls.append(len(ids))
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return real(self, ids, mask)

    monkeypatch.setattr(OnnxEncoder, "encode_tokens", encode)
    report = library.index()
    assert (report.interrupted, counts(report), len(calls)) == (True, {}, 2)
    assert counts(library.index()) == {"indexed": 1, "items": 500}


def test_in_another_thread_no_handler_is_installed(library: Library) -> None:
    photos(library, 1)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    reports = []
    thread = threading.Thread(target=lambda: reports.append(library.index()))
    thread.start()
    thread.join()
    assert counts(reports[0]) == {"indexed": 1, "items": 1}
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_request_ends_a_wait_at_once_and_other_work_not_at_all() -> None:
    with interruptible() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.requested
        with pytest.raises(StopWaiting), interrupt.waiting():
            pytest.fail("a wait must not begin after a request")
    interrupt = Interrupt()
    reached: list[str] = []
    with pytest.raises(StopWaiting), interrupt.waiting():
        reached.append("waiting")
        interrupt.request()
        reached.append("too far")
    assert reached == ["waiting"]


def test_a_second_signal_is_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def ignored_interrupts() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ignored_interrupts")
def test_a_signal_that_the_program_ignores_stays_ignored() -> None:
    with interruptible() as interrupt:
        signal.raise_signal(signal.SIGINT)
    assert not interrupt.requested


def test_the_model_gets_no_more_at_once_than_its_caches_hold(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in range(20):
        library.photo(f"{place}.png", place)
    library.captions("notes.csv", *(f"caption {place}" for place in range(40)))
    sizes: dict[str, list[int]] = {"pictures": [], "sentences": []}

    def counted(what: str, method: str) -> None:
        real = getattr(OnnxEncoder, method)

        def encode(self: OnnxEncoder, batch: np.ndarray, *rest: object) -> np.ndarray:
            sizes[what].append(len(batch))
            return real(self, batch, *rest)

        monkeypatch.setattr(OnnxEncoder, method, encode)

    counted("pictures", "encode_pixels")
    counted("sentences", "encode_tokens")
    library.index()
    assert {what: sum(each) for what, each in sizes.items()} == {"pictures": 20, "sentences": 40}
    assert (max(sizes["pictures"]), max(sizes["sentences"])) == (8, 16)
