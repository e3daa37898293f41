"""The rows of the tables as values: one item, the columns that planning needs, and their Arrow form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmsearch.types import Kind, Reason, Status

# In numpy columns that cannot hold a null: unknown, or for missing_since "present".
NONE = -1
COUNTED_COLUMNS = ("kind", "status", "reason", "missing_since")

# kind, status, reason (None unless the status is error), missing
CountKey = tuple[str, str, str | None, bool]

ITEM_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("revision", pa.int64(), nullable=False),
        pa.field("root_id", pa.int32(), nullable=False),
        pa.field("path", pa.binary(), nullable=False),
        pa.field("part", pa.int32(), nullable=False),
        pa.field("hash", pa.binary()),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("checked_ns", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("taken_at", pa.int64()),
        pa.field("latitude", pa.float64()),
        pa.field("longitude", pa.float64()),
        pa.field("text", pa.string()),
        pa.field("locator", pa.string()),
        pa.field("missing_since", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One row of `items`: a picture, one passage of a text file, or a file that could not be read.

    `path` is bytes relative to the root. `hash` is the sha256 digest of the whole file. Times are Unix: `mtime_ns` and
    `checked_ns` (when the bytes were read) in nanoseconds, `taken_at` and `missing_since` (None = present) in seconds.
    `size` and `mtime_ns` are -1 where they could not be had. The store gives `revision`; what is put there is ignored.
    """

    id: int
    root_id: int
    path: bytes
    kind: Kind
    status: Status
    part: int = 0
    revision: int = 0
    hash: bytes | None = None
    size: int = NONE
    mtime_ns: int = NONE
    checked_ns: int = NONE
    reason: Reason | None = None
    detail: str | None = None
    width: int | None = None
    height: int | None = None
    taken_at: int | None = None
    latitude: float | None = None
    longitude: float | None = None
    text: str | None = None
    locator: str | None = None
    missing_since: int | None = None

    @property
    def found(self) -> bool:
        """True when the item has an embedding and can be found by a query."""
        return self.status != "error"


@dataclass(frozen=True, slots=True)
class KnownFiles:
    """All rows in columns of the same length, ascending by id: what planning a run needs, without an object per row.

    `has_vector` is false for rows with status error, and for rows whose embedding was lost or is still to be made by
    the model in use: those have to be embedded again. `missing_since` is -1 where the file is present. `statuses` holds
    the words. Use `path` and `digest` for single rows; `paths` and `hashes` are Arrow binary arrays.
    """

    ids: npt.NDArray[np.int64]
    root_ids: npt.NDArray[np.int32]
    paths: pa.BinaryArray
    parts: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.int64]
    mtime_ns: npt.NDArray[np.int64]
    checked_ns: npt.NDArray[np.int64]
    hashes: pa.BinaryArray
    statuses: npt.NDArray[np.str_]
    missing_since: npt.NDArray[np.int64]
    has_vector: npt.NDArray[np.bool_]

    COLUMNS = (
        "id", "root_id", "path", "part", "size", "mtime_ns", "checked_ns", "hash", "status", "missing_since",
    )  # fmt: skip

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def live(self) -> npt.NDArray[np.bool_]:
        """For each row whether a query should find it: it could be read, and its file is not known to be missing."""
        live: npt.NDArray[np.bool_] = (self.statuses != "error") & (self.missing_since == NONE)
        return live

    def path(self, row: int) -> bytes:
        """Path of one row, relative to its root."""
        path: bytes = self.paths[row].as_py()
        return path

    def digest(self, row: int) -> bytes | None:
        """sha256 digest of one row's file, None when it could not be read."""
        digest: bytes | None = self.hashes[row].as_py()
        return digest


