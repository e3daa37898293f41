"""Every error that mmsearch raises on purpose, in one tree.

    MMSearchError                 exit 1
    ├── UsageError                exit 2   an argument or a setting has a value we cannot use
    ├── CollectionError
    │   ├── CollectionNotFound             there is no collection at that place
    │   ├── CollectionBusy        exit 4   another process is writing to it
    │   ├── CollectionDamaged     exit 5   its files do not fit together; `mmsearch repair` mends it
    │   ├── CollectionMismatch             a newer format, or another model, built it
    │   └── PruneRefused                   too much is gone to believe that it was deleted on purpose
    ├── ModelError                         a model is missing, incomplete or not what its manifest says
    ├── DatasetError                       an evaluation or training set cannot be read as one
    ├── MissingExtra                       an optional dependency is not installed
    └── UnreadableFile                     one file could not be read; carries a `Reason`

A message says what failed, the value, what was expected, and what to do. The command line prints it as one line.
"""

from __future__ import annotations

from mmsearch.types import IndexReport, Reason


class MMSearchError(Exception):
    """Base of every error mmsearch raises on purpose."""

    exit_code: int = 1


class UsageError(MMSearchError, ValueError):
    """An argument or a setting has a value that cannot be used."""

    exit_code = 2


class CollectionError(MMSearchError):
    """Something about a collection as a whole."""


class CollectionNotFound(CollectionError):
    """No collection stands at the given place."""


class CollectionBusy(CollectionError):
    """Another process is writing to the collection; the message names host, pid and since when."""

    exit_code = 4


class CollectionDamaged(CollectionError):
    """Files of the collection are missing or do not fit together."""

    exit_code = 5


class CollectionMismatch(CollectionError):
    """The collection was built by a newer format or by another model."""


class PruneRefused(CollectionError):
    """`--prune` would remove more than a healthy root explains.

    `report` says what was done all the same, None when it was refused before anything was done.
    """

    def __init__(self, message: str, report: IndexReport | None = None) -> None:
        super().__init__(message)
        self.report = report


class ModelError(MMSearchError):
    """A model is missing, incomplete, or not what its manifest says."""


class DatasetError(MMSearchError):
    """An evaluation or training set cannot be read as one."""


class MissingExtra(MMSearchError):
    """An optional dependency is not installed; the message names the extra."""


class UnreadableFile(MMSearchError):
    """One file could not be turned into pixels or passages.

    `reason` is the machine-readable class of the failure, `detail` a short sentence for a person.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
