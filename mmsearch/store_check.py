"""Are the tables what was acknowledged? Their files against the record of their checksums, and their rows."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmsearch.errors import CollectionError, CollectionNotFound
from mmsearch.examination import INDEX, REPAIR, Examination, Expected
from mmsearch.manifest import ModelRef
from mmsearch.store import ITEMS_TABLE, VECTORS_DIRECTORY
from mmsearch.store_checksums import HINT, VERSIONS, Record, TableRecord, hint_of, newest_version, table_files
from mmsearch.store_manifest import TableVersion, named_files, read_version
from mmsearch.store_prune import manifest_name, manifests
from mmsearch.store_reader import StoreReader
from mmsearch.store_rows import ITEM_SCHEMA
from mmsearch.store_tables import StoredTable
from mmsearch.store_vectors import TOKENS_FIELD, Ids, table_name, vector_schema
from mmsearch.stored_file import FileInfo

_TRANSACTIONS = "_transactions/"
_HEALS = f"{INDEX} uses the version before, and puts back what that lacks"
_RESTORES = f"{REPAIR} restores its rows"
_NO_HINT = f"{REPAIR} removes it: LanceDB can do without"
_OLD = f"{REPAIR} puts aside the older versions that need it, and nothing else does"


@dataclass(frozen=True, slots=True)
class Rows:
    """What the tables hold for a snapshot: ids and revisions of the rows that can be found, ascending by id; and the
    ids of those that should have an embedding and have none: a snapshot may hold them as they were before.
    """

    ids: Ids
    revisions: Ids
    without_embedding: Ids
    versions: dict[str, int]


def table_paths(directory: Path) -> list[Path]:
    """The tables that stand in the collection at `directory`: the items, and embeddings of any model."""
    items = directory / f"{ITEMS_TABLE}.lance"
    return [*([items] if items.is_dir() else []), *sorted((directory / VECTORS_DIRECTORY).glob("*.lance"))]


def examine_files(directory: Path, record: Record, models: Collection[ModelRef], found: Examination) -> None:
    """Notes in `found` what is wrong with the files of the tables, and what has to be compared. `models` are those that
    should have embeddings here.
    """
    present = table_paths(directory)
    for table in present:
        _examine_table(table, record.get(table.relative_to(directory).as_posix(), TableRecord()), found)
    named = {f"{ITEMS_TABLE}.lance", *(f"{VECTORS_DIRECTORY}/{table_name(each.fingerprint)}.lance" for each in models)}
    for name in sorted(named & record.keys()):
        if directory / name not in present or not manifests(directory / name):
            found.blame(directory / name, "is gone", f"{REPAIR} restores what it can")


def examine_rows(directory: Path, model: ModelRef, found: Examination) -> Rows | None:
    """What the tables hold; None, and noted in `found`, when they cannot be read, or there are none yet."""
    items: StoredTable | None = None
    try:
        items = StoredTable(directory, ITEMS_TABLE, ITEM_SCHEMA, quarantine=None)
        vectors = StoredTable(
            directory / VECTORS_DIRECTORY,
            table_name(model.fingerprint),
            vector_schema(model.dim),
            quarantine=None,
            optional=TOKENS_FIELD,
        )
        reader = StoreReader(items, vectors)
        ids, revisions = reader.revisions()
        known = reader.known_files()
        lacking = known.ids[(known.statuses != "error") & ~known.has_vector]
    except CollectionNotFound:
        # A process that is killed between the first two tables leaves one, without any row.
        if items is not None and len(items.ids()):
            path = directory / VECTORS_DIRECTORY / f"{table_name(model.fingerprint)}.lance"
            found.blame(path, "is gone", f"{REPAIR} restores what it can")
        return None
    except CollectionError as error:
        table = directory / f"{ITEMS_TABLE}.lance"
        if manifests(table):
            found.blame(table, str(error).removesuffix("; run `mmsearch repair`"), REPAIR)
        return None
    for stored in (items, vectors):
        own = stored.ids()
        twice = own[1:][own[1:] == own[:-1]]
        if len(twice):
            found.blame(stored.path, f"{len(twice):,} ids come twice (first: {twice[0]})", REPAIR)
    return Rows(ids, revisions, lacking, reader.versions())


class _Missed:
    """Which files of a table are missed when they are gone: those that a version needs which is there at that time.

    A writer that drops old versions removes their manifests first, and tells the record last.
    """

    def __init__(self, table: Path) -> None:
        self._table = table
        self._manifests: list[Path] = []
        self._named: set[str] = set()

    def misses(self, name: str) -> bool:
        """Whether a version that is there now is incomplete without the recorded file `name`, which is gone."""
        if name.startswith(_TRANSACTIONS):
            return False
        there = manifests(self._table)
        if name.startswith(VERSIONS):
            # Versions are dropped from the oldest on, so one that is gone from between them was lost.
            return bool(there) and int(there[-1].stem) > int(Path(name).stem)
        if there != self._manifests:
            self._manifests, self._named = there, named_files(there)
        return name in self._named


def _examine_table(table: Path, record: TableRecord, found: Examination) -> None:
    newest = newest_version(table)
    if newest < record.version:
        found.blame(table / VERSIONS / manifest_name(record.version), "is gone, and was the newest version", _HEALS)
    head = _examine_head(table, record, found)
    present = set(table_files(table))
    found.unrecorded += len(present - record.files.keys())
    needed = head.files if head is not None else set()
    missed = _Missed(table)
    for name, info in record.files.items():
        if name == HINT:
            _examine_hint(table, record, newest, found)
        elif name in present:
            small, remedy = name.startswith(VERSIONS), _RESTORES if name in needed else _OLD
            if small and head is not None and name == f"{VERSIONS}{manifest_name(head.number)}":
                remedy = _HEALS
            found.expect(Expected(table / name, info, remedy, small=small, is_missed=partial(missed.misses, name)))
        elif missed.misses(name):
            found.blame(table / name, "is gone", _RESTORES if name in needed else _OLD)
    if head is not None:
        for fragment in head.fragments:
            for name, size in fragment.data.items():
                if name not in record.files:
                    _examine_unrecorded(table / name, size, found)


def _examine_head(table: Path, record: TableRecord, found: Examination) -> TableVersion | None:
    """The newest version, None, and noted, when its manifest cannot be read."""
    path = next(iter(manifests(table)), None)
    if path is None:
        return None
    try:
        return read_version(path)
    except (OSError, ValueError) as error:
        name = path.relative_to(table).as_posix()
        if name in record.files and path.exists() and path.stat().st_size == record.files[name].bytes:
            found.blame(path, "its content is not what was written", _HEALS)
        else:
            found.blame(path, f"cannot be read ({error})", _HEALS)
        return None


def _examine_unrecorded(path: Path, size: int | None, found: Examination) -> None:
    """A file of the newest version that was not acknowledged: LanceDB noted its size at least."""
    found.files += 1
    try:
        actual = path.stat().st_size
    except OSError as error:
        found.blame(path, f"cannot be read ({error.strerror})", _RESTORES)
        return
    if size is not None and actual != size:
        found.blame(path, f"has {actual:,} bytes, not {size:,}", _RESTORES)


def _examine_hint(table: Path, record: TableRecord, newest: int, found: Examination) -> None:
    """LanceDB rewrites this file after each commit, so a kill may leave the number of the version before."""
    path = table / HINT
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        found.blame(path, f"cannot be read ({error.strerror})", _NO_HINT)
        return
    if newest == record.version:
        sound = FileInfo(hashlib.sha256(content).hexdigest(), len(content)) == record.files[HINT]
    else:
        sound = any(content == hint_of(number) for number in range(max(record.version - 1, 1), newest + 1))
    if sound:
        found.saw(len(content))
    else:
        found.blame(path, "does not name the newest version", _NO_HINT)
