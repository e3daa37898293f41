"""Writing one segment: rows come in blocks, in any order, and end up sorted by id, indexed, hashed and on the disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from mmsearch.durable import DIRECTORY_MODE, FILE_MODE, fsync_dir, fsync_file
from mmsearch.exact_search import Vectors, unit_float32
from mmsearch.npy_files import map_npy, npy_header
from mmsearch.segment import (
    DIRECTORIES_FILE,
    DIRECTORY_DTYPE,
    INDEX_FILE,
    NONE,
    ROW_DTYPE,
    ROWS_FILE,
    STATUSES,
    STRINGS_FILE,
    TOKEN_DTYPE,
    TOKENS_FILE,
    VECTOR_DTYPES,
    VECTORS_FILE,
    Segment,
    SegmentInfo,
    SegmentRow,
    Tokens,
    TokenShape,
)
from mmsearch.segment_files import file_info
from mmsearch.types import IndexKind, Kind
from mmsearch.vector_index import FaissIndex, build_index, choose_kind

# Up to here vectors stay float32: 20 MB at 512 components, and four times quicker to multiply than float16.
FLOAT32_MAX_ROWS = 10_000
_BLOCK_ROWS = 8192
_SPOOL_FILE = "vectors.spool"
_TOKEN_SPOOL_FILE = "tokens.spool"


@dataclass(frozen=True, slots=True)
class SegmentShape:
    """What all rows of one segment have in common: their kind, `dim` of their vectors, and the shape of their tokens,
    None when they have none.
    """

    kind: Kind
    dim: int
    tokens: TokenShape | None = None


class SegmentWriter:
    """One segment in the making, in `directory / name`, which must not exist yet.

    Rows take 64 bytes each in memory until `finish`, directories their names; tokens, and vectors beyond
    `FLOAT32_MAX_ROWS`, go to the disk at once.
    """

    def __init__(self, directory: Path, name: str, shape: SegmentShape) -> None:
        self._directory = directory / name
        self._directory.mkdir(mode=DIRECTORY_MODE)
        self._name = name
        self._shape = shape
        self._rows: list[npt.NDArray[np.void]] = []
        self._directories: dict[tuple[int, bytes], int] = {}
        self._strings_written = 0
        self._vectors: list[Vectors] = []
        self._vector_count = 0
        self._strings = self._open(STRINGS_FILE)
        self._spool: IO[bytes] | None = None
        self._token_spool = None if shape.tokens is None else self._open(_TOKEN_SPOOL_FILE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What an unfinished segment leaves on the disk belongs to no snapshot, and the next publisher removes it.
        self._strings.close()
        for spool in (self._spool, self._token_spool):
            if spool is not None:
                spool.close()

    def append(
        self, rows: Sequence[SegmentRow], vectors: npt.NDArray[np.float32], tokens: Tokens | None = None
    ) -> None:
        """Add `rows` with their unit vectors (len(rows), dim) and their tokens (len(rows), T, C), in the same order."""
        table = np.zeros(len(rows), ROW_DTYPE)
        for entry, row in zip(table, rows, strict=True):
            self._fill(entry, row)
        self._append(table, vectors, tokens)

    def append_from(self, source: Segment, numbers: npt.NDArray[np.int64]) -> None:
        """Add the rows `numbers` of another segment of the same shape, with their strings, vectors and tokens."""
        renumbered = np.zeros(source.directory_count, np.int32)
        for number in np.unique(source.rows["directory"][numbers]):
            renumbered[number] = self._directory_number(*source.directory(int(number)))
        for start in range(0, len(numbers), _BLOCK_ROWS):
            block = numbers[start : start + _BLOCK_ROWS]
            table = source.rows[block]
            table["directory"] = renumbered[table["directory"]]
            lengths = table["name_bytes"].astype(np.int64)
            lengths += np.maximum(table["text_bytes"], 0) + np.maximum(table["locator_bytes"], 0)
            ends = np.cumsum(lengths)
            places = np.arange(ends[-1]) + np.repeat(table["strings"] - (ends - lengths), lengths)
            table["strings"] = self._strings_written + (ends - lengths)
            self._write_strings(source.strings[places].tobytes())
            self._append(table, source.vectors[block], None if source.tokens is None else source.tokens[block])

    def finish(self, *, threads: int | None = None, index: IndexKind | None = None) -> SegmentInfo:
        """Sort, index, hash and sync everything; the segment is complete on the disk when this returns. `index` is the
        kind of index that a large one gets, None the one for its size.

        Raises:
            ValueError: there are no rows, or two rows with one id.
        """
        rows = np.concatenate(self._rows) if self._rows else np.zeros(0, ROW_DTYPE)
        self._rows = []
        order = np.argsort(rows["id"], kind="stable")
        rows = rows[order]
        if not len(rows) or (np.diff(rows["id"]) == 0).any():
            raise ValueError(f"segment {self._name} needs rows with different ids, got {len(rows)} rows")
        directories, renumbered = self._sorted_directories()
        rows["directory"] = renumbered[rows["directory"]]
        self._strings.close()
        self._save(ROWS_FILE, rows)
        self._save(DIRECTORIES_FILE, directories)
        vectors = self._saved_vectors(order)
        self._save_tokens(order)
        built = build_index(vectors, kind=choose_kind(len(vectors), index), threads=threads)
        if isinstance(built, FaissIndex) and built.info.needs_file:
            built.save(self._directory / INDEX_FILE)
            (self._directory / INDEX_FILE).chmod(FILE_MODE)
        return SegmentInfo(
            name=self._name,
            kind=self._shape.kind,
            rows=len(rows),
            missing=int(np.count_nonzero(rows["missing"])),
            directories=len(directories),
            vectors="float32" if vectors.dtype == np.float32 else "float16",
            index=built.info,
            files={path.name: file_info(path) for path in self._synced_files()},
            tokens=self._shape.tokens,
        )

    def _fill(self, entry: Any, row: SegmentRow) -> None:
        directory, _, name = row.path.rpartition(b"/")
        text = b"" if row.text is None else row.text.encode("utf-8")
        locator = b"" if row.locator is None else row.locator.encode("utf-8")
        entry["id"], entry["revision"] = row.id, row.revision
        entry["strings"] = self._strings_written
        entry["root_id"], entry["directory"] = row.root_id, self._directory_number(row.root_id, directory)
        entry["part"] = row.part
        entry["width"] = NONE if row.width is None else row.width
        entry["height"] = NONE if row.height is None else row.height
        entry["name_bytes"] = len(name)
        entry["text_bytes"] = NONE if row.text is None else len(text)
        entry["locator_bytes"] = NONE if row.locator is None else len(locator)
        entry["status"] = STATUSES.index(row.status)
        entry["missing"] = row.missing
        self._write_strings(name + text + locator)

    def _append(self, table: npt.NDArray[np.void], vectors: Vectors, tokens: Tokens | None) -> None:
        if vectors.shape != (len(table), self._shape.dim):
            raise ValueError(f"{len(table)} rows need vectors ({len(table)}, {self._shape.dim}), got {vectors.shape}")
        if (tokens is None) != (self._shape.tokens is None):
            raise ValueError(f"rows of a segment have tokens all or none, and here they are {self._shape.tokens}")
        if tokens is not None and self._token_spool is not None:
            if tokens.dtype != TOKEN_DTYPE or tokens.shape != (len(table), *(self._shape.tokens or ())):
                raise ValueError(f"{len(table)} rows need int8 tokens {self._shape.tokens}, got {tokens.shape}")
            self._token_spool.write(np.ascontiguousarray(tokens).tobytes())
        self._rows.append(table)
        self._vectors.append(vectors)
        self._vector_count += len(vectors)
        if self._vector_count > FLOAT32_MAX_ROWS:
            if self._spool is None:
                self._spool = self._open(_SPOOL_FILE)
            for block in self._vectors:
                self._spool.write(np.ascontiguousarray(block, "<f2").tobytes())
            self._vectors = []

    def _saved_vectors(self, order: npt.NDArray[np.int64]) -> Vectors:
        """The vectors in their final order, written."""
        if self._spool is None:
            vectors = np.concatenate([unit_float32(block) for block in self._vectors])[order]
            self._save(VECTORS_FILE, vectors)
            return vectors
        dtype, shape = VECTOR_DTYPES["float16"], (self._vector_count, self._shape.dim)
        self._save_spooled(VECTORS_FILE, self._spool, dtype, shape, order)
        return map_npy(self._directory / VECTORS_FILE, dtype, shape)

    def _save_tokens(self, order: npt.NDArray[np.int64]) -> None:
        if self._token_spool is not None and self._shape.tokens is not None:
            shape = (self._vector_count, *self._shape.tokens)
            self._save_spooled(TOKENS_FILE, self._token_spool, TOKEN_DTYPE, shape, order)

    def _save_spooled(
        self, name: str, spool: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...], order: npt.NDArray[np.int64]
    ) -> None:
        """Write the rows in `spool`, in their final order, and remove it."""
        spool.close()
        spool_path = Path(spool.name)
        spooled = np.memmap(spool_path, dtype, mode="r", shape=shape)
        with self._open(name) as file:
            file.write(npy_header(dtype, shape))
            for start in range(0, len(order), _BLOCK_ROWS):
                file.write(spooled[order[start : start + _BLOCK_ROWS]].tobytes())
        spool_path.unlink()

    def _sorted_directories(self) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int32]]:
        """The directory table, sorted, its strings written; and the new number of each old one."""
        table = np.zeros(len(self._directories), DIRECTORY_DTYPE)
        renumbered = np.zeros(len(self._directories), np.int32)
        for number, (root_id, path) in enumerate(sorted(self._directories)):
            table[number] = (self._strings_written, root_id, len(path))
            renumbered[self._directories[root_id, path]] = number
            self._write_strings(path)
        return table, renumbered

    def _directory_number(self, root_id: int, path: bytes) -> int:
        return self._directories.setdefault((root_id, path), len(self._directories))

    def _write_strings(self, data: bytes) -> None:
        self._strings.write(data)
        self._strings_written += len(data)

    def _save(self, name: str, array: npt.NDArray[Any]) -> None:
        with self._open(name) as file:
            file.write(npy_header(array.dtype, array.shape))
            file.write(np.ascontiguousarray(array).tobytes())

    def _open(self, name: str) -> IO[bytes]:
        path = self._directory / name
        path.touch(mode=FILE_MODE, exist_ok=False)
        return path.open("wb")

    def _synced_files(self) -> Iterator[Path]:
        for path in sorted(self._directory.iterdir()):
            fsync_file(path)
            yield path
        fsync_dir(self._directory)
        fsync_dir(self._directory.parent)
