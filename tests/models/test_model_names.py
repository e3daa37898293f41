"""What a model can be called, what a name that leads nowhere is answered with, and whose names nobody else gets."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub
from hub_model import DIRECTORY, NAME, REPOSITORY, hub_config, tiny_files
from tiny_model import write_tiny_model

from mmsearch.errors import MissingExtra, ModelError
from mmsearch.model import load_model
from mmsearch.model_catalog import KNOWN, known_model
from mmsearch.model_import import ImportOptions, import_model
from mmsearch.model_lookup import find_model, reference
from mmsearch.model_manifest import load_model_manifest
from mmsearch.model_plan import plan_pull
from mmsearch.model_store import MARKER, Installed, changing_the_store, directory_name, install, staging

SMALL = "ViT-B-32--laion2b_s34b_b79k"


def put_tiny(name: str) -> Path:
    """A small ONNX model, installed as `name`."""
    with changing_the_store() as store, staging(store, name) as staged:
        write_tiny_model(staged / "model", name="tiny")
        for path in (staged / "model").iterdir():
            path.rename(staged / path.name)
        (staged / "model").rmdir()
        install(staged, Installed(store / name, "test", "", "MIT"))
        return store / name


def test_a_known_model_is_known_by_its_directory_too() -> None:
    assert known_model(SMALL) is known_model("small")
    assert all(directory_name(each.name) == each.directory == directory_name(each.directory) for each in KNOWN)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [(SMALL, "mmsearch models pull small"), ("someone--tiny", "if it was pulled: mmsearch models pull someone--tiny")],
)
def test_a_collection_whose_model_was_removed_is_told_the_pull(name: str, remedy: str, tmp_path: Path) -> None:
    tiny = reference(load_model(write_tiny_model(tmp_path / "tiny"), threads=1))
    with pytest.raises(ModelError, match=remedy):
        find_model(replace(tiny, name=name, location=str(tmp_path / "models" / name)))


def test_that_pull_works(hub: FakeHub, models_command: Any, store: Path) -> None:
    assert models_command("pull", DIRECTORY).code == 0
    assert json.loads((store / DIRECTORY / MARKER).read_text())["source"] == NAME
    hub.add("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", tiny_files())
    assert models_command("pull", SMALL).code == 0
    assert (store / SMALL / MARKER).is_file()


def test_a_model_of_another_place_and_name_is_found_by_its_fingerprint(tmp_path: Path) -> None:
    wanted = reference(load_model(write_tiny_model(tmp_path / "tiny"), threads=1))
    shutil.rmtree(tmp_path / "tiny")
    with pytest.raises(ModelError, match="is not found"):
        find_model(wanted)
    twin = put_tiny("twin")
    assert find_model(wanted, fallback="mini").manifest.directory == twin
    (twin / "manifest.json").write_bytes(b"{")
    with pytest.raises(ModelError, match="is not found"):
        find_model(wanted)


@pytest.mark.parametrize("name", ["small", "BASE", "Mini", SMALL, SMALL.lower(), "someone--tiny-siglip"])
def test_no_import_gets_the_name_of_a_model_that_could_be_pulled(name: str, store: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps(hub_config()))
    with pytest.raises(ValueError, match="choose a"):
        import_model(ImportOptions(source=tmp_path, name=name))
    assert not store.exists()


@pytest.mark.parametrize(
    ("typed", "meant"), [("smal", "small"), ("lage", "large"), ("bsae", "base"), ("minni", "mini"), ("Smal", "small")]
)
def test_a_mistyped_name_is_told_the_nearest_of_all_names(typed: str, meant: str, hub: FakeHub) -> None:
    for asked in (load_model_manifest, plan_pull):
        with pytest.raises(ModelError, match=rf"no model is called '{typed}'; near it: {meant}\b"):
            asked(typed)  # type: ignore[operator]
    assert hub.requests == []


def test_a_name_like_none_is_told_the_recommended_ones() -> None:
    with pytest.raises(ModelError, match="near it: small, base, large; mmsearch models list"):
        load_model_manifest("qqqqqqqq")


def test_an_installed_name_is_among_the_nearest() -> None:
    put_tiny("holiday")
    with pytest.raises(ModelError, match="near it: holiday"):
        load_model_manifest("holidya")


def test_pulling_the_bundled_model_says_that_it_is_here(hub: FakeHub, models_command: Any) -> None:
    outcome = models_command("pull", "mini")
    assert (outcome.code, hub.requests) == (0, [])
    assert "came with mmsearch: it is here already" in outcome.err
    assert models_command("pull", "mini", "--json").json["model"]["state"] == "bundled"


def test_what_would_run_the_model_is_missed_before_anything_is_fetched(
    hub: FakeHub, models_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmsearch.openclip import require_clip_extra

    there = importlib.util.find_spec
    monkeypatch.setattr("mmsearch.model_plan.require_clip_extra", require_clip_extra)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else there(name))
    with pytest.raises(MissingExtra, match=r"torch.*mmsearch\[clip\]"):
        plan_pull(f"hf-hub:{REPOSITORY}")
    assert hub.requests == []
