"""A publisher that is killed or watched: the order in which things reach the disk, and what others see meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from storage_builders import publish, segment_row, vector_of

from mmsearch.snapshot import Snapshot

KILL_PROGRAM = Path(__file__).with_name("publish_killed.py")


@pytest.mark.case("F29")
@pytest.mark.promise("R3")
def test_everything_is_on_the_disk_before_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Path] = []
    real_rename = Path.rename

    def rename(path: Path, target: Path) -> Path:
        steps.append(target)
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", lambda fd: steps.append(Path(f"/proc/self/fd/{fd}").readlink()))
    monkeypatch.setattr(Path, "rename", rename)
    publish(tmp_path, [segment_row(1)])
    (segment,) = (tmp_path / "segments").iterdir()
    manifest, current = steps.index(tmp_path / "snapshots" / "1.json"), steps.index(tmp_path / "CURRENT")
    stored = [*segment.iterdir(), segment, tmp_path / "segments"]
    assert all(path in steps[:manifest] for path in stored)
    assert manifest < steps.index(tmp_path / "snapshots", manifest) < current < steps.index(tmp_path, current)


@pytest.mark.case("F1")
@pytest.mark.promise("R2")
@pytest.mark.parametrize("before", ["nothing", "one", "two"])
def test_killed_anywhere_the_old_or_the_new_snapshot_stands_and_the_next_publication_works(
    tmp_path: Path, before: str
) -> None:
    command = [sys.executable, str(KILL_PROGRAM), str(tmp_path), before]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    kill_points = int(run.stdout.split()[-1])
    assert kill_points >= 30


@pytest.mark.case("F41")
def test_readers_never_fail_while_a_publisher_works(tmp_path: Path) -> None:
    publish(tmp_path, [segment_row(1, revision=1)])
    stop = threading.Event()
    failures: list[BaseException] = []
    seen: list[int] = []

    def read() -> None:
        try:
            while not stop.is_set():
                with Snapshot.open(tmp_path) as snapshot:
                    (near,) = snapshot.search(vector_of(1, 1)[np.newaxis], 5, kind="image")[0]
                    assert snapshot.row(near).path == b"/photos/dir1/file1.jpg"
                    seen.append(snapshot.number)
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for revision in range(2, 40):
        publish(tmp_path, [segment_row(1, revision=revision)])
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert len(set(seen)) > 1
