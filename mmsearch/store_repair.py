"""A table with damaged files becomes one without: the rows of the others are kept, to the last bit.

Rows stand together in fragments. Those of a fragment that lost a file, or the file that says which of its rows are
deleted, cannot be told any more; the others are written to a new version in one commit. What is damaged, and the
versions that need it, are moved aside, never removed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmsearch.durable import fsync_dir, fsync_tree_new, make_directory
from mmsearch.errors import CollectionDamaged
from mmsearch.store_checksums import HINT, VERSIONS, TableRecord, hint_of, newest_version, table_files
from mmsearch.store_manifest import Fragment, Known, TableVersion, read_version
from mmsearch.store_prune import manifests
from mmsearch.store_rows import numbers
from mmsearch.store_tables import lancedb_library
from mmsearch.stored_file import FileInfo, file_info

_ROWS_AT_ONCE = 4096
_ROW_BITS = 32

Ids = npt.NDArray[np.int64]
Choice = Callable[[pa.Table], npt.NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Sound:
    """A table whose files were looked at: `bad` are those that are not what was acknowledged, or gone, by path relative
    to it. `manifests` are those that can be read, newest first, and `head` is the version that the first one describes,
    None when there is none.
    """

    path: Path
    bad: frozenset[str]
    manifests: tuple[Path, ...]
    head: TableVersion | None

    def versions(self) -> Iterator[tuple[Path, TableVersion]]:
        """The versions that can be read, newest first, with their manifests. There may be thousands, each of thousands
        of fragments, so none is kept.
        """
        known: Known = {}
        for path in self.manifests:
            yield path, read_version(path, known)

    def is_whole(self, fragment: Fragment) -> bool:
        """Whether all files of `fragment` are what they were."""
        return not fragment.files & self.bad


def look(table: Path, record: TableRecord) -> Sound:
    """All files of `table` against the `record`, and against what the newest manifest says of their sizes."""
    present = {name: table / name for name in table_files(table) if name != HINT}
    bad = {name for name, path in present.items() if name in record.files and not _is(path, record.files[name])}
    known: Known = {}
    readable: list[Path] = []
    head = None
    for path in manifests(table):
        name = path.relative_to(table).as_posix()
        if name in bad:
            continue
        try:
            version = read_version(path, known)
        except (OSError, ValueError):
            bad.add(name)
            continue
        head = head or version
        readable.append(path)
    if head is not None:
        for fragment in head.fragments:
            sizes = {name: size for name, size in fragment.data.items() if name not in record.files}
            bad |= {name for name, size in sizes.items() if size is not None and not _has_size(table / name, size)}
    needed = {name for fragment in known.values() for name in fragment.files}
    return Sound(table, frozenset(bad | (needed - present.keys())), tuple(readable), head)


def drop_damaged(
    sound: Sound, quarantine: Path, *, rescued: Choice | None = None, moved: Callable[[], None] | None = None
) -> list[str]:
    """Sentences on what was done so that no file of the table is damaged any more; none when none was.

    `rescued` chooses among rows of older versions those that are to take the place of lost ones. `moved` is called when
    damaged manifests are out of the way, and before a new one may get the number of one of them.

    Raises:
        CollectionDamaged: no version of the table can be read.
        OSError: the disk is full, read-only or broken.
    """
    table, head = sound.path, sound.head
    sentences = []
    if head is None:
        if manifests(table):
            raise CollectionDamaged(f"{table}: no version of it can be read")
        return []
    # Newer ones first: LanceDB opens the newest there is.
    sentences += _put_aside(table, [name for name in sound.bad if name.startswith(VERSIONS)], quarantine)
    if moved is not None:
        moved()
    lost = [fragment for fragment in head.fragments if not sound.is_whole(fragment)]
    if lost:
        kept, back = _rewrite(sound, head, rescued)
        fsync_tree_new(table, set())
        rows = sum(fragment.rows for fragment in lost)
        sentences.append(
            f"{table}: up to {rows:,} rows are lost with damaged files; the other {kept:,} were kept"
            + (f", and {back:,} are back from older versions" if back else "")
        )
    # A version goes before the files it names, so that at any time every version that is there was looked at.
    lacking = any(not name.startswith(VERSIONS) for name in sound.bad)
    incomplete = [path for path, version in sound.versions() if version.files & sound.bad] if lacking else []
    sentences += _put_aside(table, [path.relative_to(table).as_posix() for path in incomplete], quarantine)
    sentences += _put_aside(table, [name for name in sound.bad if not name.startswith(VERSIONS)], quarantine)
    return sentences + _without_wrong_hint(table)


def _rewrite(sound: Sound, head: TableVersion, rescued: Choice | None) -> tuple[int, int]:
    """How many rows the new version of the table has of its newest one, and how many of older ones."""
    database = lancedb_library().connect(sound.path.parent)
    table = database.open_table(sound.path.stem)
    if int(table.version) != head.number:
        raise CollectionDamaged(f"{sound.path}: opens at version {table.version}, not {head.number}")
    counts = [0, 0]
    seen: list[Ids] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for rows in _rows(table, [each for each in head.fragments if sound.is_whole(each)]):
            seen.append(numbers(rows, "id"))
            counts[0] += len(rows)
            yield from rows.to_batches()
        if rescued is None:
            return
        for rows in _older_rows(sound, head, database):
            wanted = rescued(rows) & ~np.isin(numbers(rows, "id"), np.concatenate([*seen, np.empty(0, np.int64)]))
            rows = rows.filter(pa.array(wanted)).select(table.schema.names)
            seen.append(numbers(rows, "id"))
            counts[1] += len(rows)
            yield from rows.to_batches()

    schema = table.schema
    database.create_table(
        sound.path.stem, data=pa.RecordBatchReader.from_batches(schema, batches()), schema=schema, mode="overwrite"
    )
    return counts[0], counts[1]


def _older_rows(sound: Sound, head: TableVersion, database: Any) -> Iterator[pa.Table]:
    """Rows of older versions from files that are whole and that the newest one does not need, deleted ones left out."""
    seen = head.files
    for _, version in islice(sound.versions(), 1, None):
        fragments = [each for each in version.fragments if not each.data.keys() <= seen and sound.is_whole(each)]
        if fragments:
            older = database.open_table(sound.path.stem)
            older.checkout(version.number)
            seen.update(name for each in fragments for name in each.data)
            if older.schema.names == database.open_table(sound.path.stem).schema.names:
                yield from _rows(older, fragments)


def _rows(table: Any, fragments: list[Fragment]) -> Iterator[pa.Table]:
    """The rows of `fragments` that are not deleted, in blocks."""
    for fragment in fragments:
        first = fragment.id << _ROW_BITS
        for start in range(0, fragment.rows, _ROWS_AT_ONCE):
            places = range(first + start, first + min(start + _ROWS_AT_ONCE, fragment.rows))
            yield table.take_row_ids(list(places)).select(table.schema.names).to_arrow()


def _put_aside(table: Path, names: list[str], quarantine: Path) -> list[str]:
    """A sentence for each of `names` in `table` that was there, and was moved to the quarantine."""
    found = []
    for name in sorted(names):
        path = table / name
        if not path.exists():
            continue
        make_directory(quarantine)
        aside = quarantine / f"{table.name}-{time.time_ns()}-{path.name}"
        path.rename(aside)
        fsync_dir(path.parent)
        fsync_dir(quarantine)
        found.append(f"{path}: was damaged, or needed what was; moved to {aside}")
    return found


def _is(path: Path, expected: FileInfo) -> bool:
    try:
        return path.stat().st_size == expected.bytes and file_info(path) == expected
    except OSError:
        return False


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _without_wrong_hint(table: Path) -> list[str]:
    """A sentence when LanceDB's note of the newest version named another one, and was removed: it can do without."""
    path = table / HINT
    try:
        if path.read_bytes() == hint_of(newest_version(table)):
            return []
    except FileNotFoundError:
        return []
    except OSError:
        pass  # whatever stands there is no note
    path.unlink()
    fsync_dir(path.parent)
    return [f"{path}: did not name the newest version; removed"]
