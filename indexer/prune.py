"""Files that are gone: marked as missing, so that they can come back; removed only when asked, if it is plausible."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmsearch.errors import PruneRefused
from mmsearch.indexer.known import KnownIndex
from mmsearch.indexer.lookup import NO_ROWS, Rows
from mmsearch.indexer.survey import Survey
from mmsearch.store import Store

# No more files than this, or no larger part, may well have been deleted on purpose.
PLAUSIBLE_FILES = 20
PLAUSIBLE_PART = 0.2

_ROWS_AT_ONCE = 50_000


@dataclass(frozen=True, slots=True)
class Gone:
    """What became of known files that the walks did not find: counts in files, and sentences for a person.

    `refusal` is why nothing was removed although it was asked for.
    """

    missing: int = 0
    removed: int = 0
    warnings: tuple[str, ...] = ()
    refusal: str | None = None


def require_plausible(surveys: Sequence[Survey], known: KnownIndex) -> None:
    """Returns when no scope looks like an absent drive; asked before any work, for a run that is to prune.

    Raises:
        PruneRefused: one does, and files of it are known.
    """
    for survey in surveys:
        objection = survey.objection() if survey.trouble and not survey.unasked else None
        if objection and len(survey.known_rows(known)):
            raise PruneRefused(_refused(objection))


def mark_returned(known: KnownIndex, store: Store) -> None:
    """Notes that files which were missing are there again, unchanged."""
    _mark(store, known.ids[known.returned], None)


def settle_gone(surveys: Sequence[Survey], known: KnownIndex, store: Store, *, prune: bool, force: bool) -> Gone:
    """Marks what is gone as missing, or with `prune` removes it. For walks that have ended."""
    everything = prune and force
    lost = [
        (survey, survey.gone_rows(known, unmounted_too=everything)) for survey in surveys if not survey.scope.is_file
    ]
    refusal = _refusal(lost, known, force=force) if prune else None
    missing, removed, warnings = [NO_ROWS], [NO_ROWS], []
    for survey, rows in lost:
        objection = survey.objection()
        spared = objection is not None and survey.unasked and not force
        if prune and refusal is None and not spared:
            removed.append(rows)
        elif objection is None:
            missing.append(rows)
        elif len(rows) or survey.trouble == "gone":
            warnings.append(f"{objection}: what is known of it stays as it is ({known.count_files(rows)} files)")
        if objection is None and not everything:
            warnings += survey.absences(known)
    missing_rows, removed_rows = np.concatenate(missing), np.concatenate(removed)
    _mark(store, known.ids[missing_rows[~known.missing[missing_rows]]], int(time.time()))
    if len(removed_rows):
        store.delete(known.ids[removed_rows])
    return Gone(known.count_files(missing_rows), known.count_files(removed_rows), tuple(warnings), refusal)


def is_plausible(lost: int, total: int) -> bool:
    """Whether `lost` of `total` files may have been deleted on purpose."""
    return lost <= max(PLAUSIBLE_FILES, PLAUSIBLE_PART * total)


def _refusal(lost: Sequence[tuple[Survey, Rows]], known: KnownIndex, *, force: bool) -> str | None:
    for survey, rows in lost:
        if not len(rows):
            continue
        if survey.unasked and not force and survey.objection():
            continue
        if survey.walk.broken is not None and survey.trouble is None:
            return f"nothing was removed: {survey.objection()}; run it again when it can be read"
        files = known.count_files(rows)
        total = files + survey.seen.known
        if force:
            continue
        if objection := survey.objection():
            return _refused(objection)
        if not is_plausible(files, total):
            return _refused(f"{survey.name} has lost {files} of its {total} files")
    return None


def _mark(store: Store, ids: Rows, since: int | None) -> None:
    """Marks as many rows at a time as may be held in memory."""
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        store.mark_missing(ids[start : start + _ROWS_AT_ONCE], since)


def _refused(reason: str) -> str:
    return f"nothing was removed: {reason}; add --force if these files are gone for good"
