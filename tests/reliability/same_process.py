"""Reading files without a decode process: what a worker would answer, in this process and in the order of asking."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from mmsearch.errors import UnreadableFile
from mmsearch.image_limits import DecodeLimits
from mmsearch.images import decode_image
from mmsearch.indexer import pipeline
from mmsearch.indexer.decode import DecodePool
from mmsearch.indexer.jobs import Decoded, Failed, Job
from mmsearch.indexer.reading import FileContent, ReadFailureError, read_whole
from mmsearch.passages import MAX_TEXT_BYTES, read_passages
from mmsearch.types import Preprocess, Reason

Asked = Callable[[bytes], bool]

_LIMITS = DecodeLimits.for_machine(1)


class SameProcessPool(DecodePool):
    """A decode pool of no processes. Files for which `is_locked` holds are refused as another user's would be."""

    def __init__(self, preprocess: Preprocess, is_locked: Asked) -> None:
        super().__init__(preprocess, workers=1, deadline_s=20, limits=_LIMITS)
        self._preprocess = preprocess
        self._is_locked = is_locked

    def run(self, jobs: Iterable[Job]) -> Iterator[Decoded | Failed]:
        """One result for every job."""
        return map(self._result, jobs)

    def _result(self, job: Job) -> Decoded | Failed:
        if self._is_locked(job.path):
            return Failed(job.token, Reason.PERMISSION, "it cannot be read", errno=errno.EACCES)
        try:
            content = read_whole(job.path, MAX_TEXT_BYTES)
        except ReadFailureError as failure:
            return Failed(job.token, failure.reason, failure.detail, errno=failure.errno)
        digest = hashlib.sha256(content.data).digest()
        try:
            return self._decoded(job, content, digest)
        except UnreadableFile as error:
            return Failed(job.token, error.reason, error.detail, content.size, content.mtime_ns, digest)

    def _decoded(self, job: Job, content: FileContent, digest: bytes) -> Decoded:
        facts = (job.token, digest, content.size, content.mtime_ns, content.checked_ns)
        if digest in job.known_hashes:
            return Decoded(*facts, "known")
        if job.kind == "text":
            return Decoded(*facts, "passages", passages=tuple(read_passages(content.data, job.extension)))
        image = decode_image(content.data, self._preprocess, limits=_LIMITS, extension=job.extension)
        return Decoded(*facts, "image", image=image)


def patch_the_world(patched: pytest.MonkeyPatch, is_locked: Asked, is_closed: Asked) -> None:
    """Permissions that hold for root too, for files and for directories; files are read in this process; no fsync."""
    scandir, access = os.scandir, os.access

    def limited_scandir(path: Any = ".") -> Any:
        if isinstance(path, bytes) and is_closed(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    def limited_access(path: Any, mode: int, **options: Any) -> bool:
        return access(path, mode, **options) and not is_locked(os.fsencode(path))

    patched.setattr(os, "scandir", limited_scandir)
    patched.setattr(os, "access", limited_access)
    patched.setattr(os, "fsync", lambda descriptor: None)
    patched.setattr(pipeline, "DecodePool", lambda preprocess, **_: SameProcessPool(preprocess, is_locked))
