"""Drives that come and go: nothing of what was on them is lost, whether they are a root or lie inside of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_server import Ended, FaultServer
from kill_verdict import found_rows
from photo_scenes import photo
from small_mounts import mount, needs_mount, unmount
from straced import needs_strace, traced
from tiny_model import write_tiny_model

pytestmark = [pytest.mark.promise("R5"), needs_mount]
ON_THE_DRIVE = 5


class Drives:
    """A folder with a picture of its own and a drive mounted at `usb`, indexed."""

    def __init__(self, base: Path, server: FaultServer) -> None:
        self.photos, self.usb, self.collection = base / "photos", base / "photos/usb", base / "collection"
        self._server = server
        self._model = write_tiny_model(base / "tiny")
        photo(self.photos / "own.png", 99)
        self.plug()
        assert self.index().code == 0

    def plug(self) -> None:
        """The drive, with its pictures in two folders."""
        mount(self.usb, "1m")
        for place in range(ON_THE_DRIVE):
            photo(self.usb / f"{place % 2}/{place}.png", place)

    def index(self, *options: str, path: Path | None = None) -> Ended:
        """A run over the folder, or over `path`."""
        words = ("index", path or self.photos, "--model", self._model, "--collection", self.collection)
        return self._server.run(*words, "--json", *options)

    def found(self) -> set[str]:
        """The names of the pictures that a query finds."""
        asked = self._server.run("query", "--text", "red", "-k", "100", "--json", "--collection", self.collection)
        assert asked.code == 0, asked.err
        return {Path(hit["path"]).name for hit in asked.json["hits"]}


ALL = {"own.png", *(f"{place}.png" for place in range(ON_THE_DRIVE))}


@pytest.fixture
def drives(tmp_path: Path, server: FaultServer) -> Iterator[Drives]:
    made = Drives(tmp_path, server)
    yield made
    while made.usb.is_mount():
        unmount(made.usb)


@pytest.mark.case("F34")
@pytest.mark.parametrize("options", [(), ("--prune",)])
def test_an_empty_mount_point_inside_a_root_loses_nothing(drives: Drives, options: tuple[str, ...]) -> None:
    unmount(drives.usb)
    for _ in range(2):
        ended = drives.index(*options)
        assert (ended.code, ended.json["missing"], ended.json["removed"]) == (0, 0, 0)
        assert f"{drives.usb} is empty, as if a drive were not mounted" in ended.err
        assert "(5 files)" in ended.err
        assert drives.found() == ALL
    drives.plug()
    report = drives.index().json
    assert (report["indexed"], report["unchanged"], report["missing"]) == (0, 6, 0)


@pytest.mark.case("F34")
def test_a_mount_point_that_is_gone_loses_nothing(drives: Drives) -> None:
    unmount(drives.usb)
    drives.usb.rmdir()
    ended = drives.index("--prune")
    assert (ended.code, ended.json["missing"], ended.json["removed"]) == (0, 0, 0)
    assert drives.found() == ALL


@pytest.mark.case("F34")
def test_a_drive_that_is_gone_for_good_is_removed_when_asked_by_force(drives: Drives) -> None:
    unmount(drives.usb)
    assert drives.index("--prune", "--force").json["removed"] == ON_THE_DRIVE
    assert drives.found() == {"own.png"}
    assert drives.index().err == ""


@pytest.mark.case("F34")
def test_a_folder_of_its_own_in_place_of_a_drive_is_believed(drives: Drives) -> None:
    unmount(drives.usb)
    photo(drives.usb / "0/0.png", 0)
    report = drives.index().json
    assert (report["unchanged"], report["missing"]) == (2, ON_THE_DRIVE - 1)
    (drives.usb / "0/0.png").unlink()
    (drives.usb / "0").rmdir()
    assert drives.index().json["missing"] == ON_THE_DRIVE


@pytest.mark.case("F34")
def test_a_picture_deleted_from_a_drive_that_is_mounted_is_gone(drives: Drives) -> None:
    (drives.usb / "0/0.png").unlink()
    ended = drives.index()
    assert (ended.json["missing"], ended.err) == (1, "")
    assert drives.found() == ALL - {"0.png"}


@pytest.mark.case("F32")
@pytest.mark.parametrize("gone", ["empty", "not there"])
def test_a_root_that_was_unmounted_before_the_run_loses_nothing(drives: Drives, tmp_path: Path, gone: str) -> None:
    drives.collection = tmp_path / "of-the-drive"
    assert drives.index(path=drives.usb).code == 0
    unmount(drives.usb)
    if gone == "not there":
        drives.usb.rmdir()
    ended = drives.index(path=drives.usb)
    assert (ended.code, ended.json["missing"], ended.json["removed"]) == (0, 0, 0)
    assert len(found_rows(drives.collection)) == ON_THE_DRIVE
    assert drives.index("--prune", path=drives.usb).code == 1
    assert drives.found() == ALL - {"own.png"}


@pytest.mark.case("F33")
@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ESTALE", "ENOTCONN"])
def test_a_drive_that_fails_in_the_middle_of_a_run_loses_nothing(
    drives: Drives, server: FaultServer, error: str
) -> None:
    words = ("index", drives.photos, "--collection", drives.collection, "--json", "--prune")
    fails = ("-P", str(drives.usb / "1"), "-e", f"inject=getdents64:error={error}")
    run = traced(server, *words, calls=("getdents64",), options=fails)
    assert run.ended.code == 1
    assert "could not be read to the end" in run.ended.err
    assert drives.found() == ALL
