from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmsearch.root_health import root_trouble


def trouble(path: Path, *, device: int | None = None) -> str | None:
    return root_trouble(os.fsencode(path), path.parent.stat().st_dev if device is None else device)


def test_a_root_with_something_in_it_is_healthy(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    assert trouble(root) is None


def test_a_root_that_is_one_file_is_healthy(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    assert trouble(tmp_path / "a.jpg") is None


@pytest.mark.case("F32", "F34")
@pytest.mark.promise("R5")
def test_gone_empty_and_moved_roots_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full" / "x").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert trouble(tmp_path / "empty") == "empty"
    assert trouble(tmp_path / "nowhere") == "gone"
    assert trouble(tmp_path / "link") == "gone"
    assert trouble(tmp_path / "full", device=-1) == "another device"


def test_a_name_that_is_not_utf8_is_looked_at_as_it_is(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path) + b"/caf\xe9"
    Path(os.fsdecode(root), "x").mkdir(parents=True)
    assert root_trouble(root, tmp_path.stat().st_dev) is None
