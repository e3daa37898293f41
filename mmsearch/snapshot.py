"""What a query opens: one published, immutable view of the collection, read without its tables.

`CURRENT` names a manifest, the manifest names segments, and segments are mapped files. No lock is taken; a publisher
that removes a file under a reader makes the reader start over with the new `CURRENT`.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from mmsearch.errors import CollectionDamaged, CollectionError
from mmsearch.exact_search import unit_float32
from mmsearch.manifest import Root
from mmsearch.segment import Segment, Tokens
from mmsearch.snapshot_filter import admitted_rows, places_under
from mmsearch.snapshot_gather import gather_tokens, gather_vectors
from mmsearch.snapshot_manifest import (
    SnapshotHead,
    SnapshotManifest,
    read_current,
    read_manifest,
)
from mmsearch.snapshot_segments import open_segments
from mmsearch.snapshot_unfinished import current_went_back, snapshot_numbers
from mmsearch.types import Kind, Status

_OPEN_ATTEMPTS = 20
_BLOCK_ROWS = 8192

Ids = npt.NDArray[np.int64]
_NO_IDS: Ids = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row that came near a query: where it stands, its id, its cosine."""

    segment: int
    row: int
    id: int
    similarity: float


@dataclass(frozen=True, slots=True)
class CatalogRow:
    """One item as people know it. `path` is absolute, the exact bytes."""

    id: int
    kind: Kind
    root_id: int
    path: bytes
    part: int
    status: Status
    missing: bool
    width: int | None
    height: int | None
    text: str | None
    locator: str | None


