"""The counts of one run, in files, and what a person should hear about it."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmsearch.indexer.change import Change, Outcome
from mmsearch.indexer.discover import Walk
from mmsearch.indexer.prune import Gone
from mmsearch.indexer.survey import Survey
from mmsearch.safe_text import safe_path
from mmsearch.types import IndexReport, Reason, Skipped


@dataclass(slots=True)
class Tally:
    """What has been committed so far."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)
    partial: int = 0
    misnamed: int = 0
    first_misnamed: str = ""

    @property
    def files(self) -> int:
        """Files that are finished."""
        return self.outcomes.total()

    def add(self, changes: Sequence[Change]) -> None:
        """Counts `changes`, which have just been committed."""
        for change in changes:
            self.outcomes[change.outcome] += 1
            if change.skipped is not None:
                self.skipped.append(change.skipped)
            self.partial += any(row.item.status == "partial" for row in change.rows)
            if change.note is not None:
                self.misnamed += 1
                self.first_misnamed = self.first_misnamed or f"{safe_path(change.found.path)}: {change.note}"

    def report(self, surveys: Sequence[Survey], gone: Gone, *, items: int, ignored: int, seconds: float) -> IndexReport:
        """The report of the run. `ignored` are arguments that were passed over; the walks know of the rest."""
        skipped, warnings = list(self.skipped), list(gone.warnings)
        for survey in surveys:
            folders, sentences = _unread_folders(survey.walk)
            skipped += folders
            warnings += sentences
        return IndexReport(
            indexed=self.outcomes["indexed"],
            unchanged=self.outcomes["unchanged"] + sum(survey.seen.unchanged for survey in surveys),
            moved=self.outcomes["moved"],
            missing=gone.missing,
            removed=gone.removed,
            ignored=ignored + sum(survey.walk.ignored for survey in surveys),
            failed_before=self.outcomes["failed_before"] + sum(survey.seen.failed_before for survey in surveys),
            items=items,
            skipped=tuple(skipped),
            seconds=seconds,
            warnings=(*warnings, *_unfollowed_links([survey.walk for survey in surveys]), *self._remarks()),
        )

    def _remarks(self) -> list[str]:
        """Sentences on files that were read with something odd about them."""
        remarks = []
        if self.misnamed:
            remarks.append(f"{_files(self.misnamed)} not what the name says (first: {self.first_misnamed})")
        if self.partial:
            remarks.append(f"{_files(self.partial)} damaged and could be read in part only")
        return remarks


def _unread_folders(walk: Walk) -> tuple[list[Skipped], list[str]]:
    """The folders of `walk` that could not be read, as skipped, and a sentence on them."""
    skipped = [
        Skipped(os.fsdecode(walk.scope.absolute(path)), Reason.PERMISSION, f"cannot be read: {error.strerror}")
        for path, error in walk.unread.items()
        if error.errno != errno.ENOENT
    ]
    if not skipped:
        return [], []
    folders = "1 folder" if len(skipped) == 1 else f"{len(skipped)} folders"
    what = f"{folders} could not be read (first: {safe_path(skipped[0].path)}); what is known of them stays as it is"
    return skipped, [what]


def _unfollowed_links(walks: Sequence[Walk]) -> list[str]:
    """A sentence on links that would have been files, none when there were none."""
    links = sum(walk.links for walk in walks)
    if not links:
        return []
    return [f"{'1 link was' if links == 1 else f'{links} links were'} not followed: give the folders they lead into"]


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count} files are"
