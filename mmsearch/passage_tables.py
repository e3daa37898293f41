"""Tables of captions -> pieces: CSV with a header, and JSON objects one a line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence

from mmsearch.errors import UnreadableFile
from mmsearch.passage_prose import Piece, cut
from mmsearch.types import Reason

_COLUMNS = ("caption", "text")  # the first that is there
_DELIMITERS = (",", ";", "\t", "|")
_EXCEL_LINE = re.compile(r'"?sep=([^\r\n"])"?\n', re.IGNORECASE)  # which delimiter follows; only Excel writes it
_NAMES_SHOWN = 8
_HEADER_CHARACTERS = 65_536


def caption_rows(text: str) -> Iterator[Piece]:
    """Return the pieces of a CSV, row by row; rows count from 1 below the header.

    Raises:
        UnreadableFile: `UNSUPPORTED_INSIDE` when the header names neither `caption` nor `text`.
    """
    told = _EXCEL_LINE.match(text)
    text = text[told.end() :] if told else text
    header = text[:_HEADER_CHARACTERS].partition("\n")[0]
    for delimiter in (told[1],) if told else _DELIMITERS:
        column = _column(next(csv.reader([header], delimiter=delimiter), []))
        if column is not None:
            return _rows(text, delimiter, column)
    found = ", ".join(repr(name) for name in _first_names(header))
    raise UnreadableFile(
        Reason.UNSUPPORTED_INSIDE, f"a table with the columns {found}, expected one named caption or text"
    )


def _first_names(header: str) -> list[str]:
    delimiter = max(_DELIMITERS, key=header.count)
    return [name.strip()[:40] for name in header.split(delimiter)[:_NAMES_SHOWN]]


def _column(names: Sequence[str]) -> int | None:
    folded = [name.strip().casefold() for name in names]
    return next((folded.index(name) for name in _COLUMNS if name in folded), None)


def _rows(text: str, delimiter: str, column: int) -> Iterator[Piece]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    number = -1
    while True:
        number += 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:  # one field is longer than csv takes; the reader goes on behind it
            continue
        if number and len(row) > column:  # row 0 is the header
            yield from (Piece(part, f"row {number}") for _, part in cut(row[column]))


def json_lines(text: str) -> Iterator[Piece]:
    """Return the pieces of JSON objects, one a line; lines count from 1.

    Raises:
        UnreadableFile: no line is an object with a text under `caption` or `text`: `UNSUPPORTED_INSIDE` if one is an
            object at all, else `UNIDENTIFIED`.
    """
    objects = pieces = 0
    for number, line in enumerate(io.StringIO(text, newline="\n"), 1):
        if not line.strip():
            continue
        value = _object(line)
        objects += value is not None
        for _, part in cut(_caption(value or {})):
            pieces += 1
            yield Piece(part, f"line {number}")
    if not pieces and objects:
        raise UnreadableFile(
            Reason.UNSUPPORTED_INSIDE, "no object has a text under caption or text, expected one a line"
        )
    if not pieces:
        raise UnreadableFile(Reason.UNIDENTIFIED, "no line is a JSON object, expected one a line")


def _object(line: str) -> dict[str, object] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _caption(value: dict[str, object]) -> str:
    folded = {key.casefold(): content for key, content in value.items()}
    for name in _COLUMNS:
        content = folded.get(name)
        if isinstance(content, str):
            return content
    return ""
