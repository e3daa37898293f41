"""Small collections, made quickly: unit vectors, rows, snapshots, items; answers by definition; and flipped bits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmsearch.exact_search import unit_float32
from mmsearch.manifest import ModelRef, Root
from mmsearch.segment import SegmentRow
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_manifest import SnapshotHead
from mmsearch.snapshot_writer import Block, SnapshotWriter
from mmsearch.store import Item
from mmsearch.types import Kind

DIM = 16
TOKEN_SHAPE = (4, 8)
CLUSTERED_SHAPE = (12_000, 32)
MODEL = ModelRef("mini", "0123abcd", DIM)
ROOT = Root(1, b"/photos", 42)
HEAD = SnapshotHead(MODEL.fingerprint, MODEL.name, DIM, (ROOT,), {"image": 1}, {"items": 3})

Vectors = npt.NDArray[np.float32]


def unit_vectors(count: int, *, dim: int = DIM, seed: int = 0) -> Vectors:
    """Random unit vectors (count, dim)."""
    vectors = np.random.default_rng(seed).standard_normal((count, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def vector_of(id: int, revision: int = 1) -> Vectors:
    """The vector (DIM,) that tests give to an item: another one for every id and revision, exact in float16."""
    vector = np.random.default_rng([id, revision]).standard_normal(DIM)
    return unit_float32((vector / np.linalg.norm(vector)).astype(np.float16)[np.newaxis]).reshape(DIM)


def segment_row(
    id: int,
    revision: int = 1,
    *,
    kind: Kind = "image",
    path: bytes | None = None,
    missing: bool = False,
    root_id: int = 1,
) -> SegmentRow:
    """A row with every optional field filled."""
    return SegmentRow(
        id=id,
        revision=revision,
        kind=kind,
        root_id=root_id,
        path=b"dir%d/file%d.jpg" % (id % 3, id) if path is None else path,
        part=0,
        status="ok",
        missing=missing,
        width=640,
        height=480,
        text=f"caption {id}" if kind == "text" else None,
        locator=f"line {id}" if kind == "text" else None,
    )


def tokens_of(id: int, revision: int = 1) -> npt.NDArray[np.int8]:
    """The tokens (4, 8) that tests give to an item: others for every id and revision."""
    return np.random.default_rng([id, revision, 8]).integers(-127, 128, TOKEN_SHAPE, np.int8)


def block(rows: Sequence[SegmentRow], *, tokens: bool = False) -> Block:
    """Rows with the vectors that `vector_of` gives them, and with `tokens` what `tokens_of` does."""
    vectors = np.array([vector_of(row.id, row.revision) for row in rows], np.float32).reshape(len(rows), DIM)
    return Block(rows, vectors, np.stack([tokens_of(row.id, row.revision) for row in rows]) if tokens else None)


def keys(pairs: Iterable[tuple[int, int]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs of id and revision as two arrays."""
    table = np.array(list(pairs), np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def publish(
    directory: Path, rows: Sequence[SegmentRow] = (), dead: Iterable[tuple[int, int]] = (), *, tokens: bool = False
) -> int:
    """Publish the difference to the live snapshot, which is opened if there is one."""
    previous = Snapshot.open(directory) if (directory / "CURRENT").exists() else None
    added = [block(rows, tokens=tokens)] if rows else []
    return SnapshotWriter(directory, threads=1).publish(HEAD, previous=previous, added=added, dead=keys(dead))


def item(id: int, **changes: object) -> Item:
    """An item that can be found, `changes` applied."""
    values: dict[str, object] = {
        "id": id,
        "root_id": 1,
        "path": b"dir/file%d.jpg" % id,
        "kind": "image",
        "status": "ok",
        "hash": bytes(32),
        "size": 1000 + id,
        "mtime_ns": 5,
        "checked_ns": 6,
    }
    return Item(**(values | changes))  # type: ignore[arg-type]


def brute_force(
    vectors: npt.NDArray[np.floating], query: Vectors, k: int, allowed: npt.NDArray[np.bool_] | None = None
) -> tuple[list[float], list[int]]:
    """The definition, in plain steps: cosine of the normalised vectors, best first, then by row."""
    wide = vectors.astype(np.float32)
    if vectors.dtype == np.float16:
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    cosines = (wide.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    rows = [row for row in range(len(vectors)) if allowed is None or allowed[row]]
    rows = sorted(rows, key=lambda row: (-cosines[row], row))[:k]
    return [float(cosines[row]) for row in rows], rows


def flip(path: Path, place: int, bit: int) -> None:
    """Turns one bit of the file over."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))