def known_files(table: pa.Table, ids_with_vector: npt.NDArray[np.int64]) -> KnownFiles:
    """`table`, with `KnownFiles.COLUMNS`, as columns."""
    table = table.take(np.argsort(numbers(table, "id"), kind="stable")).combine_chunks()
    ids = numbers(table, "id")
    found = texts(table, "status") != "error"
    return KnownFiles(
        ids=ids,
        root_ids=numbers(table, "root_id"),
        paths=_one_chunk(table, "path"),
        parts=numbers(table, "part"),
        sizes=numbers(table, "size"),
        mtime_ns=numbers(table, "mtime_ns"),
        checked_ns=numbers(table, "checked_ns"),
        hashes=_one_chunk(table, "hash"),
        statuses=texts(table, "status"),
        missing_since=numbers(table, "missing_since"),
        has_vector=found & np.isin(ids, ids_with_vector),
    )


def items_to_arrow(items: Sequence[Item], revision: int) -> pa.Table:
    """`items` as rows of the table, all with `revision`."""
    columns: dict[str, Any] = {field.name: [getattr(item, field.name) for item in items] for field in fields(Item)}
    columns["revision"] = [revision] * len(items)
    for name in ("detail", "text", "locator"):
        columns[name] = [None if value is None else _storable(value) for value in columns[name]]
    return pa.table([pa.array(columns[field.name], field.type) for field in ITEM_SCHEMA], schema=ITEM_SCHEMA)


def items_from_arrow(table: pa.Table) -> Iterator[Item]:
    """The rows of `table` as items, in its order.

    Raises:
        ValueError: a row holds a reason that this version does not know.
    """
    names = table.column_names
    for values in zip(*(table.column(name).to_pylist() for name in names), strict=True):
        row = dict(zip(names, values, strict=True))
        reason = row.pop("reason")
        yield Item(reason=None if reason is None else Reason(reason), **row)


CONTENT_COLUMNS = ("kind", "hash", "text")


def same_content(table: pa.Table, other: pa.Table) -> npt.NDArray[np.bool_]:
    """For each row of two tables of one length, with `CONTENT_COLUMNS`, whether both have the same embedding: that of a
    picture depends on its bytes, that of a passage on its text.
    """
    rows = zip(_contents(table), _contents(other), strict=True)
    return np.array([one == another and one[1] is not None for one, another in rows], np.bool_)


def _contents(table: pa.Table) -> Iterator[tuple[str, bytes | str | None]]:
    for kind, digest, text in zip(*(table.column(name).to_pylist() for name in CONTENT_COLUMNS), strict=True):
        yield kind, text if kind == "text" else digest


def counted(table: pa.Table) -> dict[CountKey, int]:
    """How many rows of `table`, with `COUNTED_COLUMNS`, there are of each kind, status, reason, and missing or not."""
    columns = [table.column(name) for name in COUNTED_COLUMNS[:3]]
    missing = table.column("missing_since").is_valid()
    keys = pa.table([*columns, missing], names=["kind", "status", "reason", "missing"])
    grouped = keys.group_by(keys.column_names).aggregate([([], "count_all")])
    rows = zip(*(grouped.column(name).to_pylist() for name in grouped.column_names), strict=True)
    return {(kind, status, reason, is_missing): count for kind, status, reason, is_missing, count in rows}


def numbers(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """A column of whole numbers as numpy; null becomes -1."""
    column = table.column(name)
    filled = column.fill_null(NONE) if column.null_count else column
    array: npt.NDArray[Any] = filled.to_numpy()
    return array


def texts(table: pa.Table, name: str) -> npt.NDArray[np.str_]:
    """A column of few different words as numpy strings; null becomes the empty string."""
    encoded = table.column(name).fill_null("").combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    words = np.array(encoded.dictionary.to_pylist() or [""], np.str_)
    column: npt.NDArray[np.str_] = words[encoded.indices.to_numpy(zero_copy_only=False)]
    return column


def _one_chunk(table: pa.Table, name: str) -> pa.BinaryArray:
    column = table.column(name).combine_chunks()
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column


def _storable(text: str) -> str:
    # A lone surrogate, as in a file name that is not UTF-8, cannot be stored as text; its number stays readable.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
