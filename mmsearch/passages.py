"""A text file -> its passages: pieces about as long as a text encoder reads, each to be found by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from mmsearch.errors import UnreadableFile
from mmsearch.passage_prose import Piece, markdown_pieces, prose_pieces
from mmsearch.passage_tables import caption_rows, json_lines
from mmsearch.types import Reason

__all__ = ["MAX_TEXT_BYTES", "TEXT_EXTENSIONS", "Passage", "read_passages"]

MAX_TEXT_BYTES = 32 * 1024 * 1024  # beyond, a file is a log or a dump rather than something to read
_MAX_PASSAGES = 1_000_000
_READERS = {".txt": prose_pieces, ".md": markdown_pieces, ".csv": caption_rows, ".jsonl": json_lines}
TEXT_EXTENSIONS = frozenset(_READERS)
_MOST_JUNK = 0.1  # of the characters; with more, the file is not text
_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),  # before utf-16, whose mark begins the same
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_NO_TEXT = "there is no text in the file"
_REPLACEMENT = "\ufffd"
_CONTROL = [chr(code) for code in range(32) if chr(code) not in "\t\n\v\f\r"]
_LEAD_BYTES = bytes(range(0xC2, 0xF5))  # each begins one character beyond ASCII in UTF-8


@dataclass(frozen=True, slots=True)
class Passage:
    """One piece of a text file. `part` counts from 0; `locator` tells a person where it is ("line 12", "row 7")."""

    part: int
    text: str
    locator: str


def read_passages(data: bytes, extension: str) -> list[Passage]:
    """Return the passages of a text file, in order; never an empty list. `extension` is one of `TEXT_EXTENSIONS`.

    `.txt` and `.md` are cut at paragraphs and sentences. `.csv` must name a column `caption` or `text` (in any case) in
    its first line, and the objects of `.jsonl` such a key; lines of `.jsonl` that are no such object are left out.

    Raises:
        UnreadableFile: `EMPTY` when there is no text in it, `TOO_LARGE`, `UNIDENTIFIED` when it is not text,
            `UNSUPPORTED_INSIDE` when nothing in it is named `caption` or `text`.
    """
    if len(data) > MAX_TEXT_BYTES:
        raise UnreadableFile(Reason.TOO_LARGE, f"{len(data)} bytes of text, expected at most {MAX_TEXT_BYTES}")
    pieces = _READERS[extension.lower()](_decode(data))
    return _number(pieces)


def _number(pieces: Iterable[Piece]) -> list[Passage]:
    passages = [
        Passage(part, _storable(piece.text), piece.locator)
        for part, piece in enumerate(islice(pieces, _MAX_PASSAGES + 1))
    ]
    if not passages:
        raise UnreadableFile(Reason.EMPTY, _NO_TEXT)
    if len(passages) > _MAX_PASSAGES:
        raise UnreadableFile(Reason.TOO_LARGE, f"more than {_MAX_PASSAGES} passages: split the file")
    return passages


def _storable(text: str) -> str:
    # JSON can spell half of a surrogate pair, which no UTF-8 column takes
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _decode(data: bytes) -> str:
    text = _to_unicode(data)
    if not text.strip():
        raise UnreadableFile(Reason.EMPTY, _NO_TEXT)
    junk = sum(text.count(character) for character in _CONTROL) + text.count(_REPLACEMENT)
    if junk > _MOST_JUNK * len(text):
        detail = f"{junk} of {len(text)} characters are no text, expected UTF-8, or UTF-16 with a byte order mark"
        raise UnreadableFile(Reason.UNIDENTIFIED, detail)
    return text.replace("\0", " ").replace("\r\n", "\n").replace("\r", "\n")


def _to_unicode(data: bytes) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    text = data.decode("utf-8", "replace")
    broken = text.count(_REPLACEMENT)
    if broken == 0:
        return text
    sound = len(data) - len(data.translate(None, _LEAD_BYTES)) - broken
    return text if sound >= broken else data.decode("cp1252", "replace")
