"""What a decode process answers -> a result. Nothing of it is believed: the file that it read may have taken it over.

So every value has its type and its range before it comes near a table, where one number too large for its column would
end the whole run.
"""

from __future__ import annotations

import json
import math
from typing import Literal

import numpy as np

from mmsearch.images import DecodedImage
from mmsearch.indexer.frames import Header
from mmsearch.indexer.jobs import Decoded, Failed, Job
from mmsearch.passages import Passage
from mmsearch.safe_text import plain_text
from mmsearch.types import Preprocess, Reason

_INT32, _INT64 = (1 << 31) - 1, (1 << 63) - 1
_HASH_BYTES = 32


def result_of(job: Job, header: Header, payload: bytearray, preprocess: Preprocess) -> Decoded | Failed:
    """The result that an answer to `job` tells of.

    Raises:
        ValueError: the answer is none that a decode process of ours gives.
    """
    try:
        outcome = header["outcome"]
        if outcome == "failed":
            return _failed(job, header)
        digest = _hash(header["hash"])
        if outcome not in ("image", "passages", "known") or (outcome == "known" and digest not in job.known_hashes):
            raise ValueError(f"the outcome {outcome!r:.60}")
        return Decoded(
            token=job.token,
            hash=digest,
            size=_integer(header["size"], low=0),
            mtime_ns=_integer(header["mtime_ns"]),
            checked_ns=_integer(header["checked_ns"]),
            outcome=outcome,
            image=_image(header, payload, preprocess) if outcome == "image" else None,
            passages=_passages(payload) if outcome == "passages" else (),
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _failed(job: Job, header: Header) -> Failed:
    digest, size, mtime_ns, errno = (header.get(name) for name in ("hash", "size", "mtime_ns", "errno"))
    return Failed(
        token=job.token,
        reason=Reason(header["reason"]),
        detail=_text(header["detail"]),
        size=None if size is None else _integer(size, low=0),
        mtime_ns=None if mtime_ns is None else _integer(mtime_ns),
        hash=None if digest is None else _hash(digest),
        errno=None if errno is None else _integer(errno, low=0, high=_INT32),
    )


def _image(header: Header, payload: bytearray, preprocess: Preprocess) -> DecodedImage:
    note, taken_at = header["note"], header["taken_at"]
    return DecodedImage(
        pixels=np.frombuffer(payload, dtype=np.uint8).reshape(3, preprocess.height, preprocess.width),
        status=_status(header["status"]),
        width=_integer(header["width"], low=1, high=_INT32),
        height=_integer(header["height"], low=1, high=_INT32),
        note=None if note is None else _text(note),
        taken_at=None if taken_at is None else _integer(taken_at),
        latitude=_degrees(header["latitude"], most=90),
        longitude=_degrees(header["longitude"], most=180),
    )


def _passages(payload: bytearray) -> tuple[Passage, ...]:
    pieces = json.loads(payload)
    return tuple(Passage(part, _text(text), _text(locator)) for part, (text, locator) in enumerate(pieces))


def _status(value: object) -> Literal["ok", "partial"]:
    if value == "ok":
        return "ok"
    if value == "partial":
        return "partial"
    raise ValueError(f"the status {value!r:.60}")


def _hash(value: str) -> bytes:
    digest = bytes.fromhex(value)
    if len(digest) != _HASH_BYTES:
        raise ValueError(f"a hash of {len(digest)} bytes")
    return digest


def _integer(value: object, *, low: int = -_INT64, high: int = _INT64) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{value!r:.60}, expected a whole number from {low} to {high}")
    return value


def _degrees(value: object, *, most: int) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > most:
        raise ValueError(f"{value!r:.60} degrees, expected at most {most}")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.60}, expected text")
    return plain_text(value)
