"""Devices mounted inside of roots: remembered while they are there, so that their files are not gone with them.

Mounting takes rights that not every machine gives; here a folder only says that it is another device.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from index_reports import counts
from photo_library import Library

from mmsearch import manifest as manifests
from mmsearch.indexer import discover
from mmsearch.indexer.pipeline import IndexOptions

PRUNE = IndexOptions(prune=True)
FORCE = IndexOptions(prune=True, force=True)


@pytest.fixture
def usb(library: Library, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A drive in a folder, with two pictures, indexed; one picture lies beside it."""
    library.photo("own.png", 1)
    library.photo("usb/a.png", 2)
    library.photo("usb/deep/b.png", 3)
    drive = library.photos / "usb"
    mounted = os.fsencode(drive)
    monkeypatch.setattr(discover, "_is_mount", lambda path: path == mounted and (drive / "deep").exists())
    assert counts(library.index()) == {"indexed": 3, "items": 3}
    assert library.manifest.mounts == (mounted,)
    return drive


def unplug(drive: Path) -> None:
    shutil.move(drive, drive.parent.with_name("unplugged"))
    drive.mkdir()


def plug(drive: Path) -> None:
    drive.rmdir()
    shutil.move(drive.parent.with_name("unplugged"), drive)


@pytest.mark.case("F34")
@pytest.mark.promise("R5")
@pytest.mark.parametrize("options", [IndexOptions(), PRUNE])
def test_files_of_a_drive_that_is_not_mounted_stay(library: Library, usb: Path, options: IndexOptions) -> None:
    unplug(usb)
    for _ in range(2):
        report = library.index(options=options)
        assert counts(report) == {"unchanged": 1, "items": 3}
        (warning,) = report.warnings
        assert warning == (
            f"{usb} is empty, as if a drive were not mounted: what is known of it stays as it is (2 files);"
            " --prune --force removes it"
        )
        assert len(library.names()) == 3
    plug(usb)
    report = library.index(options=options)
    assert (counts(report), report.warnings) == ({"unchanged": 3, "items": 3}, ())


def test_by_force_they_are_removed_and_the_drive_forgotten(library: Library, usb: Path) -> None:
    unplug(usb)
    assert counts(library.index(options=FORCE)) == {"removed": 2, "unchanged": 1, "items": 1}
    assert library.manifest.mounts == ()


def test_a_folder_with_files_of_its_own_is_no_mount_any_more(library: Library, usb: Path) -> None:
    unplug(usb)
    library.photo("usb/new.png", 9)
    assert counts(library.index()) == {"indexed": 1, "missing": 2, "unchanged": 1, "items": 4}
    assert library.manifest.mounts == ()


def test_looking_elsewhere_forgets_no_drive(library: Library, usb: Path) -> None:
    before = library.manifest.mounts
    library.photo("other/x.png", 5)
    library.index(library.photos / "other")
    unplug(usb)
    library.index(library.photos / "other")
    assert library.manifest.mounts == before


def test_an_interrupted_run_remembers_the_drives_it_came_across(
    library: Library, usb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.photo("usb/deep/late.png", 12)
    manifest = library.manifest
    manifests.write(library.collection, replace(manifest, mounts=()))
    monkeypatch.setattr("mmsearch.indexer.pipeline._Run.settle_gone", _killed)
    with pytest.raises(KeyboardInterrupt):
        library.index()
    assert library.manifest.mounts == manifest.mounts


def _killed(*_: object) -> None:
    raise KeyboardInterrupt
