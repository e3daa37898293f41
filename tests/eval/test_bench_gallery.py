"""Grown galleries: unit vectors as near to the real ones as those are to each other, the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from colour_pictures import write_colour_pairs

from mmsearch.eval.bench.gallery import BLOCK_ROWS, Grower, real_embeddings
from mmsearch.eval.bench.sample_collection import folder_of, write_sample_collection
from mmsearch.model import load_model
from mmsearch.search import Query, search
from mmsearch.snapshot import Snapshot


def clustered(count: int, dim: int, *, seed: int = 0) -> npt.NDArray[np.float32]:
    """Unit vectors in bunches, as photos are."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((40, dim))
    vectors = centres[random.integers(0, 40, count)] + 0.4 * random.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_grown_vectors_are_as_near_to_real_ones_as_those_to_each_other() -> None:
    grower = Grower(clustered(600, 32))
    assert abs(grower.reached() - grower.wanted) < 0.01
    fresh = Grower(clustered(600, 32), seed=9).vectors(500)
    nearest = (fresh @ clustered(600, 32).T).max(axis=1)
    assert abs(float(np.median(nearest)) - grower.wanted) < 0.02


def test_grown_vectors_are_unit_float32_and_all_different() -> None:
    vectors = Grower(clustered(200, 16)).vectors(1000)
    assert (vectors.shape, vectors.dtype) == ((1000, 16), np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert len(np.unique(vectors, axis=0)) == 1000


def test_a_larger_gallery_begins_with_the_blocks_of_a_smaller_one() -> None:
    grower = Grower(clustered(200, 8))
    large = grower.vectors(2 * BLOCK_ROWS + 5)
    assert len(large) == 2 * BLOCK_ROWS + 5
    assert np.array_equal(grower.vectors(2 * BLOCK_ROWS), large[: 2 * BLOCK_ROWS])


def test_real_embeddings_come_from_the_captions_and_photos_of_the_data(tmp_path: Path, tiny_model_dir: Path) -> None:
    write_colour_pairs(tmp_path).rename(tmp_path / "val.csv")
    real = real_embeddings(load_model(tiny_model_dir, threads=1), tmp_path)
    assert (len(real.images), len(real.queries)) == (16, len(real.sentences))
    assert real.source == f"16 photos and {len(real.sentences)} captions of {tmp_path.name}"


def test_photos_of_the_training_part_are_used_where_there_is_one(tmp_path: Path, tiny_model_dir: Path) -> None:
    table = write_colour_pairs(tmp_path)
    lines = table.read_text("utf-8").splitlines()
    (tmp_path / "train.csv").write_text("\n".join([*lines, lines[1]]) + "\n", "utf-8")  # with a doubled row
    (tmp_path / "val.csv").write_text("\n".join(lines[:5]) + "\n", "utf-8")
    real = real_embeddings(load_model(tiny_model_dir, threads=1), tmp_path)
    assert (len(real.images), len(real.queries)) == (16, 4)


def test_without_data_the_photos_of_the_demo_serve(tiny_model_dir: Path) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("foolbox")
    real = real_embeddings(load_model(tiny_model_dir, threads=1), None)
    assert len(real.images) > 1000
    assert len(set(real.sentences)) == len(real.queries) > 300


def test_sample_collection_is_searched_like_any_other(tmp_path: Path, tiny_model_dir: Path) -> None:
    model = load_model(tiny_model_dir, threads=1)
    vectors = Grower(clustered(150, model.dim)).vectors(250)
    vectors[123] = model.encode_texts(["red"])[0]
    assert write_sample_collection(tmp_path / "c", model, [vectors[:200], vectors[200:]]) == 250
    with Snapshot.open(tmp_path / "c") as snapshot:
        hit = search(snapshot, model, Query("red", k=1, rerank=False)).hits[0]
        below = search(snapshot, model, Query("red", k=300, under=folder_of(tmp_path / "c", 123), rerank=False)).hits
    assert Path(hit.path) == folder_of(tmp_path / "c", 123) / "photo-123.jpg"
    assert len(below) == 100
