"""One run of indexing in a process of its own, that says on stdout where it is, so that a test can end it there.

Arguments: collection, model, folder. Every line is one event: a sign of progress, or the beginning or end of something
that changes the disk. After each it waits a moment, so that whoever listens can act while it is where it says.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmsearch.indexer import meter
from mmsearch.indexer.pipeline import IndexOptions, index
from mmsearch.indexer.write import BatchLimits
from mmsearch.model import load_model
from mmsearch.progress import Progress
from mmsearch.snapshot_writer import SnapshotWriter
from mmsearch.store import Store

MOMENT_S = 0.004
INTERRUPTED = 130


def say(event: str) -> None:
    sys.stdout.write(f"{event}\n")
    sys.stdout.flush()
    time.sleep(MOMENT_S)


def announced(method: Callable[..., Any]) -> Callable[..., Any]:
    """`method`, with an event before and after it."""

    def call(*arguments: Any, **options: Any) -> Any:
        say(f"{method.__name__} begins")
        result = method(*arguments, **options)
        say(f"{method.__name__} ends")
        return result

    return call


def tell(progress: Progress) -> None:
    if progress.phase != "scan":
        say(f"{progress.phase} {progress.done}")


def main() -> int:
    collection, model, folder = sys.argv[1:]
    say("begins")
    meter._EVERY_S = 0.0
    for name in ("put", "delete", "mark_missing", "sync", "optimize"):
        setattr(Store, name, announced(getattr(Store, name)))
    setattr(SnapshotWriter, "publish", announced(SnapshotWriter.publish))  # noqa: B010
    # Small batches, published often: the moments at which something is written are most of the run.
    options = IndexOptions(workers=2, publish_every_s=0.1, batch=BatchLimits(files=8), progress=tell)
    report = index(Path(collection), [folder], load_model(model, threads=1), options)
    say(f"finished {report.indexed} {report.moved} {report.unchanged} {report.items}")
    return INTERRUPTED if report.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
