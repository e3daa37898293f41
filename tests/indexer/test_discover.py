"""Which files a walk reports, in which order, and what it says about the rest."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from failing_calls import failing

from mmsearch.indexer.discover import Found, Scope, Walk


def walk(directory: Path, path: bytes = b"", *, is_file: bool = False) -> tuple[list[Found], Walk]:
    walked = Walk(Scope(1, os.fsencode(directory), path, is_file=is_file))
    return list(walked.files()), walked


def paths(directory: Path, path: bytes = b"") -> list[bytes]:
    return [found.path for found in walk(directory, path)[0]]


def plant(directory: Path, *names: str | bytes) -> None:
    for name in names:
        path = Path(directory, os.fsdecode(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_files_come_before_folders_and_both_in_byte_order(tmp_path: Path) -> None:
    plant(tmp_path, "b/x.png", "b/a.jpg", "c.txt", "a/1.jpg", "a/0/9.gif", "Z.md")
    expected = [b"Z.md", b"c.txt", b"a/1.jpg", b"a/0/9.gif", b"b/a.jpg", b"b/x.png"]
    assert paths(tmp_path) == expected
    assert paths(tmp_path) == expected


def test_a_found_file_carries_its_stat_and_what_its_name_promises(tmp_path: Path) -> None:
    plant(tmp_path, "Photo.JPeG", "notes.MD")
    os.utime(tmp_path / "Photo.JPeG", ns=(5, 123_456_789))
    notes, photo = sorted(walk(tmp_path)[0], key=lambda found: found.kind, reverse=True)
    assert photo == Found(1, os.fsencode(tmp_path), b"Photo.JPeG", "image", ".jpeg", 1, 123_456_789)
    assert (notes.kind, notes.extension, notes.obstacle) == ("text", ".md", None)


def test_files_of_no_use_are_counted_and_not_reported(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg", "b.doc", "README", "sub/c.jpg.bak", ".hidden.jpg", "._a.jpg")
    found, walked = walk(tmp_path)
    assert [each.path for each in found] == [b"a.jpg"]
    assert walked.ignored == 5


@pytest.mark.parametrize(
    "name", ["@eaDir", ".Trash-1000", "#recycle", ".thumbnails", ".git", "lost+found", "$RECYCLE.BIN"]
)
def test_folders_of_other_programs_are_passed_over(tmp_path: Path, name: str) -> None:
    plant(tmp_path, f"{name}/a.jpg", f"deep/{name}/b.jpg", "kept.jpg")
    assert paths(tmp_path) == [b"kept.jpg"]


def test_a_hidden_folder_given_by_name_is_walked(tmp_path: Path) -> None:
    plant(tmp_path, ".private/a.jpg", ".private/.deeper/b.jpg")
    assert paths(tmp_path / ".private") == [b"a.jpg"]
    assert paths(tmp_path, b".private") == [b".private/a.jpg"]


def test_collections_inside_the_tree_are_passed_over(tmp_path: Path) -> None:
    plant(tmp_path, "mine/collection.json", "mine/snapshots/1.json", "mine/thumb.jpg", "mine/deep/x.jpg")
    plant(tmp_path, "begun/collection.json", "begun/items.lance/x.jpg", "begun/y.jpg")
    plant(tmp_path, "yours/collection.json", "yours/stamps.jpg")
    assert paths(tmp_path) == [b"yours/stamps.jpg"]


def test_a_scope_inside_a_root_keeps_the_paths_of_the_root(tmp_path: Path) -> None:
    plant(tmp_path, "2023/a.jpg", "2024/b.jpg", "2024/deep/c.jpg", "2024b/d.jpg")
    assert paths(tmp_path, b"2024") == [b"2024/b.jpg", b"2024/deep/c.jpg"]
    scope = Scope(1, b"/r", b"2024")
    assert [scope.covers(path) for path in (b"2024/b.jpg", b"2024b/d.jpg", b"2023/a.jpg")] == [True, False, False]


def test_a_single_file_is_reported_alone(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg", "b.jpg", "sub/c.jpg")
    found, walked = walk(tmp_path, b"a.jpg", is_file=True)
    assert [each.path for each in found] == [b"a.jpg"]
    assert (walked.ignored, walked.unread, walked.broken) == (0, {}, None)


@pytest.mark.case("F39")
def test_links_are_counted_and_never_followed(tmp_path: Path) -> None:
    plant(tmp_path, "real/a.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "real" / "self").symlink_to("self")
    (tmp_path / "other.jpg").symlink_to(tmp_path / "real" / "a.jpg")
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    found, walked = walk(tmp_path)
    assert [each.path for each in found] == [b"real/a.jpg"]
    assert (walked.ignored, walked.links) == (4, 3), "the loop, and those named like photos"


def test_what_belongs_to_other_roots_is_passed_over(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg", "b.jpg", "in/c.jpg", "in/deep/d.jpg", "inner/e.jpg", "side/in/f.jpg")
    scope = Scope(1, os.fsencode(tmp_path), b"", without=frozenset([b"in", b"b.jpg"]))
    expected = [b"a.jpg", b"inner/e.jpg", b"side/in/f.jpg"]
    assert [found.path for found in Walk(scope).files()] == expected
    assert [path for path in (b"in", b"in/c.jpg", b"b.jpg", *expected) if scope.covers(path)] == expected


def test_a_root_that_is_itself_a_link_is_walked(tmp_path: Path) -> None:
    plant(tmp_path, "real/a.jpg")
    (tmp_path / "link").symlink_to("real")
    assert paths(tmp_path / "link") == [b"a.jpg"]


@pytest.mark.case("C90")
def test_what_is_no_regular_file_is_reported_as_an_obstacle(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        found, _ = walk(tmp_path)
    assert [(each.path, each.obstacle) for each in found] == [(b"pipe.jpg", "a FIFO"), (b"socket.png", "a socket")]


def test_a_folder_named_like_a_photo_is_a_folder(tmp_path: Path) -> None:
    plant(tmp_path, "x.jpg/inner.jpg")
    assert paths(tmp_path) == [b"x.jpg/inner.jpg"]


def test_names_are_exact_bytes(tmp_path: Path) -> None:
    names = sorted(
        [b"\xff.jpg", b"new\nline.png", b"-dash.jpg", b"%_*?'.jpg", "caf\u00e9.jpg".encode(), "cafe\u0301.jpg".encode()]
    )
    plant(tmp_path, *names)
    assert paths(tmp_path) == names


@pytest.mark.case("C88")
def test_a_tree_deeper_than_a_path_may_be_long_costs_its_deepest_part_alone(tmp_path: Path) -> None:
    plant(tmp_path, "z.jpg")
    start = os.open(tmp_path, os.O_RDONLY)
    here = start
    try:
        for _ in range(20):
            os.mkdir("d" * 250, dir_fd=here)
            deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
            if here != start:
                os.close(here)
            here = deeper
        found, walked = walk(tmp_path)
        assert [each.path for each in found] == [b"z.jpg"]
        assert [error.errno for error in walked.unread.values()] == [errno.ENAMETOOLONG]
        assert walked.broken is None
    finally:
        os.close(here)
        os.close(start)
        shutil.rmtree(tmp_path / ("d" * 250))


@pytest.mark.case("F35")
def test_a_folder_that_cannot_be_listed_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "a/1.jpg", "b/2.jpg", "b/deep/3.jpg", "c/4.jpg")
    failing(monkeypatch, "scandir", b"/b", errno.EACCES)
    found, walked = walk(tmp_path)
    assert [each.path for each in found] == [b"a/1.jpg", b"c/4.jpg"]
    assert {path: error.errno for path, error in walked.unread.items()} == {b"b": errno.EACCES}
    assert walked.broken is None


@pytest.mark.case("F35")
def test_a_folder_that_cannot_be_searched_is_unread_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "a/1.jpg", "b/2.jpg", "b/3.jpg", "c/4.jpg")
    failing(monkeypatch, "lstat", b"b/2.jpg", errno.EACCES)
    failing(monkeypatch, "lstat", b"b/3.jpg", errno.EACCES)
    found, walked = walk(tmp_path)
    assert [each.path for each in found] == [b"a/1.jpg", b"c/4.jpg"]
    assert list(walked.unread) == [b"b"]


@pytest.mark.case("F37")
def test_a_file_that_vanishes_after_its_folder_was_listed_is_not_reported(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg", "b.jpg")
    walked = Walk(Scope(1, os.fsencode(tmp_path), b""))
    files = walked.files()
    assert next(files).path == b"a.jpg"
    (tmp_path / "b.jpg").unlink()
    assert list(files) == []
    assert walked.unread == {}


@pytest.mark.case("F33")
@pytest.mark.parametrize("function", ["scandir", "lstat"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_a_drive_that_goes_away_ends_the_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    plant(tmp_path, "a/1.jpg", "b/2.jpg", "c/4.jpg")
    failing(monkeypatch, function, b"/b" if function == "scandir" else b"/2.jpg", number)
    found, walked = walk(tmp_path)
    assert [each.path for each in found] == [b"a/1.jpg"]
    assert walked.broken is not None
    assert walked.broken.errno == number


@pytest.mark.case("F32")
def test_a_top_that_is_gone_is_broken_not_empty(tmp_path: Path) -> None:
    found, walked = walk(tmp_path / "nowhere")
    assert found == []
    assert isinstance(walked.broken, FileNotFoundError)


def test_names_count_what_files_would_report(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.jpg", "b/2.jpg", "b/x.doc", "c/4.txt")
    names = [path for path, _ in Walk(Scope(1, os.fsencode(tmp_path), b"")).names()]
    assert names == paths(tmp_path)


def test_a_walk_reads_no_further_than_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "a/1.jpg", "b/2.jpg")
    listed: list[bytes] = []
    real = os.scandir

    def spy(path: bytes) -> Iterator[os.DirEntry[bytes]]:
        listed.append(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", spy)
    next(Walk(Scope(1, os.fsencode(tmp_path), b"")).files())
    assert [Path(os.fsdecode(path)).name for path in listed] == [tmp_path.name, "a"]
