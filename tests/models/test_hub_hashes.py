"""A file that the hub states no usable hash for is not fetched: it could not be checked, and hashes name files."""

from __future__ import annotations

from typing import Any

import pytest

from mmsearch.errors import ModelError
from mmsearch.model_hub import HubFile

SHA256 = "0123456789abcdef" * 4
SHA1 = "0123456789abcdef0123" * 2


@pytest.mark.parametrize(("sha256", "git_sha1"), [(SHA256, None), (None, SHA1), (SHA256, SHA1)])
def test_a_digest_of_either_kind_will_do(sha256: str | None, git_sha1: str | None) -> None:
    assert HubFile("model.bin", 3, sha256=sha256, git_sha1=git_sha1).sha256 == sha256


@pytest.mark.parametrize(
    ("sha256", "git_sha1"),
    [
        (None, None),
        ("", ""),
        ("", SHA1),
        (SHA256[:-1], None),
        (SHA256 + "0", None),
        (SHA256 + "\n", None),
        (SHA256.upper(), None),
        ("../" + SHA256[3:], None),
        ("../../../../etc/passwd", SHA1),
        (SHA1, None),
        (None, SHA1[:-1]),
        (None, SHA256),
        (None, "g" * 40),
        (None, "/" * 40),
        (None, SHA1 + "\n"),
    ],
)
def test_anything_else_is_refused(sha256: Any, git_sha1: Any) -> None:
    with pytest.raises(ModelError, match=r"no usable hash for 'model\.bin': it cannot be checked"):
        HubFile("model.bin", 3, sha256=sha256, git_sha1=git_sha1)


def test_a_name_that_is_told_of_is_told_safely() -> None:
    with pytest.raises(ModelError) as raised:
        HubFile("\x1b[31mred", 3, sha256=None, git_sha1=None)
    assert "\x1b" not in str(raised.value)
