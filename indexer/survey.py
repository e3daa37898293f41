"""What a walk through one scope proves: which known files are gone, and whether it can be believed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mmsearch.indexer.discover import Scope, Walk, is_excluded, is_link, split_path
from mmsearch.indexer.known import KnownIndex
from mmsearch.indexer.lookup import Rows
from mmsearch.indexer.plan import Seen
from mmsearch.indexer.roots import below, scope_trouble
from mmsearch.manifest import Root
from mmsearch.root_health import is_absent
from mmsearch.safe_text import safe_path
from mmsearch.types import RootTrouble

# A root on another device that has lost no more than this part of its files is the same root, copied or mounted anew.
_MOST_LOST = 0.2

_MEANING: dict[RootTrouble, str] = {
    "gone": "is not there",
    "empty": "is empty, as if a drive were not mounted",
    "another device": "lies on another device than before",
}


@dataclass(slots=True)
class Survey:
    """One scope of a run. `trouble` is what was wrong with it before the walk.

    `unasked`: the scope is a root that lies inside one that was asked for. While it is in trouble it loses nothing, and
    keeps nothing else from being removed. `mounts` are directories inside the scope, absolute, on which other devices
    were mounted when they were last walked.
    """

    scope: Scope
    root: Root
    trouble: RootTrouble | None
    walk: Walk
    seen: Seen = field(default_factory=Seen)
    unasked: bool = False
    mounts: frozenset[bytes] = frozenset()

    @classmethod
    def begin(cls, scope: Scope, root: Root, *, unasked: bool = False, mounts: Iterable[bytes] = ()) -> Survey:
        """The survey of `scope`, before its walk. `mounts` may lie anywhere."""
        inside = frozenset(each for each in mounts if root.holds(each) and scope.covers(below(root, each)))
        return cls(scope, root, scope_trouble(scope, root), Walk(scope), unasked=unasked, mounts=inside)

    def known_rows(self, known: KnownIndex) -> Rows:
        """The known rows of the scope that the walk has not come across, but not those that a moved file took over."""
        rows = np.flatnonzero((known.root_ids == self.root.id) & ~known.seen & ~known.taken)
        return rows[[self.scope.covers(known.path(row)) for row in rows.tolist()]] if len(rows) else rows

    def gone_rows(self, known: KnownIndex, *, unmounted_too: bool = False) -> Rows:
        """Those of `known_rows` whose files the walk would have come across if they were there: not those on devices
        that are not mounted now, unless they are to count `too`.
        """
        rows = self.known_rows(known)
        folders: dict[bytes, bool] = {}
        unread = self.walk.unread.keys() | (set() if unmounted_too else self.unmounted())
        return rows[[self._looked_at(known.path(row), unread, folders) for row in rows.tolist()]] if len(rows) else rows

    def absences(self, known: KnownIndex) -> list[str]:
        """A sentence on each device that is not mounted now and of which files are known."""
        rows = self.known_rows(known)
        paths = [known.path(row) for row in rows.tolist()]
        sentences = []
        for mount in sorted(self.unmounted()):
            there = rows[[path.startswith(mount + b"/") for path in paths]] if len(rows) else rows
            if len(there):
                shown = safe_path(self.scope.absolute(mount))
                sentences.append(
                    f"{shown} {_MEANING['empty']}: what is known of it stays as it is ({known.count_files(there)}"
                    " files); --prune --force removes it"
                )
        return sentences

    def mounted(self) -> set[bytes]:
        return {self.scope.absolute(path) for path in self.walk.mounts}

    def unmounted(self) -> set[bytes]:
        """The directories of `mounts`, relative to the root, that the walk found empty or not at all."""
        return {
            below(self.root, path)
            for path in self.mounts
            if below(self.root, path) not in self.walk.mounts and is_absent(path)
        }

    @property
    def name(self) -> str:
        """The scope as it may be shown."""
        return safe_path(self.scope.top)

    def objection(self) -> str | None:
        """Why the walk, which has ended, proves nothing about what is gone; None when it does."""
        trouble = self.trouble or scope_trouble(self.scope, self.root)
        if trouble is not None:
            return f"{self.name} {_MEANING[trouble]}"
        if self.walk.broken is not None:
            return f"{self.name} could not be read to the end ({self.walk.broken.strerror})"
        return None

    def moved_root(self, known: KnownIndex, *, force: bool) -> Root | None:
        """The root as it is now when it turned up on another device with most of its files, or with `force` anyhow: it
        lives there from now on. Otherwise None.
        """
        partial = self.scope.path or self.scope.files
        if self.trouble != "another device" or partial or self.walk.broken is not None:
            return None
        lost = known.count_files(self.gone_rows(known))
        if lost > _MOST_LOST * self.seen.known and not force:
            return None
        return replace(self.root, device=Path(os.fsdecode(self.root.path)).stat().st_dev)

    def _looked_at(self, path: bytes, unread: AbstractSet[bytes], folders: dict[bytes, bool]) -> bool:
        """Whether the walk has been in the folder of `path`, and would have reported a file of that name.

        `folders` remembers which folders it has been in.
        """
        folder, name = split_path(path)
        if path in unread or is_excluded(name):
            return False
        if folder not in folders:
            folders[folder] = self._entered(folder, unread)
        return folders[folder]

    def _entered(self, folder: bytes, unread: AbstractSet[bytes]) -> bool:
        """Whether the walk has been in `folder`, or would have been if it were there: no link leads to it."""
        while folder and folder != self.scope.path:
            outer, name = split_path(folder)
            if folder in unread or is_excluded(name) or is_link(self.scope.absolute(folder)):
                return False
            folder = outer
        return folder not in unread


def mounts_during(before: Iterable[bytes], surveys: Sequence[Survey]) -> tuple[bytes, ...]:
    """What to remember as mounts, absolute, while walks go on: those remembered `before`, and those come across."""
    return tuple(sorted(set(before).union(*(survey.mounted() for survey in surveys))))


def mounts_after(before: Iterable[bytes], surveys: Sequence[Survey], *, forget: bool) -> tuple[bytes, ...]:
    """The same after walks that have ended: a directory that holds files of its own now is no mount any more, and with
    `forget` neither is one on which nothing is mounted.
    """
    mounts = set(before)
    for survey in surveys:
        if survey.walk.broken is None:
            unmounted = set() if forget else {survey.scope.absolute(path) for path in survey.unmounted()}
            mounts -= survey.mounts - unmounted
        mounts |= survey.mounted()
    return tuple(sorted(mounts))
