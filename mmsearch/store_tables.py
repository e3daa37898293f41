"""One LanceDB table: opened and healed, read by id, changed, compacted. Filters are expressions, never text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmsearch.durable import make_directory
from mmsearch.errors import CollectionDamaged, CollectionError, CollectionNotFound
from mmsearch.misplaced import require_table_in_place
from mmsearch.store_errors import first_line, refusal, require_directories
from mmsearch.store_prune import manifests, move_aside
from mmsearch.store_rows import numbers

QUARANTINE_DIRECTORY = "quarantine"

# One literal costs about 60 microseconds, so a filter of many ids is cut into pieces that stay below a second.
_IDS_IN_A_FILTER = 5000
_NEVER = timedelta(days=36_500)
_VERSIONS_TRIED = 10

Ids = npt.NDArray[np.int64]


class StoredTable:
    """The table `name` in `directory` with `schema`, which has a column `id`; created when there is none.

    `optional` is a column that may come after those of `schema`: `require_optional` adds it. `acknowledged` says of a
    file of a table, given both paths, whether it is still what was once safe on the disk.

    When the newest version cannot be read, as after a power cut, it is moved to `quarantine` and the one before is
    opened; `healed` then says so in a sentence. One that was acknowledged, and is as it was, is not moved: there are
    files behind it that a repair can restore. `is_new` says that there was no table. Without a `quarantine` nothing is
    created, moved or removed.

    Raises:
        CollectionNotFound: there is no table, and no `quarantine`.
        CollectionDamaged: no version can be read.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        schema: pa.Schema,
        *,
        quarantine: Path | None,
        optional: pa.Field | None = None,
        acknowledged: Callable[[Path, Path], bool] | None = None,
    ) -> None:
        self.path = directory / f"{name}.lance"
        require_directories(directory, self.path, self.path / "_versions")
        require_table_in_place(self.path)
        self.healed: str | None = None
        self.is_new = False
        self._name = name
        self._schema = schema
        self._optional = optional
        self._acknowledged = acknowledged
        if quarantine is None and not manifests(self.path):
            raise CollectionNotFound(f"{self.path}: there is no such table; run `mmsearch index`")
        if quarantine is not None:
            make_directory(directory)
        self._database = lancedb_library().connect(directory)
        self._row_ids: tuple[Ids, Ids] | None = None
        self._ids: Ids | None = None
        self._table = self._open_or_create(quarantine)

    def close(self) -> None:
        """Let go of the table; it cannot be used afterwards."""
        self._table = self._database = None

    @property
    def version(self) -> int:
        """Number of the version that reads see and the next write follows."""
        return int(self._table.version)

    @property
    def schema(self) -> pa.Schema:
        """The columns that the table has, and rows to write must have."""
        return self._schema.append(self._optional) if self.has_optional else self._schema

    @property
    def has_optional(self) -> bool:
        """Whether the table has the optional column."""
        return self._optional is not None and self._optional.name in self._table.schema.names

    def require_optional(self) -> None:
        """Add the optional column where it is absent, null in every row; one commit, and no data is written."""
        if self._optional is not None and not self.has_optional:
            with self._writing():
                self._table.add_columns(self._optional)

    def ids(self) -> Ids:
        """All ids (N,), ascending. They are read once and then kept in step with the writes."""
        if self._ids is None:
            self._ids = self._row_places()[0]
        return self._ids

    def read(self, columns: Sequence[str], *, where: Any = None) -> pa.Table:
        """`columns` of all rows, or of those that the expression `where` admits, in no particular order."""
        with self._reading():
            query = self._table.search().select(list(columns))
            return (query if where is None else query.where(where)).to_arrow()

    def batches(self, columns: Sequence[str], *, where: Any) -> Iterator[pa.RecordBatch]:
        """Like `read`, a batch at a time."""
        with self._reading():
            yield from self._table.search().select(list(columns)).where(where).to_batches()

    def take(self, columns: Sequence[str], ids: Ids) -> pa.Table:
        """`columns` of the rows with `ids`, in that order.

        Raises:
            KeyError: there is no row with one of the ids.
        """
        known, places = self._row_places()
        positions = np.minimum(np.searchsorted(known, ids), max(len(known) - 1, 0))
        absent = ids if not len(known) else ids[known[positions] != ids]
        if len(absent):
            raise KeyError(f"{self.path}: there is no row with id {absent[0]}")
        if not len(ids):
            return self.schema.empty_table().select(list(columns))
        with self._reading():
            selected = ["id", *(name for name in columns if name != "id")]
            table = self._table.take_row_ids(places[positions].tolist()).select(selected).to_arrow()
        found = numbers(table, "id")
        order = np.argsort(found, kind="stable")
        return table.take(order[np.searchsorted(found, ids, sorter=order)]).select(list(columns))

    def add(self, rows: pa.Table) -> None:
        """Append `rows`, whose ids are new."""
        ids = self.ids()
        with self._writing():
            self._table.add(rows)
        self._ids = np.sort(np.concatenate([ids, numbers(rows, "id")]), kind="stable")

    def replace(self, rows: pa.Table) -> None:
        """Put `rows` in the place of the rows with the same ids, which exist."""
        with self._writing():
            result = self._table.merge_insert("id").when_matched_update_all().execute(rows)
        if result.num_updated_rows != len(rows):
            raise CollectionDamaged(
                f"{self.path}: {result.num_updated_rows} rows have the ids of {len(rows)}; run `mmsearch repair`"
            )

    def write(self, rows: pa.Table) -> None:
        """Replace the rows that exist, append the others: plain appends are quick however large the table is."""
        exists = np.isin(numbers(rows, "id"), self.ids())
        if exists.any():
            self.replace(rows.filter(pa.array(exists)))
        if not exists.all():
            self.add(rows.filter(pa.array(~exists)))

    def delete(self, ids: Ids) -> None:
        """Remove the rows with `ids`; ids without a row are ignored."""
        expressions = filters()
        for start in range(0, len(ids), _IDS_IN_A_FILTER):
            removed = ids[start : start + _IDS_IN_A_FILTER]
            remaining = np.setdiff1d(self.ids(), removed, assume_unique=True)
            with self._writing():
                self._table.delete(expressions.col("id").isin(removed.tolist()))
            self._ids = remaining

    def statistics(self) -> dict[str, Any]:
        """How many rows and fragments there are, and how long those are, as LanceDB counts them."""
        with self._reading():
            return dict(self._table.stats())

    def optimize(self) -> None:
        """Merge small files; old versions stay. When it fails, for want of room above all, everything is as it was.

        Raises:
            CollectionError: it failed.
        """
        try:
            with self._writing():
                self._table.optimize(cleanup_older_than=_NEVER)
        except CollectionError:
            self._table.checkout_latest()
            raise
        finally:
            self._row_ids = self._ids = None

    def restore(self, version: int) -> None:
        """Make an older `version` the newest again."""
        with self._writing():
            self._table.restore(version)
        self._row_ids = self._ids = None

    def at(self, version: int) -> StoredTable:
        """The table as of an older `version`, to be read."""
        older = copy(self)
        with self._reading():
            older._table = self._database.open_table(self._name)
            older._table.checkout(version)
        older._row_ids = older._ids = None
        return older

    def _row_places(self) -> tuple[Ids, Ids]:
        if self._row_ids is None:
            with self._reading():
                table = self._table.search().select(["id"]).with_row_id(True).to_arrow()
            order = np.argsort(numbers(table, "id"), kind="stable")
            self._row_ids = numbers(table, "id")[order], table.column("_rowid").to_numpy()[order]
        return self._row_ids

    def _open_or_create(self, quarantine: Path | None) -> Any:
        candidates = manifests(self.path)[:_VERSIONS_TRIED]
        if quarantine is None:
            return self._open_as_it_is()
        if not candidates:
            # A directory without any manifest is what a process killed before its first commit leaves: an empty table.
            self.is_new = True
            return self._database.create_table(self._name, schema=self._schema)
        moved: list[tuple[Path, Path]] = []
        reason = ""
        for manifest in candidates:
            try:
                self._table = self._database.open_table(self._name)
                self._check_readable()
            except (RuntimeError, ValueError, OSError, CollectionDamaged) as error:
                reason = reason or first_line(error)
                if (refused := refusal(error)) is not None:
                    raise CollectionError(
                        f"{self.path}: cannot be read ({refused}); see that this user may read it and that the disk is"
                        " sound, then run it again"
                    ) from error
                if self._acknowledged is not None and self._acknowledged(manifest, self.path):
                    break
                moved.append(move_aside(manifest, quarantine))
                continue
            if moved:
                self.healed = (
                    f"{self.path}: the newest version could not be read ({reason}); moved to {quarantine}, and version "
                    f"{self.version} is used: what came after it is indexed again"
                )
            return self._table
        for original, aside in moved:
            aside.rename(original)
        raise CollectionDamaged(f"{self.path}: cannot be read ({reason}); run `mmsearch repair`")

    def _open_as_it_is(self) -> Any:
        with self._reading():
            self._table = self._database.open_table(self._name)
            self._check_readable()
        return self._table

    def _check_readable(self) -> None:
        # A manifest of zeros opens as a table without columns, so opening alone proves nothing.
        if self._table.schema.names != self.schema.names:
            found = ", ".join(self._table.schema.names) or "none"
            raise CollectionDamaged(f"{self.path}: its columns are not ours ({found}); run `mmsearch repair`")
        self._row_ids = self._ids = None
        self.ids()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, OSError, ValueError) as error:
            raise CollectionDamaged(
                f"{self.path}: cannot be read ({first_line(error)}); run `mmsearch repair`"
            ) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._row_ids = None
        try:
            yield
        except (RuntimeError, OSError) as error:
            self._ids = None
            raise CollectionError(
                f"{self.path}: cannot be written ({first_line(error)}); see that the disk has room, then run it again"
            ) from error


def lancedb_library() -> Any:
    """LanceDB, imported when a table is first opened."""
    # Read when the library is loaded: what it logs about commits and compactions is no news to a user.
    os.environ.setdefault("LANCEDB_LOG", "error")
    import lancedb

    return lancedb


def filters() -> Any:
    """The module with `col` and `lit`, from which filters are built."""
    from lancedb import expr

    return expr
