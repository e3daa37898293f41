"""Which files one version of a LanceDB table consists of, read from its manifest.

LanceDB tells the names of a table's files to nobody, and reads no checksum. Its manifests are protocol buffers in a
published format; of that only what names files is read here, and anything unexpected is an error, never a guess.

    <transaction, index ...> <length u32> <manifest> <position of the length u64> <major u16> <minor u16> "LANC"
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

_MAGIC = b"LANC"
_FOOTER = struct.Struct("<QHH4s")
_LENGTH = struct.Struct("<I")

# Numbers of fields in lance's table.proto.
_MANIFEST_FRAGMENT, _MANIFEST_VERSION, _MANIFEST_TRANSACTION = 2, 3, 12
_FRAGMENT_ID, _FRAGMENT_FILE, _FRAGMENT_DELETIONS, _FRAGMENT_ROWS = 1, 2, 3, 4
_FILE_PATH, _FILE_BYTES = 1, 6
_DELETIONS_TYPE, _DELETIONS_READ_VERSION, _DELETIONS_ID = 1, 2, 3
_DELETIONS_ENDINGS = {0: "arrow", 1: "bin"}

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_Field: TypeAlias = tuple[int, int | bytes]


@dataclass(frozen=True, slots=True)
class Fragment:
    """Rows that stand together: their row ids are `id` times 2^32 and up, `rows` of them, deleted ones included.

    `data` are the files that hold them, by path relative to the table, with their sizes where the manifest has them.
    `deletions` is the file that says which of them are deleted, None for none.
    """

    id: int
    rows: int
    data: dict[str, int | None]
    deletions: str | None

    @property
    def files(self) -> set[str]:
        """Every file without which its rows cannot be told."""
        return {*self.data, *(() if self.deletions is None else (self.deletions,))}


@dataclass(frozen=True, slots=True)
class TableVersion:
    """One version of a table: its number, its fragments, and the note of the commit that made it, if it names one."""

    number: int
    fragments: tuple[Fragment, ...]
    transaction: str | None

    @property
    def files(self) -> set[str]:
        """Every file that it needs, by path relative to the table."""
        return {name for fragment in self.fragments for name in fragment.files}


# Fragments by how they are stored: filled while versions are read.
Known: TypeAlias = dict[bytes, Fragment]


def read_version(manifest: Path, known: Known | None = None) -> TableVersion:
    """The version that `manifest` describes. Versions read with the same `known` share the fragments that they have in
    common, which makes reading many of them quick and keeping them cheap: most of one is most of the next.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a manifest, or names files in a way that is not known.
    """
    content = manifest.read_bytes()
    if len(content) < _FOOTER.size:
        raise ValueError(f"it has {len(content)} bytes, too few for a manifest")
    position, _, _, magic = _FOOTER.unpack_from(content, len(content) - _FOOTER.size)
    if magic != _MAGIC:
        raise ValueError("it does not end as a manifest does")
    if position + _LENGTH.size > len(content):
        raise ValueError(f"it begins at byte {position} of {len(content)}")
    (length,) = _LENGTH.unpack_from(content, position)
    body = content[position + _LENGTH.size :][:length]
    if len(body) != length:
        raise ValueError(f"it has {len(body)} bytes of {length}")
    return _version(body, {} if known is None else known)


def named_files(manifests: Iterable[Path]) -> set[str]:
    """Every file that one of the versions of `manifests` needs, as far as those are there and can be read."""
    known: Known = {}
    for manifest in manifests:
        with contextlib.suppress(OSError, ValueError):
            read_version(manifest, known)
    return {name for fragment in known.values() for name in fragment.files}


def _version(body: bytes, known: Known) -> TableVersion:
    number, fragments, transaction = 0, [], None
    for field, value in _fields(body):
        if field == _MANIFEST_FRAGMENT:
            stored = _message(value)
            fragment = known.get(stored)
            if fragment is None:
                fragment = known[stored] = _fragment(stored)
            fragments.append(fragment)
        elif field == _MANIFEST_VERSION:
            number = _number(value)
        elif field == _MANIFEST_TRANSACTION:
            transaction = f"_transactions/{_name(value)}" if value else None
    return TableVersion(number, tuple(fragments), transaction)


def _fragment(body: bytes) -> Fragment:
    identity, rows = 0, 0
    data: dict[str, int | None] = {}
    deletions: dict[int, int] | None = None
    for field, value in _fields(body):
        if field == _FRAGMENT_ID:
            identity = _number(value)
        elif field == _FRAGMENT_ROWS:
            rows = _number(value)
        elif field == _FRAGMENT_FILE:
            facts = dict(_fields(_message(value)))
            data[f"data/{_name(facts.get(_FILE_PATH, b''))}"] = _number(facts.get(_FILE_BYTES, 0)) or None
        elif field == _FRAGMENT_DELETIONS:
            deletions = {key: _number(each) for key, each in _fields(_message(value))}
    return Fragment(identity, rows, data, None if deletions is None else _deletions_name(identity, deletions))


def _deletions_name(fragment: int, facts: dict[int, int]) -> str:
    ending = _DELETIONS_ENDINGS.get(facts.get(_DELETIONS_TYPE, 0))
    if ending is None:
        raise ValueError(f"fragment {fragment} has deletions of a kind that is not known")
    return f"_deletions/{fragment}-{facts.get(_DELETIONS_READ_VERSION, 0)}-{facts.get(_DELETIONS_ID, 0)}.{ending}"


def _fields(message: bytes) -> Iterator[_Field]:
    """Number and value of each field of a protocol buffer: numbers for varints, bytes for all else."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, place = _varint(message, place)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"it has a field of kind {kind}")
        if place + length > len(message):
            raise ValueError(f"a field of {length} bytes begins at byte {place} of {len(message)}")
        yield key >> 3, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            break
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError(f"a number has no end at byte {place} of {len(message)}")


def _number(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("it has text where a number belongs")
    return value


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError(f"it has the number {value} where a message belongs")
    return value


def _name(value: int | bytes) -> str:
    """A file's name: those that LanceDB gives, nothing that leads elsewhere."""
    name = _message(value).decode("ascii")
    if not name or "/" in name or name.startswith("."):
        raise ValueError(f"it names a file {name[:80]!r}")
    return name
