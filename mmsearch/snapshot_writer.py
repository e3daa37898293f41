"""Publishing: the difference to the previous snapshot becomes a small segment and a list of dead rows.

Everything is on the disk before the manifest names it, and the manifest before `CURRENT` names that, so a publisher may
be killed anywhere: readers see the old snapshot or the new one, and the next publisher removes what no snapshot needs.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mmsearch import snapshot_unfinished
from mmsearch.durable import fsync_dir, make_directory, remove_leftovers
from mmsearch.errors import CollectionDamaged, CollectionNotFound
from mmsearch.manifest import SNAPSHOTS_DIRECTORY
from mmsearch.segment import INDEX_FILE, Segment, SegmentRow, Tokens
from mmsearch.segment_writer import SegmentShape, SegmentWriter
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_manifest import (
    SEGMENTS_DIRECTORY,
    SnapshotHead,
    SnapshotManifest,
    manifest_path,
    read_current,
    read_manifest,
    write_current,
    write_manifest,
)
from mmsearch.snapshot_unfinished import snapshot_numbers
from mmsearch.types import IndexKind
from mmsearch.vector_index import choose_kind

Ids = npt.NDArray[np.int64]

# A segment joins a merge when it is at most this many times as large as everything smaller: sizes grow geometrically.
_MERGE_FACTOR = 2
_MOST_DEAD = 0.25


class Block(NamedTuple):
    """Rows to publish, their unit vectors (len(rows), dim), and their tokens (len(rows), T, C) if all have some."""

    rows: Sequence[SegmentRow]
    vectors: npt.NDArray[np.float32]
    tokens: Tokens | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A segment of the snapshot in the making, and which of its rows are alive."""

    segment: Segment
    live: Ids

    @property
    def shape(self) -> SegmentShape:
        """What has to be equal in segments that are merged."""
        return SegmentShape(self.segment.info.kind, self.segment.vectors.shape[1], self.segment.info.tokens)


