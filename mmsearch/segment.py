"""One immutable part of a snapshot: rows of one kind with their vectors, readable with numpy alone.

    rows.npy      (N,) ROW_DTYPE, ascending by id
    strings.bin   the bytes of all names, texts and locators, and after them of all directories
    dirs.npy      (M,) DIRECTORY_DTYPE, ascending by (root id, path bytes): what lies below a path is one range
    vectors.npy   (N, D) float32, or float16 when N is large; unit length
    tokens.npy    (N, T, C) int8, what a matching head reads of each picture; only where every row has its tokens
    index.faiss   codes for large N

Sizes are checked when a segment is opened, and every offset when it is used, so a damaged file is an error, never a
crash or a read outside of it. Hashes are checked by `damaged_files`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

from mmsearch.errors import CollectionDamaged
from mmsearch.exact_search import Vectors
from mmsearch.manifest import unreadable
from mmsearch.npy_files import map_npy
from mmsearch.segment_files import FileInfo, distrust, file_info
from mmsearch.types import Kind, Status
from mmsearch.vector_index import ExactIndex, IndexInfo, VectorIndex, load_index

ROWS_FILE = "rows.npy"
STRINGS_FILE = "strings.bin"
DIRECTORIES_FILE = "dirs.npy"
VECTORS_FILE = "vectors.npy"
TOKENS_FILE = "tokens.npy"
INDEX_FILE = "index.faiss"
REQUIRED_FILES = frozenset({ROWS_FILE, STRINGS_FILE, DIRECTORIES_FILE, VECTORS_FILE})
SEGMENT_FILES = REQUIRED_FILES | {TOKENS_FILE, INDEX_FILE}
# What says which items there are and where; the others are about what they look like.
CATALOG_FILES = frozenset({ROWS_FILE, STRINGS_FILE, DIRECTORIES_FILE})

STATUSES: tuple[Status, ...] = get_args(Status)
NONE = -1

ROW_DTYPE = np.dtype(
    [
        ("id", "<i8"),
        ("revision", "<i8"),
        ("strings", "<i8"),  # where in strings.bin the name begins; text and locator follow without a gap
        ("root_id", "<i4"),
        ("directory", "<i4"),  # row of dirs.npy
        ("part", "<i4"),
        ("width", "<i4"),  # NONE when unknown, as in height, text_bytes and locator_bytes
        ("height", "<i4"),
        ("name_bytes", "<i4"),
        ("text_bytes", "<i4"),
        ("locator_bytes", "<i4"),
        ("status", "<i4"),  # index into STATUSES
        ("missing", "<i4"),
    ]
)
VECTOR_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
TOKEN_DTYPE = np.dtype("<i1")
DIRECTORY_DTYPE = np.dtype([("strings", "<i8"), ("root_id", "<i4"), ("path_bytes", "<i4")])

# int8 (N, T, C), and T and C of it.
Tokens: TypeAlias = npt.NDArray[np.int8]
TokenShape: TypeAlias = tuple[int, int]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """One item as a segment keeps it. `path` is bytes relative to the root, empty for the root itself."""

    id: int
    revision: int
    kind: Kind
    root_id: int
    path: bytes
    part: int
    status: Status
    missing: bool
    width: int | None = None
    height: int | None = None
    text: str | None = None
    locator: str | None = None


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """What a snapshot says of one segment: enough to open it and to notice that it is damaged.

    `tokens` is the shape (T, C) of a row's tokens, None for a segment without them.
    """

    name: str
    kind: Kind
    rows: int
    missing: int
    directories: int
    vectors: Literal["float32", "float16"]
    index: IndexInfo
    files: dict[str, FileInfo]
    tokens: TokenShape | None = None


class Segment:
    """A mapped segment. Row numbers run from 0 to `info.rows - 1` and ascend with the ids.

    `device` is where searches may run, as `index_device` says; on the CPU, `threads` limits FAISS.

    Raises:
        FileNotFoundError: a file is gone (a publisher removed it, or it is lost: only the snapshot can tell).
        CollectionDamaged: a file has another size or shape than it was written with; names it.
        CollectionError: the operating system does not let a file be read.
    """

    def __init__(
        self, directory: Path, info: SegmentInfo, dim: int, *, threads: int | None = None, device: str = "cpu"
    ) -> None:
        self.info = info
        self.opened_as = (directory, threads, device)
        self._directory = directory / info.name
        try:
            self._check_sizes()
            self.rows = self._map(ROWS_FILE, ROW_DTYPE, (info.rows,))
            self.vectors: Vectors = self._map(VECTORS_FILE, VECTOR_DTYPES[info.vectors], (info.rows, dim))
            self.tokens: Tokens | None = None
            if info.tokens is not None:
                self.tokens = self._map(TOKENS_FILE, TOKEN_DTYPE, (info.rows, *info.tokens))
            self._directories = self._map(DIRECTORIES_FILE, DIRECTORY_DTYPE, (info.directories,))
            self._strings = self._map_strings()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise unreadable(Path(error.filename or self._directory), error) from error

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Ids (N,), ascending."""
        return cast("npt.NDArray[np.int64]", self.rows["id"])

    @cached_property
    def index(self) -> VectorIndex:
        """The index over `vectors`, where the device lets it run."""
        _, threads, device = self.opened_as
        # An index that knew this segment would keep what it has on a device until Python looks for cycles.
        on_cpu = partial(_stored_index, self._directory / INDEX_FILE, self.vectors, info=self.info, threads=threads)
        if device == "cpu":
            return on_cpu()
        # Imported only here: a process with one query never comes this way.
        from mmsearch.index_device import open_index

        return open_index(self.vectors, on_cpu, device=device)

    @property
    def index_is_lost(self) -> bool:
        """True when the file of the index is gone or has another size than it was written with."""
        expected = self.info.files.get(INDEX_FILE)
        try:
            return expected is not None and (self._directory / INDEX_FILE).stat().st_size != expected.bytes
        except OSError:
            return True

    def row(self, number: int) -> SegmentRow:
        """Row `number` with its strings."""
        if not 0 <= number < len(self.rows):
            raise IndexError(f"segment {self.info.name} has rows 0 to {len(self.rows) - 1}, not {number}")
        row = self.rows[number]
        start, name_bytes = int(row["strings"]), int(row["name_bytes"])
        text_bytes, locator_bytes = int(row["text_bytes"]), int(row["locator_bytes"])
        text_start = start + name_bytes
        locator_start = text_start + max(text_bytes, 0)
        directory = self.directory(int(row["directory"]))[1]
        name = self._string(start, name_bytes, ROWS_FILE)
        status = int(row["status"])
        if not 0 <= status < len(STATUSES):
            raise self._damaged(ROWS_FILE, f"row {number} has status {status}")
        return SegmentRow(
            id=int(row["id"]),
            revision=int(row["revision"]),
            kind=self.info.kind,
            root_id=int(row["root_id"]),
            path=directory + b"/" + name if directory else name,
            part=int(row["part"]),
            status=STATUSES[status],
            missing=bool(row["missing"]),
            width=_known(int(row["width"])),
            height=_known(int(row["height"])),
            text=self._text(text_start, text_bytes),
            locator=self._text(locator_start, locator_bytes),
        )

    def directory(self, number: int) -> tuple[int, bytes]:
        """Root id and path (relative to it) of one directory."""
        if not 0 <= number < len(self._directories):
            raise self._damaged(ROWS_FILE, f"names directory {number} of {len(self._directories)}")
        entry = self._directories[number]
        return int(entry["root_id"]), self._string(int(entry["strings"]), int(entry["path_bytes"]), DIRECTORIES_FILE)

    @property
    def directory_count(self) -> int:
        """How many directories the rows lie in."""
        return len(self._directories)

    @property
    def strings(self) -> npt.NDArray[np.uint8]:
        """The bytes of strings.bin."""
        return self._strings

    def find(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Row numbers of `ids`, -1 for those that are not here."""
        own = self.ids
        places = np.minimum(np.searchsorted(own, ids), len(own) - 1)
        return np.where(own[places] == ids, places, -1).astype(np.int64)

    def damaged_files(self, *, index_too: bool = True, among: frozenset[str] = SEGMENT_FILES) -> list[str]:
        """One sentence for each file `among` its files that is not byte for byte what was written; reads all those."""
        found = []
        for name, expected in self.info.files.items():
            if name not in among or (name == INDEX_FILE and not index_too):
                continue
            try:
                if file_info(self._directory / name) != expected:
                    found.append(f"{self._directory / name}: content does not fit its sha256")
            except OSError as error:
                found.append(f"{self._directory / name}: cannot be read ({error.strerror})")
        return found

    def _check_sizes(self) -> None:
        for name, expected in self.info.files.items():
            # Codes can be done without, so losing them does not make the segment unusable.
            if name == INDEX_FILE:
                continue
            size = (self._directory / name).stat().st_size
            if size != expected.bytes:
                raise self._damaged(name, f"has {size} bytes, not {expected.bytes}")

    def _string(self, start: int, length: int, where: str) -> bytes:
        if start < 0 or length < 0 or start + length > len(self._strings):
            raise self._damaged(where, f"points at bytes {start} to {start + length} of {len(self._strings)}")
        return self._strings[start : start + length].tobytes()

    def _text(self, start: int, length: int) -> str | None:
        if length == NONE:
            return None
        try:
            return self._string(start, length, ROWS_FILE).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged(STRINGS_FILE, f"is not UTF-8 at byte {start + error.start}") from error

    def _map(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        try:
            return map_npy(self._directory / name, dtype, shape)
        except ValueError as error:
            raise self._damaged(name, f"cannot be mapped: {error}") from error

    def _map_strings(self) -> npt.NDArray[np.uint8]:
        path = self._directory / STRINGS_FILE
        if self.info.files[STRINGS_FILE].bytes == 0:
            return np.empty(0, np.uint8)
        return np.memmap(path, np.uint8, mode="r")

    def _damaged(self, name: str, what: str) -> CollectionDamaged:
        return CollectionDamaged(f"{self._directory / name}: {what}; run `mmsearch repair`")


def _stored_index(path: Path, vectors: Vectors, *, info: SegmentInfo, threads: int | None) -> VectorIndex:
    """The index in `path` over `vectors` (N, D). When its file is gone or damaged, or somebody else could have made it:
    exact search, right answers in more time.
    """
    try:
        expected = info.files.get(INDEX_FILE)
        if expected is not None:
            if (reason := distrust(path)) is not None:
                _log.warning("%s: is not used, because of %s; searching without it", path, reason)
                return ExactIndex(vectors)
            if file_info(path) != expected:
                raise ValueError("its sha256 is not the one it was written with")
        return load_index(path, vectors, info.index, threads=threads)
    except (OSError, ValueError) as error:
        _log.warning("%s: cannot be used (%s); searching without it, `mmsearch repair` makes it anew", path, error)
        return ExactIndex(vectors)


def _known(value: int) -> int | None:
    return None if value == NONE else value
