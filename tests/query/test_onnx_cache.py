"""Kept graphs: the same embeddings as the model file's, and never one that somebody else could have written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from mmsearch.errors import ModelError
from mmsearch.model_manifest import load_model_manifest
from mmsearch.onnx_cache import GRAPH_FILE, MOST_KEPT, WEIGHTS_FILE, GraphCache
from mmsearch.onnx_session import OnnxSession

IDS = np.array([[2, 5, 9, 3]], np.int64)
INPUTS = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}


@pytest.fixture
def model(tiny_model_dir: Path) -> bytes:
    return load_model_manifest(tiny_model_dir).read("text.onnx")


@pytest.fixture
def cache(tmp_path: Path) -> GraphCache:
    return GraphCache(tmp_path / "mmsearch" / "graphs")


def options() -> onnxruntime.SessionOptions:
    return onnxruntime.SessionOptions()


def place(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "mmsearch" / "graphs").iterdir()
    return found


def test_kept_graph_gives_the_embeddings_of_the_model_file(model: bytes, cache: GraphCache) -> None:
    cache.keep("aa", model, options())
    kept = cache.open("aa", options())
    assert kept is not None
    original = onnxruntime.InferenceSession(model, options(), providers=["CPUExecutionProvider"])
    assert np.allclose(kept.run(["embedding"], INPUTS)[0], original.run(["embedding"], INPUTS)[0], atol=1e-6)


def test_nothing_is_found_before_it_was_kept_or_for_another_file(model: bytes, cache: GraphCache) -> None:
    assert cache.open("aa", options()) is None
    cache.keep("aa", model, options())
    assert cache.open("bb", options()) is None


@pytest.mark.case("S37")
def test_kept_files_are_for_their_owner_alone(model: bytes, cache: GraphCache, tmp_path: Path) -> None:
    cache.keep("aa", model, options())
    assert {path.name for path in place(tmp_path).iterdir()} == {GRAPH_FILE, WEIGHTS_FILE}
    assert all(path.stat().st_mode & 0o077 == 0 for path in [place(tmp_path), *place(tmp_path).iterdir()])


@pytest.mark.case("S28")
@pytest.mark.parametrize("where", [".", GRAPH_FILE, WEIGHTS_FILE, "..", "../.."])
def test_what_others_can_write_to_is_not_used(model: bytes, cache: GraphCache, tmp_path: Path, where: str) -> None:
    cache.keep("aa", model, options())
    path = Path(os.path.normpath(place(tmp_path) / where))
    path.chmod(path.stat().st_mode | 0o022)
    assert cache.open("aa", options()) is None


def test_a_directory_that_others_can_write_to_is_not_filled(model: bytes, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    GraphCache(shared).keep("aa", model, options())
    assert list(shared.iterdir()) == []


@pytest.mark.case("F26")
@pytest.mark.parametrize("damaged", [GRAPH_FILE, WEIGHTS_FILE])
def test_a_cut_file_is_removed_and_made_again(model: bytes, cache: GraphCache, tmp_path: Path, damaged: str) -> None:
    cache.keep("aa", model, options())
    os.truncate(place(tmp_path) / damaged, 10)
    assert cache.open("aa", options()) is None
    cache.keep("aa", model, options())
    assert cache.open("aa", options()) is not None


def test_an_unwritable_place_costs_nothing_but_the_cache(model: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = GraphCache(tmp_path / "file" / "graphs")
    cache.keep("aa", model, options())
    assert cache.open("aa", options()) is None


def test_old_graphs_make_room(model: bytes, cache: GraphCache, tmp_path: Path) -> None:
    for number in range(MOST_KEPT + 2):
        cache.keep(f"{number:02}", model, options())
    assert len(list((tmp_path / "mmsearch" / "graphs").iterdir())) == MOST_KEPT
    assert cache.open(f"{MOST_KEPT + 1:02}", options()) is not None
    assert cache.open("00", options()) is None


def test_a_session_for_one_query_leaves_its_graph_for_the_next_process(tiny_model_dir: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_model_dir, tmp_path / "model")
    manifest = load_model_manifest(directory)
    first = OnnxSession(manifest, "text.onnx", threads=1, once=True)
    (directory / "text.onnx").unlink()
    second = OnnxSession(manifest, "text.onnx", threads=1, once=True)
    answers = [session.run({"embedding": (1, None)}, INPUTS)[0] for session in (first, second)]
    assert np.allclose(*answers, atol=1e-6)
    with pytest.raises(ModelError):
        OnnxSession(manifest, "text.onnx", threads=1)


@pytest.mark.case("S28")
def test_a_model_file_that_is_not_the_pinned_one_is_never_kept(tiny_model_dir: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_model_dir, tmp_path / "model")
    manifest = load_model_manifest(directory)
    shutil.copy(directory / "image.onnx", directory / "text.onnx")
    for _ in range(2):
        with pytest.raises(ModelError):
            OnnxSession(manifest, "text.onnx", threads=1, once=True)
