from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_collection import CAPTIONS, SmallCollection, write_small_collection
from tiny_model import COLOURS, write_tiny_model

from mmsearch.checked_json import dump_checked, load_checked
from mmsearch.errors import CollectionMismatch, CollectionNotFound, UsageError
from mmsearch.model import Model, load_model
from mmsearch.search import Query, search, search_collection
from mmsearch.snapshot import Snapshot


@pytest.fixture(scope="module")
def tiny(tiny_model_dir: Path) -> Model:
    return load_model(tiny_model_dir, threads=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, tiny: Model) -> SmallCollection:
    return write_small_collection(tmp_path_factory.mktemp("small"), tiny)


@pytest.fixture
def snapshot(small: SmallCollection) -> Iterator[Snapshot]:
    with Snapshot.open(small.directory) as opened:
        yield opened


@pytest.mark.parametrize("colour", COLOURS)
def test_a_sentence_finds_its_picture_and_a_picture_itself(
    snapshot: Snapshot, tiny: Model, small: SmallCollection, colour: str
) -> None:
    for query in (
        Query(colour),
        Query(image=small.photo(colour)),
        Query(image=Image.new("RGB", (3, 3), COLOURS[colour])),
    ):
        first = search(snapshot, tiny, query).hits[0]
        assert first.path == small.photo(colour)
        assert first.similarity == pytest.approx(1, abs=1e-5)
        assert Path(first.path).exists()


def test_all_four_directions_agree_with_brute_force(snapshot: Snapshot, tiny: Model, small: SmallCollection) -> None:
    paths = [small.photo(colour) for colour in COLOURS]
    galleries = {"images": tiny.encode_images(paths), "texts": tiny.encode_texts(CAPTIONS)}
    queries = {
        Query("a red dog", to="images"): tiny.encode_texts(["a red dog"]),
        Query("a red dog", to="texts"): tiny.encode_texts(["a red dog"]),
        Query(image=paths[3], to="images"): tiny.encode_images([paths[3]]),
        Query(image=paths[3], to="texts"): tiny.encode_images([paths[3]]),
    }
    for query, embedding in queries.items():
        expected = galleries[query.to] @ embedding[0]
        hits = search(snapshot, tiny, query).hits
        order = np.argsort(-expected, kind="stable")
        np.testing.assert_allclose([hit.similarity for hit in hits], expected[order], atol=1e-5)
        if query.to == "images":
            assert [hit.path for hit in hits] == [paths[number] for number in order]
        else:
            assert [hit.text for hit in hits] == [CAPTIONS[number] for number in order]


def test_a_hit_says_everything_about_itself(snapshot: Snapshot, tiny: Model, small: SmallCollection) -> None:
    hits = search(snapshot, tiny, Query("yellow", to="texts", k=2)).hits
    assert [hit.rank for hit in hits] == [1, 2]
    first = hits[0]
    assert (first.id, first.kind, first.part, first.locator) == (104, "text", 4, "paragraph 5")
    assert (first.path, first.text) == (str(small.photos / "captions.txt"), "yellow")
    assert first.score == first.similarity
    assert (first.ranked_by, first.match_prob, first.missing) == ("similarity", None, False)


def test_text_and_image_together_are_the_direction_between_both(
    snapshot: Snapshot, tiny: Model, small: SmallCollection
) -> None:
    both = tiny.encode_texts(["green"])[0] + tiny.encode_images([small.photo("blue")])[0]
    expected = tiny.encode_images([small.photo(colour) for colour in COLOURS]) @ (both / np.linalg.norm(both))
    hits = search(snapshot, tiny, Query("green", image=small.photo("blue"))).hits
    np.testing.assert_allclose([hit.similarity for hit in hits], np.sort(expected)[::-1], atol=1e-5)


def test_k_is_how_many_at_most(snapshot: Snapshot, tiny: Model) -> None:
    assert len(search(snapshot, tiny, Query("red", k=3)).hits) == 3
    assert len(search(snapshot, tiny, Query("red", k=10**9)).hits) == len(COLOURS)


