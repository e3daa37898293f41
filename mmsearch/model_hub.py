"""The Hugging Face hub, for `mmsearch models pull` alone: nothing else in mmsearch goes to a network.

What a repository holds is asked of the hub with sizes and hashes, and a file counts as fetched when it has them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from mmsearch import __version__
from mmsearch.errors import MissingExtra, ModelError
from mmsearch.model_hub_listing import HubFile, Repository, as_documented, read_repository
from mmsearch.safe_text import safe_path, safe_text

_PROGRESS_BARS = "huggingface_hub.http_get"
_NOT_SATISFIABLE = 416
_TRY_LATER = frozenset({408, 429, 500, 502, 503, 504})
# Each major version of huggingface_hub has had another one, and what they raise has no base in common.
_HTTP_LIBRARIES = ("requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2")

Tell = Callable[[int], None]


class RepositoryNotThere(ModelError):
    """The hub has no such repository, or not for us."""


def look_up(repository: str) -> Repository:
    """What the hub holds under `ORG/NAME` now.

    Raises:
        RepositoryNotThere: it has no such repository, or shows it only to others.
        ModelError: the hub cannot be reached, or HF_HUB_OFFLINE forbids it.
        MissingExtra: huggingface_hub is not installed.
    """
    hub, what = _hub(), f"repository '{safe_text(repository)}'"
    with _explained(what), _quiet(hub), as_documented(what):
        api = hub.HfApi(endpoint=_endpoint(hub), library_name="mmsearch", library_version=__version__)
        found = api.model_info(repository, files_metadata=True, timeout=hub.constants.HF_HUB_ETAG_TIMEOUT)
    with as_documented(what):
        return read_repository(found)


def fetch(repository: Repository, file: HubFile, *, into: Path, tell: Tell) -> None:
    """Writes `file` to `into`, going on where an earlier try ended; `tell` hears how many bytes are there.

    What came stays in `into` when the connection is lost, to be gone on with; what turns out to be another content than
    the hub states is removed.

    Raises:
        ModelError: the connection is lost, the file is not what the hub states, or it cannot be written.
    """
    hub = _hub()
    what = f"{safe_text(file.name)} of '{safe_text(repository.id)}'"
    with _explained(what, kept=into), _quiet(hub):
        if into.is_file() and into.stat().st_size > file.bytes:
            into.unlink()
        try:
            with into.open("ab") as written:
                _stream_to_the_end(hub, repository, file, _Counted(written, tell, file.bytes))
        except _MoreThanStated:
            into.unlink()
            raise ModelError(
                f"the hub sends more of {what} than the {file.bytes:,} bytes it states: what came is removed; try"
                " again, and if it happens again do not trust where it comes from"
            ) from None
        _check(file, into, what)


def _stream_to_the_end(hub: Any, repository: Repository, file: HubFile, target: _Counted) -> None:
    while (before := target.tell()) < file.bytes:
        try:
            return _stream(hub, repository, file, target)
        except Exception as error:
            # A connection that brings something and breaks is gone on with at once, for as long as it does.
            if not _is_lost_connection(error) or target.tell() <= before:
                raise


def _stream(hub: Any, repository: Repository, file: HubFile, target: _Counted) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but not in its __all__

    url = hub.hf_hub_url(repository.id, file.name, revision=repository.revision, endpoint=_endpoint(hub))
    http_get(
        url,
        cast("Any", target),
        resume_size=target.tell(),
        headers=build_hf_headers(library_name="mmsearch", library_version=__version__),
        displayed_filename=file.name,
    )


class _MoreThanStated(Exception):
    """More bytes came than the hub states. None of our errors, so that nothing takes it for the end of the work."""


class _Counted:
    """A file that says how long it is whenever it has grown, and refuses to grow beyond `limit` bytes."""

    def __init__(self, file: IO[bytes], tell: Tell, limit: int) -> None:
        self._file = file
        self._tell = tell
        self._limit = limit
        self.seek, self.tell, self.truncate = file.seek, file.tell, file.truncate

    def write(self, data: bytes) -> int:
        if self._file.tell() + len(data) > self._limit:
            raise _MoreThanStated
        count = self._file.write(data)
        self._tell(self._file.tell())
        return count


def _check(file: HubFile, path: Path, what: str) -> None:
    """Returns when `path` holds what the hub states; removes it otherwise."""
    size = path.stat().st_size
    if size < file.bytes:
        raise ModelError(f"{what} ended after {size:,} of {file.bytes:,} bytes: try again, it goes on from there")
    with path.open("rb") as opened:
        if file.sha256 is not None:
            stated, found = file.sha256, hashlib.file_digest(opened, "sha256").hexdigest()
        elif file.git_sha1 is not None:
            # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
            digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
            digest.update(opened.read())
            stated, found = file.git_sha1, digest.hexdigest()
        else:
            stated = found = ""
    if stated != found:
        path.unlink()
        raise ModelError(
            f"{what} is not what the hub states: its hash is {found[:16]}..., expected {stated[:16]}...; it was"
            " removed, try again, and if it happens again do not trust where it comes from"
        )


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.utils
    except ImportError:
        raise MissingExtra("pulling models needs huggingface_hub: pip install 'mmsearch[clip]'") from None
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise ModelError("HF_HUB_OFFLINE is set, so nothing is pulled: unset it, or import files that are here already")
    return huggingface_hub


def _endpoint(hub: Any) -> str:
    """Where the hub is; the environment's HF_ENDPOINT names another."""
    return str(hub.constants.ENDPOINT)


