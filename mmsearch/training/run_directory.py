"""The directory a run of training writes: its marker, where what lies, and whether a run may begin or go on there.

DIR/mmsearch-train.json            the marker: what the run is, and whether it is finished
DIR/training/                      checkpoint.safetensors, the best weights so far, a lock
DIR/cache/                         early maps of the photos; gone once the run is finished
DIR/curves.png                     losses and recalls
DIR/manifest.json, *.onnx ...      the model, once the run is finished
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmsearch.durable import LOCK_NAME, WriterLock, is_leftover, make_directory, write_atomic
from mmsearch.errors import CollectionBusy, MMSearchError, UsageError
from mmsearch.safe_text import safe_path, safe_text
from mmsearch.training.plan import Plan

MARKER = "mmsearch-train.json"
FORMAT = 1


class RunDirectory:
    """The directory of one run; nothing is made or changed before `begin`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.training, self.cache = path / "training", path / "cache"
        self.checkpoint, self.curves = self.training / "checkpoint.safetensors", path / "curves.png"

    def best(self, epoch: int) -> Path:
        """Return where the weights after `epoch` are kept while it is the best one."""
        return self.training / f"best-{epoch:04d}.safetensors"

    def earlier(self, *, resume: bool) -> Plan | None:
        """Return the plan of the run to go on with, None where one may begin.

        Raises:
            UsageError: there is nothing to go on with, or what is there must not be overwritten.
        """
        shown = safe_path(str(self.path))
        if not (self.path / MARKER).is_file():
            if resume:
                raise UsageError(f"{shown} holds no run to go on with; leave out --resume, or name the --out of one")
            if self.path.exists() and not (self.path.is_dir() and self._is_empty()):
                raise UsageError(
                    f"{shown} is not a model that training made ({MARKER} is not there) and not empty;"
                    " choose another --out"
                )
            return None
        plan, finished = self._read_marker()
        if resume and finished:
            raise UsageError(f"{shown} holds a finished run: nothing is left to do; without --resume it is redone")
        if not resume and not finished and self.checkpoint.exists():
            raise UsageError(
                f"{shown} holds a run that is not finished: --resume goes on with it; to begin anew, delete it or"
                " choose another --out"
            )
        return plan if resume else None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The right to write here; the directory is made, and is gone again afterwards where no run has begun.

        Raises:
            CollectionBusy: another process trains here.
            UsageError: the directory cannot be written.
        """
        lock, missing = WriterLock(self.path), [each for each in (self.path, *self.path.parents) if not each.exists()]
        left_by_others = (self.path / LOCK_NAME).exists()
        busy = f"{safe_path(str(self.path))}: another process is training there; wait until it is done, or choose"
        try:
            make_directory(self.path)
            lock.__enter__()
        except OSError as error:
            raise UsageError(
                f"{safe_path(str(self.path))} cannot be written ({error.strerror}); choose another --out"
            ) from error
        except CollectionBusy as error:
            raise CollectionBusy(f"{busy} another --out") from error
        with contextlib.ExitStack() as stack:
            stack.push(lock.__exit__)
            if not self._is_locked_by_us():  # a run that was refused has just removed the file that this lock is on
                raise CollectionBusy(f"{busy} another --out")
            stack.callback(self._leave_nothing, missing, keep_lock=left_by_others)
            yield

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A stretch of code that writes here; what went wrong with the disk becomes a message that says what to do.

        Raises:
            MMSearchError: something could not be written.
        """
        try:
            yield
        except OSError as error:
            raise MMSearchError(
                f"{safe_path(str(self.path))} cannot be written ({error.strerror}); make room, then go on with --resume"
            ) from error

    def begin(self, plan: Plan) -> None:
        """Make the directory, or empty it of an earlier run, and mark it as the place of `plan`."""
        make_directory(self.path)
        self._mark(plan, finished=False)
        for directory in (self.training, self.cache):
            if directory.exists():
                shutil.rmtree(directory)
            make_directory(directory)

    def finish(self, plan: Plan) -> None:
        """Mark the run as finished; the cache goes."""
        self._mark(plan, finished=True)
        shutil.rmtree(self.cache, ignore_errors=True)

    def keep_only(self, best: int) -> None:
        """Remove the weights of epochs that are no longer the best."""
        for path in self.training.glob("best-*.safetensors"):
            if path != self.best(best):
                path.unlink()

    def _is_locked_by_us(self) -> bool:
        try:
            return bool(json.loads((self.path / LOCK_NAME).read_bytes())["pid"] == os.getpid())
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _leave_nothing(self, made: Sequence[Path], *, keep_lock: bool) -> None:
        """Remove the lock, and the directories that were `made` for it, deepest first, where no run has begun."""
        if keep_lock or not self._is_empty():
            return
        with contextlib.suppress(OSError):
            (self.path / LOCK_NAME).unlink()
            for directory in made:
                directory.rmdir()

    def _is_empty(self) -> bool:
        return all(each.name == LOCK_NAME or is_leftover(each.name) for each in self.path.iterdir())

    def _mark(self, plan: Plan, *, finished: bool) -> None:
        content = {"format": FORMAT, "finished": finished, "plan": asdict(plan)}
        write_atomic(self.path / MARKER, json.dumps(content, indent=2).encode("ascii") + b"\n")

    def _read_marker(self) -> tuple[Plan, bool]:
        path = self.path / MARKER
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']}, expected {FORMAT}")
            return Plan(**content["plan"]), bool(content["finished"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{safe_path(str(path))} cannot be read ({safe_text(str(error))}); delete the directory or choose"
                " another --out"
            ) from error
