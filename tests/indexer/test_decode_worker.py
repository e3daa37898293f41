"""What the decode process and its parent are made of: reading, framing, waiting, confinement."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsearch.indexer import reading, worker_process
from mmsearch.indexer.frames import BrokenFrameError, pack_frame, pack_path, read_frame, unpack_path
from mmsearch.indexer.reading import ReadFailureError, read_whole
from mmsearch.types import Reason


def reader_of(data: bytes) -> Callable[[int], bytearray]:
    left = bytearray(data)

    def read(count: int) -> bytearray:
        if count > len(left):
            raise BrokenFrameError("it ended")
        taken = left[:count]
        del left[:count]
        return taken

    return read


@pytest.mark.case("S47")
@given(st.binary(min_size=1, max_size=60), st.binary(max_size=60), st.integers() | st.none())
@settings(deadline=None)
def test_frames_come_back_as_they_went(path: bytes, payload: bytes, number: int | None) -> None:
    frame = pack_frame({"path": pack_path(path), "number": number}, len(payload)) + payload
    read = reader_of(frame + frame)
    for _ in range(2):
        header, found = read_frame(read)
        assert (unpack_path(header["path"]), header["number"], bytes(found)) == (path, number, payload)


@pytest.mark.case("S47")
@given(st.binary(max_size=80))
@settings(deadline=None)
def test_noise_is_no_frame(noise: bytes) -> None:
    with pytest.raises(BrokenFrameError):
        read_frame(reader_of(noise))


@pytest.mark.case("S47")
@pytest.mark.parametrize(
    "header", [b"[]", b"{}", b'{"payload": -1}', b'{"payload": "7"}', b'{"payload": 9999999999}', b"{"]
)
def test_header_without_a_sensible_length_is_no_frame(header: bytes) -> None:
    with pytest.raises(BrokenFrameError):
        read_frame(reader_of(len(header).to_bytes(4, "little") + header + bytes(100)))


@pytest.fixture
def restless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], bytes]:
    """A file that somebody appends to during its first so many reads."""
    monkeypatch.setattr(reading, "_RETRY_AFTER_S", (0.0, 0.0))
    path = tmp_path / "growing.jpg"
    path.write_bytes(b"x" * 1000)
    read = os.read

    def make(times: int) -> bytes:
        left = times

        def reading_while_written(file: int, count: int) -> bytes:
            nonlocal left
            data = read(file, count)
            if left and data:
                left -= 1
                with path.open("ab") as other:
                    other.write(b"y")
            return data

        monkeypatch.setattr(os, "read", reading_while_written)
        return os.fsencode(path)

    return make


@pytest.mark.case("F36")
def test_file_that_changes_while_it_is_read_is_read_again(restless: Callable[[int], bytes]) -> None:
    content = read_whole(restless(2), 10_000)
    assert content.data == b"x" * 1000 + b"yy"
    assert content.size == 1002


@pytest.mark.case("F36")
def test_file_that_keeps_changing_is_left_for_another_time(restless: Callable[[int], bytes]) -> None:
    with pytest.raises(ReadFailureError) as failure:
        read_whole(restless(1000), 10_000)
    assert failure.value.reason is Reason.CHANGED
    assert failure.value.size is not None and failure.value.size > 1002


def test_file_rewritten_at_the_same_size_is_noticed_by_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_RETRY_AFTER_S", ())
    path = tmp_path / "same_size.jpg"
    path.write_bytes(b"a" * 100)
    read = os.read

    def reading_while_written(file: int, count: int) -> bytes:
        data = read(file, count)
        path.write_bytes(b"b" * 100)
        os.utime(path, ns=(0, 12345))
        return data

    monkeypatch.setattr(os, "read", reading_while_written)
    with pytest.raises(ReadFailureError) as failure:
        read_whole(os.fsencode(path), 1000)
    assert failure.value.reason is Reason.CHANGED


def test_empty_file_is_read_as_such(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    assert read_whole(os.fsencode(path), 0).data == b""


def test_reason_of_the_operating_system_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "on_a_dying_drive.jpg"
    path.write_bytes(b"x")

    def failing(file: int, count: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", failing)
    with pytest.raises(ReadFailureError, match="Input/output error") as failure:
        read_whole(os.fsencode(path), 10)
    assert (failure.value.errno, failure.value.reason) == (5, Reason.PERMISSION)


def test_special_file_is_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))
    with pytest.raises(ReadFailureError, match="not a regular file"):
        read_whole(os.fsencode(tmp_path / "fifo.jpg"), 10)


def test_file_replaced_just_before_it_is_opened_neither_blocks_nor_leads_astray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regular = tmp_path / "regular.jpg"
    regular.write_bytes(b"x")
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "link.jpg").symlink_to(regular)
    status = regular.stat()
    monkeypatch.setattr(os, "lstat", lambda _: status)
    reasons: list[Reason] = []

    def read_both() -> None:
        for name in ("fifo.jpg", "link.jpg"):
            with pytest.raises(ReadFailureError) as failure:
                read_whole(os.fsencode(tmp_path / name), 10)
            reasons.append(failure.value.reason)

    reader = threading.Thread(target=read_both, daemon=True)  # a FIFO opened the plain way would block for ever
    reader.start()
    reader.join(10)
    assert reasons == [Reason.UNSUPPORTED_INSIDE, Reason.CHANGED]


@pytest.mark.case("F40")
def test_patience_ends() -> None:
    nothing, _writer = os.pipe()
    try:
        answers = select.poll()
        answers.register(nothing, select.POLLIN)
        patience = worker_process._Patience(0.02)
        with pytest.raises(worker_process.WorkerLateError):
            for _ in range(1000):
                assert not patience.wait(answers)
    finally:
        os.close(nothing)
        os.close(_writer)


@pytest.mark.case("F9")
def test_time_in_which_the_parent_was_stopped_is_not_the_files_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def poll(self, milliseconds: float) -> list[tuple[int, int]]:
            clock[0] += 3600.0
            return []

    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    patience = worker_process._Patience(20.0)
    for _ in range(10):
        assert not patience.wait(Silent())  # type: ignore[arg-type]


def test_worker_imports_neither_models_nor_stores() -> None:
    code = "import sys, mmsearch.indexer.worker; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "lancedb", "lance", "faiss", "onnxruntime", "pyarrow", "tokenizers", "typer", "rich"}
    assert not heavy & set(found.stdout.split())


@pytest.mark.case("F12", "S31")
@pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")
def test_confined_process_writes_no_file_and_takes_no_memory_beyond_its_share(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom mmsearch.indexer.confine import limit_files, limit_memory\n"
        "limit_files(); limit_memory(0)\n"
        "try:\n    open(sys.argv[1], 'w').write('x' * 100000)\nexcept OSError as error: print(error.errno)\n"
        "try:\n    bytearray(1 << 30)\nexcept MemoryError: print('memory')\n"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "out")]
    found = subprocess.run(run, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["27", "memory"]
    assert (tmp_path / "out").stat().st_size == 0


def test_import_path_holds_us_and_nothing_relative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", "relative", "/somewhere"])
    first, last = worker_process._import_path()
    assert first == "/somewhere"
    assert (Path(last) / "mmsearch/__init__.py").is_file()
