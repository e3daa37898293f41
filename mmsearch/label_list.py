"""The labels to choose from: out of a file or a list, each once, in the order they were given."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from mmsearch.errors import UsageError
from mmsearch.regular_file import open_regular
from mmsearch.safe_text import plain_text, safe_path, safe_text

# Several times what a model reads of a sentence; what is longer is prose, or no list of labels at all.
MAX_CHARACTERS = 500
# All nouns of WordNet and more. Every one is embedded in every template, and compared with every photo.
MAX_LABELS = 100_000
# Several times as many labels of usual length. The file is read whole.
MAX_FILE_BYTES = 16 * 1024 * 1024
_SHOWN_CHARACTERS = 60
# White space, controls, and what has no width: joiners, marks of byte order and direction, soft hyphens.
_INVISIBLE = frozenset(("Zs", "Zl", "Zp", "Cc", "Cf"))
_TOO_MANY = f"there are more than {MAX_LABELS:,} labels: expected at most so many"

_log = logging.getLogger(__name__)


def read_labels(path: Path) -> list[str]:
    """The labels of a file: one a line, in UTF-8. Blank lines, and those that begin with #, are passed over.

    Raises:
        UsageError: it does not exist, cannot be read or is not text, has an absurdly long line, or holds no label, or
            more than `MAX_LABELS`.
    """
    try:
        with open_regular(path) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UsageError(f"the labels in {safe_path(str(path))} cannot be read: {safe_text(reason)}") from error
    return parse_labels(data, source=safe_path(str(path)))


def parse_labels(data: bytes, *, source: str) -> list[str]:
    """The labels in the bytes of such a file, which complaints call `source`.

    Raises:
        UsageError: it is not text, has an absurdly long line, or holds no label, or more than `MAX_LABELS`.
    """
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"{source}: has more than {MAX_FILE_BYTES:,} bytes: expected labels, one a line")
    labels: list[str] = []
    # Of bytes: text would also be split at form feeds and U+2028, in the middle of a label.
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        where = f"{source}, line {number}"
        try:
            words = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise UsageError(f"{where}: is not UTF-8 (byte {error.start + 1}): expected labels, one a line") from error
        if words and not words.startswith("#"):
            if len(labels) >= MAX_LABELS:
                raise UsageError(f"{where}: {_TOO_MANY}")
            labels.append(_checked(words, where))
    if not labels:
        raise UsageError(f"{source}: holds no labels: expected one a line")
    return labels


def distinct_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """`labels` with single spaces and in Unicode's form NFC, each once; the first spelling of what differs in case
    alone stays.

    Twice the same label would share its probability between the two. That some came twice is logged as one warning.

    Raises:
        UsageError: there is none, or more than `MAX_LABELS`, or one is not text, has no words, or is absurdly long.
    """
    if isinstance(labels, str | bytes) or not isinstance(labels, Iterable):
        raise UsageError(f"labels is {type(labels).__name__}: expected a list of str")
    first: dict[str, tuple[int, str]] = {}
    again: list[tuple[str, int, int]] = []
    for number, label in enumerate(labels, start=1):
        if not isinstance(label, str):
            raise UsageError(f"label {number} is {type(label).__name__}: expected str")
        if number > MAX_LABELS:
            raise UsageError(_TOO_MANY)
        words = _checked(label, f"label {number}")
        # Folding case takes letters apart that are one character.
        known, _ = first.setdefault(unicodedata.normalize("NFC", words.casefold()), (number, words))
        if known != number:
            again.append((words, known, number))
    if not first:
        raise UsageError("there are no labels to choose from: give at least two")
    if again:
        label, *numbers = again[0]
        several = "a label comes again and is" if len(again) == 1 else f"{len(again):,} labels come again and are"
        which = f"'{_shown(label)}', as numbers {numbers[0]:,} and {numbers[1]:,}"
        _log.warning("%s left out (%s%s)", several, "" if len(again) == 1 else "first: ", which)
    return tuple(words for _, words in first.values())


def _checked(label: str, where: str) -> str:
    """`label` with single spaces, in NFC, in characters that can be encoded."""
    words = " ".join(plain_text(label).split())
    if all(unicodedata.category(each) in _INVISIBLE for each in words):
        raise UsageError(f"{where}: the label {safe_text(repr(label[:_SHOWN_CHARACTERS]))} has no words")
    if len(words) <= MAX_CHARACTERS:  # putting n marks in order takes n squared
        words = unicodedata.normalize("NFC", words)
    if len(words) > MAX_CHARACTERS:
        raise UsageError(
            f"{where}: the label '{_shown(words)}' has {len(words):,} characters, expected at most {MAX_CHARACTERS}"
        )
    return words


def _shown(label: str) -> str:
    return safe_text(label if len(label) <= _SHOWN_CHARACTERS else f"{label[: _SHOWN_CHARACTERS - 3]}...")
