"""The search bench compares like with like, and its memory column is that of a process that only searches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from colour_pictures import write_colour_pairs

from mmsearch import exact_search
from mmsearch.eval.bench import search
from mmsearch.eval.bench.index_kinds import Built
from mmsearch.eval.bench.request import BenchRequest
from mmsearch.eval.bench.serving_memory import anonymous_mib, serving_mib
from mmsearch.faiss_codes import sqfp16_codes
from mmsearch.vector_index import ExactIndex, FaissIndex, IndexInfo

Queries = npt.NDArray[np.float32]


def test_index_and_numpy_are_timed_on_the_same_queries(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_colour_pairs(tmp_path).rename(tmp_path / "val.csv")
    asked: list[tuple[str, bytes]] = []

    def of_index(queries: Queries, k: int) -> npt.NDArray[np.int64]:
        asked.append(("index", queries.tobytes()))
        return np.zeros((len(queries), k), np.int64)

    def of_numpy(vectors: exact_search.Vectors, queries: Queries, k: int) -> tuple[Queries, npt.NDArray[np.int64]]:
        asked.append(("numpy", queries.tobytes()))
        return exact_search.search_exact(vectors, queries, k)

    def built(*_: object) -> Iterator[Built]:
        yield Built("one", of_index, 0.0, 0.0)

    monkeypatch.setattr(search, "built_indexes", built)
    monkeypatch.setattr(search, "search_exact", of_numpy)
    search.run(BenchRequest(data=tmp_path, model=str(tiny_model_dir), size=50, rounds=4, work=tmp_path, threads=1))
    in_turns = asked[-10:]
    assert [name for name, _ in in_turns] == ["index", "numpy"] * 5
    rounds = [{query for _, query in in_turns[start : start + 2]} for start in range(0, 10, 2)]
    assert all(len(each) == 1 for each in rounds)
    assert len(set.union(*rounds)) == 5


def test_memory_of_serving_is_all_that_the_process_has_of_its_own(tmp_path: Path) -> None:
    if not anonymous_mib():
        pytest.skip("this system does not say how much memory a process has of its own")
    vectors = np.random.default_rng(0).standard_normal((20_000, 384)).astype(np.float16)
    file = tmp_path / "vectors.npy"
    np.save(file, vectors)
    mapped = np.load(file, mmap_mode="r")
    coded = FaissIndex(mapped, sqfp16_codes(mapped), IndexInfo("sqfp16", 3))
    plain, copied = (serving_mib(index, file, tmp_path) for index in (ExactIndex(mapped), coded))
    assert plain > 10
    # Flat codes are a copy of the vectors, 15 MiB; importing FAISS takes 6, and exact search some for its blocks.
    assert copied - plain > 8