class SnapshotWriter:
    """Publishes snapshots of the collection in `directory`, for the holder of the writer lock.

    `threads` limits FAISS while it builds; None leaves its default. `index` is the kind of index that all large
    segments are to have, None the one for their size, where those that exist keep what they have.
    """

    def __init__(self, directory: Path, *, threads: int | None = None, index: IndexKind | None = None) -> None:
        self._directory = directory
        self._segments = directory / SEGMENTS_DIRECTORY
        self._threads = threads
        self._index = index

    def publish(
        self,
        head: SnapshotHead,
        *,
        previous: Snapshot | None,
        added: Iterable[Block],
        dead: tuple[Ids, Ids] | None = None,
        merge_all: bool = False,
    ) -> int:
        """Make `previous` minus `dead` plus `added` the live snapshot, durably; its number.

        `added` are blocks of rows, of any kinds; it is read once, a block at a time. `dead` are ids and revisions; rows
        of `previous` whose id comes again in `added` are dead too. When nothing changes and no index is due, nothing is
        written and the number is that of `previous`. With `merge_all` segments become as few as can be.

        Raises:
            ValueError: `previous` was made by another model, or an id comes twice in `added`.
            CollectionDamaged: a segment that has to be merged is not what was written; publish with `previous=None`.
        """
        if previous is not None and (previous.fingerprint, previous.dim) != (head.fingerprint, head.dim):
            raise ValueError(
                f"snapshot {previous.number} holds embeddings of {previous.fingerprint!r}, not of {head.fingerprint!r}"
            )
        make_directory(self._segments)
        make_directory(self._directory / SNAPSHOTS_DIRECTORY)
        live_number = self._live_number()
        if previous is not None and previous.number != live_number:
            raise ValueError(f"snapshot {previous.number} is not the live one, {live_number}; open it again")
        numbers = snapshot_numbers(self._directory)
        number = max([live_number, *numbers]) + 1
        if not live_number and not snapshot_unfinished.current_is_lost(self._directory, numbers):
            number = 1  # whatever stands there has never been published
        self._remove_leftovers()
        try:
            published = self._publish(number, head, previous, added, dead=dead, merge_all=merge_all)
            snapshot_unfinished.end(self._directory)
            return published
        except BaseException:
            # A full disk should not stay full of what no snapshot needs. What stays, the next publisher removes.
            with contextlib.suppress(OSError):
                self._remove_leftovers()
            raise

    def _publish(
        self,
        number: int,
        head: SnapshotHead,
        previous: Snapshot | None,
        added: Iterable[Block],
        *,
        dead: tuple[Ids, Ids] | None,
        merge_all: bool,
    ) -> int:
        live_number = self._live_number()
        new_segments = self._write_added(number, head.dim, added)
        parts = self._parts(previous, new_segments, dead)
        due = merge_all or any(self.index_is_due(part.segment) for part in parts)
        if previous is not None and not new_segments and not due and _unchanged(previous, head, parts):
            return previous.number
        alike: dict[SegmentShape, list[Part]] = {}
        for part in parts:
            alike.setdefault(part.shape, []).append(part)
        merged = [self._merged(number, shape, some, every=merge_all) for shape, some in alike.items()]
        self._commit(number, head, [part for some in merged for part in some])
        self._remove_all_but({number, live_number})
        return number

    def tidy(self) -> None:
        """Remove what no snapshot needs, and what is newer than the live one, which has to be there."""
        self._remove_leftovers()

    def _live_number(self) -> int:
        try:
            return read_current(self._directory)
        except (CollectionNotFound, CollectionDamaged):
            # Nobody can open a snapshot that cannot be named, so there is no previous one.
            return 0

    def _remove_leftovers(self) -> None:
        """Remove what a killed or failed publisher left: temporary files, newer snapshots, segments nothing needs."""
        remove_leftovers(self._directory)
        remove_leftovers(self._directory / SNAPSHOTS_DIRECTORY)
        live_number, numbers = self._live_number(), snapshot_numbers(self._directory)
        # What a CURRENT named that is lost may be any of them, and is all there is until a new one stands.
        lost = not live_number and snapshot_unfinished.current_is_lost(self._directory, numbers)
        self._remove_all_but({number for number in numbers if lost or number <= live_number})
        snapshot_unfinished.end(self._directory)

    def _write_added(self, number: int, dim: int, added: Iterable[Block]) -> list[Segment]:
        writers: dict[SegmentShape, SegmentWriter] = {}
        with contextlib.ExitStack() as open_files:
            for rows, vectors, tokens in added:
                kinds = np.array([row.kind for row in rows])
                for kind in sorted({row.kind for row in rows}):
                    shape = SegmentShape(kind, dim, None if tokens is None else tokens.shape[1:])
                    if shape not in writers:
                        writers[shape] = open_files.enter_context(self._writer(number, shape))
                    own = kinds == kind
                    some_tokens = None if tokens is None else tokens[own]
                    writers[shape].append([row for row in rows if row.kind == kind], vectors[own], some_tokens)
            infos = [writer.finish(threads=self._threads, index=self._index) for writer in writers.values()]
        return [Segment(self._segments, info, dim) for info in infos]

    def _parts(self, previous: Snapshot | None, new: list[Segment], dead: tuple[Ids, Ids] | None) -> list[Part]:
        parts = [Part(segment, np.arange(segment.info.rows)) for segment in new]
        if previous is None:
            return parts
        again = np.concatenate([np.empty(0, np.int64), *(segment.ids for segment in new)])
        for segment in previous.segments:
            live = np.ones(segment.info.rows, np.bool_)
            live[previous.manifest.dead_rows(segment.info)] = False
            live[np.isin(segment.ids, again)] = False
            if dead is not None:
                live[_rows_of(segment, *dead)] = False
            parts.append(Part(segment, np.flatnonzero(live)))
        return parts

    def _merged(self, number: int, shape: SegmentShape, parts: list[Part], *, every: bool) -> list[Part]:
        """`parts` of one shape after merging the small ones and those with many dead rows, or `every` one; empty ones
        are dropped.
        """
        parts = [part for part in parts if len(part.live)]
        chosen = choose_merge([len(part.live) for part in parts], [part.segment.info.rows for part in parts])
        chosen |= {place for place, part in enumerate(parts) if self.index_is_due(part.segment)}
        if every and (len(parts) > 1 or any(len(part.live) < part.segment.info.rows for part in parts)):
            chosen = set(range(len(parts)))
        if not chosen:
            return parts
        with self._writer(number, shape) as writer:
            for place in chosen:
                # Copying hides damage for good, because the copy gets a fresh hash.
                damaged = parts[place].segment.damaged_files(index_too=False)
                if damaged:
                    raise CollectionDamaged(f"{damaged[0]}; run `mmsearch repair`")
                writer.append_from(parts[place].segment, parts[place].live)
            info = writer.finish(threads=self._threads, index=self._index)
        rest = [part for place, part in enumerate(parts) if place not in chosen]
        return [*rest, Part(Segment(self._segments, info, shape.dim), np.arange(info.rows))]

    def index_is_due(self, segment: Segment) -> bool:
        """Whether the next publication gives `segment` a new index: its own is lost, or of a kind that is not made any
        more, or is not the one asked for.
        """
        info = segment.info
        unused = INDEX_FILE in info.files and not info.index.needs_file
        if self._index is None or unused or segment.index_is_lost:
            return unused or segment.index_is_lost
        # A kind that fell short of its recall would do so again.
        return choose_kind(info.rows, self._index) not in (info.index.kind, info.index.instead_of)

    def _commit(self, number: int, head: SnapshotHead, parts: list[Part]) -> None:
        dead = {
            part.segment.info.name: np.setdiff1d(np.arange(part.segment.info.rows), part.live, assume_unique=True)
            for part in parts
            if len(part.live) < part.segment.info.rows
        }
        segments = tuple(part.segment.info for part in sorted(parts, key=lambda part: part.segment.info.name))
        live_number = self._live_number()
        if live_number or number == 1:
            snapshot_unfinished.begin(self._directory, live_number)
        write_manifest(self._directory, SnapshotManifest(number, head, segments, dead))
        write_current(self._directory, number)

    def _writer(self, number: int, shape: SegmentShape) -> SegmentWriter:
        return SegmentWriter(self._segments, f"{shape.kind}-{number}-{secrets.token_hex(4)}", shape)

    def _remove_all_but(self, kept_numbers: set[int]) -> None:
        """Remove the other snapshots, and every segment that no kept one needs."""
        needed: set[str] = set()
        for number in snapshot_numbers(self._directory):
            if number in kept_numbers:
                # A damaged manifest cannot be opened by anyone, so what it needed is not needed.
                with contextlib.suppress(CollectionDamaged):
                    needed |= {info.name for info in read_manifest(self._directory, number).segments}
            else:
                manifest_path(self._directory, number).unlink()
        # A power cut must not bring back a manifest without the segments that it names.
        fsync_dir(self._directory / SNAPSHOTS_DIRECTORY)
        for path in self._segments.iterdir():
            if path.name not in needed:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        fsync_dir(self._segments)


