"""JSON documents that carry their own checksum: one flipped bit anywhere in the file is found when it is read."""

from __future__ import annotations

import hashlib
import json
from typing import Any

_CHECKSUM = "sha256"


def dump_checked(body: dict[str, Any]) -> bytes:
    """The one encoding of `body`: indented JSON, keys in the given order, ending in `sha256` over the rest."""
    digest = hashlib.sha256(_encode(body)).hexdigest()
    return _encode({**body, _CHECKSUM: digest})


def load_checked(data: bytes) -> dict[str, Any]:
    """The body that `dump_checked` made `data` from.

    Raises:
        ValueError: `data` is not JSON, not an object, or not byte for byte what `dump_checked` writes for its content.
    """
    body = parse_object(data)
    digest = body.pop(_CHECKSUM, None)
    try:
        same = dump_checked(body) == data
    except RecursionError as error:  # from Python 3.12 on the writer goes less deep than the reader
        raise ValueError("nested too deeply") from error
    if not same:
        raise ValueError(f"checksum {str(digest)[:64]} does not fit the content")
    return body


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`, unchecked; raises ValueError when there is none."""
    try:
        body = json.loads(data.decode("ascii"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(body, dict):
        raise ValueError(f"is a JSON {type(body).__name__}, not an object")
    return body


def _encode(body: dict[str, Any]) -> bytes:
    return json.dumps(body, indent=1, allow_nan=False).encode("ascii") + b"\n"
