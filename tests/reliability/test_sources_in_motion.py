"""Files and folders that change under the reader, lead in circles, or take their time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_server import Ended, FaultServer
from photo_scenes import photo
from straced import needs_strace, traced
from tiny_model import write_tiny_model

from mmsearch.model import Model, load_model


class Folder:
    """Eight pictures in two folders, and how they are indexed and found."""

    def __init__(self, base: Path, server: FaultServer) -> None:
        self.photos, self.collection = base / "photos", base / "collection"
        self.server = server
        self._model = write_tiny_model(base / "tiny")
        for place in range(8):
            photo(self.photos / f"{place % 2}/{place}.png", place)

    @property
    def model(self) -> Model:
        return load_model(self._model, threads=1)

    @property
    def words(self) -> tuple[str, ...]:
        return ("index", str(self.photos), "--model", str(self._model), "--collection", str(self.collection), "--json")

    def index(self, *options: str) -> Ended:
        ended = self.server.run(*self.words, *options)
        assert ended.code == 0, ended.err
        return ended

    def names(self) -> set[str]:
        return {Path(str(each["path"])).name for each in self.hits("--text", "red")}

    def hits(self, *words: str) -> list[dict[str, object]]:
        asked = self.server.run("query", *words, "-k", "100", "--json", "--collection", self.collection)
        assert asked.code == 0, asked.err
        found: list[dict[str, object]] = asked.json["hits"]
        return found


@pytest.fixture
def folder(tmp_path: Path, server: FaultServer) -> Folder:
    return Folder(tmp_path, server)


ALL = {f"{place}.png" for place in range(8)}


@contextmanager
def restless(path: Path) -> Iterator[None]:
    """Writes a file anew all the time: replaced, cut, and grown."""
    stop = threading.Event()

    def write() -> None:
        seed = 0
        while not stop.is_set():
            seed += 1
            photo(path, seed)
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
            path.write_bytes(whole + whole)
            time.sleep(0.001)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.case("F36")
@pytest.mark.promise("R4")
def test_a_file_that_changes_all_the_time_costs_itself_until_it_rests(folder: Folder) -> None:
    busy = folder.photos / "busy.png"
    photo(busy, 50)
    with restless(busy):
        folder.index()
        assert folder.names() >= ALL
    photo(busy, 1000)
    assert folder.index().json["skipped"] == []
    best = folder.hits("--image", str(busy), "--no-rerank")[0]
    assert best["path"] == str(busy)
    assert float(str(best["similarity"])) > 0.9999


@pytest.mark.case("F37", "F38")
@needs_strace
def test_what_vanishes_or_moves_during_the_walk_is_found_where_it_is_afterwards(folder: Folder) -> None:
    """The walk is slowed down after it has listed the first folder, and meanwhile the second one gets another name."""
    folder.index()
    slow = ("-P", str(folder.photos / "0"), "-e", "inject=getdents64:delay_exit=400000")
    mover = threading.Timer(0.0, _move_when_begun, [folder])
    mover.start()
    run = traced(folder.server, *folder.words, calls=("getdents64",), options=slow)
    mover.join()
    assert run.ended.code == 0, run.ended.err
    folder.index()
    assert folder.names() == ALL - {"0.png"}
    assert {Path(str(each["path"])).parent.name for each in folder.hits("--text", "red")} == {"0", "moved"}
    assert folder.index().json["unchanged"] == len(ALL) - 1


def _move_when_begun(folder: Folder) -> None:
    trace = folder.server.scratch / "trace"
    end = time.monotonic() + 30
    while time.monotonic() < end and not (trace.exists() and "getdents64" in trace.read_text(encoding="latin-1")):
        time.sleep(0.01)
    (folder.photos / "1").rename(folder.photos / "moved")
    (folder.photos / "0/0.png").unlink()


@pytest.mark.case("F39")
def test_links_in_circles_and_to_the_root_are_neither_followed_nor_counted_as_files(folder: Folder) -> None:
    for name, target in (
        *(("self", "self"), ("up", ".."), ("one", "two"), ("two", "one"), ("all", "/"), ("dangling", "nowhere")),
        *(("0/back", "../1"), ("1/back", "../0"), ("loop.png", "loop.png"), ("there.png", "0/0.png")),
    ):
        (folder.photos / name).symlink_to(target)
    report = folder.index().json
    assert (report["indexed"], report["skipped"]) == (len(ALL), [])
    assert folder.index().json["unchanged"] == len(ALL)
    assert folder.names() == ALL
    (outside := folder.photos.with_name("self")).symlink_to("self")
    ended = folder.server.run("index", outside, "--collection", folder.collection)
    assert (ended.code, ended.err.count("\n")) == (2, 1)


@pytest.mark.case("F40")
@needs_strace
def test_a_file_that_is_slow_to_read_costs_itself_at_the_deadline(folder: Folder) -> None:
    slow = folder.photos / "0/4.png"
    delayed = ("-P", str(slow), "-e", "inject=read:delay_enter=10s")
    environment = {"MMSEARCH_DECODE_TIMEOUT": "1"}
    run = traced(folder.server, *folder.words, calls=("read",), options=delayed, environment=environment)
    assert run.ended.code == 0, run.ended.err
    assert [(each["path"], each["reason"]) for each in run.ended.json["skipped"]] == [(str(slow), "timeout")]
    assert folder.names() == ALL - {"4.png"}
    assert folder.index().json["failed_before"] == 1
    assert folder.index("--retry-failed").json["indexed"] == 1
