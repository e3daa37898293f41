"""Looking whether stored files are what they were: every one against its size, or against all of its bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from pathlib import Path

from mmsearch.progress import Progress, ProgressCallback
from mmsearch.stored_file import FileInfo, file_info
from mmsearch.types import Damage

REPAIR = "`mmsearch repair`"
INDEX = "the next `mmsearch index`"

_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Expected:
    """A file that has to be there, with what to do when it is not what it was. `small`: its bytes are always read.

    `is_missed` tells, when it is gone, whether anything that is there now needs it; None stands for yes.
    """

    path: Path
    info: FileInfo
    remedy: str
    small: bool = False
    is_missed: Callable[[], bool] | None = None


@dataclass(slots=True)
class Examination:
    """What has been looked at, and what was found. `notes` are sentences on what is no damage and may be of interest.

    `unrecorded` counts files without a checksum: they were never acknowledged, or only by an older mmsearch.
    """

    expected: list[Expected] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    unrecorded: int = 0
    _blamed: set[str] = field(default_factory=set)

    def expect(self, each: Expected) -> None:
        """`each` is to be compared."""
        self.expected.append(each)

    def saw(self, size: int) -> None:
        """A file of `size` bytes, all of which were read, is what it has to be."""
        self.files += 1
        self.bytes += size

    def blame(self, path: Path, what: str, remedy: str) -> None:
        """`path` is damaged: `what` is wrong, and `remedy` mends it. Only what is found first counts for a path."""
        name = os.fspath(path)
        if name not in self._blamed:
            self._blamed.add(name)
            self.damaged.append(Damage(name, what, remedy))

    def compare(self, read: Container[Path] | None, progress: ProgressCallback | None) -> None:
        """Compares what is expected: by size, and for what is in `read` (None for everything) by its bytes."""
        read_bytes = [each for each in self.expected if read is None or each.small or each.path in read]
        meter = _Meter(progress, sum(each.info.bytes for each in read_bytes))
        by_bytes = {each.path for each in read_bytes}
        for each in self.expected:
            self.files += 1
            try:
                if each.path in by_bytes:
                    found = file_info(each.path, told=meter.add)
                    self.bytes += found.bytes
                    same, size = found == each.info, found.bytes
                else:
                    size = each.path.stat().st_size
                    same = size == each.info.bytes
            except FileNotFoundError:
                if each.is_missed is None or each.is_missed():
                    self.blame(each.path, "is gone", each.remedy)
                continue
            except OSError as error:
                self.blame(each.path, f"cannot be read ({error.strerror})", each.remedy)
                continue
            if size != each.info.bytes:
                self.blame(each.path, f"has {size:,} bytes, not {each.info.bytes:,}", each.remedy)
            elif not same:
                self.blame(each.path, "its content is not what was written", each.remedy)
        meter.finish()


class _Meter:
    """Tells of every megabyte read."""

    def __init__(self, progress: ProgressCallback | None, total: int) -> None:
        self._progress = progress
        self._total = -(-total // _MEGABYTE)
        self._bytes = 0
        self._told = -1

    def add(self, count: int) -> None:
        self._bytes += count
        done = self._bytes // _MEGABYTE
        if self._progress is not None and done > self._told:
            self._told = done
            self._progress(Progress("verify", min(done, self._total), self._total, note="MB"))

    def finish(self) -> None:
        if self._progress is not None:
            self._progress(Progress("verify", self._total, self._total, note="MB"))
