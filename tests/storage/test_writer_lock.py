"""One writer at a time, whoever holds the file and whatever it says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmsearch.durable import LOCK_NAME, WriterLock
from mmsearch.errors import CollectionBusy

HOLDER = """
import sys
from pathlib import Path
from mmsearch.durable import WriterLock
with WriterLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process_holding(directory: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.case("F41")
@pytest.mark.promise("R6")
def test_lock_of_another_process_names_host_pid_and_time(tmp_path: Path) -> None:
    with another_process_holding(tmp_path) as holder, pytest.raises(CollectionBusy) as caught, WriterLock(tmp_path):
        pass
    message = str(caught.value)
    assert f"pid {holder.pid}" in message
    assert socket.gethostname()[:64] in message
    assert "since 20" in message


@pytest.mark.case("F41")
def test_killed_holder_blocks_nobody(tmp_path: Path) -> None:
    with another_process_holding(tmp_path) as holder:
        holder.kill()
        holder.wait()
        with WriterLock(tmp_path):
            assert json.loads((tmp_path / LOCK_NAME).read_bytes())["pid"] == os.getpid()


def test_lock_is_free_again_after_its_block(tmp_path: Path) -> None:
    for _ in range(2):
        with WriterLock(tmp_path):
            pass


def test_second_lock_in_one_process_is_refused(tmp_path: Path) -> None:
    with WriterLock(tmp_path), pytest.raises(CollectionBusy), WriterLock(tmp_path):
        pass


@pytest.mark.case("F27", "S46")
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 40, b"{", b"[1]", b'{"host": 1, "pid": "x", "since": 1e400}', b"\xff" * 5000]
)
def test_unreadable_lock_file_neither_blocks_nor_crashes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_NAME).write_bytes(content)
    with WriterLock(tmp_path):
        (tmp_path / LOCK_NAME).write_bytes(content)
        with pytest.raises(CollectionBusy, match="cannot be read"), WriterLock(tmp_path):
            pass
