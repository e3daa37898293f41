"""Probabilities against brute force, and what the stored photos of a collection get."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_collection import SmallCollection, write_small_collection
from tiny_model import COLOURS, write_tiny_model

from mmsearch import tagging
from mmsearch.collection import Collection
from mmsearch.errors import CollectionMismatch, CollectionNotFound, ModelError, UsageError
from mmsearch.model import Model, load_model
from mmsearch.progress import Progress
from mmsearch.prompts import LabelEmbeddings, embed_labels
from mmsearch.settings import Settings
from mmsearch.tagging import DEFAULT_LOGIT_SCALE, Tagger, TagOptions, logit_scale
from mmsearch.types import PhotoTags

SETTINGS = Settings(threads=1, workers=1)


@pytest.fixture(scope="module")
def tiny(tiny_model_dir: Path) -> Model:
    return load_model(tiny_model_dir, threads=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, tiny: Model) -> SmallCollection:
    return write_small_collection(tmp_path_factory.mktemp("small"), tiny)


@pytest.fixture
def collection(small: SmallCollection, tiny_model_dir: Path) -> Collection:
    return Collection.open(small.directory, model=tiny_model_dir, settings=SETTINGS)


def unit(rows: int, dim: int, *, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def by_brute_force(photo: np.ndarray, labels: np.ndarray, scale: float) -> list[tuple[int, float]]:
    """Every label's number and softmax, likeliest first, in Python's own numbers."""
    cosines = [sum(float(a) * float(b) for a, b in zip(photo, label, strict=True)) for label in labels]
    total = math.fsum(math.exp(scale * cosine) for cosine in cosines)
    ranked = [(number, math.exp(scale * cosine) / total) for number, cosine in enumerate(cosines)]
    return sorted(ranked, key=lambda each: (-each[1], each[0]))


@settings(max_examples=40)
@given(
    photos=st.integers(0, 3),
    labels=st.integers(1, 40),
    k=st.integers(1, 50),
    scale=st.sampled_from([0.5, 10.0, 40.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_probabilities_are_a_softmax_over_all_labels(photos: int, labels: int, k: int, scale: float, seed: int) -> None:
    embeddings, weights = unit(photos, 8, seed=seed), unit(labels, 8, seed=seed + 1)
    names = tuple(f"label {number}" for number in range(labels))
    found = Tagger(LabelEmbeddings(names, weights), scale=scale, options=TagOptions(k)).tags(embeddings)
    assert len(found) == photos
    for photo, tags in zip(embeddings, found, strict=True):
        expected = by_brute_force(photo, weights, scale)[:k]
        assert [tag.label for tag in tags] == [names[number] for number, _ in expected]
        assert [tag.probability for tag in tags] == pytest.approx([each for _, each in expected], rel=1e-4)
        assert [tag.similarity for tag in tags] == pytest.approx([photo @ weights[n] for n, _ in expected], abs=1e-6)
        if k >= labels:
            assert sum(tag.probability for tag in tags) == pytest.approx(1)


def test_of_equal_labels_the_one_given_first_comes_first() -> None:
    weights = np.tile(np.eye(2, 8, dtype=np.float32), (100, 1))
    tagger = Tagger(LabelEmbeddings(tuple(map(str, range(200))), weights), scale=10, options=TagOptions(130))
    (tags,) = tagger.tags(weights[1:2])
    assert [tag.label for tag in tags] == [str(number) for number in (*range(1, 200, 2), *range(0, 60, 2))]


def test_a_huge_scale_overflows_nothing() -> None:
    weights = unit(3, 8, seed=0)
    (tags,) = Tagger(LabelEmbeddings(("a", "b", "c"), weights), scale=1e4, options=TagOptions()).tags(weights[:1])
    assert [tag.probability for tag in tags] == pytest.approx([1, 0, 0], abs=1e-9)


def test_many_labels_are_compared_in_pieces_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, photos = LabelEmbeddings(tuple(map(str, range(50))), unit(50, 8, seed=0)), unit(20, 8, seed=1)
    whole = Tagger(labels, scale=40, options=TagOptions(4)).tags(photos)
    monkeypatch.setattr(tagging, "_SCORES_AT_ONCE", 100)
    pieces = Tagger(labels, scale=40, options=TagOptions(4)).tags(photos)
    for one, other in zip(whole, pieces, strict=True):
        assert [tag.label for tag in one] == [tag.label for tag in other]
        assert [tag.probability for tag in one] == pytest.approx([tag.probability for tag in other], rel=1e-5)


def test_unlikely_labels_are_left_out_and_the_photo_stays() -> None:
    weights = unit(4, 8, seed=0)
    labels = LabelEmbeddings(tuple("abcd"), weights)
    every = Tagger(labels, scale=2, options=TagOptions()).tags(weights[:1])[0]
    some = Tagger(labels, scale=2, options=TagOptions(min_probability=every[1].probability)).tags(weights[:1])[0]
    assert some == every[:2]
    assert Tagger(labels, scale=2, options=TagOptions(min_probability=1)).tags(weights[:1]) == [()]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"k": 0}, "k is 0: expected a whole number, at least 1"),
        ({"k": True}, "k is True"),
        ({"min_probability": 1.5}, "min_probability is 1.5: expected a probability, from 0 to 1"),
        ({"min_probability": math.nan}, "min_probability is nan"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, int], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        TagOptions(**options)


def test_the_scale_is_the_models_own_where_it_says_one(tiny: Model, tiny_model_dir: Path, tmp_path: Path) -> None:
    assert logit_scale(tiny) == DEFAULT_LOGIT_SCALE
    directory = shutil.copytree(tiny_model_dir, tmp_path / "model")
    path = directory / "manifest.json"
    table = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**table, "logit_scale": 12.5}), "utf-8")
    scaled = load_model(directory, threads=1)
    assert logit_scale(scaled) == 12.5
    assert scaled.fingerprint == tiny.fingerprint
    for value in (0, -1, "40", True, 1e9):
        path.write_text(json.dumps({**table, "logit_scale": value}), "utf-8")
        with pytest.raises(ModelError, match=r"logit_scale is .*: expected a number from 0\.01 to 10000"):
            load_model(directory)


def test_stored_photos_get_what_brute_force_gives_them(
    collection: Collection, small: SmallCollection, tiny: Model
) -> None:
    labels, templates = ["red", "green", "white", "a blue dog"], ["{}", "a {} thing"]
    weights = embed_labels(labels, tiny, templates=templates).embeddings
    found = {each.path: each for each in collection.tag(labels, templates=templates, k=4)}
    assert set(found) == {small.photo(colour) for colour in COLOURS}
    for path, photo in found.items():
        expected = by_brute_force(tiny.encode_images([path])[0], weights, DEFAULT_LOGIT_SCALE)
        assert [tag.label for tag in photo.tags] == [labels[number] for number, _ in expected]
        assert [tag.probability for tag in photo.tags] == pytest.approx([each for _, each in expected], abs=1e-3)


def test_each_colour_is_called_by_its_name_and_no_photo_is_read(
    collection: Collection, small: SmallCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a photo is read")

    monkeypatch.setattr(Model, "encode_images", refuse)
    monkeypatch.setattr("mmsearch.tag_photos.DecodePool", refuse)
    found = list(collection.tag(COLOURS, k=1, templates=["{}"]))
    assert {each.path: each.tags[0].label for each in found} == {small.photo(colour): colour for colour in COLOURS}
    assert [each.id for each in found] == list(range(1, 9))
    assert not any(each.missing or each.skipped for each in found)


def test_under_keeps_to_one_folder(
    collection: Collection, small: SmallCollection, caplog: pytest.LogCaptureFixture
) -> None:
    warm = [Path(each.path).name for each in collection.tag(COLOURS, under=small.photos / "warm")]
    assert warm == ["red.png", "yellow.png"]
    assert not caplog.records
    assert list(collection.tag(COLOURS, under=small.directory)) == []
    assert "lies in no indexed folder" in caplog.text


@pytest.mark.parametrize(("device", "shown"), [(None, 6), (-1, 8)])
def test_missing_photos_are_shown_only_while_their_root_cannot_be_believed(
    tmp_path: Path, tiny: Model, tiny_model_dir: Path, device: int | None, shown: int
) -> None:
    small = write_small_collection(tmp_path, tiny, missing=("red", "blue"), device=device)
    with Collection.open(small.directory, model=tiny_model_dir) as collection:
        found = list(collection.tag(COLOURS))
    assert len(found) == shown
    assert sum(each.missing for each in found) == shown - 6


def test_photos_come_one_by_one_and_survive_a_collection_that_is_closed_meanwhile(collection: Collection) -> None:
    photos = collection.tag(COLOURS, k=1)
    first = next(photos)
    assert isinstance(first, PhotoTags)
    collection.close()
    assert len(list(photos)) == 7


def test_many_stored_photos_come_in_blocks(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [(each.path, each.tags[0].label) for each in collection.tag(COLOURS)]
    monkeypatch.setattr(tagging, "_PHOTOS_AT_ONCE", 3)
    assert [(each.path, each.tags[0].label) for each in collection.tag(COLOURS)] == whole


def test_progress_is_told_of_labels_and_photos(collection: Collection) -> None:
    heard: list[Progress] = []
    assert len(list(collection.tag(COLOURS, progress=heard.append))) == 8
    phases = [each.phase for each in heard]
    assert [phase for phase, _ in itertools.groupby(phases)] == ["embed", "tag"]
    assert heard[-1] == Progress("tag", 8, 8)
    assert heard[phases.index("tag")].total == 8


def test_what_cannot_be_tagged_is_refused_before_the_first_photo(
    collection: Collection, small: SmallCollection, tmp_path: Path, tiny_model_dir: Path
) -> None:
    for arguments, complaint in (
        ({"labels": []}, "there are no labels"),
        ({"labels": ["a"], "k": 0}, "k is 0"),
        ({"labels": ["a"], "templates": ["x"]}, "has no {}"),
        ({"labels": ["a"], "paths": [small.photos], "under": small.photos}, "not both"),
        ({"labels": ["a"], "paths": []}, "nothing to tag: give at least one folder or file"),
    ):
        with pytest.raises(UsageError, match=complaint):
            collection.tag(**arguments)
    with pytest.raises(CollectionNotFound, match="mmsearch index"):
        Collection.open(tmp_path / "new", model=tiny_model_dir).tag(["a"])
    other = Collection(small.directory, model=write_tiny_model(tmp_path / "other", seed=1), settings=SETTINGS)
    with pytest.raises(CollectionMismatch, match="built by the model 'tiny'"):
        other.tag(["a"])
