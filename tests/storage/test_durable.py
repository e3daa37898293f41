"""Atomic replacement, leftovers, syncing, hard links."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from small_disk import files_of_at_most

from mmsearch import durable
from mmsearch.durable import (
    fsync_tree_new,
    is_leftover,
    make_directory,
    probe_hard_links,
    remove_leftovers,
    write_atomic,
)
from mmsearch.errors import CollectionError


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def fail(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_written_file_is_private_and_complete(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert names_in(tmp_path) == ["file"]


@pytest.mark.case("F21", "F28")
@pytest.mark.parametrize(("owner", "step"), [(os, "open"), (os, "fsync"), (Path, "rename")])
def test_failure_at_any_step_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, step: str
) -> None:
    write_atomic(tmp_path / "file", b"old")
    with monkeypatch.context() as patched:
        patched.setattr(owner, step, fail)
        with pytest.raises(OSError, match="No space left"):
            write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


@pytest.mark.case("F18")
@pytest.mark.parametrize("size", [(1 << 16) + 1, 1 << 20])
def test_file_that_the_disk_cuts_short_is_an_error(tmp_path: Path, size: int) -> None:
    write_atomic(tmp_path / "file", b"old")
    with files_of_at_most(1 << 16), pytest.raises(OSError, match="File too large"):
        write_atomic(tmp_path / "file", bytes(size))
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


@pytest.mark.case("F29")
@pytest.mark.promise("R3")
def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        steps.append("sync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        real_fsync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        steps.append("rename")
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    write_atomic(tmp_path / "file", b"content")
    assert steps == ["sync file", "rename", "sync directory"]


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(tmp_path / "file", b"content")
    (tmp_path / ".hidden").touch()
    with monkeypatch.context() as patched:
        # A killed process does not clean up after itself.
        patched.setattr(Path, "rename", fail)
        patched.setattr(Path, "unlink", fail)
        with pytest.raises(OSError, match="No space left"):
            write_atomic(tmp_path / "file", b"new")
    (leftover,) = (name for name in names_in(tmp_path) if is_leftover(name))
    assert remove_leftovers(tmp_path) == 1
    assert names_in(tmp_path) == [".hidden", "file"]
    assert leftover.startswith(".file.")


def test_directories_are_private(tmp_path: Path) -> None:
    make_directory(tmp_path / "a" / "b")
    make_directory(tmp_path / "a" / "b")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a", tmp_path / "a" / "b")] == [0o700, 0o700]


def test_sync_pushes_new_and_changed_files_and_every_directory_above_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durable, "_fsync", lambda path, flags, **_: synced.append(path))
    tree = tmp_path / "tree"
    (tree / "data").mkdir(parents=True)
    (tree / "data" / "old").write_bytes(b"1")
    (tree / "hint").write_bytes(b"1")
    already: set[tuple[str, int, int]] = set()
    assert fsync_tree_new(tree, already) == 2
    assert set(synced) == {tree / "data" / "old", tree / "hint", tree / "data", tree, tmp_path}
    assert synced.index(tree / "data" / "old") < synced.index(tree / "data") < synced.index(tree)

    synced.clear()
    (tree / "data" / "new").write_bytes(b"2")
    os.utime(tree / "hint", ns=(1, 1))
    assert fsync_tree_new(tree, already) == 2
    assert set(synced) == {tree / "data" / "new", tree / "hint", tree / "data", tree, tmp_path}

    synced.clear()
    assert fsync_tree_new(tree, already) == 0
    assert synced == [tmp_path]


def test_directory_with_hard_links_passes_and_stays_clean(tmp_path: Path) -> None:
    probe_hard_links(tmp_path)
    assert names_in(tmp_path) == []


@pytest.mark.case("F30")
def test_directory_without_hard_links_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(CollectionError, match=r"no hard links .*local disk") as caught:
        probe_hard_links(tmp_path)
    assert "\n" not in str(caught.value)
    assert names_in(tmp_path) == []
