"""Two indexers, a compactor and four readers at once; and locks that others left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from fault_server import FaultServer
from figures import tell
from photo_scenes import captions, outcome, photo
from tiny_model import write_tiny_model

from mmsearch.cli.main import COMMANDS
from mmsearch.durable import LOCK_NAME
from mmsearch.model import load_model

QUICK_S, FULL_S = 6, 60
READERS = 4
STABLE = 12
BUSY = 4


class Crowd:
    """Processes that work on one collection side by side until the time is over; what they meet is counted."""

    def __init__(self, base: Path, seconds: float) -> None:
        self.photos, self.collection, self.model = base / "photos", base / "collection", base / "tiny"
        write_tiny_model(self.model, itm=True)
        self.stable = {f"{place}.png" for place in range(STABLE)}
        for name in sorted(self.stable):
            photo(self.photos / "stable" / name, int(name.removesuffix(".png")))
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._seconds = seconds
        self._lock = threading.Lock()

    def words(self, *words: str) -> tuple[str, ...]:
        return (*words, "--collection", str(self.collection))

    @property
    def index_words(self) -> tuple[str, ...]:
        return self.words("index", str(self.photos), "--model", str(self.model))

    def start(self) -> None:
        """The time begins."""
        self._end = time.monotonic() + self._seconds

    def until_the_end(self, work: Callable[[int], None]) -> None:
        """`work`, with numbers from 0, as long as there is time; three times at least."""
        number = 0
        while number < 3 or time.monotonic() < self._end:
            work(number)
            number += 1

    def change(self) -> None:
        """Files come, change and go."""

        def once(number: int) -> None:
            folder = self.photos / "restless"
            photo(folder / f"{number % 7}.png", 100 + number)
            captions(folder / "some.csv", *(f"caption {number} {place}" for place in range(number % 5 + 1)))
            (folder / f"{(number + 3) % 7}.png").unlink(missing_ok=True)
            time.sleep(0.05)

        self.until_the_end(once)

    def write(self, server: FaultServer, *words: str) -> None:
        """Runs a command that writes, again and again: it ends well, or says that another one is writing."""

        def once(number: int) -> None:
            ended = server.run(*words)
            self._count(words[0] if ended.code == 0 else f"{words[0]} busy")
            if ended.code not in (0, BUSY):
                self.wrong.append(f"{words[0]}: {ended.code}, {ended.err}")

        self.until_the_end(once)

    def read(self, server: FaultServer) -> None:
        """Asks again and again: every answer holds each stable picture once, and nothing twice."""

        def once(number: int) -> None:
            ended = server.run(*self.words("query", "--text", "red", "-k", "1000", "--json"))
            self._count("queries")
            if ended.code != 0:
                self.wrong.append(f"query: {ended.code}, {ended.err}")
                return
            found = Counter(Path(hit["path"]).relative_to(self.photos).as_posix() for hit in ended.json["hits"])
            if lost := {f"stable/{name}" for name in self.stable} - found.keys():
                self.wrong.append(f"a query lost {sorted(lost)}")
            if twice := [name for name, count in found.items() if count > 1]:
                self.wrong.append(f"a query found twice: {twice}")

        self.until_the_end(once)

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1


@pytest.mark.case("F41")
@pytest.mark.promise("R2")
@pytest.mark.parametrize("seconds", [QUICK_S, pytest.param(FULL_S, marks=pytest.mark.full)])
def test_writers_take_turns_and_readers_never_fail(tmp_path: Path, seconds: int, pytestconfig: pytest.Config) -> None:
    crowd = Crowd(tmp_path, seconds)
    compactor = [("optimize",)] if "optimize" in {command.__name__ for command in COMMANDS} else []
    writers = [crowd.index_words, crowd.index_words, *(crowd.words(*each) for each in compactor)]
    with ExitStack() as stack, ThreadPoolExecutor(len(writers) + READERS + 1) as pool:
        servers = [
            stack.enter_context(FaultServer(tmp_path / f"server-{number}")) for number in range(len(writers) + READERS)
        ]
        assert servers[0].run(*crowd.index_words).code == 0
        crowd.start()
        work = [pool.submit(crowd.change)]
        work += [pool.submit(crowd.write, own, *words) for own, words in zip(servers, writers, strict=False)]
        work += [pool.submit(crowd.read, own) for own in servers[len(writers) :]]
        for each in work:
            each.result()
        assert servers[0].run(*crowd.index_words).code == 0
        # A second one shows whether everything was settled.
        last = servers[0].run(*crowd.index_words, "--prune", "--force", "--json")
    assert crowd.wrong == []
    assert last.code == 0
    assert last.json["indexed"] == 0
    assert crowd.counts["index"] >= 1
    held = outcome(crowd.collection, load_model(crowd.model, threads=1))
    there = {str(path.relative_to(crowd.photos)) for path in crowd.photos.rglob("*.png")}
    assert {os.fsdecode(path) for path, _ in held.rows if path.endswith(b".png")} == there
    tell(pytestconfig, f"writers and readers at once, {seconds} s: {dict(sorted(crowd.counts.items()))}, 0 lost")


def _pid_of_a_process_that_ended() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.case("F41")
@pytest.mark.parametrize("holder", ["dead pid", "reused pid", "other host", "garbage"])
def test_a_lock_that_nobody_holds_stops_nobody(server: FaultServer, tmp_path: Path, holder: str) -> None:
    """The JSON only informs: whoever died held it, and its number may be another process's by now."""
    crowd = Crowd(tmp_path, 0)
    assert server.run(*crowd.index_words).code == 0
    pid = _pid_of_a_process_that_ended() if holder == "dead pid" else os.getpid()
    host = "elsewhere" if holder == "other host" else socket.gethostname()
    told = json.dumps({"host": host, "pid": pid, "since": int(time.time())})
    (crowd.collection / LOCK_NAME).write_text("{garbage" if holder == "garbage" else told, encoding="utf-8")
    photo(crowd.photos / "new.png", 77)
    ended = server.run(*crowd.index_words, "--json")
    assert (ended.code, ended.json["indexed"]) == (0, 1), ended.err
