"""stdout, which holds data and nothing else, and stderr, which holds the rest."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mmsearch.errors import MMSearchError
from mmsearch.safe_text import path_b64, safe_message, safe_path, safe_text

if TYPE_CHECKING:
    from mmsearch.types import SwitchInfo

SCHEMA_VERSION = 1


class ReaderGoneError(Exception):
    """Whoever read our stdout has closed it: nothing is wrong, and nobody is left to tell."""


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on one line, `schema_version` first. ASCII, so that no terminal and no encoding can garble it."""
    print_bytes(json.dumps({"schema_version": SCHEMA_VERSION, **value}, allow_nan=False).encode("ascii") + b"\n")


def print_lines(lines: Iterable[str]) -> None:
    """Text, in the encoding of stdout; what a line shows of others' words must have gone through `safe_text`."""
    text = "".join(f"{line}\n" for line in lines)
    print_bytes(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))


def print_bytes(data: bytes) -> None:
    """Exactly these bytes.

    Raises:
        ReaderGoneError: the pipe is closed at the other end.
        MMSearchError: they cannot be written, because the disk is full for instance.
    """
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        # Python flushes stdout once more on its way out, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise ReaderGoneError from None
        raise MMSearchError(f"the output cannot be written: {error.strerror}") from error


def note(message: str) -> None:
    """One line on stderr, for a person."""
    sys.stderr.write(f"mmsearch: {safe_message(message)}\n")
    sys.stderr.flush()


def path_fields(path: str) -> dict[str, str]:
    """How JSON carries a path: `path` to show, `path_b64` to open."""
    return {"path": safe_path(path), "path_b64": path_b64(path)}


def switch_words(switch: SwitchInfo) -> str:
    """How far a change of a collection's model is, in words."""
    if switch.done:
        return f"model {safe_text(switch.model)} answers now"
    return f"model {safe_text(switch.model)} is to answer: {switch.embedded:,} of {switch.items:,} items embedded"
