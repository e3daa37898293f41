"""The model of an open collection runs where and how its settings say, whoever named it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_collection import SmallCollection, write_small_collection

from mmsearch import model as models
from mmsearch.collection import Collection
from mmsearch.model import load_model
from mmsearch.settings import Settings
from mmsearch.tag_run import open_stored

SETTINGS = Settings(threads=1, device="cpu", precision="bf16")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> SmallCollection:
    return write_small_collection(tmp_path_factory.mktemp("small"), load_model(tiny_model_dir, threads=1))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What models were asked for with."""
    real, asked = models.Model, []

    def model(manifest: Any, **wish: Any) -> models.Model:
        asked.append(wish)
        return real(manifest, **wish)

    monkeypatch.setattr(models, "Model", model)
    return asked


@pytest.mark.parametrize("by_name", [True, False])
def test_threads_device_and_precision_are_those_of_the_settings(
    small: SmallCollection, tiny_model_dir: Path, loaded: list[dict[str, Any]], by_name: bool
) -> None:
    named = tiny_model_dir if by_name else None
    with Collection(small.directory, model=named, settings=replace(SETTINGS, model=str(tiny_model_dir))) as collection:
        collection.search("red")
        assert collection.model.name == "tiny"
    assert loaded == [{"threads": 1, "once": False, "device": "cpu", "precision": "bf16"}]


def test_a_collection_that_is_tagged_by_itself_heeds_them_too(
    small: SmallCollection, tiny_model_dir: Path, loaded: list[dict[str, Any]]
) -> None:
    snapshot, _ = open_stored(small.directory, None, replace(SETTINGS, model=str(tiny_model_dir)))
    snapshot.close()
    assert loaded == [{"threads": 1, "once": False, "device": "cpu", "precision": "bf16"}]
