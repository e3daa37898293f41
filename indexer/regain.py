"""Items that are found and have no embedding any more: their files are read again, wherever they lie.

A file that changed is read by whatever run comes first. In a run that is to change the model its row gets the new
content and the new model's embedding, and the old model's, which was of the old content, goes. A kill, and damage to a
table, may take embeddings too. The live snapshot holds such an item as it was; the next one of its model would not hold
it, although a run over other folders has not been asked to look at it. So its file is read along with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmsearch.errors import CollectionError
from mmsearch.indexer.change import Change
from mmsearch.indexer.discover import Scope, join_path
from mmsearch.indexer.lookup import NO_ROWS, Rows
from mmsearch.indexer.survey import Survey
from mmsearch.manifest import ModelRef, Root
from mmsearch.safe_text import safe_path
from mmsearch.snapshot import Snapshot
from mmsearch.store import KnownFiles


class Regain:
    """The items of `files`, rows in the tables, that the live snapshot holds, and whose embeddings by its model, that
    of the run, are not in the tables; but not those whose files are known to be missing. For a run that is to change
    the model there are none: what answers is not what it makes.
    """

    def __init__(self, directory: Path, model: ModelRef, files: KnownFiles) -> None:
        rows = _lost(directory, model, files)
        self._places = {int(files.ids[row]): (int(files.root_ids[row]), files.path(row)) for row in rows.tolist()}

    @property
    def waits(self) -> bool:
        """Whether something would vanish if what the tables hold were published now."""
        return bool(self._places)

    def surveys(self, roots: Sequence[Root], surveys: Sequence[Survey]) -> list[Survey]:
        """`surveys`, and one of each file to read that none of them comes to."""
        by_id = {root.id: root for root in roots}
        scopes = [
            Scope(root_id, by_id[root_id].path, path, is_file=True)
            for root_id, path in sorted(set(self._places.values()))
            if root_id in by_id
            and not any(each.scope.root_id == root_id and each.scope.covers(path) for each in surveys)
        ]
        return [*surveys, *(Survey.begin(scope, by_id[scope.root_id], unasked=True) for scope in scopes)]

    def note(self, changes: Sequence[Change]) -> None:
        """`changes` are in the tables: what they were made of is embedded, or cannot be read any more."""
        for change in changes:
            if change.rows:
                for id in change.takes_over.tolist():
                    self._places.pop(id, None)

    def remark(self, roots: Sequence[Root]) -> str | None:
        """A sentence on what could not be read again, None when all was."""
        paths = {root.id: root.path for root in roots}
        lost = sorted(join_path(paths[root_id], path) for root_id, path in self._places.values() if root_id in paths)
        if not lost:
            return None
        return (
            f"{len(lost):,} items that were found before are not found until their files, which have changed, can be"
            f" read (first: {safe_path(lost[0])})"
        )


def _lost(directory: Path, model: ModelRef, files: KnownFiles) -> Rows:
    lacking = np.flatnonzero(files.live & ~files.has_vector)
    if not len(lacking):
        return NO_ROWS
    try:
        with Snapshot.open(directory) as snapshot:
            held = snapshot.live_keys()[0] if snapshot.fingerprint == model.fingerprint else NO_ROWS
    except CollectionError:
        # There is none yet, or it is damaged and will be published anew.
        return NO_ROWS
    return lacking[np.isin(files.ids[lacking], held)]
