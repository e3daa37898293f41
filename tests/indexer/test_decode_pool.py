"""The pool of decode processes: one result for every file, whatever the file or the machine does to a process."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from pictures import encode, scene
from rubbish import damaged_pictures, rubbish

import mmsearch.errors
from mmsearch.errors import MMSearchError
from mmsearch.images import DecodeLimits, decode_image
from mmsearch.indexer import decode, worker_process
from mmsearch.indexer.decode import Decoded, DecodePool, Failed, Job
from mmsearch.types import Preprocess, Reason

PREPROCESS = Preprocess(8, 12)
PATIENT_S = 60.0  # never reached by a sound file, however busy the machine
PICTURE = encode(scene(), "PNG")

# A worker in which the content of a file decides what goes wrong while it is decoded. Production code has no such hook.
FAULTY_BOOT = """
import os, sys
sys.path[:] = sys.argv[1:]
from mmsearch.indexer import worker
decode = worker.decode_image
def faulty(data, *args, **options):
    if data == b"segfault":
        import ctypes
        ctypes.string_at(0)
    if data == b"exit":
        os._exit(7)
    if data == b"endless":
        while True: pass
    if data == b"hungry":
        return bytearray(1 << 44)
    if data == b"defect":
        raise ZeroDivisionError("a defect")
    if data == b"garbage":
        os.write(int(worker_out), b"\\xff" * 100)
        os._exit(0)
    if data == b"noisy":
        os.write(1, b"printed by a native library")
        os.write(2, b"muttered by a native library")
        data = open(os.environ["MMSEARCH_TEST_PICTURE"], "rb").read()
    if data == b"once":
        flag = os.environ["MMSEARCH_TEST_PICTURE"] + ".flag"
        if not os.path.exists(flag):
            os.close(os.open(flag, os.O_CREAT | os.O_WRONLY))
            os._exit(1)
        data = open(os.environ["MMSEARCH_TEST_PICTURE"], "rb").read()
    return decode(data, *args, **options)
worker.decode_image = faulty
worker.use_one_thread = lambda: os.write(1, b"greetings from a native library")
dup = os.dup
def remembering_dup(fd):
    global worker_out
    worker_out = dup(fd)
    return worker_out
