"""Embeddings that are lost are made again: the files of those items are read, and no others."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mmsearch.indexer.change import Change
from mmsearch.indexer.decode import DecodePool
from mmsearch.indexer.discover import Found, join_path, known_extension
from mmsearch.indexer.embed import Embedder
from mmsearch.indexer.intake import Intake
from mmsearch.indexer.interrupt import Interrupt
from mmsearch.indexer.known import KnownIndex
from mmsearch.indexer.origin import Origins
from mmsearch.indexer.pipeline import IndexOptions
from mmsearch.indexer.plan import Planned, Policy, Seen, plan
from mmsearch.indexer.settle import Settler
from mmsearch.indexer.write import Writer
from mmsearch.manifest import Root
from mmsearch.model import Model
from mmsearch.passages import TEXT_EXTENSIONS
from mmsearch.root_health import root_trouble
from mmsearch.store import Item, Store

_GROUP_FILES = 32


def lacking(store: Store) -> int:
    """How many items could be found and have no embedding, missing ones included."""
    known = store.known_files()
    return int(np.count_nonzero((known.statuses != "error") & ~known.has_vector))


def reembed(
    directory: Path,
    store: Store,
    roots: Sequence[Root],
    *,
    model: Model,
    options: IndexOptions,
    interrupt: Interrupt,
) -> None:
    """Reads the files of the items without an embedding by `model`, as far as they are there, and embeds them. A file
    that has changed meanwhile comes in as it is now. Ended early, on a request to `interrupt`, it goes on another time.

    Raises:
        CollectionError: the collection cannot be written.
        ModelError: the model cannot be loaded.
    """
    _Again(directory, store, roots, model=model, interrupt=interrupt).run(options)


class _Again:
    """The stages that a lost embedding goes through, as in a run over folders, without the walk."""

    def __init__(
        self, directory: Path, store: Store, roots: Sequence[Root], *, model: Model, interrupt: Interrupt
    ) -> None:
        reasons = {item.id: item.reason for item in store.errors() if item.reason}
        healthy = [root.id for root in roots if root_trouble(root.path, root.device) is None]
        self._roots = {root.id: root for root in roots}
        self._model = model
        self._interrupt = interrupt
        self._known = KnownIndex(store.known_files(), reasons)
        self._settler = Settler(store, self._known, Origins(self._known, _paths(roots), healthy))
        self._embedder = Embedder(model, interrupt)
        self._writer = Writer(directory, store, self._committed, IndexOptions().batch)

    def run(self, options: IndexOptions) -> None:
        """Reads, settles, embeds and writes what there is."""

        def pool() -> DecodePool:
            return DecodePool(self._model.preprocess, workers=options.workers, deadline_s=options.deadline_s)

        with Intake(pool, self._interrupt) as intake:
            self._stream(intake, plan(self._files(), self._known, Policy(), Seen()))
            self._stream(intake, self._settler.take_stale())

    def _stream(self, intake: Intake, planned: Iterable[Planned]) -> None:
        reads = iter(intake.read(planned))
        while group := list(itertools.islice(reads, _GROUP_FILES)):
            self._writer.add(self._embedder.embed(self._settler.settle(group)))
        self._writer.commit()

    def _committed(self, changes: Sequence[Change], items: Sequence[Item]) -> None:
        self._settler.note_committed(changes, items)

    def _files(self) -> Iterator[Found]:
        """The files that are there, each once, by their paths."""
        known = self._known
        rows = np.flatnonzero(~known.embedded & ~known.failed).tolist()
        places = sorted({(int(known.root_ids[row]), known.path(row)) for row in rows})
        for root_id, path in places:
            found = None if root_id not in self._roots else _found(self._roots[root_id], path)
            if found is not None:
                yield found


def _found(root: Root, path: bytes) -> Found | None:
    """The regular file at `path` below `root`, None when there is none."""
    absolute = join_path(root.path, path)
    extension = known_extension(absolute)
    try:
        status = os.lstat(absolute)
    except OSError:
        return None
    if extension is None or not stat.S_ISREG(status.st_mode):
        return None
    return Found(
        root_id=root.id,
        root=root.path,
        path=path,
        kind="text" if extension in TEXT_EXTENSIONS else "image",
        extension=extension,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )


def _paths(roots: Sequence[Root]) -> dict[int, bytes]:
    return {root.id: root.path for root in roots}
