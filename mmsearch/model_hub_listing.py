"""What the hub says a repository holds: files with sizes and hashes, a commit, a licence. Checked, not believed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from mmsearch.errors import ModelError
from mmsearch.safe_text import safe_text

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file as the hub states it: SHA-256 of what it keeps as large files, git's blob hash (SHA-1) of the others."""

    name: str
    bytes: int
    sha256: str | None
    git_sha1: str | None

    def __post_init__(self) -> None:
        # Downloads are named by these, so anything but a digest might name a file elsewhere.
        if not _SHA256.fullmatch(self.sha256 or "") and not (
            self.sha256 is None and _SHA1.fullmatch(self.git_sha1 or "")
        ):
            raise ModelError(f"the hub states no usable hash for '{safe_text(self.name)}': it cannot be checked")


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository at one commit. `license` is the identifier its makers chose, "" where they chose none."""

    id: str
    revision: str
    license: str
    files: Mapping[str, HubFile]


def read_repository(found: Any) -> Repository:
    """What the hub's library made of its answer, which is any JSON as it came.

    Raises:
        ModelError: a file has no usable hash.
        TypeError, AttributeError: something is of another kind than the hub documents.
    """
    files = [
        HubFile(
            name=_expected(each.rfilename, str),
            bytes=_expected(each.lfs.size if each.lfs else each.size or 0, int),
            sha256=_expected(each.lfs.sha256, str) if each.lfs else None,
            git_sha1=None if each.lfs else each.blob_id and _expected(each.blob_id, str),
        )
        for each in found.siblings or []
    ]
    tags = [tag for tag in _expected(found.tags or [], list) if isinstance(tag, str)]
    licenses = [tag.removeprefix("license:") for tag in tags if tag.startswith("license:")]
    return Repository(
        id=_expected(found.id, str),
        revision=_expected(found.sha or "main", str),
        license=licenses[0] if licenses else "",
        files={each.name: each for each in files},
    )


def _expected(value: Any, kind: type[_Value]) -> _Value:
    if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 0):
        raise TypeError(f"{value!r} where {kind.__name__} is expected")
    return value


@contextlib.contextmanager
def as_documented(what: str) -> Iterator[None]:
    """What goes wrong in the block where the hub's answer is none that its documentation has, as one of our errors."""
    try:
        yield
    except (TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise ModelError(
            f"the hub's answer for {what} cannot be read ({safe_text(f'{type(error).__name__}: {error}'[:200])}): try"
            " again later, or update what reads it: pip install --upgrade huggingface_hub"
        ) from error
