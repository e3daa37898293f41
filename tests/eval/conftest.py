"""A finished evaluation of the tiny model, shared by the tests that only look at one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from colour_pictures import write_colour_pairs
from finished_run import Finished

from mmsearch.eval.datasets import load_dataset
from mmsearch.eval.run import EvalOptions, embed, evaluate_embedded
from mmsearch.model import load_model


@pytest.fixture(scope="session")
def finished(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The colour pictures, measured with few resamples and no cache."""
    options = EvalOptions(use_cache=False, resamples=500, folds=2)
    model = load_model(tiny_model_dir, threads=1)
    dataset = load_dataset(write_colour_pairs(tmp_path_factory.mktemp("colours")))
    embedded = embed(dataset, model, options)
    return Finished(model, embedded, evaluate_embedded(embedded, model, options))


@pytest.fixture(scope="session")
def reranked(tiny_itm_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The colour pictures and a model with a matching head, measured with `rerank`."""
    options = EvalOptions(use_cache=False, resamples=500, folds=2, rerank=True)
    model = load_model(tiny_itm_model_dir, threads=1)
    dataset = load_dataset(write_colour_pairs(tmp_path_factory.mktemp("colours")))
    embedded = embed(dataset, model, options)
    return Finished(model, embedded, evaluate_embedded(embedded, model, options))


@pytest.fixture(autouse=True, scope="module")
def no_process_is_left_behind() -> Iterator[None]:
    """Ends the process that benches start commands from: other tests count the processes there are."""
    yield
    timing = sys.modules.get("mmsearch.eval.bench.timing")
    if timing is not None:
        timing.end_spawner()
