"""The decode process: jobs come in on standard input, pixels and passages go out on standard output.

It imports Pillow and numpy and nothing heavier, writes nowhere, and ends when its parent does. Whatever a hostile file
makes of it, the parent loses one file.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import Any

from mmsearch.errors import UnreadableFile
from mmsearch.image_limits import DecodeLimits
from mmsearch.image_open import use_one_thread
from mmsearch.image_versions import require_decoders
from mmsearch.images import DecodedImage, decode_image
from mmsearch.indexer.confine import die_with_parent, ignore_terminal_signals, limit_cpu, limit_files, limit_memory
from mmsearch.indexer.frames import BrokenFrameError, Header, pack_frame, read_frame, unpack_path
from mmsearch.indexer.reading import FileContent, ReadFailureError, read_whole
from mmsearch.passages import MAX_TEXT_BYTES, Passage, read_passages
from mmsearch.types import Preprocess, Reason

Answer = tuple[Header, memoryview | bytes]


def main() -> None:
    """Serve the parent until standard input ends."""
    ignore_terminal_signals()
    answers = os.dup(1)
    os.dup2(2, 1)  # a native library that prints must not garble the answers
    try:
        config, _ = read_frame(_read_stdin)
        die_with_parent(config["parent"])
        require_decoders()
        worker = _Worker(config)
        sys.dont_write_bytecode = True
        use_one_thread()
        limit_files()
        limit_memory(worker.limits.peak_bytes)
        _send(answers, {"ready": True}, b"")
        _fall_silent()
        while True:
            job, _ = read_frame(_read_stdin)
            _send(answers, *worker.answer(job))
    except (BrokenFrameError, BrokenPipeError):
        return


def _fall_silent() -> None:
    # what kept this process from starting, the parent wants to hear; what decoders mutter about files, nobody does
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)


class _Worker:
    """Answers jobs for one model's preprocessing."""

    def __init__(self, config: Header) -> None:
        self.preprocess = Preprocess(**config["preprocess"])
        self.limits = DecodeLimits(**config["limits"])
        self._cpu_s = float(config["deadline_s"])

    def answer(self, job: Header) -> Answer:
        """Return the header and payload that tell what became of one file."""
        limit_cpu(self._cpu_s)
        is_text = job["kind"] == "text"
        try:
            content = read_whole(unpack_path(job["path"]), MAX_TEXT_BYTES if is_text else self.limits.max_bytes)
        except ReadFailureError as failure:
            facts = {"size": failure.size, "mtime_ns": failure.mtime_ns, "errno": failure.errno}
            return _failed(failure.reason, failure.detail, facts)
        except MemoryError:
            return _failed(Reason.TOO_LARGE, "the file needs more memory than it may take", {})
        facts = _facts(content)
        if facts["hash"] in job["known_hashes"]:
            return {**facts, "outcome": "known"}, b""
        try:
            if is_text:
                return _passages_answer(read_passages(content.data, job["extension"]), facts)
            image = decode_image(content.data, self.preprocess, limits=self.limits, extension=job["extension"])
            return _image_answer(image, facts)
        except UnreadableFile as error:
            return _failed(error.reason, error.detail, facts)
        except MemoryError:
            return _failed(Reason.TOO_LARGE, "it needs more memory than it may take", facts)
        except Exception as error:  # a defect of ours or of a decoder: it still costs this file only
            return _failed(Reason.CRASHED, f"{type(error).__name__}: {error}", facts)


def _facts(content: FileContent) -> Header:
    return {
        "hash": hashlib.sha256(content.data).hexdigest(),
        "size": content.size,
        "mtime_ns": content.mtime_ns,
        "checked_ns": content.checked_ns,
    }


def _failed(reason: Reason, detail: str, facts: Header) -> Answer:
    return {**facts, "outcome": "failed", "reason": reason.value, "detail": detail}, b""


def _image_answer(image: DecodedImage, facts: Header) -> Answer:
    header: dict[str, Any] = {
        "outcome": "image",
        "status": image.status,
        "width": image.width,
        "height": image.height,
        "note": image.note,
        "taken_at": image.taken_at,
        "latitude": image.latitude,
        "longitude": image.longitude,
    }
    return {**facts, **header}, image.pixels.data.cast("B")


def _passages_answer(passages: list[Passage], facts: Header) -> Answer:
    pieces = [(passage.text, passage.locator) for passage in passages]
    return {**facts, "outcome": "passages"}, json.dumps(pieces).encode("ascii")


def _read_stdin(count: int) -> bytearray:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        got = os.readv(0, [view])
        if not got:
            raise BrokenFrameError("standard input ended")
        view = view[got:]
    return data


def _send(answers: int, header: Header, payload: memoryview | bytes) -> None:
    head = pack_frame(header, len(payload))
    left = memoryview(head)
    rest = memoryview(payload)
    while left or rest:
        sent = os.writev(answers, [left, rest])
        from_head = min(sent, len(left))
        left, rest = left[from_head:], rest[sent - from_head :]
