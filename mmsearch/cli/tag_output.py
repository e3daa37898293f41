"""How labels of photos are printed: for people, as one JSON object, or as CSV; each photo when it is done."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mmsearch.cli.output import SCHEMA_VERSION, note, path_fields, print_bytes
from mmsearch.safe_text import safe_path, safe_text
from mmsearch.types import PhotoTags, Skipped

# A pipe gets more at once, since a write for every photo would take longer than its labels.
_BYTES_AT_ONCE = 64 * 1024
_SECONDS_BETWEEN = 1.0
# What makes a formula of a cell in a spreadsheet (OWASP, CSV Injection). Tabs and returns are escaped before.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_CSV_COLUMNS = ("path", "path_b64", "rank", "label", "probability", "similarity")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended: what could not be read, whether it was interrupted, and how long it took."""

    skipped: list[Skipped]
    interrupted: bool
    seconds: float


class Form(Protocol):
    """A form of output, asked for its parts in this order. `encoding` None is that of stdout."""

    encoding: str | None

    def head(self) -> str:
        """What comes before the photos."""

    def photo(self, photo: PhotoTags) -> str:
        """One photo that could be read."""

    def end(self, ending: Ending) -> str:
        """What comes after them."""


class Table:
    """A line with the path of each photo, and below it a line for each label."""

    encoding: str | None = None

    def head(self) -> str:
        return ""

    def photo(self, photo: PhotoTags) -> str:
        missing = "  (missing)" if photo.missing else ""
        lines = [f"{safe_path(photo.path)}{missing}"]
        lines += [f"  {tag.probability:5.3f}  {safe_text(tag.label)}" for tag in photo.tags]
        return "".join(f"{line}\n" for line in lines)

    def end(self, ending: Ending) -> str:
        return ""


class Json:
    """One JSON object on one line: `facts` about the run, then `photos`, `skipped`, `interrupted` and `seconds`.

    An error in the middle leaves it open: it is complete when the command ends with 0, 3 or 130.
    """

    encoding: str | None = "ascii"

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts
        self._first = True

    def head(self) -> str:
        return json.dumps({"schema_version": SCHEMA_VERSION, **self._facts}, allow_nan=False)[:-1] + ', "photos": ['

    def photo(self, photo: PhotoTags) -> str:
        between = "" if self._first else ", "
        self._first = False
        return between + json.dumps(
            {
                "id": photo.id,
                **path_fields(photo.path),
                "missing": photo.missing,
                "tags": [
                    {
                        "label": tag.label,
                        "probability": round(tag.probability, 6),
                        "similarity": round(tag.similarity, 6),
                    }
                    for tag in photo.tags
                ],
            },
            allow_nan=False,
        )

    def end(self, ending: Ending) -> str:
        rest = {
            "skipped": [
                {**path_fields(each.path), "reason": each.reason.value, "detail": each.detail}
                for each in ending.skipped
            ],
            "interrupted": ending.interrupted,
            "seconds": round(ending.seconds, 3),
        }
        return "], " + json.dumps(rest, allow_nan=False)[1:] + "\n"


class Csv:
    """A header, and a row for each label of each photo. Control characters are escaped, and what a spreadsheet would
    take for a formula begins with an apostrophe.
    """

    encoding: str | None = "utf-8"

    def head(self) -> str:
        return _csv_rows([_CSV_COLUMNS])

    def photo(self, photo: PhotoTags) -> str:
        path = path_fields(photo.path)
        return _csv_rows(
            [
                (
                    _cell(path["path"]),
                    path["path_b64"],
                    rank,
                    _cell(safe_text(tag.label)),
                    f"{tag.probability:.6f}",
                    f"{tag.similarity:.6f}",
                )
                for rank, tag in enumerate(photo.tags, start=1)
            ]
        )

    def end(self, ending: Ending) -> str:
        return ""


def print_photos(photos: Iterable[PhotoTags], form: Form, *, started: float) -> Ending:
    """How it ended, once all of `photos` are printed in `form`, and on stderr what could not be read and why.

    An interruption ends it early, and what is printed is complete in its form. An error is raised once the photos
    before it are printed, without an end. `started` is the `time.monotonic()` from which its seconds count.
    """
    out = _Out(form.encoding)
    skipped: list[Skipped] = []
    interrupted, count = False, 0
    out.add(form.head())
    try:
        for photo in photos:
            if photo.skipped is None:
                count += 1
                out.add(form.photo(photo))
            else:
                skipped.append(each := photo.skipped)
                note(f"{safe_path(each.path)}: {each.reason.value}: {safe_text(each.detail)}")
    except KeyboardInterrupt:
        interrupted = True
    finally:
        out.flush()
    ending = Ending(skipped, interrupted, time.monotonic() - started)
    out.add(form.end(ending))
    out.flush()
    if not count and not skipped and not interrupted:
        note("there are no photos to tag")
    return ending


class _Out:
    """stdout, in larger pieces than lines where it is no terminal."""

    def __init__(self, encoding: str | None) -> None:
        self._encoding = encoding or sys.stdout.encoding or "utf-8"
        self._most = 0 if sys.stdout.isatty() else _BYTES_AT_ONCE
        self._waiting = bytearray()
        self._printed = time.monotonic()

    def add(self, text: str) -> None:
        """Prints `text`, soon."""
        self._waiting += text.encode(self._encoding, "backslashreplace")
        if len(self._waiting) > self._most or time.monotonic() - self._printed >= _SECONDS_BETWEEN:
            self.flush()

    def flush(self) -> None:
        """Prints what waits."""
        data = bytes(self._waiting)
        self._waiting.clear()
        self._printed = time.monotonic()
        if data:
            print_bytes(data)


def _csv_rows(rows: list[tuple[object, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cell(text: str) -> str:
    """`text`, which a spreadsheet shows and does not compute."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
