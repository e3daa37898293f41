"""`snapshots/<n>.json` and `CURRENT`: which segments make up a snapshot, and which snapshot is live."""

from __future__ import annotations

import base64
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from mmsearch.checked_json import dump_checked, load_checked, parse_object
from mmsearch.durable import write_atomic
from mmsearch.errors import CollectionDamaged, CollectionError, CollectionMismatch, CollectionNotFound
from mmsearch.manifest import (
    SNAPSHOTS_DIRECTORY,
    CollectionManifest,
    ModelRef,
    Root,
    path_from_json,
    path_to_json,
    roots_from_json,
    roots_to_json,
    unreadable,
)
from mmsearch.regular_file import read_file
from mmsearch.segment import REQUIRED_FILES, SEGMENT_FILES, TOKENS_FILE, VECTOR_DTYPES, SegmentInfo, TokenShape
from mmsearch.segment_files import FileInfo
from mmsearch.snapshot_unfinished import current_is_lost, snapshot_numbers, was_published
from mmsearch.types import Kind
from mmsearch.vector_index import INDEX_KINDS, IndexInfo

# 2 came with the matching head's tokens and with indexes of other kinds.
FORMAT = 2
# Kinds that are no longer made. Such a segment is searched exactly until the next publication gives it another index.
_RETIRED_KINDS = frozenset(("rabitq",))
CURRENT_FILE = "CURRENT"
SEGMENTS_DIRECTORY = "segments"

_SEGMENT_NAME = re.compile(r"(image|text)-\d{1,18}-[0-9a-f]{1,64}")
_DIGITS = re.compile(rb"[0-9]{1,18}\n?")
_NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class SnapshotHead:
    """What a snapshot says of the collection it was made from.

    `model_location` is where the model was found, None for a bundled one. `counts` and `table_versions` are carried as
    they are: numbers under names of the publisher's choice. `mounts` are those of collection.json, should that be lost.
    """

    fingerprint: str
    model_name: str
    dim: int
    roots: tuple[Root, ...]
    counts: dict[str, Any] = field(default_factory=dict)
    table_versions: dict[str, int] = field(default_factory=dict)
    model_location: str | None = None
    mounts: tuple[bytes, ...] = ()

    @property
    def model(self) -> ModelRef:
        """The model whose embeddings it holds."""
        return ModelRef(self.model_name, self.fingerprint, self.dim, self.model_location)


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """One snapshot: its segments, and by segment name the rows of it that are dead (ascending row numbers)."""

    number: int
    head: SnapshotHead
    segments: tuple[SegmentInfo, ...]
    dead: dict[str, npt.NDArray[np.int64]]

    def dead_rows(self, segment: SegmentInfo) -> npt.NDArray[np.int64]:
        """Row numbers of `segment` that this snapshot no longer holds."""
        return self.dead.get(segment.name, _NO_ROWS)


def read_current(directory: Path) -> int:
    """The number of the live snapshot.

    Raises:
        CollectionNotFound: nothing has been published here.
        CollectionDamaged: CURRENT is gone, holds anything but digits, or is no file.
        CollectionError: the operating system does not let it be read.
    """
    path = directory / CURRENT_FILE
    try:
        data = read_file(path)
    except (FileNotFoundError, NotADirectoryError):
        numbers = snapshot_numbers(directory)
        if current_is_lost(directory, numbers) or was_published(directory):
            too = "" if numbers else ", and so are all snapshots"
            raise CollectionDamaged(f"{path}: is gone{too}; run `mmsearch repair`") from None
        raise CollectionNotFound(
            f"{directory}: there is no searchable collection here; make one with `mmsearch index`"
        ) from None
    except OSError as error:
        raise unreadable(path, error) from error
    if not _DIGITS.fullmatch(data):
        raise CollectionDamaged(f"{path}: holds {data[:20]!r}, not the number of a snapshot; run `mmsearch repair`")
    return int(data)


def write_current(directory: Path, number: int) -> None:
    """Make snapshot `number` the live one."""
    write_atomic(directory / CURRENT_FILE, f"{number}\n".encode("ascii"))


def manifest_path(directory: Path, number: int) -> Path:
    """Where the manifest of snapshot `number` stands."""
    return directory / SNAPSHOTS_DIRECTORY / f"{number}.json"


