"""One run of indexing in a process of its own, with what it took of the machine on the way, as JSON on stdout.

Arguments: collection, model, folder.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Self

from mmsearch.indexer.pipeline import IndexOptions, index
from mmsearch.model import load_model
from mmsearch.progress import Progress

EVERY_FILES = 500
LOOK_EVERY_S = 0.05


class Watch:
    """Looks at this process every so many files, and at the disk and its own memory many times a second.

    `own` is the memory that is the process's own, files that are mapped apart.
    """

    def __init__(self, collection: Path) -> None:
        self.samples: list[dict[str, int]] = []
        self.most_disk = self.most_own = 0
        self._collection = collection
        self._next = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            self.most_disk = max(self.most_disk, disk_bytes(self._collection))
            self.most_own = max(self.most_own, status_bytes("RssAnon"))

    def hear(self, progress: Progress) -> None:
        """One sign of life of the run."""
        if progress.phase == "index" and progress.done >= self._next:
            self._next = progress.done + EVERY_FILES
            self.samples.append(
                {
                    "files": progress.done,
                    "own": status_bytes("RssAnon"),
                    "descriptors": len(os.listdir("/proc/self/fd")),
                    "threads": threading.active_count(),
                    "tasks": len(os.listdir("/proc/self/task")),
                }
            )


def status_bytes(name: str) -> int:
    """A figure of this process that the kernel gives in kB."""
    facts = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return int(facts[name].split()[0]) * 1024


def disk_bytes(directory: Path) -> int:
    """What the files below `directory` take on the disk; one that vanishes meanwhile takes nothing."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def main() -> None:
    collection, model, folder = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    begin = status_bytes("RssAnon")
    with Watch(collection) as watch:
        options = IndexOptions(workers=2, progress=watch.hear)
        report = index(collection, [folder], load_model(model, threads=1), options)
    facts = {
        "indexed": report.indexed,
        "unchanged": report.unchanged,
        "samples": watch.samples,
        "begin_own": begin,
        "most_own": watch.most_own,
        "peak": status_bytes("VmHWM"),
        "most_disk": watch.most_disk,
        "disk": disk_bytes(collection),
    }
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
