"""Clocks that go back or leap ahead, and files whose times say nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fault_server import CHECKOUT
from photo_scenes import photo
from tiny_model import write_tiny_model

FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
needs_faketime = pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
DAY_S = 24 * 3600
YEAR_S = 365 * DAY_S


class Clock:
    """A folder, and commands that run at another time."""

    def __init__(self, base: Path) -> None:
        self.photos, self.collection = base / "photos", base / "collection"
        self._model = write_tiny_model(base / "tiny")
        for place in range(4):
            photo(self.photos / f"{place}.png", place)

    def index(self, *options: str, at: str | None = None) -> Any:
        """The report of a run at the time `at`, as libfaketime has it ("-1d")."""
        words = ("index", str(self.photos), "--model", str(self._model), "--json", *options)
        return self._run(words, at)

    def found(self, at: str | None = None) -> set[str]:
        """The names of the pictures that a query finds."""
        return {Path(hit["path"]).name for hit in self._run(("query", "red", "-k", "100", "--json"), at)["hits"]}

    def _run(self, words: tuple[str, ...], at: str | None) -> Any:
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "MMSEARCH_WORKERS": "1"}
        if at is not None:
            environment |= {"LD_PRELOAD": str(FAKETIME), "FAKETIME": at}
        command = [sys.executable, "-m", "mmsearch", *words, "--collection", str(self.collection)]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.mark.case("F42")
@needs_faketime
def test_a_clock_that_jumps_changes_nothing_that_is_kept(clock: Clock) -> None:
    assert clock.index()["indexed"] == 4
    for number, at in enumerate(["-1d", "+3650d", None]):
        photo(clock.photos / "0.png", 100 + number)
        photo(clock.photos / f"new-{number}.png", 200 + number)
        assert clock.index(at=at)["indexed"] == 2
        report = clock.index(at=at)
        assert (report["indexed"], report["unchanged"], report["items"]) == (0, 5 + number, 5 + number)
        assert len(clock.found(at)) == 5 + number
    (clock.photos / "1.png").unlink()
    assert clock.index(at="-1d")["missing"] == 1
    assert "1.png" not in clock.found()
    photo(clock.photos / "1.png", 1)
    report = clock.index()
    assert (report["indexed"], report["unchanged"], report["missing"]) == (0, 7, 0)
    assert clock.index("--verify")["unchanged"] == 7


@pytest.mark.case("F42")
@pytest.mark.parametrize("seconds", [3600, 80 * YEAR_S, -60 * YEAR_S])
def test_a_file_from_another_time_is_indexed_once(clock: Clock, seconds: int) -> None:
    stamp = (int(time.time()) + seconds) * 10**9
    os.utime(clock.photos / "2.png", ns=(stamp, stamp))
    assert clock.index()["indexed"] == 4
    report = clock.index()
    assert (report["indexed"], report["unchanged"]) == (0, 4)


@pytest.mark.case("F42")
def test_new_content_under_an_old_time_and_size_is_found_when_asked(clock: Clock) -> None:
    before = (clock.photos / "0.png").read_bytes()
    assert clock.index()["indexed"] == 4
    stamp = (clock.photos / "0.png").stat().st_mtime_ns
    other = clock.photos.with_name("other.png")
    photo(other, 300)
    content = other.read_bytes()[: len(before)]
    (clock.photos / "0.png").write_bytes(content + bytes(len(before) - len(content)))
    os.utime(clock.photos / "0.png", ns=(stamp, stamp))
    assert clock.index()["unchanged"] == 4
    assert clock.index("--verify")["unchanged"] == 3
