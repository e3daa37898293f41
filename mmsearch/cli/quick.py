"""The short way to an answer: `mmsearch query` with plain options, without building the parser of all commands.

Whatever is not understood here at once (help, a slip, an odd spelling) goes the long way, so every message comes from
there and none is written twice. What is understood means the same on both ways; a test compares them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from mmsearch.cli.outcome import exit_code_of
from mmsearch.cli.query_answer import QueryArguments, answer

COMMAND = "query"

_FLAGS: dict[str, tuple[str, bool]] = {
    "--json": ("as_json", True),
    "--paths": ("paths", True),
    "--print0": ("print0", True),
    "-0": ("print0", True),
    "--rerank": ("rerank", True),
    "--no-rerank": ("rerank", False),
}
_VALUES = {
    "--text": "text",
    "--image": "image",
    "--to": "to",
    "-k": "k",
    "--under": "under",
    "--min-similarity": "min_similarity",
    "--text-weight": "text_weight",
    "--collection": "collection",
    "--model": "model",
}
_TARGETS = ("images", "texts")
_WHOLE = re.compile(r"[1-9][0-9]{0,8}")
_DECIMAL = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,9})?")
# From - to: a value outside is refused, in the words of the long way.
_RANGES = {"min_similarity": (-1.0, 1.0), "text_weight": (0.0, 1.0)}


class _NotPlainError(Exception):
    """Something that only the parser of all commands understands, or refuses."""


def run_quickly(arguments: Sequence[str]) -> int | None:
    """The exit code of the command in `arguments`, or None, with nothing done, when it has to go the long way."""
    asked = parse_query(arguments)
    if asked is None:
        return None
    # Making a second thread takes OpenBLAS longer than a search of ten thousand photos; FAISS has threads of its own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return exit_code_of(lambda: answer(asked), arguments)


def parse_query(arguments: Sequence[str]) -> QueryArguments | None:
    """What `mmsearch query ...` asks for, None for another command and for all that is not plain."""
    if not arguments or arguments[0] != COMMAND:
        return None
    found: dict[str, Any] = {}
    try:
        for name, value in _parsed(arguments[1:]):
            if name in found:
                return None
            found[name] = value
    except _NotPlainError:
        return None
    return QueryArguments(**found)


def _parsed(arguments: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Name and value of each field that is given."""
    rest = iter(arguments)
    for each in rest:
        if each in _FLAGS:
            yield _FLAGS[each]
        elif each in _VALUES:
            yield _VALUES[each], _converted(_VALUES[each], next(rest, "-"))
        elif each == "-" or not each.startswith("-"):
            yield "argument", each
        else:
            raise _NotPlainError


def _converted(name: str, text: str) -> Any:
    """The value of a field from its text."""
    if name in _RANGES and _DECIMAL.fullmatch(text):
        low, high = _RANGES[name]
        if low <= float(text) <= high:
            return float(text)
    elif text.startswith("-"):
        raise _NotPlainError
    elif name == "k" and _WHOLE.fullmatch(text):
        return int(text)
    elif (name == "to" and text in _TARGETS) or name not in (*_RANGES, "to", "k"):
        return text
    raise _NotPlainError