def read_manifest(directory: Path, number: int) -> SnapshotManifest:
    """The manifest of snapshot `number`.

    Raises:
        FileNotFoundError: it is gone.
        CollectionMismatch: it has a newer format.
        CollectionDamaged: it is not what was written.
        CollectionError: the operating system does not let it be read.
    """
    path = manifest_path(directory, number)
    try:
        data = read_file(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        found = parse_object(data).get("format")
        if isinstance(found, int) and found > FORMAT:
            raise CollectionMismatch(
                f"{path}: has snapshot format {found}, and this mmsearch knows formats up to {FORMAT}; "
                "upgrade it with `pip install --upgrade mmsearch`"
            )
        manifest = _from_json(load_checked(data))
        if manifest.number != number:
            raise ValueError(f"it is the manifest of snapshot {manifest.number}")
        return manifest
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CollectionDamaged(f"{path}: is damaged ({error}); run `mmsearch repair`") from error


def active_model(directory: Path, manifest: CollectionManifest) -> ModelRef | None:
    """The model whose embeddings answer, None before the first run.

    It is that of `manifest`, unless a run that changed the model was killed after it had published and before it could
    say so in collection.json.
    """
    if manifest.switch is None:
        return manifest.model
    try:
        head = read_manifest(directory, read_current(directory)).head
    except (CollectionError, FileNotFoundError):
        return manifest.model
    coming = manifest.switch.to
    return coming if head.fingerprint == coming.fingerprint else manifest.model


def write_manifest(directory: Path, manifest: SnapshotManifest) -> None:
    """Store `manifest` under its number."""
    write_atomic(manifest_path(directory, manifest.number), dump_checked(_to_json(manifest)))


def _to_json(manifest: SnapshotManifest) -> dict[str, Any]:
    head = manifest.head
    return {
        "format": FORMAT,
        "number": manifest.number,
        "fingerprint": head.fingerprint,
        "model": head.model_name,
        "dim": head.dim,
        **({} if head.model_location is None else {"model_location": head.model_location}),
        "roots": roots_to_json(head.roots),
        **({"mounts": [path_to_json(path) for path in head.mounts]} if head.mounts else {}),
        "counts": head.counts,
        "table_versions": head.table_versions,
        "segments": [_segment_to_json(info, manifest.dead_rows(info)) for info in manifest.segments],
    }


def _from_json(body: dict[str, Any]) -> SnapshotManifest:
    head = SnapshotHead(
        fingerprint=str(body["fingerprint"]),
        model_name=str(body["model"]),
        dim=int(body["dim"]),
        roots=roots_from_json(body["roots"]),
        counts=dict(body["counts"]),
        table_versions=dict(body["table_versions"]),
        model_location=None if body.get("model_location") is None else str(body["model_location"]),
        mounts=tuple(path_from_json(each) for each in body.get("mounts", [])),
    )
    segments = tuple(_segment_from_json(entry) for entry in body["segments"])
    dead = {
        info.name: _decode_rows(entry["dead"], info.rows)
        for info, entry in zip(segments, body["segments"], strict=True)
        if entry["dead"]
    }
    return SnapshotManifest(int(body["number"]), head, segments, dead)


def _segment_to_json(info: SegmentInfo, dead: npt.NDArray[np.int64]) -> dict[str, Any]:
    entry = {
        "name": info.name,
        "kind": info.kind,
        "rows": info.rows,
        "missing": info.missing,
        "directories": info.directories,
        "vectors": info.vectors,
        "index": asdict(info.index),
        "files": {name: {"sha256": file.sha256, "bytes": file.bytes} for name, file in info.files.items()},
        "dead": base64.b64encode(dead.astype("<i4").tobytes()).decode("ascii"),
    }
    return entry if info.tokens is None else {**entry, "tokens": list(info.tokens)}


def _segment_from_json(entry: dict[str, Any]) -> SegmentInfo:
    name, kind, index = str(entry["name"]), entry["kind"], entry["index"]
    files = {str(file): FileInfo(str(info["sha256"]), int(info["bytes"])) for file, info in entry["files"].items()}
    # Names become paths below the collection: only those that a publisher gives are believed.
    if not _SEGMENT_NAME.fullmatch(name) or not set(files) <= SEGMENT_FILES:
        raise ValueError(f"segment {name!r} or one of its files has a name that no publisher gives")
    if lacking := sorted(REQUIRED_FILES - set(files)):
        raise ValueError(f"segment {name!r} names no {lacking[0]}")
    if kind not in get_args(Kind) or not _is_index_kind(index["kind"]) or entry["vectors"] not in VECTOR_DTYPES:
        raise ValueError(f"segment {name!r}: kind {kind!r}, index {index['kind']!r} or vectors are not known")
    # Snapshots of models without a matching head, and all those made before there was one, do not mention tokens.
    tokens = _token_shape(entry["tokens"]) if "tokens" in entry else None
    if (tokens is not None) != (TOKENS_FILE in files):
        raise ValueError(f"segment {name!r} has tokens, or a file of tokens, but not both")
    index_info = _index_info(index)
    return SegmentInfo(
        name=name,
        kind=kind,
        rows=int(entry["rows"]),
        missing=int(entry["missing"]),
        directories=int(entry["directories"]),
        vectors=entry["vectors"],
        index=index_info,
        files=files,
        tokens=tokens,
    )


def _is_index_kind(name: object) -> bool:
    return name in INDEX_KINDS or name in _RETIRED_KINDS


def _index_info(entry: dict[str, Any]) -> IndexInfo:
    if entry["kind"] in _RETIRED_KINDS:
        return IndexInfo("exact")
    instead_of = entry.get("instead_of")
    if instead_of is not None and not _is_index_kind(instead_of):
        raise ValueError(f"index kind {instead_of!r} is not known")
    return IndexInfo(
        entry["kind"], int(entry["k_factor"]), float(entry["recall"]), int(entry.get("probes", 0)), instead_of
    )


def _token_shape(entry: list[Any]) -> TokenShape:
    # A shape that is not that of the file is found when the file is mapped.
    count, dim = (int(each) for each in entry)
    return count, dim


def _decode_rows(text: str, row_count: int) -> npt.NDArray[np.int64]:
    rows = np.frombuffer(base64.b64decode(text, validate=True), "<i4").astype(np.int64)
    if (rows < 0).any() or (rows >= row_count).any():
        raise ValueError(f"a dead row lies outside of a segment of {row_count} rows")
    return rows
