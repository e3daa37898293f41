"""The pool of decode processes: files in, pixels and passages out, one result for every file whatever it does to us."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType

from mmsearch.errors import MMSearchError
from mmsearch.image_limits import DecodeLimits
from mmsearch.indexer.jobs import Decoded, Failed, Job
from mmsearch.indexer.worker_process import WorkerConfig, WorkerDiedError, WorkerLateError, WorkerProcess
from mmsearch.types import Preprocess, Reason

__all__ = ["DecodePool", "Decoded", "Failed", "Job"]

_AHEAD = 32  # files a worker: while one batch is embedded, the next is decoded
_BYTES_AHEAD = 64 * 1024 * 1024  # of results that nobody has taken yet; large text files would pile up otherwise
_PASSAGE_BYTES = 300  # the objects around one passage's text, by far the most of it in a table of short captions
_FULL_POLL_S = 0.02
_FILES_PER_WORKER = 2000  # then a fresh process takes over, so that no decoder's leak grows
_TRIES = 2  # the kernel, or a person, may have killed a worker over a file that is innocent
_STARTS = 3
_JOIN_S = 5.0

Result = Decoded | Failed


class DecodePool:
    """Decode processes and the threads that feed them, one for each process. A context manager.

    Processes start with the first files that need them. A file that takes longer than `deadline_s`, or ends its
    process, costs itself alone. `limits` default to what `workers` at a time may take of this machine.
    """

    def __init__(
        self, preprocess: Preprocess, *, workers: int, deadline_s: float, limits: DecodeLimits | None = None
    ) -> None:
        if workers < 1:
            raise ValueError(f"{workers} workers, expected at least 1")
        self._config = WorkerConfig(preprocess, limits or DecodeLimits.for_machine(workers), deadline_s)
        self._workers = workers
        self._tasks: queue.SimpleQueue[tuple[Job, _Outbox] | None] = queue.SimpleQueue()
        self._lanes: list[_Lane] = []
        self._outboxes: set[_Outbox] = set()
        self._closed = False

    def run(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield one result for every job, in the order of completion. Jobs are pulled a bounded number ahead.

        Raises:
            MMSearchError: decode processes cannot be started, or the pool is closed.
        """
        outbox = _Outbox()
        self._outboxes.add(outbox)
        try:
            yield from self._run(iter(jobs), outbox)
        finally:
            outbox.closed = True
            self._outboxes.discard(outbox)

    def close(self) -> None:
        """End all processes and threads. What was not yielded by then is lost."""
        self._closed = True
        for _ in self._lanes:
            self._tasks.put(None)
        for outbox in list(self._outboxes):
            outbox.close()
        for lane in self._lanes:
            lane.stop()
        for lane in self._lanes:
            lane.thread.join(_JOIN_S)
        self._lanes.clear()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, source: Iterator[Job], outbox: _Outbox) -> Iterator[Result]:
        most = _AHEAD * self._workers
        waiting = 0
        exhausted = False
        while waiting or not exhausted:
            if not exhausted and waiting < most:
                job = next(source, None)
                if job is None:
                    exhausted = True
                    continue
                self._submit(job, outbox)
                waiting += 1
                result = outbox.take(wait=False)
            else:
                result = outbox.take(wait=True)
            if result is not None:
                waiting -= 1
                yield result

    def _submit(self, job: Job, outbox: _Outbox) -> None:
        if self._closed:
            raise MMSearchError("the decode pool is closed: open another")
        self._tasks.put((job, outbox))
        if len(self._lanes) < self._workers:
            self._lanes.append(_Lane(self._config, self._tasks))


class _Outbox:
    """The results of one `run`, on their way from the lanes to whoever iterates.

    The consumer takes no lock, since a signal handler may raise in it at any moment: it alone moves `_taken`, and the
    lanes `_put`.
    """

    def __init__(self) -> None:
        self.closed = False
        self._results: queue.SimpleQueue[Result | BaseException] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._put = 0
        self._taken = 0

    def put(self, result: Result | BaseException) -> None:
        while self._put - self._taken > _BYTES_AHEAD and not self.closed:
            time.sleep(_FULL_POLL_S)
        with self._lock:
            self._put += _cost(result)
        self._results.put(result)

    def take(self, *, wait: bool) -> Result | None:
        try:
            result = self._results.get(block=wait)
        except queue.Empty:
            return None
        if isinstance(result, BaseException):
            raise result
        self._taken += _cost(result)
        return result

    def close(self) -> None:
        self.closed = True
        self._results.put(MMSearchError("the decode pool was closed while it was in use"))


def _cost(result: Result | BaseException) -> int:
    if not isinstance(result, Decoded):
        return 0
    pixels = result.image.pixels.nbytes if result.image is not None else 0
    return pixels + sum(_PASSAGE_BYTES + len(passage.text) for passage in result.passages)


class _Lane:
    """One thread and the process that it feeds."""

    def __init__(self, config: WorkerConfig, tasks: queue.SimpleQueue[tuple[Job, _Outbox] | None]) -> None:
        self._config = config
        self._tasks = tasks
        self._worker: WorkerProcess | None = None
        self._stopped = False
        self.thread = threading.Thread(target=self._work, name="mmsearch-decode", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End the process now and the thread soon. Called from another thread."""
        self._stopped = True
        worker = self._worker
        if worker is not None:
            worker.kill()

    def _work(self) -> None:
        try:
            while (task := self._tasks.get()) is not None and not self._stopped:
                job, outbox = task
                if not outbox.closed:
                    outbox.put(self._outcome(job))
        finally:
            self._retire()

    def _outcome(self, job: Job) -> Result | BaseException:
        try:
            return self._decode(job)
        except Exception as error:  # it must reach whoever iterates, or they would wait for ever
            return error

    def _decode(self, job: Job) -> Result:
        ended = ""
        for _ in range(_TRIES):
            worker = self._ready_worker()
            try:
                return worker.decode(job)
            except WorkerLateError:
                self._retire()
                detail = f"not decoded after {self._config.deadline_s:g} s"
                return Failed(job.token, Reason.TIMEOUT, detail)
            except WorkerDiedError as error:
                ended = f"{error}; {self._retire()}"
                if self._stopped:
                    break
        return Failed(job.token, Reason.CRASHED, f"it ended its decode process {_TRIES} times ({ended})")

    def _ready_worker(self) -> WorkerProcess:
        if self._worker is not None and self._worker.files >= _FILES_PER_WORKER:
            self._retire()
        if self._worker is None:
            self._worker = self._start()
        if self._stopped:  # after it was stored: either `stop` saw it, or this does
            self._worker.kill()
        return self._worker

    def _start(self) -> WorkerProcess:
        for _ in range(_STARTS - 1):  # a Ctrl-C that comes while a process imports ends that process
            with contextlib.suppress(MMSearchError):
                return WorkerProcess(self._config)
        return WorkerProcess(self._config)

    def _retire(self) -> str:
        worker, self._worker = self._worker, None
        return worker.end() if worker is not None else ""
