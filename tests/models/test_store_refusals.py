"""A disk that is full, read-only or forbidden: one sentence with what to do, at whatever step it shows itself."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub
from hub_model import DIRECTORY, NAME, WEIGHTS, left_behind, tiny_files

STEPS = {
    "the place of the download": "mmsearch.model_pull.partial_directory",
    "the room on the disk": "shutil.disk_usage",
    "the directory of the model": "mmsearch.model_pull.staging",
    "a copy of a small file": "shutil.copyfile",
    "the weights' second name": "mmsearch.model_pull._link",
    "the manifest": "mmsearch.model_pull.write_atomic",
    "the marker": "mmsearch.model_store.write_atomic",
    "what is fetched": "mmsearch.model_hub._Counted.write",
}
REFUSALS = {errno.ENOSPC: "make room", errno.EROFS: "XDG_DATA_HOME", errno.EACCES: "XDG_DATA_HOME"}


@pytest.mark.parametrize("code", REFUSALS, ids=errno.errorcode.get)
@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_refuses_is_one_sentence_and_leaves_no_half_model(
    step: str, code: int, hub: FakeHub, models_command: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: Any, **options: Any) -> Any:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(STEPS[step], refused)
        outcome = models_command("pull", NAME)
    assert outcome.code == 1
    assert "unexpected" not in outcome.error and REFUSALS[code] in outcome.error
    assert not (store / DIRECTORY).exists()
    assert not list(store.glob(".new-*"))
    assert models_command("pull", NAME).code == 0
    assert (store / DIRECTORY / WEIGHTS).read_bytes() == tiny_files()[WEIGHTS]
    assert left_behind(store) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user for whom permissions hold")
def test_a_store_that_may_not_be_written_is_one_sentence(hub: FakeHub, models_command: Any, store: Path) -> None:
    store.mkdir(parents=True, mode=0o500)
    assert "XDG_DATA_HOME" in models_command("pull", NAME).error


def test_a_store_that_is_no_directory_is_said_to_be_none(models_command: Any, store: Path) -> None:
    store.parent.mkdir(parents=True)
    store.write_bytes(b"")
    assert models_command("list").code == 0
    assert "cannot be written" in models_command("remove", NAME).error


def test_a_store_that_cannot_be_read_is_said(models_command: Any, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "listdir", refused)
    assert f"{store} cannot be read: Permission denied" in models_command("list").error


def test_a_source_that_cannot_be_read_is_named_and_not_the_store(
    models_command: Any, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("safetensors.torch")
    (tmp_path / "open_clip_config.json").write_text("{}")
    lay_out = shutil.copyfile

    def refused(options: Any, staged: Path) -> None:
        lay_out(tmp_path / "gone", staged / "x")

    monkeypatch.setattr("mmsearch.model_import.require_clip_extra", lambda: None)
    monkeypatch.setattr("mmsearch.model_import._lay_out", refused)
    error = models_command("import", tmp_path, "--name", "mine").error
    assert error.startswith(f"{tmp_path / 'gone'} cannot be read")
    assert not list(store.glob(".new-*"))