os.dup = remembering_dup
worker.main()
"""


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(worker_process, "BOOT", FAULTY_BOOT)
    picture = tmp_path / "sound.png"
    picture.write_bytes(PICTURE)
    monkeypatch.setenv("MMSEARCH_TEST_PICTURE", str(picture))


def pool(workers: int = 1, deadline_s: float = PATIENT_S, limits: DecodeLimits | None = None) -> DecodePool:
    return DecodePool(PREPROCESS, workers=workers, deadline_s=deadline_s, limits=limits)


def job_for(folder: Path, token: int, content: bytes, name: str = "") -> Job:
    path = folder / (name or f"{token}.png")
    path.write_bytes(content)
    return Job(token, os.fsencode(path), "image", path.suffix)


def results(decoder: DecodePool, jobs: list[Job]) -> dict[int, Decoded | Failed]:
    found = {result.token: result for result in decoder.run(jobs)}
    assert sorted(found) == sorted(job.token for job in jobs)
    return found


def failure(result: Decoded | Failed) -> Failed:
    assert isinstance(result, Failed), result
    return result


def wait_until_gone(pids: list[int]) -> list[int]:
    """Return which of `pids` still run after a generous while."""
    for _ in range(200):
        alive = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
        if not alive:
            break
        time.sleep(0.05)
    return alive


def test_every_file_gets_one_result_and_pictures_equal_those_decoded_here(tmp_path: Path) -> None:
    contents = [PICTURE, *damaged_pictures().values(), *(case.data for case in rubbish())]
    jobs = [job_for(tmp_path, token, content) for token, content in enumerate(contents)]
    with pool(workers=2) as decoder:
        found = results(decoder, jobs)
    for token, content in enumerate(contents[: 1 + len(damaged_pictures())]):
        result = found[token]
        assert isinstance(result, Decoded) and result.image is not None
        here = decode_image(content, PREPROCESS, extension=".png")
        assert np.array_equal(result.image.pixels, here.pixels)
        facts = ("status", "width", "height", "note", "taken_at", "latitude", "longitude")
        assert [getattr(result.image, name) for name in facts] == [getattr(here, name) for name in facts]
    for case, token in zip(rubbish(), range(1 + len(damaged_pictures()), len(contents)), strict=True):
        refused = failure(found[token])
        assert refused.reason == case.reason
        assert refused.hash == hashlib.sha256(case.data).digest()


def test_result_carries_the_facts_of_the_file(tmp_path: Path) -> None:
    job = job_for(tmp_path, 5, PICTURE)
    before = time.time_ns()
    with pool() as decoder:
        result = results(decoder, [job])[5]
    status = Path(os.fsdecode(job.path)).stat()
    assert isinstance(result, Decoded)
    assert (result.hash, result.size, result.mtime_ns) == (
        hashlib.sha256(PICTURE).digest(),
        status.st_size,
        status.st_mtime_ns,
    )
    assert before <= result.checked_ns <= time.time_ns()


def test_file_of_known_content_is_not_decoded(tmp_path: Path) -> None:
    content = b"this would not decode"
    job = job_for(tmp_path, 1, content)
    known = Job(job.token, job.path, "image", ".png", (b"\0" * 32, hashlib.sha256(content).digest()))
    with pool() as decoder:
        result = results(decoder, [known])[1]
    assert isinstance(result, Decoded)
    assert (result.outcome, result.image, result.passages) == ("known", None, ())
    assert result.hash == hashlib.sha256(content).digest()


def test_text_comes_back_as_passages(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("caption\nein Hund läuft\nsunset 日没\n")
    with pool() as decoder:
        result = results(decoder, [Job(3, os.fsencode(path), "text", ".csv")])[3]
    assert isinstance(result, Decoded) and result.outcome == "passages"
    assert [(passage.part, passage.text, passage.locator) for passage in result.passages] == [
        (0, "ein Hund läuft", "row 1"),
        (1, "sunset 日没", "row 2"),
    ]


def test_name_that_is_not_utf_8_is_read(tmp_path: Path) -> None:
    job = job_for(tmp_path, 1, encode(scene(), "JPEG"), os.fsdecode(b"\xff\n\xe9.jpg"))
    with pool() as decoder:
        assert isinstance(results(decoder, [job])[1], Decoded)


@pytest.mark.case("C90")
def test_what_is_no_regular_file_never_blocks(tmp_path: Path) -> None:
    sound = job_for(tmp_path, 0, PICTURE)
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to(sound.path.decode())
    names = ["fifo.jpg", "folder.jpg", "link.jpg", "gone.jpg"]
    jobs = [Job(number, os.fsencode(tmp_path / name), "image", ".jpg") for number, name in enumerate(names, 1)]
    jobs.append(Job(5, b"/dev/zero", "image", ".jpg"))
    with pool() as decoder:
        found = results(decoder, [*jobs, sound])
    reasons = [failure(found[token]).reason for token in range(1, 6)]
    assert reasons == [
        Reason.UNSUPPORTED_INSIDE,
        Reason.UNSUPPORTED_INSIDE,
        Reason.CHANGED,
        Reason.CHANGED,
        Reason.UNSUPPORTED_INSIDE,
    ]
    assert isinstance(found[0], Decoded)


def test_file_without_permission_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_for(tmp_path, 1, PICTURE)
    Path(os.fsdecode(job.path)).chmod(0)
    if os.geteuid() == 0:  # root may read everything, so the worker must be somebody else
        unprivileged = (
            "import os, sys; sys.path[:] = sys.argv[1:]; from mmsearch.indexer import worker; os.setuid(65534)"
        )
        monkeypatch.setattr(worker_process, "BOOT", f"{unprivileged}; worker.main()")
    with pool() as decoder:
        assert failure(results(decoder, [job])[1]).reason is Reason.PERMISSION


@pytest.mark.case("C91")
def test_sparse_file_of_50_gigabytes_is_refused_by_its_size(tmp_path: Path) -> None:
    job = job_for(tmp_path, 1, b"II*\0", "huge.tif")
    os.truncate(job.path, 50 * 1024**3)
    with pool() as decoder:
        refused = failure(results(decoder, [job])[1])
    assert (refused.reason, refused.size) == (Reason.TOO_LARGE, 50 * 1024**3)


@pytest.mark.case("F10", "F13")
@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize(
    ("content", "reason", "detail"),
    [
        (b"segfault", Reason.CRASHED, "SIGSEGV"),
        (b"exit", Reason.CRASHED, "exit code 7"),
        (b"garbage", Reason.CRASHED, "header"),
        (b"hungry", Reason.TOO_LARGE, "memory"),
        (b"defect", Reason.CRASHED, "ZeroDivisionError: a defect"),
    ],
)
def test_file_that_ends_its_process_costs_itself_alone(
    tmp_path: Path, content: bytes, reason: Reason, detail: str
) -> None:
    jobs = [job_for(tmp_path, token, content if token % 4 == 1 else PICTURE) for token in range(8)]
    with pool() as decoder:
        found = results(decoder, jobs)
    for token in range(8):
        if token % 4 == 1:
            assert failure(found[token]).reason is reason
            assert detail in failure(found[token]).detail
        else:
            assert isinstance(found[token], Decoded)


@pytest.mark.case("F11")
@pytest.mark.usefixtures("faulty")
def test_file_that_never_ends_is_killed_at_the_deadline(tmp_path: Path) -> None:
    contents = [b"endless", PICTURE, b"endless", PICTURE]
    jobs = [job_for(tmp_path, token, content) for token, content in enumerate(contents)]
    with pool(deadline_s=1.0) as decoder:
        found = results(decoder, jobs)
    assert [failure(found[token]).reason for token in (0, 2)] == [Reason.TIMEOUT] * 2
    assert failure(found[0]).detail == "not decoded after 1 s"
    assert all(isinstance(found[token], Decoded) for token in (1, 3))


@pytest.mark.usefixtures("faulty")
def test_process_that_dies_once_costs_nothing(tmp_path: Path) -> None:
    with pool() as decoder:
        assert isinstance(results(decoder, [job_for(tmp_path, 0, b"once")])[0], Decoded)


@pytest.mark.usefixtures("faulty")
def test_what_a_native_library_prints_garbles_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pool() as decoder:
        assert isinstance(results(decoder, [job_for(tmp_path, 0, b"noisy")])[0], Decoded)
    assert capfd.readouterr() == ("", "")


@pytest.mark.case("F12")
def test_bomb_that_passes_the_header_check_meets_the_memory_limit(tmp_path: Path) -> None:
    limits = DecodeLimits(max_pixels=1000, max_bytes=1000)
    with pool(limits=limits) as decoder:
        assert isinstance(results(decoder, [job_for(tmp_path, 0, encode(scene(20, 20), "PNG"))])[0], Decoded)
        (child,) = psutil.Process().children()
        soft, hard = child.rlimit(psutil.RLIMIT_AS)
        assert 0 < soft == hard < child.memory_info().vms + 2 * limits.peak_bytes + 2**30
        assert child.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
        assert PATIENT_S < child.rlimit(psutil.RLIMIT_CPU)[0] < 10 * PATIENT_S


def test_jobs_are_pulled_only_a_bounded_number_ahead(tmp_path: Path) -> None:
    pulled = 0

    def jobs() -> Iterator[Job]:
        nonlocal pulled
        job = job_for(tmp_path, 0, PICTURE)
        for token in range(500):
            pulled += 1
            yield Job(token, job.path, "image", ".png")

    with pool() as decoder:
        for taken, _ in enumerate(decoder.run(jobs()), 1):
            assert pulled - taken < decode._AHEAD
    assert (taken, pulled) == (500, 500)


def test_no_job_starts_no_process() -> None:
    with pool(workers=4) as decoder:
        assert list(decoder.run([])) == []
        assert psutil.Process().children() == []


def test_pool_goes_on_after_a_run_that_was_left_early(tmp_path: Path) -> None:
    jobs = [job_for(tmp_path, token, PICTURE) for token in range(60)]
    with pool(workers=2) as decoder:
        run = decoder.run(jobs)
        first = next(run)
        run.close()
        assert first.token in range(60)
        assert len(results(decoder, jobs[:5])) == 5


@pytest.mark.usefixtures("faulty")
def test_closing_ends_every_process_at_once_even_a_busy_one(tmp_path: Path) -> None:
    jobs = [job_for(tmp_path, token, content) for token, content in enumerate([PICTURE, b"endless", b"endless"])]
    with pool(workers=2) as decoder:
        run = decoder.run(jobs)
        assert isinstance(next(run), Decoded)
        pids = [child.pid for child in psutil.Process().children()]
        assert len(pids) == 2
    assert wait_until_gone(pids) == []
    with pytest.raises(MMSearchError, match="closed"):
        next(run)
    with pytest.raises(MMSearchError, match="closed"):
        next(decoder.run(jobs))


def test_error_in_the_consumer_leaves_nothing_behind(tmp_path: Path) -> None:
    jobs = [job_for(tmp_path, token, PICTURE) for token in range(40)]
    pids: list[int] = []
    with pytest.raises(KeyboardInterrupt), pool(workers=2) as decoder:
        for _ in decoder.run(jobs):
            pids = [child.pid for child in psutil.Process().children()]
            raise KeyboardInterrupt
    assert pids
    assert wait_until_gone(pids) == []


def test_error_in_the_source_of_jobs_reaches_the_consumer(tmp_path: Path) -> None:
    def jobs() -> Iterator[Job]:
        yield job_for(tmp_path, 0, PICTURE)
        raise ValueError("the scan broke")

    with pool() as decoder, pytest.raises(ValueError, match="the scan broke"):
        list(decoder.run(jobs()))


def test_process_that_cannot_start_is_an_error_that_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "BOOT", "raise SystemExit('no numpy here')")
    with pool() as decoder, pytest.raises(MMSearchError, match=r"did not start \(no numpy here\); expected .*python"):
        list(decoder.run([job_for(tmp_path, 0, PICTURE)]))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    with pool() as decoder, pytest.raises(MMSearchError, match="did not start"):
        list(decoder.run([job_for(tmp_path, 0, PICTURE)]))


def test_ctrl_c_and_termination_of_the_group_are_left_to_the_parent(tmp_path: Path) -> None:
    jobs = [job_for(tmp_path, token, PICTURE) for token in range(2)]
    with pool() as decoder:
        results(decoder, jobs[:1])
        (child,) = psutil.Process().children()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            child.send_signal(number)
        results(decoder, jobs[1:])
        assert [each.pid for each in psutil.Process().children()] == [child.pid]


@pytest.mark.case("L4")
def test_fresh_process_takes_over_after_a_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_FILES_PER_WORKER", 2)
    job = job_for(tmp_path, 0, PICTURE)
    pids = set()
    with pool() as decoder:
        for token in range(5):
            results(decoder, [Job(token, job.path, "image", ".png")])
            pids |= {child.pid for child in psutil.Process().children()}
    assert len(pids) == 3


@pytest.mark.parametrize(
    ("extension", "content"),
    [(".txt", "a sentence of some words. " * 1000), (".csv", "caption\n" + "a cat\n" * 100)],
    ids=["long passages", "many short passages"],
)
def test_results_nobody_takes_hold_the_lanes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str, content: str
) -> None:
    monkeypatch.setattr(decode, "_BYTES_AHEAD", 10_000)
    path = tmp_path / f"much{extension}"
    path.write_text(content)
    jobs = [Job(token, os.fsencode(path), "text", extension) for token in range(8)]
    with pool(workers=2) as decoder:
        run = decoder.run(jobs)
        next(run)
        time.sleep(0.5)  # time enough to decode all, were they not held back
        (outbox,) = decoder._outboxes
        assert outbox._results.qsize() <= 3  # one that filled it, and one that each lane had under way
        assert len(list(run)) == 7


SCRIPT = """
import os, sys, psutil
from mmsearch.indexer import worker_process
worker_process.BOOT = {boot!r}
from mmsearch.indexer.decode import DecodePool, Job
from mmsearch.types import Preprocess
decoder = DecodePool(Preprocess(8, 12), workers=2, deadline_s=1000)
run = decoder.run(Job(token, os.fsencode(path), "image", ".png") for token, path in enumerate(sys.argv[1:]))
next(run)
print(*(child.pid for child in psutil.Process().children()), flush=True)
next(run)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a busy child with its parent")
@pytest.mark.usefixtures("faulty")
def test_killed_parent_leaves_no_process_though_one_computes_for_ever(tmp_path: Path) -> None:
    """The parent is a script without a main guard, run from another directory, as a user's would be."""
    jobs = [job_for(tmp_path, token, content) for token, content in enumerate([PICTURE, b"endless", b"endless"])]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(boot=FAULTY_BOOT))
    command = [sys.executable, str(script), *(os.fsdecode(job.path) for job in jobs)]
    environment = {**os.environ, "PYTHONPATH": str(Path(mmsearch.errors.__file__).parent.parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    left = wait_until_gone(pids)
    for pid in left:  # or it would go on for ever
        os.kill(pid, signal.SIGKILL)
    assert left == []
