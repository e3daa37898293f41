"""Runs `mmsearch` commands, each in a process of its own that something befalls. A program, started by `fault_server`.

It loads everything once and forks for each command, which takes a tenth of starting a new interpreter. What befalls a
command is in its specification, a line of JSON on stdin:

    arguments     of the command, as typed after `mmsearch`
    stdout, stderr, events, published    files for what it prints, for its events, and for what it has acknowledged
    kill_at       the event at which it kills itself, from 1
    refuse        {"calls": [...], "errno": n, "from": n, "often": n}: these calls into `os` fail
    limits        {"RLIMIT_NOFILE": 32, ...}
    spare_memory  bytes of address space that it may take beyond what it has
    user          the uid to become
    environment   variables, for settings
    gate          a file to wait for before it begins

An event is something that changes the disk: a call into `os`, or the beginning or the end of a commit of a table.
Answers are lines of JSON: the pid at the beginning, the exit status at the end (negative: the signal).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")  # that forking is for those who know what they do

import lancedb  # noqa: E402, F401
import PIL.Image  # noqa: E402, F401

from mmsearch import snapshot, store_compaction, vector_index  # noqa: E402
from mmsearch.cli.main import run  # noqa: E402
from mmsearch.indexer import pipeline, repair, space  # noqa: E402
from mmsearch.indexer.publish import Publisher  # noqa: E402
from mmsearch.indexer.write import BatchLimits, Writer  # noqa: E402
from mmsearch.snapshot_writer import SnapshotWriter  # noqa: E402
from mmsearch.store_tables import StoredTable  # noqa: E402

CALLS = ("fsync", "rename", "replace", "unlink", "mkdir", "rmdir", "link", "ftruncate", "pwrite")
COMMITS = ("add", "replace", "delete", "require_optional")
FILES_A_BATCH = 4
ROWS_WITHOUT_INDEX = 24
SMALL_FRAGMENTS = 6
GATE_S = 0.002

Spec = dict[str, Any]


class Events:
    """Counts events, kills the process at one of them, and lets calls fail."""

    def __init__(self, spec: Spec) -> None:
        self._kill_at = spec.get("kill_at")
        self._refuse = spec.get("refuse", {"calls": []})
        self._log = os.open(spec["events"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._count = 0
        self._refused: dict[str, int] = {}

    def note(self, name: str) -> None:
        """One event more."""
        self._count += 1
        with contextlib.suppress(OSError):  # a full disk is what some tests are about
            os.write(self._log, f"{name}\n".encode())
        if self._count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, name: str) -> None:
        """Makes every call of `os.<name>` an event, or a failure where it is to fail."""
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.note(name)
            if name in self._refuse["calls"]:
                seen = self._refused[name] = self._refused.get(name, 0) + 1
                first = self._refuse.get("from", 1)
                if first <= seen < first + self._refuse.get("often", 10**9):
                    raise OSError(self._refuse["errno"], os.strerror(self._refuse["errno"]))
            return real(*arguments, **options)

        setattr(os, name, call)

    def watch_commit(self, name: str) -> None:
        """Makes the beginning and the end of a commit events."""
        real = getattr(StoredTable, name)

        def commit(table: StoredTable, *arguments: Any, **options: Any) -> Any:
            self.note(f"{name} {table.path.name} begins")
            result = real(table, *arguments, **options)
            self.note(f"{name} {table.path.name} ends")
            return result

        setattr(StoredTable, name, commit)


def take_small_steps() -> None:
    """Small batches, each published: moments at which something is written are most of the run. A few files are
    enough for merging them, a few rows for a FAISS index, if the settings ask for one.
    """

    def writer(directory: Path, store: Any, committed: Any, limits: BatchLimits) -> Writer:
        return Writer(directory, store, committed, BatchLimits(files=FILES_A_BATCH))

    def publisher(*arguments: Any, every_s: float, **options: Any) -> Publisher:
        return Publisher(*arguments, every_s=0.0, **options)

    for name, value in (("Writer", writer), ("Publisher", publisher), ("_GROUP_FILES", FILES_A_BATCH)):
        setattr(pipeline, name, value)
    setattr(repair, "Publisher", publisher)  # noqa: B010
    setattr(space, "SMALLEST_FREE", 0)  # noqa: B010
    setattr(vector_index, "EXACT_MAX_ROWS", ROWS_WITHOUT_INDEX)  # noqa: B010
    setattr(store_compaction, "_SMALL_FRAGMENTS", SMALL_FRAGMENTS)  # noqa: B010


def tell_what_is_published(path: str) -> None:
    """Writes the number of each snapshot to `path` as soon as it is acknowledged."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    real: Callable[..., int] = SnapshotWriter.publish

    def publish(self: SnapshotWriter, *arguments: Any, **options: Any) -> int:
        number = real(self, *arguments, **options)
        live = [[path.hex(), part] for path, part in _published(self)]
        with contextlib.suppress(OSError):
            os.write(log, (json.dumps({"snapshot": number, "rows": live}) + "\n").encode())
        return number

    setattr(SnapshotWriter, "publish", publish)  # noqa: B010


def _published(writer: SnapshotWriter) -> list[tuple[bytes, int]]:
    rows = []
    with snapshot.Snapshot.open(writer._directory) as published:
        for number, segment in enumerate(published.segments):
            for place in published.live_rows(number).tolist():
                row = published.row(snapshot.Candidate(number, place, int(segment.ids[place]), 0.0))
                rows.append((row.path, row.part))
    return rows


def command(spec: Spec) -> int:
    """The exit code of the command, if it comes to one."""
    _redirect(spec["stdout"], 1)
    _redirect(spec["stderr"], 2)
    while (gate := spec.get("gate")) and not Path(gate).exists():
        time.sleep(GATE_S)
    os.environ.update(spec.get("environment", {}))
    for name, value in spec.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (value, value))
    if "RLIMIT_FSIZE" in spec.get("limits", {}):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if spare := spec.get("spare_memory"):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + spare
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if user := spec.get("user"):
        os.setuid(user)
    os.fork = os.forkpty = _refuse_to_fork  # type: ignore[assignment]
    take_small_steps()
    tell_what_is_published(spec["published"])
    events = Events(spec)
    for name in CALLS:
        events.watch(name)
    for name in COMMITS:
        events.watch_commit(name)
    return run(spec["arguments"])


def _refuse_to_fork() -> int:
    raise AssertionError("a command forked: LanceDB, FAISS and ONNX Runtime do not survive that")


def _redirect(path: str, descriptor: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(file, descriptor)
    os.close(file)


def serve() -> None:
    """Runs one command for each line on stdin, until there is no more."""
    for line in sys.stdin:
        spec = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            code = 70
            try:
                code = command(spec)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _say({"pid": pid})
        _, status = os.waitpid(pid, 0)
        _say({"status": os.waitstatus_to_exitcode(status)})


def _say(answer: dict[str, int]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve()
