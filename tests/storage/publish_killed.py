"""Kill a publisher at each of its steps on the disk, look at what stands, publish again. Prints the number of steps.

A program of its own, started by a test: it forks, which only a process without threads may do. A child counts its calls
that change the disk and leaves without a word at the n-th, for n = 1, 2, ... until one publishes to its end. What it
publishes after is nothing, or a snapshot with the one before it or without: that one was damaged, and went.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

from storage_builders import publish, segment_row

from mmsearch.examination import Examination
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_check import examine_snapshots

OLD_IDS = list(range(1, 41))
NEW_IDS = [id for id in OLD_IDS if id > 2] + list(range(101, 131))
STEPS = ("fsync", "rename", "unlink", "mkdir", "rmdir", "open")
KILLED = 77


def main(directory: Path, start_name: str) -> None:
    start = directory / "start"
    start.mkdir()
    if start_name != "nothing":
        publish(start, [segment_row(id) for id in OLD_IDS[:35]], tokens=True)
        publish(start, [segment_row(id) for id in OLD_IDS[35:]], tokens=True)
    if start_name == "one":
        (start / "snapshots" / "1.json").unlink()
    for count in range(1, 1000):
        work = directory / f"work{count}"
        shutil.copytree(start, work)
        killed = publish_and_die(work, count)
        look(work)
        # Killed once more, at the same step: the numbers of snapshots have gaps now.
        if killed and publish_and_die(work, count):
            look(work)
        check(work, killed)
        shutil.rmtree(work)
        if not killed:
            sys.stdout.write(f"{count - 1}\n")
            return
    raise SystemExit("the publisher never came to its end")


def publish_and_die(work: Path, count: int) -> bool:
    child = os.fork()
    if child == 0:
        left = [count]
        for step in STEPS:
            setattr(os, step, dying(getattr(os, step), left))
        change(work)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, KILLED):
        raise SystemExit(f"the publisher to be killed at step {count} failed with {status}")
    return status == KILLED


def dying(call: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def counted(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os._exit(KILLED)
        return call(*arguments, **options)

    return counted


def change(work: Path) -> None:
    if not (work / "CURRENT").exists():
        publish(work, [segment_row(id) for id in OLD_IDS], tokens=True)
    publish(work, [segment_row(id) for id in range(101, 131)], dead=[(1, 1), (2, 1)], tokens=True)


def look(work: Path) -> None:
    """Nothing is damaged, and a query finds something."""
    found = Examination()
    live = examine_snapshots(work, found)
    found.compare(None, None)
    assert found.damaged == [], (found.damaged, sorted((work / "snapshots").iterdir()))
    assert live is not None or not (work / "CURRENT").exists()


def check(work: Path, killed: bool) -> None:
    if not (work / "CURRENT").exists():
        change(work)
    with Snapshot.open(work) as snapshot:
        ids = snapshot.live_keys()[0].tolist()
        assert ids in ([OLD_IDS, NEW_IDS] if killed else [NEW_IDS]), ids
        assert snapshot.verify() == []
    if ids == OLD_IDS:
        change(work)
    else:
        publish(work, [segment_row(200)])
        publish(work, dead=[(200, 1)])
    with Snapshot.open(work) as snapshot:
        assert snapshot.live_keys()[0].tolist() == NEW_IDS
        assert snapshot.verify() == []
    left = [path.name for path in work.rglob("*") if path.name.startswith(".")]
    assert left == [], left
    assert len(list((work / "snapshots").iterdir())) == 2
    needed = {line for path in (work / "snapshots").iterdir() for line in path.read_text().split('"')}
    assert {path.name for path in (work / "segments").iterdir()} <= needed


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