def choose_merge(live: list[int], rows: list[int]) -> set[int]:
    """Which segments of one shape become one, as places in `live` (how many rows of each are alive) and `rows` (has).

    From the smallest up, a segment joins while it is at most twice as large as all that joined before; one with more
    than a quarter of its rows dead joins, or is rewritten alone. So every row is copied O(log N) times in its life.
    """
    ascending = sorted(range(len(live)), key=lambda place: live[place])
    joined: list[int] = []
    total = 0
    for place in ascending:
        if joined and live[place] > _MERGE_FACTOR * total:
            break
        joined.append(place)
        total += live[place]
    worn = {place for place in ascending if rows[place] - live[place] > _MOST_DEAD * rows[place]}
    return worn | set(joined) if len(joined) > 1 else worn


def _rows_of(segment: Segment, ids: Ids, revisions: Ids) -> Ids:
    """Row numbers of `segment` that hold exactly these (id, revision)."""
    rows = segment.find(ids)
    same: npt.NDArray[np.bool_] = (rows >= 0) & (segment.rows["revision"][rows] == revisions)
    return rows[same].astype(np.int64)


def _unchanged(previous: Snapshot, head: SnapshotHead, parts: list[Part]) -> bool:
    live_before = len(previous.live_keys()[0])
    return previous.head == head and sum(len(part.live) for part in parts) == live_before
