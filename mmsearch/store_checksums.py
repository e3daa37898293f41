"""`checksums.json`: what the files of the tables were when they were acknowledged. LanceDB itself checks none of them.

Their files never change once they are written, so each is hashed once, right after it was pushed to the disk and while
it is still in memory. One that is not in the record was never acknowledged: the next publication takes it in.

It also says which tables still lack what was acknowledged. That is written before a table gets its next version, whose
number may hide that others are gone, and stays until the live snapshot has given back what it holds.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmsearch.checked_json import dump_checked, load_checked
from mmsearch.durable import write_atomic
from mmsearch.errors import CollectionDamaged, CollectionMismatch
from mmsearch.manifest import unreadable
from mmsearch.misplaced import is_our_name
from mmsearch.store_prune import manifest_name, manifest_number, manifests
from mmsearch.stored_file import FileInfo, file_info

FILE_NAME = "checksums.json"
# The one file of a table that LanceDB writes again and again: the number of the newest version.
HINT = "_versions/latest_version_hint.json"
VERSIONS = "_versions/"

# What a table lacks: nothing; rows, while those that are there are what they were; or it is an older version, and its
# rows may tell of something else than those of the other tables.
Lack = Literal["", "rows", "newest"]

_FORMAT = 1
_LACKS: tuple[Lack, ...] = ("", "rows", "newest")

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class TableRecord:
    """One table as acknowledged: its newest version, and its files by path relative to the table; and what it lacks
    of that since something befell it.
    """

    version: int = 0
    files: dict[str, FileInfo] = field(default_factory=dict)
    lack: Lack = ""


Record = dict[str, TableRecord]


def read_record(directory: Path) -> Record:
    """The record of the collection in `directory`, tables by path relative to it; empty where there is none yet.

    Raises:
        CollectionMismatch: it has a newer format.
        CollectionDamaged: it is not what was written.
        CollectionError: the operating system does not let it be read.
    """
    path = directory / FILE_NAME
    try:
        body = load_checked(path.read_bytes())
        if int(body["format"]) > _FORMAT:
            raise CollectionMismatch(
                f"{path}: has format {body['format']}, and this mmsearch knows formats up to {_FORMAT}; "
                "upgrade it with `pip install --upgrade mmsearch`"
            )
        return {str(name): _table_from_json(table) for name, table in body["tables"].items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CollectionDamaged(f"{path}: is damaged ({error}); run `mmsearch repair`") from error


class Checksums:
    """The record of one collection, for the holder of the writer lock. `tables` are those there are, by their paths."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            self._record = read_record(directory)
            self._stored = True
        except CollectionDamaged as error:
            _log.warning("%s; recording everything anew", str(error).removesuffix("; run `mmsearch repair`"))
            self._record, self._stored = {}, False

    def table(self, table: Path) -> TableRecord:
        """What was acknowledged of `table`."""
        return self._record.get(self._name(table), TableRecord())

    def lack(self, table: Path) -> Lack:
        """What `table` lacks that was acknowledged."""
        return self.table(table).lack

    def note_lack(self, table: Path, lack: Lack) -> None:
        """Record durably that `table` lacks something; it may lack more already."""
        known = self._record.setdefault(self._name(table), TableRecord())
        if _LACKS.index(lack) > _LACKS.index(known.lack):
            known.lack = lack
            self._write()

    def settle_lack(self, tables: Iterable[Path], lack: Lack) -> None:
        """Those of `tables` that lack something lack no more than `lack`: the next `refresh` stores that."""
        for table in tables:
            if known := self._record.get(self._name(table)):
                lower = min(known.lack, lack, key=_LACKS.index)
                self._stored = self._stored and lower == known.lack
                known.lack = lower

    def forget_gone_versions(self, table: Path) -> None:
        """Forget durably the manifests of `table` that are not there: their numbers will be given again."""
        known = self.table(table)
        gone = [each for each in known.files if _version_of(each) is not None and not (table / each).exists()]
        for name in gone:
            del known.files[name]
        if gone:
            self._write()

    def acknowledged(self, file: Path, table: Path) -> bool:
        """Whether `file` of `table` is byte for byte what was acknowledged."""
        known = self._record.get(self._name(table))
        expected = None if known is None else known.files.get(file.relative_to(table).as_posix())
        try:
            return expected is not None and file_info(file) == expected
        except OSError:
            return False

    def went_back(self, table: Path, version: int, *, healed: bool = False) -> bool:
        """Whether `table` was opened at an older `version` than the acknowledged one. The numbers of the lost versions
        will be given again, so what is recorded of those is forgotten, durably, and that the table lacks them is noted.
        So it is where nothing is known of a table that was `healed`.

        Raises:
            OSError: the record cannot be written.
        """
        known = self._record.get(self._name(table))
        if known is None and healed:
            self.note_lack(table, "newest")
        if known is None or known.version <= version:
            return False
        # A table that had to be made anew counts from 1 again.
        same = self.acknowledged(table / VERSIONS / manifest_name(version), table)
        numbers = {name: _version_of(name) for name in known.files}
        for name, number in numbers.items():
            if number is not None and (number > version or not same):
                del known.files[name]
        known.lack = "newest"
        self._write()
        return True

    def covers(self, tables: Mapping[Path, int]) -> bool:
        """Whether every file of `tables`, which are at these versions, is in the record as it is stored."""
        return self._stored and all(
            (known := self._record.get(self._name(table))) is not None
            and known.version == version
            and known.files.keys() >= set(table_files(table))
            for table, version in tables.items()
        )

    def refresh(self, tables: Mapping[Path, int]) -> None:
        """Take in the files of `tables`, which are at these versions, forget those that are gone, and store that.

        Everything in the tables has to be on the disk by now.

        Raises:
            OSError: a file cannot be read, or the record cannot be written.
        """
        fresh: Record = {}
        for table, version in tables.items():
            name = self._name(table)
            known = self._record.get(name, TableRecord())
            files = {
                each: known.files[each] if each in known.files and each != HINT else file_info(table / each)
                for each in table_files(table)
            }
            fresh[name] = TableRecord(version, files, known.lack)
        if self._stored and fresh == self._record and (self._directory / FILE_NAME).exists():
            return
        self._record = fresh
        self._write()

    def _write(self) -> None:
        self._stored = False
        write_atomic(self._directory / FILE_NAME, dump_checked(_to_json(self._record)))
        self._stored = True

    def _name(self, table: Path) -> str:
        return table.relative_to(self._directory).as_posix()


