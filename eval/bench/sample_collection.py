"""Collections of any size without photos: rows and vectors published as `mmsearch index` publishes them.

What a query reads is all there. The tables that only indexing reads are not, so nothing can be added to such a
collection.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmsearch import manifest as manifests
from mmsearch.eval.bench.gallery import Embeddings
from mmsearch.manifest import CollectionManifest, ModelRef, Root
from mmsearch.model import Model
from mmsearch.segment import SegmentRow
from mmsearch.snapshot_manifest import SnapshotHead
from mmsearch.snapshot_writer import Block, SnapshotWriter

ROOT_ID = 1
FILES_IN_A_FOLDER = 100


def write_sample_collection(directory: Path, model: Model, blocks: Iterable[Embeddings]) -> int:
    """Return how many photos the new collection in `directory` holds: one for each vector of `blocks` (B, D).

    Photo `i` is called `folder-i//100/photo-i.jpg` and has the id `i + 1`; its file does not exist.
    """
    directory.mkdir(parents=True)
    root = Root(ROOT_ID, os.fsencode(directory.absolute()), directory.stat().st_dev)
    reference = ModelRef(model.name, model.fingerprint, model.dim)
    manifests.write(directory, CollectionManifest(roots=(root,), model=reference, next_id=1 << 40))
    head = SnapshotHead(model.fingerprint, model.name, model.dim, (root,), {"images": 0})
    written = 0

    def rows() -> Iterator[Block]:
        nonlocal written
        for block in blocks:
            yield Block([_row(written + place) for place in range(len(block))], block)
            written += len(block)

    SnapshotWriter(directory).publish(head, previous=None, added=rows())
    return written


def folder_of(directory: Path, number: int) -> Path:
    """Return the folder that photo `number` of a sample collection in `directory` lies in."""
    return directory.absolute() / f"folder-{number // FILES_IN_A_FOLDER}"


def _row(number: int) -> SegmentRow:
    return SegmentRow(
        id=number + 1,
        revision=number + 1,
        kind="image",
        root_id=ROOT_ID,
        path=b"folder-%d/photo-%d.jpg" % (number // FILES_IN_A_FOLDER, number),
        part=0,
        status="ok",
        missing=False,
        width=4000,
        height=3000,
    )
