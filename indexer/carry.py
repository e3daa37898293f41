"""Items that have lost their embedding go on answering as the live snapshot has them, until their files are read again.

A file that changed gets its new row before its new embedding, damage may take embeddings, and the drive that the file
lies on may be away. Then the tables know the item and nothing to find it by, while the snapshot still holds it as it
was; the next one takes that over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsearch.exact_search import unit_float32
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_writer import Block
from mmsearch.store import KnownFiles, Store

_ROWS_AT_ONCE = 4096

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Carried:
    """Rows of a snapshot that the next one holds as they are: row numbers by segment number, and all their ids."""

    rows: dict[int, Ids]
    ids: Ids


NOTHING = Carried({}, np.empty(0, np.int64))


def carried(store: Store, snapshot: Snapshot, *, proven: bool = False) -> Carried:
    """What of the live `snapshot` stands for items that `store` can find no more; with `proven` only what lies in files
    that are byte for byte what was published.

    An item whose file is known to be missing, or that has another place by now, is none of those.
    """
    files = store.known_files()
    waiting = np.flatnonzero(files.live & ~files.has_vector)
    if not len(waiting):
        return NOTHING
    rows: dict[int, Ids] = {}
    ids = [NOTHING.ids]
    for number, segment in enumerate(snapshot.segments):
        held = snapshot.live_rows(number)
        held = held[np.isin(segment.ids[held], files.ids[waiting])]
        if not len(held) or (proven and segment.damaged_files(index_too=False)):
            continue
        held = held[[_stands(files, snapshot, number, row) for row in held.tolist()]]
        if len(held):
            rows[number] = held
            ids.append(segment.ids[held])
    return Carried(rows, np.concatenate(ids))


def carried_blocks(snapshot: Snapshot, what: Carried) -> Iterator[Block]:
    """The rows of `what`, with their vectors and tokens, for a snapshot that shares no file with `snapshot`."""
    for number, rows in what.rows.items():
        segment = snapshot.segments[number]
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            block = rows[start : start + _ROWS_AT_ONCE]
            tokens = None if segment.tokens is None else np.array(segment.tokens[block])
            yield Block([segment.row(row) for row in block.tolist()], unit_float32(segment.vectors[block]), tokens)


def _stands(files: KnownFiles, snapshot: Snapshot, number: int, row: int) -> bool:
    """Whether the tables have the item of that row where the snapshot has it: else another one may be there."""
    held = snapshot.segments[number].row(row)
    place = int(np.searchsorted(files.ids, held.id))
    return (held.root_id, held.path, held.part) == (
        int(files.root_ids[place]),
        files.path(place),
        int(files.parts[place]),
    )
