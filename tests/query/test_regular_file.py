from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mmsearch.regular_file import open_regular


def test_a_file_is_opened_and_a_link_to_it_only_where_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for path, follow in (("file", True), ("file", False), ("link", True)):
        with open_regular(tmp_path / path, follow_links=follow) as file:
            assert file.read() == b"content"
    with pytest.raises(OSError) as caught:
        open_regular(tmp_path / "link", follow_links=False)
    assert caught.value.errno == errno.ELOOP


def test_what_is_no_regular_file_is_refused_at_once_and_left_closed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="it is not a regular file") as caught:
            open_regular(path)
        assert caught.value.errno == errno.EINVAL
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_is_not_there_or_cannot_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")
    with pytest.raises(ValueError, match="null"):
        open_regular("a\0b")
