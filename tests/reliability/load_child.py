"""One run of indexing in a process of its own, with what it took of the machine on the way, as JSON on stdout.

Arguments: collection, model, folder.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from mmsearch.indexer.pipeline import IndexOptions, index
from mmsearch.model import load_model
from mmsearch.progress import Progress

EVERY_FILES = 500


class Watch:
    """Looks at this process, and at the disk, every so many files."""

    def __init__(self, collection: Path) -> None:
        self.samples: list[dict[str, int]] = []
        self.most_disk = 0
        self._collection = collection
        self._next = 0

    def hear(self, progress: Progress) -> None:
        """One sign of life of the run."""
        self.most_disk = max(self.most_disk, disk_bytes(self._collection))
        if progress.phase == "index" and progress.done >= self._next:
            self._next = progress.done + EVERY_FILES
            self.samples.append(
                {
                    "files": progress.done,
                    "memory": status_bytes("RssAnon"),
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
    watch = Watch(collection)
    options = IndexOptions(workers=2, progress=watch.hear)
    report = index(collection, [folder], load_model(model, threads=1), options)
    facts = {
        "indexed": report.indexed,
        "unchanged": report.unchanged,
        "samples": watch.samples,
        "peak": status_bytes("VmHWM"),
        "most_disk": watch.most_disk,
        "disk": disk_bytes(collection),
    }
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
