"""One decode process seen from the parent: start it, ask it, give it a deadline, end it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import mmsearch
from mmsearch.errors import MMSearchError
from mmsearch.image_limits import DecodeLimits
from mmsearch.indexer.answers import result_of
from mmsearch.indexer.frames import BrokenFrameError, Header, pack_frame, pack_path, read_frame
from mmsearch.indexer.jobs import Decoded, Failed, Job
from mmsearch.types import Preprocess

BOOT = "import sys; sys.path[:] = sys.argv[1:]; from mmsearch.indexer.worker import main; main()"
_START_S = 60.0  # imports from a cold disk on a busy machine
_MOMENT_S = 0.5
_COMPLAINT_BYTES = 65_536
_PIPE_BYTES = 1024 * 1024  # several pictures of a usual model, so that neither side waits in the middle of one
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class WorkerDiedError(Exception):
    """The process ended, or said what it must not, before it answered."""


class WorkerLateError(Exception):
    """The process did not answer before its deadline."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a decode process is told once."""

    preprocess: Preprocess
    limits: DecodeLimits
    deadline_s: float


class WorkerProcess:
    """A running decode process. Used from one thread, except `kill`.

    Raises:
        MMSearchError: it does not start.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self.files = 0
        self._config = config
        try:
            self._process = _launch()
        except OSError as error:
            raise MMSearchError(_start_failure(str(error))) from error
        self._to, self._from, self._complaints = (stream.fileno() for stream in _streams(self._process))
        self._answers = select.poll()
        self._answers.register(self._from, select.POLLIN)
        _widen(self._from)
        try:
            self._greet()
        except (WorkerDiedError, WorkerLateError) as error:
            self._process.kill()
            told = os.read(self._complaints, _COMPLAINT_BYTES).decode("utf-8", "replace").strip()
            self.end()
            raise MMSearchError(_start_failure(told.rpartition("\n")[2] or str(error))) from error
        _streams(self._process)[2].close()  # from here on nobody listens: what a decoder mutters about a file is lost

    def decode(self, job: Job) -> Decoded | Failed:
        """Return what became of one file.

        Raises:
            WorkerDiedError, WorkerLateError: this process is of no more use.
        """
        self.files += 1
        self._send(
            {
                "path": pack_path(job.path),
                "kind": job.kind,
                "extension": job.extension,
                "known_hashes": [digest.hex() for digest in job.known_hashes],
            }
        )
        header, payload = self._receive(self._config.deadline_s)
        try:
            return result_of(job, header, payload, self._config.preprocess)
        except ValueError as error:
            raise WorkerDiedError(f"its answer makes no sense ({error})") from error

    def kill(self) -> None:
        """End the process at once; a `decode` that waits for it in another thread raises WorkerDiedError."""
        self._process.kill()

    def end(self) -> str:
        """End the process, wait until it is gone, and return in words how it ended."""
        self._process.kill()
        code = self._process.wait()
        for stream in _streams(self._process):
            stream.close()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def _greet(self) -> None:
        self._send(
            {
                "parent": os.getpid(),
                "preprocess": dataclasses.asdict(self._config.preprocess),
                "limits": dataclasses.asdict(self._config.limits),
                "deadline_s": self._config.deadline_s,
            }
        )
        self._receive(_START_S)

    def _send(self, header: Header) -> None:
        left = memoryview(pack_frame(header))
        try:
            while left:
                left = left[os.write(self._to, left) :]
        except OSError as error:
            raise WorkerDiedError(str(error)) from error

    def _receive(self, seconds: float) -> tuple[Header, bytearray]:
        patience = _Patience(seconds)
        try:
            return read_frame(lambda count: self._read(count, patience))
        except BrokenFrameError as error:
            raise WorkerDiedError(str(error)) from error

    def _read(self, count: int, patience: _Patience) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            if patience.wait(self._answers):
                got = os.readv(self._from, [view])
                if not got:
                    raise WorkerDiedError("it ended")
                view = view[got:]
        return data


class _Patience:
    """Time that is left to wait. Time in which we were stopped ourselves does not count against a file."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def wait(self, answers: select.poll) -> bool:
        """Return whether something can be read, after a moment at most.

        Raises:
            WorkerLateError: no time is left.
        """
        if self._left <= 0:
            raise WorkerLateError
        moment = min(self._left, _MOMENT_S)
        before = time.monotonic()
        ready = bool(answers.poll(moment * 1000))
        self._left -= min(time.monotonic() - before, 2 * moment)
        return ready


def _launch() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", BOOT, *_import_path()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, **_ONE_THREAD},
    )


def _streams(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    return process.stdin, process.stdout, process.stderr


def _import_path() -> list[str]:
    """Return `sys.path` for a process that must find the mmsearch we are, from a checkout, a wheel or a user's script.

    Entries that depend on the current directory are left out: a folder of photos must not lend us modules.
    """
    assert mmsearch.__file__ is not None
    package_root = str(Path(mmsearch.__file__).absolute().parent.parent)
    entries = [entry for entry in sys.path if isinstance(entry, str) and Path(entry).is_absolute()]
    return entries if package_root in entries else [*entries, package_root]


def _widen(pipe: int) -> None:
    with contextlib.suppress(ImportError, AttributeError, OSError):  # Linux only, and rationed
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _start_failure(told: str) -> str:
    expected = f"expected {sys.executable!r} to run Python with what mmsearch depends on"
    return f"a decode process did not start ({told or 'without a word'}); {expected}"