def test_a_smallest_similarity_keeps_exactly_the_hits_above_it(snapshot: Snapshot, tiny: Model) -> None:
    every = search(snapshot, tiny, Query("red")).hits
    for upper, lower in itertools.pairwise(every):
        limit = (upper.similarity + lower.similarity) / 2
        kept = search(snapshot, tiny, Query("red", min_similarity=limit)).hits
        assert kept == every[: upper.rank]
    assert search(snapshot, tiny, Query("a dog", min_similarity=1.0)).hits == ()


def test_under_keeps_to_one_folder_however_it_is_written(
    snapshot: Snapshot, tiny: Model, small: SmallCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small.photos)
    for under in ("warm", "./warm/", small.photos / "warm", "warm/../warm"):
        hits = search(snapshot, tiny, Query("blue", under=under)).hits
        assert {hit.path for hit in hits} == {small.photo("red"), small.photo("yellow")}
    with pytest.raises(UsageError, match="photos/war: there is no such folder"):
        search(snapshot, tiny, Query("blue", under="war"))


def test_under_and_roots_may_be_reached_by_links(
    snapshot: Snapshot, tiny: Model, small: SmallCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(small.photos)
    (tmp_path / "inner").symlink_to(small.photos / "warm")
    (tmp_path / "above").symlink_to(small.photos.parent)
    warm = {small.photo("red"), small.photo("yellow")}
    for under in (tmp_path / "link/warm", tmp_path / "inner", tmp_path / "above/photos/warm"):
        assert {hit.path for hit in search(snapshot, tiny, Query("blue", under=under)).hits} == warm
    for under in (tmp_path / "link", tmp_path / "above"):
        assert len(search(snapshot, tiny, Query("blue", under=under)).hits) == len(COLOURS)
    monkeypatch.chdir(tmp_path / "link")
    assert len(search(snapshot, tiny, Query("blue", under=".")).hits) == len(COLOURS)
    assert len(search(snapshot, tiny, Query("blue", under="warm")).hits) == 2


def test_a_root_that_is_a_link_is_found_under_what_it_leads_to(tiny: Model, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    small = write_small_collection(tmp_path / "link", tiny)
    (tmp_path / "x").mkdir()
    with Snapshot.open(small.directory) as snapshot:
        for under, count in [("disk/photos/warm", 2), ("disk/photos", len(COLOURS)), ("disk", len(COLOURS)), ("x", 0)]:
            assert len(search(snapshot, tiny, Query("blue", under=tmp_path / under)).hits) == count


def test_a_folder_that_has_nothing_to_do_with_the_roots_is_pointed_out(
    snapshot: Snapshot, tiny: Model, small: SmallCollection, tmp_path: Path
) -> None:
    (note,) = search(snapshot, tiny, Query("blue", under=tmp_path)).notes
    assert str(tmp_path) in note
    assert str(small.photos) in note
    (empty := small.photos / "empty").mkdir()
    for under in (empty, small.photos, small.photos.parent, "/", None):
        assert search(snapshot, tiny, Query("blue", under=under)).notes == ()
    empty.rmdir()


def missing_colours(small: SmallCollection, tiny: Model) -> dict[str, bool]:
    result = search_collection(small.directory, Query("red"), model=tiny.manifest.directory)
    return {hit.path: hit.missing for hit in result.hits}


def test_a_vanished_file_is_hidden_while_its_root_is_healthy(tiny: Model, tmp_path: Path) -> None:
    small = write_small_collection(tmp_path, tiny, missing=("red", "blue"))
    found = missing_colours(small, tiny)
    assert len(found) == len(COLOURS) - 2
    assert not any(found.values())


@pytest.mark.promise("R5")
@pytest.mark.parametrize("trouble", ["gone", "empty", "another device"])
def test_missing_items_stay_and_are_flagged_while_their_root_is_unhealthy(
    tiny: Model, tmp_path: Path, trouble: str
) -> None:
    small = write_small_collection(tmp_path, tiny, missing=("red", "blue"), device=-1 if "device" in trouble else None)
    if trouble != "another device":
        shutil.rmtree(small.photos)
    if trouble == "empty":
        small.photos.mkdir()
    found = missing_colours(small, tiny)
    assert len(found) == len(COLOURS)
    assert {path for path, missing in found.items() if missing} == {small.photo("red"), small.photo("blue")}


def test_another_model_is_refused_naming_both_and_the_way_out(snapshot: Snapshot, tmp_path: Path) -> None:
    other = load_model(write_tiny_model(tmp_path / "other", name="other", seed=1), threads=1)
    with pytest.raises(CollectionMismatch) as caught:
        search(snapshot, other, Query("red"))
    for word in ("'tiny'", snapshot.fingerprint[:12], "'other'", other.fingerprint[:12], "--model", "--collection"):
        assert word in str(caught.value)


def test_a_newer_collection_is_refused(small: SmallCollection, tiny: Model, tmp_path: Path) -> None:
    newer = shutil.copytree(small.directory, tmp_path / "newer")
    body = load_checked((newer / "collection.json").read_bytes())
    (newer / "collection.json").write_bytes(dump_checked({**body, "format": 99}))
    with pytest.raises(CollectionMismatch, match=r"format 99.*upgrade"):
        search_collection(newer, Query("red"), model=tiny.manifest.directory)


def test_a_place_without_a_collection_is_not_found(tmp_path: Path, tiny: Model) -> None:
    with pytest.raises(CollectionNotFound, match="mmsearch index"):
        search_collection(tmp_path / "nothing", Query("red"), model=tiny.manifest.directory)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({}, "the query is empty"),
        ({"text": ""}, "the query text is ''"),
        ({"text": " \n"}, "expected words"),
        ({"text": "a", "k": 0}, "k is 0"),
        ({"text": "a", "k": True}, "k is True"),
        ({"text": "a", "k": 2.0}, r"k is 2\.0"),
        ({"text": "a", "to": "videos"}, "to is 'videos': expected 'images' or 'texts'"),
        ({"text": "a", "min_similarity": 1.01}, r"min_similarity is 1\.01"),
        ({"text": "a", "min_similarity": float("nan")}, "min_similarity is nan"),
        ({"text": "a", "min_similarity": "0.5"}, "min_similarity is '0.5'"),
        ({"text": "a", "text_weight": 1.5}, r"text_weight is 1\.5: expected the share of the text, from 0 to 1"),
        ({"text": "a", "text_weight": float("nan")}, "text_weight is nan"),
    ],
)
def test_what_cannot_be_asked_is_refused(values: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        Query(**values)  # type: ignore[arg-type]


def test_two_halves_that_cancel_out_are_refused(
    snapshot: Snapshot, tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    opposite = -tiny.encode_texts(["red"])
    monkeypatch.setattr(tiny, "encode_images", lambda images: opposite)
    with pytest.raises(UsageError, match="cancel each other out"):
        search(snapshot, tiny, Query("red", image="x.png"))


def test_the_time_is_told_by_stage(small: SmallCollection, tiny_model_dir: Path) -> None:
    timing = search_collection(small.directory, Query("red"), model=tiny_model_dir).timing_ms
    assert list(timing) == ["load", "encode", "search", "rerank", "total"]
    assert min(timing.values()) > 0
    stages = ("load", "encode", "search", "rerank")
    assert timing["total"] == pytest.approx(sum(timing[name] for name in stages), abs=0.01)


def test_a_text_query_reads_the_text_tower_only(small: SmallCollection, tiny_model_dir: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (model / "image.onnx").unlink()
    assert search_collection(small.directory, Query("red"), model=model).hits[0].path == small.photo("red")