class Snapshot:
    """An open snapshot; use it as a context manager or `close` it. Everything it says stays true while it is open."""

    def __init__(self, directory: Path, manifest: SnapshotManifest, segments: tuple[Segment, ...]) -> None:
        self._directory = directory
        self._manifest = manifest
        self._roots = {root.id: root for root in manifest.head.roots}
        self.segments = segments
        self._dead = tuple(manifest.dead_rows(info) for info in manifest.segments)

    @classmethod
    def open(
        cls, directory: Path, *, threads: int | None = None, device: str = "cpu", previous: Snapshot | None = None
    ) -> Self:
        """The live snapshot of the collection in `directory`. `threads` limits FAISS; None leaves its default. `device`
        is the setting: where large segments may be searched, for a process that asks more than once. Segments that are
        in `previous` too are shared with it, and what they have in memory or on a device; either may be closed.

        Raises:
            CollectionNotFound: nothing has been published there.
            CollectionMismatch: it has a newer format.
            CollectionDamaged: its files are missing or do not fit together.
            CollectionError: the operating system does not let one be read.
        """
        known = () if previous is None else previous.segments
        for _ in range(_OPEN_ATTEMPTS):
            number = read_current(directory)
            try:
                manifest = read_manifest(directory, number)
                segments = open_segments(directory, manifest, threads=threads, device=device, known=known)
                return cls(directory, manifest, segments)
            except FileNotFoundError as error:
                if read_current(directory) == number:
                    raise CollectionDamaged(
                        f"{error.filename}: is missing from snapshot {number}; run `mmsearch repair`"
                    ) from error
        raise CollectionDamaged(f"{directory}: {_OPEN_ATTEMPTS} snapshots in a row vanished while they were opened")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the mapped files."""
        self.segments = ()
        self._dead = ()

    @property
    def number(self) -> int:
        """Which publication this is; later ones have larger numbers."""
        return self._manifest.number

    @property
    def head(self) -> SnapshotHead:
        """Model, roots, counts and table versions as published."""
        return self._manifest.head

    @property
    def manifest(self) -> SnapshotManifest:
        """Everything that was published about this snapshot."""
        return self._manifest

    @property
    def fingerprint(self) -> str:
        return self.head.fingerprint

    @property
    def model_name(self) -> str:
        return self.head.model_name

    @property
    def dim(self) -> int:
        return self.head.dim

    @property
    def roots(self) -> tuple[Root, ...]:
        return self.head.roots

    @property
    def counts(self) -> dict[str, object]:
        return self.head.counts

    def search(
        self,
        queries: npt.NDArray[np.float32],
        k: int,
        *,
        kind: Kind,
        under: bytes | None = None,
        include_missing: Container[int] = (),
    ) -> list[list[Candidate]]:
        """For each unit query (Q, dim) up to `k` candidates, by similarity descending, then id ascending.

        `under` is an absolute directory, as spelled or by way of links; only items in or below it are found. Missing
        items are found only below roots whose id is in `include_missing`.

        Raises:
            ValueError: `queries` is not a float array (Q, dim) of unit vectors, or `k` is not positive.
        """
        queries = self._checked_queries(queries)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        places = None if under is None else places_under(self.roots, under)
        found: list[list[Candidate]] = [[] for _ in queries]
        for number, segment in enumerate(self.segments):
            if segment.info.kind != kind:
                continue
            allowed = admitted_rows(
                segment, self._dead[number], roots=self.roots, places=places, include_missing=include_missing
            )
            if allowed is not None and not allowed.any():
                continue
            similarities, rows = segment.index.search(queries, min(k, segment.info.rows), allowed)
            for answer, nearest, near_rows in zip(found, similarities, rows, strict=True):
                answer.extend(_candidates(number, segment, nearest, near_rows))
        return [sorted(answer, key=lambda near: (-near.similarity, near.id))[:k] for answer in found]

    def row(self, candidate: Candidate) -> CatalogRow:
        """What the catalog says of `candidate`.

        Raises:
            CollectionDamaged: its strings or its root cannot be found.
        """
        segment = self.segments[candidate.segment]
        row = segment.row(candidate.row)
        root = self._roots.get(row.root_id)
        if root is None:
            raise CollectionDamaged(f"item {row.id}: its root {row.root_id} is not registered; run `mmsearch repair`")
        return CatalogRow(
            id=row.id,
            kind=row.kind,
            root_id=row.root_id,
            path=root.path.rstrip(b"/") + b"/" + row.path if row.path else root.path,
            part=row.part,
            status=row.status,
            missing=row.missing,
            width=row.width,
            height=row.height,
            text=row.text,
            locator=row.locator,
        )

    def vectors(self, candidates: Sequence[Candidate]) -> npt.NDArray[np.float32]:
        """The embeddings (len(candidates), dim) of `candidates`, in that order, each of length 1."""
        return gather_vectors(self.segments, *_places(candidates), self.dim)

    def tokens(self, candidates: Sequence[Candidate]) -> Tokens | None:
        """The tokens (len(candidates), T, C) of `candidates`, in that order; None unless all have some of one shape."""
        return gather_tokens(self.segments, *_places(candidates))

    def live_keys(self) -> tuple[Ids, Ids]:
        """Ids (N,) and revisions (N,) of all items, missing ones included, ascending by id."""
        live = [(segment.rows, rows) for segment, rows in self._live()]
        ids = np.concatenate([_NO_IDS, *(table["id"][rows] for table, rows in live)])
        revisions = np.concatenate([_NO_IDS, *(table["revision"][rows] for table, rows in live)])
        order = np.argsort(ids, kind="stable")
        return ids[order], revisions[order]

    def live_rows(self, number: int) -> Ids:
        """Row numbers of segment `number` that this snapshot holds."""
        return np.setdiff1d(np.arange(self.segments[number].info.rows), self._dead[number], assume_unique=True)

    def vector(self, id: int) -> npt.NDArray[np.float32] | None:
        """The embedding (dim,) of item `id`, or None when it is not in this snapshot."""
        for number, segment in enumerate(self.segments):
            row = segment.find(np.array([id]))[0]
            if row >= 0 and row not in self._dead[number]:
                return unit_float32(segment.vectors[row : row + 1]).reshape(self.dim)
        return None

    def blocks(self, kind: Kind) -> Iterator[tuple[Ids, npt.NDArray[np.float32]]]:
        """All items of `kind` in blocks: ids (B,), embeddings (B, dim)."""
        for segment, rows in self._live():
            if segment.info.kind != kind:
                continue
            for start in range(0, len(rows), _BLOCK_ROWS):
                block = rows[start : start + _BLOCK_ROWS]
                yield segment.ids[block], unit_float32(segment.vectors[block])

    def verify(self) -> list[str]:
        """One sentence for each file of this snapshot that is not byte for byte what was published; reads everything.

        The manifests were checked when the snapshot was opened, and are checked again. `CURRENT` has no checksum: it is
        suspect when it names another snapshot than the newest, and no publisher that was killed explains it.
        """
        damaged = [sentence for segment in self.segments for sentence in segment.damaged_files()]
        try:
            read_manifest(self._directory, self.number)
            numbers = snapshot_numbers(self._directory)
            went_back = current_went_back(self._directory, self.number, numbers)
            if went_back and read_current(self._directory) == self.number:
                damaged.append(
                    f"{self._directory}: CURRENT names snapshot {self.number}, and a newer one was published"
                )
        except (OSError, CollectionError) as error:
            damaged.append(str(error))
        return damaged

    def _live(self) -> Iterator[tuple[Segment, Ids]]:
        for number, segment in enumerate(self.segments):
            yield segment, self.live_rows(number)

    def _checked_queries(self, queries: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(f"queries must have shape (Q, {self.dim}), got {queries.shape}")
        lengths = np.linalg.norm(queries, axis=1)
        if not (np.abs(lengths - 1) < 1e-3).all():
            raise ValueError(f"queries must be unit vectors, got one of length {lengths[np.argmax(abs(lengths - 1))]}")
        return queries


def _places(candidates: Sequence[Candidate]) -> tuple[Ids, Ids]:
    """The numbers of their segments, and their rows there."""
    places = np.array([(each.segment, each.row) for each in candidates], np.int64).reshape(-1, 2)
    return places[:, 0], places[:, 1]


def _candidates(number: int, segment: Segment, similarities: npt.NDArray[np.float32], rows: Ids) -> Iterator[Candidate]:
    for similarity, row in zip(similarities.tolist(), rows.tolist(), strict=True):
        if row >= 0:
            yield Candidate(number, row, int(segment.ids[row]), similarity)
