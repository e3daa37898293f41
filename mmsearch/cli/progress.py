"""A progress bar on stderr, where stderr is a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmsearch.progress import Phase, Progress, ProgressCallback

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import ProgressColumn, Task, TaskID
    from rich.text import Text

_TITLES: dict[Phase, str] = {
    "scan": "Looking for files",
    "index": "Indexing",
    "publish": "Publishing",
    "embed": "Embedding",
    "rerank": "Reranking",
    "score": "Scoring",
    "check": "Looking at the pictures",
    "prepare": "Preparing views",
    "train": "Training",
    "export": "Writing the model",
    "tag": "Tagging",
    "download": "Downloading",
    "verify": "Reading what is stored",
}


@contextlib.contextmanager
def progress_bar() -> Iterator[ProgressCallback | None]:
    """What to hand to work as its progress callback, None where nobody looks; the bar is gone when the block ends."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        _rate_column(),
        TimeRemainingColumn(compact=True),
        # What is left of the line: a note gives way to the bar and the time, never they to it.
        TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True, expand=True) as display:
        yield _Phases(display)


class _Phases:
    """The callback: one line for each phase, filled when the next one begins."""

    def __init__(self, display: RichProgress) -> None:
        self._display = display
        self._tasks: dict[Phase, TaskID] = {}

    def __call__(self, event: Progress) -> None:
        task = self._tasks.get(event.phase)
        if task is None:
            for earlier in self._tasks.values():
                self._display.stop_task(earlier)
            task = self._tasks[event.phase] = self._display.add_task(_TITLES[event.phase], total=event.total, note="")
        self._display.update(task, completed=event.done, total=event.total, note=event.note)


def _rate_column() -> ProgressColumn:
    from rich.progress import ProgressColumn
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Units a second, over the last half minute."""

        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:,.1f}/s")

    return RateColumn()