def table_files(table: Path) -> Iterator[str]:
    """The files of `table` that are there, by path relative to it, in no particular order. Names that LanceDB would not
    give are passed over.
    """
    for folder in ("data", "_deletions", "_transactions", "_versions"):
        try:
            entries = list((table / folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            continue
        yield from (f"{folder}/{each.name}" for each in entries if is_our_name(each.name))


def hint_of(number: int) -> bytes:
    """What LanceDB writes to `HINT` when `number` is the newest version."""
    return json.dumps({"version": number}, separators=(",", ":")).encode("ascii")


def newest_version(table: Path) -> int:
    """The number of the newest version of `table` that has a manifest, 0 for none."""
    found = manifests(table)
    return manifest_number(found[0]) if found else 0


def _version_of(name: str) -> int | None:
    """The number of the version whose manifest a file is, by its path relative to the table; None for other files."""
    path = Path(name)
    return manifest_number(path) if name.startswith(VERSIONS) and path.stem.isdigit() else None


def _to_json(record: Record) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "tables": {
            name: {
                "version": table.version,
                **({"lacks": table.lack} if table.lack else {}),
                "files": {
                    each: {"sha256": info.sha256, "bytes": info.bytes} for each, info in sorted(table.files.items())
                },
            }
            for name, table in sorted(record.items())
        },
    }


def _table_from_json(body: dict[str, Any]) -> TableRecord:
    files = {str(name): FileInfo(str(each["sha256"]), int(each["bytes"])) for name, each in body["files"].items()}
    if any(name.startswith(("/", ".")) or ".." in Path(name).parts for name in files):
        raise ValueError("it names a file outside of the table")
    lack = body.get("lacks", "")
    if lack not in _LACKS:
        raise ValueError(f"a table lacks {str(lack)[:20]!r}, which has no meaning")
    return TableRecord(int(body["version"]), files, lack)
