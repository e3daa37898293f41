from __future__ import annotations

import os
import string
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub
from hub_model import DIRECTORY, NAME, WEIGHTS
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.errors import ModelError
from mmsearch.model_catalog import KNOWN, known_model, known_names
from mmsearch.model_manifest import load_model_manifest
from mmsearch.model_removal import remove
from mmsearch.model_store import (
    MARKER,
    Installed,
    changing_the_store,
    directory_name,
    find,
    install,
    installed_models,
    not_installed,
    staging,
)


def put(name: str, **files: bytes) -> Path:
    """A model called `name` in the store; its files are whatever is given."""
    with changing_the_store() as store, staging(store, name) as staged:
        for file, data in files.items():
            (staged / file).write_bytes(data)
        install(staged, Installed(store / name, "test", "", "MIT"))
        return store / name


@given(st.one_of(st.text(), st.text(string.ascii_letters + "./-_:", max_size=90)))
def test_no_name_leads_out_of_the_store(name: str) -> None:
    directory = directory_name(name)
    if directory is not None:
        assert directory not in ("", ".", "..") and not directory.startswith(".")
        assert Path(directory).name == directory and len(directory) <= 64
        # The directory's own name leads to it too.
        assert directory_name(directory) == directory


def test_long_names_stay_different() -> None:
    long = "hf-hub:" + "a" * 40 + "/" + "b" * 60
    first, second = directory_name(f"{long}1"), directory_name(f"{long}2")
    assert first != second and first is not None


def test_every_known_model_has_a_directory_and_a_size() -> None:
    assert len({directory_name(each.name) for each in KNOWN}) == len(KNOWN)
    assert [each.short for each in KNOWN if each.short] == ["small", "base", "large"]
    assert all(known_model(name) is not None for name in known_names())
    assert not any(each.non_commercial for each in KNOWN if each.short)
    sizes = [known_model(name).approximate_bytes for name in ("small", "base", "large")]  # type: ignore[union-attr]
    assert sizes == sorted(sizes)


def test_a_known_model_that_is_not_here_says_size_licence_and_command() -> None:
    said = not_installed("base")
    assert said is not None
    assert all(part in said for part in ("1.5 GB", "Apache-2.0", "mmsearch models pull base"))
    for name in ("hf-hub:someone/model", "ViT-B-32/laion400m_e32"):
        assert f"mmsearch models pull {name}" in str(not_installed(name))
    assert not_installed("photos/model") is None
    assert not_installed("nonsense") is None


@pytest.mark.parametrize("name", ["base", "ViT-B-16-SigLIP2/webli", "hf-hub:timm/ViT-B-16-SigLIP2"])
def test_opening_a_model_that_is_not_here_says_how_to_get_it(name: str) -> None:
    with pytest.raises(ModelError, match=r"1\.5 GB.*Apache-2\.0.*mmsearch models pull"):
        load_model_manifest(name)


def test_an_installed_model_is_found_and_listed() -> None:
    directory = put("mine", weights=b"x")
    assert find("mine") == directory
    assert [each.name for each in installed_models()] == ["mine"]
    assert find("other") is None


def test_a_directory_without_our_marker_is_no_model_and_is_not_removed(store: Path) -> None:
    (store / "theirs").mkdir(parents=True)
    (store / "theirs" / "photo.jpg").write_bytes(b"x")
    assert find("theirs") is None
    assert installed_models() == []
    with pytest.raises(ModelError, match="remove it yourself"):
        remove("theirs")
    assert (store / "theirs" / "photo.jpg").exists()


def test_a_link_in_the_store_is_not_followed_when_removing(store: Path, tmp_path: Path) -> None:
    target = put("mine", weights=b"x").rename(tmp_path / "elsewhere")
    (store / "mine").symlink_to(target)
    with pytest.raises(ModelError, match="remove it yourself"):
        remove("mine")
    assert (target / "weights").exists()


def test_removing_frees_what_the_model_took(store: Path) -> None:
    directory = put("mine", weights=b"x" * 5000)
    freed = sum(each.stat().st_size for each in directory.iterdir())
    assert remove("mine") == freed > 5000
    assert not directory.exists()
    with pytest.raises(ModelError, match="not installed"):
        remove("mine")


@pytest.mark.promise("R2")
def test_a_removal_that_is_killed_half_way_leaves_no_half_model(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = put("mine", weights=b"x")

    def killed(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", killed)
        remove("mine")
    assert not directory.exists()
    with changing_the_store():
        assert not list(store.glob(".new-*"))


def test_removing_takes_what_an_interrupted_pull_left(hub: FakeHub, models_command: Any, store: Path) -> None:
    hub.cut[WEIGHTS], hub.failing_ranges = 50_000, True
    assert models_command("pull", NAME).code == 1
    outcome = models_command("remove", NAME)
    assert outcome.code == 0, outcome.err
    assert not list((store / ".partial").iterdir())
    assert models_command("remove", NAME).code == 1


def test_nothing_is_put_over_a_model_that_is_there(store: Path) -> None:
    put("mine", weights=b"first")
    with pytest.raises(ModelError, match="already"):
        put("mine", weights=b"second")
    assert (store / "mine" / "weights").read_bytes() == b"first"
    assert not list(store.glob(".new-*"))


def test_two_cannot_change_the_store_at_once() -> None:
    with changing_the_store(), pytest.raises(ModelError, match="another mmsearch"), changing_the_store():
        pass


def test_what_is_installed_is_on_the_disk_before_it_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def pushed(descriptor: int) -> None:
        order.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        order.append(f"rename to {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", pushed)
    monkeypatch.setattr(Path, "rename", renamed)
    put("mine", weights=b"x")
    named = order.index("rename to mine")
    assert {"weights", MARKER} <= set(order[:named])
    assert order[named + 1 :] == ["models"]


def test_a_store_that_cannot_be_written_is_one_line(store: Path, models_command: Any) -> None:
    store.parent.mkdir(parents=True)
    store.write_bytes(b"a file where the directory should be")
    assert "cannot be written" in models_command("remove", NAME).error


def test_a_marker_that_is_rubbish_makes_no_model(store: Path, models_command: Any) -> None:
    for number, rubbish in enumerate((b"", b"[]", b"{}", b"[" * 100_000, b'{"format": 2, "source": ""}')):
        (store / f"bad{number}").mkdir(parents=True)
        (store / f"bad{number}" / MARKER).write_bytes(rubbish)
    assert installed_models() == []
    assert models_command("list").code == 0


def test_pulling_by_the_directory_name_of_what_is_here_is_no_second_pull(hub: FakeHub, models_command: Any) -> None:
    assert models_command("pull", NAME).code == 0
    assert models_command("pull", DIRECTORY).code == 0