@contextlib.contextmanager
def _quiet(hub: Any) -> Iterator[None]:
    """Within the block the hub's library draws no bars and logs no retries: what is to be said, we say."""
    log = logging.getLogger("huggingface_hub")
    level, drawn = log.level, not hub.utils.are_progress_bars_disabled(_PROGRESS_BARS)
    with warnings.catch_warnings():
        # It warns where the environment asks for its bars.
        warnings.simplefilter("ignore")
        hub.utils.disable_progress_bars(_PROGRESS_BARS)
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)
            if drawn:
                hub.utils.enable_progress_bars(_PROGRESS_BARS)


@contextlib.contextmanager
def _explained(what: str, *, kept: Path | None = None) -> Iterator[None]:
    """What the hub's library raises in the block when hub, connection or disk fail, as one of our errors."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        if not (isinstance(error, OSError | ValueError) or _is_lost_connection(error)):
            raise
        raise _our_error(error, what, kept) from error


def _is_lost_connection(error: Exception) -> bool:
    """Whether it tells of the connection, not of an answer."""
    return type(error).__module__.split(".")[0] in _HTTP_LIBRARIES and _status(error) is None


def _status(error: Exception) -> int | None:
    """The HTTP status of the answer that an error tells of, None where there was none."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _our_error(error: Exception, what: str, kept: Path | None) -> ModelError:
    from huggingface_hub import errors

    status = _status(error)
    go_on = ""
    if kept is not None and kept.is_file() and (have := kept.stat().st_size):
        go_on = f"; {have:,} bytes of it wait in {safe_path(str(kept))}, and the next try goes on from there"
    if isinstance(error, errors.GatedRepoError):
        return RepositoryNotThere(
            f"{what} is shown only to those who accept its terms on the hub: do that there, and set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return RepositoryNotThere(f"the hub has no {what}, or does not show it to everybody")
    if isinstance(error, errors.EntryNotFoundError):
        return ModelError(f"the hub has no {what} any more: try again")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModelError(f"the disk is full while writing {what}: make room{go_on}")
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EIO):
        remedy = "make the models' directory writable for you, or set XDG_DATA_HOME to a directory that is"
        return ModelError(f"{what} cannot be written ({error.strerror}): {remedy}{go_on}")
    if status == _NOT_SATISFIABLE and kept is not None:
        kept.unlink(missing_ok=True)
        return ModelError(f"the hub has less of {what} than it states: try again, it begins anew")
    if status is not None and status not in _TRY_LATER:
        return ModelError(f"the hub answers {status} for {what}: expected the file{go_on}")
    reason = f"it answers {status}" if status is not None else type(error).__name__
    return ModelError(
        f"the hub cannot be reached for {what} ({reason}): try again when there is a connection; everything else works"
        f" without one{go_on}"
    )
