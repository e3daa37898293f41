"""The bench of GPU searches in its smallest form: rows of the CPU everywhere, and by name what is not measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from colour_pictures import write_colour_pairs
from PIL import Image

from mmsearch import faiss_gpu
from mmsearch.cuda_devices import cuda_devices
from mmsearch.eval.bench import gpu, gpu_kinds
from mmsearch.eval.bench.__main__ import bench
from mmsearch.eval.bench.gpu_kinds import Opened, copy_bandwidth, opened_indexes
from mmsearch.eval.bench.request import BenchRequest
from mmsearch.exact_search import search_exact
from mmsearch.vector_index import ExactIndex


@pytest.fixture(autouse=True)
def little_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_kinds, "_COPIED_BYTES", {"cpu": 1 << 20, "cuda": 1 << 24})
    copy_bandwidth.cache_clear()


def small_request(tmp_path: Path, model: Path) -> BenchRequest:
    write_colour_pairs(tmp_path).rename(tmp_path / "val.csv")
    (tmp_path / "images").mkdir()
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            picture.save(tmp_path / "images" / f"{path.stem}.jpg")
    return BenchRequest(data=tmp_path, model=str(model), size=500, rounds=1, work=tmp_path / "work", threads=1)


@pytest.mark.skipif(bool(cuda_devices()), reason="this machine has a GPU")
def test_without_a_gpu_the_rows_are_those_of_the_cpu_and_the_rest_is_named(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    result = bench("gpu")(small_request(tmp_path, tiny_model_dir))
    assert [row[:2] for row in result.rows] == [("numpy on the CPU", 1.0), ("faiss float16 on the CPU", 1.0)]
    assert all(float(row[3] or 0) > 0 for row in result.rows)
    assert "devices: no CUDA device" in result.notes
    assert any(note.startswith("torch on a GPU is not measured: torch") for note in result.notes)
    assert any(note.startswith("faiss on a GPU is not measured: the installed faiss") for note in result.notes)


def test_an_index_and_numpy_are_asked_the_same_queries_of_as_many_photos_as_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    captions = np.eye(3 * gpu.BATCH, dtype=np.float32)
    asked = gpu.sample_of(captions)
    assert asked.shape == (gpu.BATCH, captions.shape[1])
    assert asked[[0, -1]].argmax(axis=1).tolist() == [0, len(captions) - 1]
    assert gpu.sample_of(captions[:5]).argmax(axis=1).tolist() == [number % 5 for number in range(gpu.BATCH)]

    class Told(ExactIndex):
        def search(self, queries: Any, *given: Any) -> Any:
            if len(queries) == 1:
                singles.append(("index", int(queries[0].argmax())))
            return super().search(queries, *given)

    def plain(vectors: Any, queries: Any, k: int) -> Any:
        singles.append(("plain", int(queries[0].argmax())))
        return search_exact(vectors, queries, k)

    singles: list[tuple[str, int]] = []
    monkeypatch.setattr(gpu, "search_exact", plain)
    truth = search_exact(captions, asked, gpu.K)[1]
    gpu._measured(Opened("told", "cpu", Told(captions), 0.0), captions, asked, truth, rounds=3)
    by_name = {name: [number for who, number in singles if who == name] for name in ("index", "plain")}
    assert by_name["index"] == by_name["plain"] == asked[:4].argmax(axis=1).tolist()


def test_an_index_that_leaves_queries_to_the_cpu_is_named_and_the_others_are_measured(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Leaves(ExactIndex):
        def search(self, *_: object) -> Any:
            return gpu_kinds._no_substitute()

    def opened(vectors: Any, threads: int) -> Iterator[Opened]:
        yield Opened("first", "cpu", Leaves(vectors), 0.0)
        yield Opened("second", "cpu", ExactIndex(vectors), 0.0)

    monkeypatch.setattr(gpu, "opened_indexes", opened)
    result = bench("gpu")(small_request(tmp_path, tiny_model_dir))
    assert [row[0] for row in result.rows] == ["second"]
    assert "first is not measured: the index on the GPU failed, or leaves queries to the CPU" in result.notes


def test_a_kind_that_this_build_lacks_or_has_no_room_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.eye(300, 16, dtype=np.float32) + 0.01
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    monkeypatch.setattr(gpu_kinds, "gpu_count", lambda: 1)
    monkeypatch.setattr(gpu_kinds, "torch_trouble", lambda: "none here")

    def no_room() -> None:
        raise RuntimeError("out of memory\nby so much")

    monkeypatch.setattr(faiss_gpu, "faiss_module", lambda: SimpleNamespace(StandardGpuResources=no_room))
    found = list(opened_indexes(vectors, 1))
    assert [each.name for each in found if isinstance(each, Opened)] == ["numpy on the CPU", "faiss float16 on the CPU"]
    assert "faiss cagra on the GPU is not measured: out of memory" in found
