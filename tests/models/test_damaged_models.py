"""A model that is damaged is said to be, and can be removed and had anew: no command is a dead end."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub
from hub_model import DIRECTORY, NAME, WEIGHTS, tiny_files

from mmsearch.errors import ModelError
from mmsearch.model_manifest import load_model_manifest
from mmsearch.model_plan import plan_pull
from mmsearch.model_pull import pull
from mmsearch.model_removal import remove
from mmsearch.model_store import MARKER, find

RUBBISH = [b"", b"{", b"[]", b'{"format": 2, "source": "", "revision": "", "license": ""}', b"\xff" * 10]


@pytest.fixture
def installed(hub: FakeHub, models_command: Any, store: Path) -> Path:
    """The directory of a model that was pulled."""
    assert models_command("pull", NAME).code == 0
    hub.requests.clear()
    return store / DIRECTORY


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_a_damaged_marker_is_said_by_every_command_and_the_model_can_be_had_anew(
    rubbish: bytes, installed: Path, hub: FakeHub, models_command: Any
) -> None:
    (installed / MARKER).write_bytes(rubbish)
    assert find(NAME) is None
    with pytest.raises(ModelError, match=rf"{MARKER} is damaged.*mmsearch models remove {NAME}"):
        load_model_manifest(NAME)
    error = models_command("pull", NAME).error
    assert MARKER in error and f"mmsearch models remove {NAME}" in error
    assert hub.requests == []
    assert models_command("remove", NAME).code == 0
    assert not installed.exists()
    assert models_command("pull", NAME).code == 0
    assert find(NAME) == installed


def test_a_damaged_marker_is_listed_and_told_of(installed: Path, models_command: Any) -> None:
    (installed / MARKER).write_bytes(b"{")
    (row,) = (each for each in models_command("list", "--json").json["models"] if each["name"] == DIRECTORY)
    assert row["state"] == "damaged" and MARKER in row["trouble"]
    assert f"mmsearch models remove {NAME}" in models_command("info", NAME).out


def test_the_damaged_marker_of_a_known_model_is_listed_under_its_name(models_command: Any, store: Path) -> None:
    directory = store / "ViT-B-32--laion2b_s34b_b79k"
    directory.mkdir(parents=True)
    (directory / MARKER).write_bytes(b"{")
    (row,) = (each for each in models_command("list", "--json").json["models"] if each["short_name"] == "small")
    assert row["state"] == "damaged"
    assert models_command("remove", "small").code == 0
    assert not directory.exists()


def test_a_pull_from_a_program_says_what_stands_in_the_way(hub: FakeHub, store: Path) -> None:
    plan = plan_pull(NAME)
    (store / DIRECTORY).mkdir(parents=True)
    with pytest.raises(ModelError, match=r"in the way.*move it away"):
        pull(plan)
    (store / DIRECTORY / MARKER).write_bytes(b"{")
    with pytest.raises(ModelError, match=f"mmsearch models remove {NAME}"):
        pull(plan)


@pytest.mark.parametrize("name", ["manifest.json", WEIGHTS])
def test_pulling_a_model_with_a_damaged_file_is_no_success(
    name: str, installed: Path, hub: FakeHub, models_command: Any
) -> None:
    (installed / name).write_bytes(b"{")
    error = models_command("pull", NAME).error
    assert name in error and f"mmsearch models remove {NAME}" in error
    assert hub.requests == []
    assert models_command("remove", NAME).code == 0
    assert models_command("pull", NAME).code == 0
    assert (installed / WEIGHTS).read_bytes() == tiny_files()[WEIGHTS]


def test_a_marker_that_would_be_waited_for_is_damaged(store: Path, models_command: Any) -> None:
    (store / "mine").mkdir(parents=True)
    os.mkfifo(store / "mine" / MARKER)
    assert find("mine") is None
    assert models_command("remove", "mine").code == 0
    assert not (store / "mine").exists()


def test_a_link_for_a_marker_is_not_believed(installed: Path, store: Path, tmp_path: Path) -> None:
    (installed / MARKER).rename(tmp_path / "marker")
    (installed / MARKER).symlink_to(tmp_path / "marker")
    assert find(NAME) is None
    remove(NAME)
    assert json.loads((tmp_path / "marker").read_text())["format"] == 1


def test_what_waits_for_a_directory_that_is_not_ours_stays(store: Path) -> None:
    (store / "theirs").mkdir(parents=True)
    waits = store / ".partial" / "theirs" / "weights"
    waits.parent.mkdir(parents=True)
    waits.write_bytes(b"x")
    with pytest.raises(ModelError, match="remove it yourself"):
        remove("theirs")
    assert waits.exists()


def test_a_removed_name_is_gone_from_the_disk_before_its_files_are(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, rmtree = os.fsync, shutil.rmtree

    def pushed(descriptor: int) -> None:
        order.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def removed(path: Path, **options: Any) -> None:
        order.append("files removed")
        rmtree(path, **options)

    monkeypatch.setattr(os, "fsync", pushed)
    monkeypatch.setattr(shutil, "rmtree", removed)
    remove(NAME)
    assert order[:2] == ["models", "files removed"]


def test_files_that_cannot_be_removed_are_named_and_are_no_model(
    installed: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch, pytest.raises(ModelError, match=r"not installed any more.*\.new-.*yourself"):
        patch.setattr(shutil, "rmtree", refused)
        remove(NAME)
    assert find(NAME) is None
