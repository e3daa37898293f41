"""A collection on a disk that is read-only answers and can be checked; a FAISS index that is damaged is made anew."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from running import in_process
from storage_builders import MODEL, ROOT, item, unit_vectors, vector_of
from stored_collection import Stored, build, damage, flip

from mmsearch import manifest as manifests
from mmsearch import segment_writer
from mmsearch.indexer.check import check
from mmsearch.indexer.publish import Publisher
from mmsearch.indexer.repair import repair
from mmsearch.manifest import CollectionManifest
from mmsearch.model import load_model
from mmsearch.snapshot import Snapshot
from mmsearch.store import Store


@pytest.fixture
def read_only(tmp_path: Path, tiny_model_dir: Path) -> Iterator[Stored]:
    """A collection on a file system of its own, which is mounted read-only."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root and mount, to make a file system read-only")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=False, capture_output=True).returncode:
        pytest.skip("mount does not work here, and a file system has to be made read-only")
    try:
        stored = build(disk, load_model(tiny_model_dir, threads=1))
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        yield stored
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.case("F22")
@pytest.mark.promise("R6")
def test_on_a_read_only_disk_queries_answer_and_indexing_says_why_not(read_only: Stored, tiny_model_dir: Path) -> None:
    place = ("--collection", read_only.directory)
    query = in_process("query", "red", "--json", *place)
    assert (query.code, query.err) == (0, "")
    assert len(query.json["hits"]) == 10
    assert in_process("check", "--read-data", *place).code == 0
    for command in (("index", read_only.photos), ("repair",), ("optimize",)):
        outcome = in_process(*command, *place)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, b"", 1), outcome
        assert "Read-only file system" in outcome.err


@pytest.mark.case("F26")
@pytest.mark.parametrize("how", ["empty", "cut", "zeros", "gone", "one bit"])
def test_a_damaged_index_is_named_made_anew_and_answers_stay_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("mmsearch.vector_index.EXACT_MAX_ROWS", 100)
    monkeypatch.setattr("mmsearch.vector_index.SQFP16_MAX_ROWS", 100)
    monkeypatch.setattr(segment_writer, "FLOAT32_MAX_ROWS", 100)
    query = unit_vectors(1, seed=5)
    manifests.create(tmp_path)
    manifests.write(tmp_path, CollectionManifest((ROOT,), MODEL, 3000))
    with Store.open(tmp_path, MODEL) as store:
        ids = range(1, 2001)
        store.put([item(id) for id in ids], {id: vector_of(id) for id in ids})
        Publisher(tmp_path, store, MODEL, every_s=1e9).publish(manifests.read(tmp_path))
    (path,) = tmp_path.rglob("index.faiss")
    with Snapshot.open(tmp_path) as snapshot:
        before = snapshot.search(query, 10, kind="image")
    assert check(tmp_path, read_data=True).ok
    if how == "one bit":
        flip(path, path.stat().st_size // 3, 2)
    else:
        damage(path, how)
    (damaged,) = check(tmp_path, read_data=True).damaged
    assert damaged.path == str(path)
    assert "queries take longer" in damaged.remedy
    with Snapshot.open(tmp_path) as snapshot:
        assert snapshot.search(query, 10, kind="image") == before
    repair(tmp_path)
    assert check(tmp_path, read_data=True).ok
    with Snapshot.open(tmp_path) as snapshot:
        near = snapshot.search(query, 10, kind="image")[0]
        assert [each.id for each in near] == [each.id for each in before[0]]
        assert [segment.info.index.kind for segment in snapshot.segments] == ["ivfpq"]
        np.testing.assert_allclose([each.similarity for each in near], [each.similarity for each in before[0]])
