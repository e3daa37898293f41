"""Items that are found and have no embedding any more: their files are read again, wherever they lie.

A file that changed is read by whatever run comes first. In a run that is to change the model its row gets the new
content and the new model's embedding, and the old model's, which was of the old content, goes. A kill, and damage to a
table, may take embeddings too. The live snapshot holds such an item as it was, and so do the next ones; but a run over
other folders has not been asked to look at it. So its file is read along with them.
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

    def surveys(self, roots: Sequence[Root], surveys: Sequence[Survey]) -> list[Survey]:
        """`surveys`, and for each root one more, of the files to read that none of them comes to."""
        paths: dict[int, set[bytes]] = {}
        for root_id, path in self._places.values():
            if not any(each.scope.root_id == root_id and each.scope.covers(path) for each in surveys):
                paths.setdefault(root_id, set()).add(path)
        scopes = [
            (root, Scope(root.id, root.path, b"", is_file=True, files=frozenset(paths[root.id])))
            for root in roots
            if root.id in paths
        ]
        return [*surveys, *(Survey.begin(scope, root, unasked=True) for root, scope in scopes)]

    def note(self, changes: Sequence[Change]) -> None:
        """`changes` are in the tables: what they were made of is embedded, or cannot be read any more."""
        for change in changes:
            if change.rows:
                for id in change.takes_over.tolist():
                    self._places.pop(id, None)

    def remarks(self, roots: Sequence[Root], *, carried: Rows) -> tuple[str, ...]:
        """Sentences on what could not be read again, none when all was. The ids `carried` are found all the same."""
        paths = {root.id: root.path for root in roots}
        kept: list[bytes] = []
        lost: list[bytes] = []
        found = set(carried.tolist())
        for id, (root_id, path) in self._places.items():
            if root_id in paths:
                (kept if id in found else lost).append(join_path(paths[root_id], path))
        return (*_remark(kept, "are found as they were before"), *_remark(lost, "are not found"))


def _remark(paths: list[bytes], what: str) -> tuple[str, ...]:
    if not paths:
        return ()
    until = "until their files, which have changed or lost their embeddings, can be read"
    return (f"{len(paths):,} items that were found before {what} {until} (first: {safe_path(min(paths))})",)


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
