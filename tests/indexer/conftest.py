"""A small library of photos and texts, and decode processes that stay warm between tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from photo_library import Library

from mmsearch.indexer import pipeline
from mmsearch.indexer.decode import DecodePool
from mmsearch.model import load_model


class _WarmPool(DecodePool):
    """A decode pool that outlives the runs that open and close it."""

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def warm_pool(tiny_model_dir: Path) -> Iterator[DecodePool]:
    """One pool for the tests of a module: a process takes longer to start than a small library to index."""
    pool = _WarmPool(load_model(tiny_model_dir).preprocess, workers=1, deadline_s=20)
    yield pool
    DecodePool.close(pool)


@pytest.fixture
def library(tmp_path: Path, tiny_model_dir: Path, warm_pool: DecodePool, monkeypatch: pytest.MonkeyPatch) -> Library:
    """An empty folder of photos, and a collection that does not exist yet."""
    monkeypatch.setattr(pipeline, "DecodePool", lambda *_, **__: warm_pool)
    return Library(tmp_path, tiny_model_dir, warm_pool)


@pytest.fixture
def itm_library(library: Library, tiny_itm_model_dir: Path) -> Library:
    """The same for a model with an image-text matching head."""
    library.model = load_model(tiny_itm_model_dir, threads=1)
    return library
