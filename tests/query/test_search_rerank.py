"""A search with a model that can rerank: against the same arithmetic over everything, written out."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_collection import CAPTIONS, SmallCollection, write_small_collection
from tiny_model import COLOURS

from mmsearch import search_rerank
from mmsearch.errors import ModelError, UsageError
from mmsearch.hubness import HubnessBank
from mmsearch.model import Model, load_model
from mmsearch.model_facts import Direction
from mmsearch.search import Query, search
from mmsearch.snapshot import Snapshot
from mmsearch.types import Hit


@pytest.fixture(scope="module")
def model(tiny_itm_model_dir: Path) -> Model:
    return load_model(tiny_itm_model_dir, threads=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, model: Model) -> SmallCollection:
    return write_small_collection(tmp_path_factory.mktemp("small"), model)


@pytest.fixture
def snapshot(small: SmallCollection) -> Iterator[Snapshot]:
    with Snapshot.open(small.directory) as opened:
        yield opened


def edited(source: Path, target: Path, **changes: Any) -> Model:
    """A copy of the model whose manifest says something else of its head (`itm`), or lacks `itm` or `hubness`."""
    shutil.copytree(source, target)
    manifest = json.loads((target / "manifest.json").read_text())
    for name, change in changes.items():
        if change is None:
            del manifest[name]
        else:
            manifest[name] |= change
    (target / "manifest.json").write_text(json.dumps(manifest))
    return load_model(target, threads=1)


def biases(model: Model, direction: Direction, items: np.ndarray) -> np.ndarray:
    bank = model.hubness(direction)
    assert isinstance(bank, HubnessBank)
    return bank.bias(items)


def expected_scores(model: Model, small: SmallCollection, text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines, corrected cosines and logits of `text` and every photo."""
    vectors, tokens = model.encode_images_with_tokens([small.photo(colour) for colour in COLOURS])
    states = model.encode_texts_with_states([text])
    assert tokens is not None and model.matcher is not None
    cosines = vectors @ states.embeddings[0]
    logits = model.matcher.logits(tokens, states.states, states.mask)
    return cosines, cosines - biases(model, "text_to_image", vectors), logits


def by_path(hits: tuple[Hit, ...]) -> dict[str, Hit]:
    return {hit.path: hit for hit in hits}


def test_a_sentence_is_matched_with_every_photo_of_the_block(
    snapshot: Snapshot, model: Model, small: SmallCollection
) -> None:
    cosines, corrected, logits = expected_scores(model, small, "red and blue")
    result = search(snapshot, model, Query("red and blue"))
    assert result.reranked
    found = by_path(result.hits)
    for row, colour in enumerate(COLOURS):
        hit = found[small.photo(colour)]
        assert hit.similarity == pytest.approx(cosines[row], abs=1e-5)
        assert hit.score == pytest.approx(corrected[row] + 0.1 * logits[row], abs=1e-5)
        assert hit.match_prob == pytest.approx(1 / (1 + np.exp(-logits[row])), abs=1e-5)
        assert hit.ranked_by == "itm"
    scores = [hit.score for hit in result.hits]
    assert scores == sorted(scores, reverse=True)
    assert [hit.rank for hit in result.hits] == list(range(1, len(COLOURS) + 1))


def test_beyond_the_block_the_corrected_cosine_decides_and_scores_go_on_falling(
    tiny_itm_model_dir: Path, tmp_path: Path, snapshot: Snapshot, small: SmallCollection
) -> None:
    model = edited(tiny_itm_model_dir, tmp_path / "model", itm={"candidates": 3, "weight": 0.5})
    _, corrected, logits = expected_scores(model, small, "red and blue")
    order = np.argsort(-corrected, kind="stable")
    block = sorted(order[:3], key=lambda row: -(corrected[row] + 0.5 * logits[row]))
    assert [*block] != [*order[:3]], "the head has nothing to say in this example"
    hits = search(snapshot, model, Query("red and blue")).hits
    assert [hit.path for hit in hits] == [small.photo([*COLOURS][row]) for row in (*block, *order[3:])]
    assert [hit.ranked_by for hit in hits] == ["itm"] * 3 + ["similarity"] * 5
    assert [hit.match_prob is None for hit in hits] == [False] * 3 + [True] * 5
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert scores[2] > scores[3]


def test_a_photo_is_matched_with_texts_which_are_encoded_for_it(
    snapshot: Snapshot, model: Model, small: SmallCollection
) -> None:
    vectors, tokens = model.encode_images_with_tokens([small.photo("red")])
    texts = model.encode_texts_with_states(CAPTIONS)
    assert tokens is not None and model.matcher is not None
    logits = model.matcher.logits(tokens, texts.states, texts.mask)
    corrected = texts.embeddings @ vectors[0] - biases(model, "image_to_text", texts.embeddings)
    expected = corrected + 0.1 * logits
    hits = search(snapshot, model, Query(image=small.photo("red"), to="texts")).hits
    assert [hit.text for hit in hits] == [CAPTIONS[row] for row in np.argsort(-expected)]
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1], atol=1e-5)
    assert all(hit.match_prob is not None for hit in hits)


def test_without_reranking_the_cosine_is_the_score(snapshot: Snapshot, model: Model, small: SmallCollection) -> None:
    cosines, _, _ = expected_scores(model, small, "red and blue")
    result = search(snapshot, model, Query("red and blue", rerank=False))
    assert not result.reranked
    np.testing.assert_allclose([hit.score for hit in result.hits], np.sort(cosines)[::-1], atol=1e-5)
    for hit in result.hits:
        assert (hit.score, hit.ranked_by, hit.match_prob) == (hit.similarity, "similarity", None)
    assert result.timing_ms["rerank"] < result.timing_ms["total"]


def test_searches_within_one_kind_are_not_reranked(snapshot: Snapshot, model: Model, small: SmallCollection) -> None:
    photo = small.photo("red")
    for query in (Query(image=photo), Query("red", to="texts")):
        plain = search(snapshot, model, replace(query, rerank=False))
        result = search(snapshot, model, query)
        assert (result.hits, result.reranked) == (plain.hits, False)
        with pytest.raises(UsageError, match="rerank is not possible: only a text that looks for images"):
            search(snapshot, model, replace(query, rerank=True))


def test_a_composed_query_is_matched_by_its_text_and_not_corrected_for_hubs(
    snapshot: Snapshot, model: Model, small: SmallCollection
) -> None:
    logits = expected_scores(model, small, "red and blue")[2]
    found = by_path(search(snapshot, model, Query("red and blue", image=small.photo("red"))).hits)
    for row, colour in enumerate(COLOURS):
        hit = found[small.photo(colour)]
        assert hit.score == pytest.approx(hit.similarity + 0.1 * logits[row], abs=1e-5)


def test_insisting_on_a_model_that_cannot_is_refused(
    tiny_model_dir: Path, tmp_path: Path, small: SmallCollection
) -> None:
    plain = load_model(tiny_model_dir, threads=1)
    directory = write_small_collection(tmp_path, plain).directory
    with Snapshot.open(directory) as snapshot:
        assert not search(snapshot, plain, Query("red")).reranked
        with pytest.raises(UsageError, match=r"'tiny' has no image-text matching head and no bank.*text to image"):
            search(snapshot, plain, Query("red", rerank=True))


def test_a_bank_alone_corrects_and_the_similarity_still_ranks(
    tiny_itm_model_dir: Path, tmp_path: Path, snapshot: Snapshot, small: SmallCollection, model: Model
) -> None:
    corrected = expected_scores(model, small, "red and blue")[1]
    hits = search(snapshot, edited(tiny_itm_model_dir, tmp_path / "m", itm=None), Query("red and blue")).hits
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(corrected)[::-1], atol=1e-5)
    assert {(hit.ranked_by, hit.match_prob) for hit in hits} == {("similarity", None)}


def test_a_head_alone_needs_no_bank(
    tiny_itm_model_dir: Path, tmp_path: Path, snapshot: Snapshot, small: SmallCollection, model: Model
) -> None:
    cosines, _, logits = expected_scores(model, small, "red and blue")
    hits = search(snapshot, edited(tiny_itm_model_dir, tmp_path / "m", hubness=None), Query("red and blue", k=2)).hits
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(cosines + 0.1 * logits)[::-1][:2], atol=1e-5)


def test_photos_indexed_without_tokens_are_corrected_only(
    model: Model, tiny_itm_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = model.encode_images_with_tokens
    with monkeypatch.context() as patch:
        patch.setattr(model, "encode_images_with_tokens", lambda images: (encode(images)[0], None))
        small = write_small_collection(tmp_path, model)
    corrected = expected_scores(model, small, "red")[1]
    with Snapshot.open(small.directory) as snapshot:
        hits = search(snapshot, model, Query("red")).hits
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(corrected)[::-1], atol=1e-5)
        bankless = edited(tiny_itm_model_dir, tmp_path / "bankless", hubness=None)
        plain = search(snapshot, bankless, Query("red"))
        assert (plain.reranked, plain.hits) == (False, search(snapshot, bankless, Query("red", rerank=False)).hits)
        with pytest.raises(UsageError, match="indexed without the tokens"):
            search(snapshot, model, Query("red", rerank=True))
        assert search(snapshot, model, Query(image=small.photo("red"), to="texts", rerank=True)).hits[0].match_prob


def test_a_smallest_similarity_filters_by_the_cosine_whatever_the_order(
    snapshot: Snapshot, model: Model, small: SmallCollection
) -> None:
    every = search(snapshot, model, Query("red and blue")).hits
    similarities = sorted(hit.similarity for hit in every)
    assert [hit.similarity for hit in every] != similarities[::-1], "the order is still that of the cosines"
    for limit in similarities:
        kept = search(snapshot, model, Query("red and blue", min_similarity=limit)).hits
        assert [hit.id for hit in kept] == [hit.id for hit in every if hit.similarity >= limit]
        assert [hit.rank for hit in kept] == list(range(1, len(kept) + 1))


@pytest.mark.parametrize("k", [1, 2, 5, 100])
def test_k_cuts_the_final_order(snapshot: Snapshot, model: Model, k: int) -> None:
    assert (
        search(snapshot, model, Query("red and blue", k=k)).hits
        == (search(snapshot, model, Query("red and blue", k=8)).hits[:k])
    )


def test_far_beyond_what_is_read_nothing_is_corrected_and_scores_go_on_falling(
    snapshot: Snapshot, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = search(snapshot, model, Query("red and blue", rerank=False)).hits
    monkeypatch.setattr(search_rerank, "MOST_CORRECTED", 3)
    hits = search(snapshot, model, Query("red and blue")).hits
    assert {hit.id for hit in hits[:3]} == {hit.id for hit in plain[:3]}
    assert [hit.id for hit in hits[3:]] == [hit.id for hit in plain[3:]]
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True) and scores[3] < scores[2]


def test_a_text_that_counts_nothing_is_not_asked_about(
    snapshot: Snapshot, model: Model, small: SmallCollection
) -> None:
    silent = search(snapshot, model, Query("green", image=small.photo("blue"), text_weight=0.0))
    assert (silent.hits, silent.reranked) == (search(snapshot, model, Query(image=small.photo("blue"))).hits, False)


def test_the_weight_moves_a_composed_query_from_the_photo_to_the_text(
    snapshot: Snapshot, model: Model, small: SmallCollection
) -> None:
    photo = small.photo("blue")

    def similarities(query: Query) -> list[float]:
        return [hit.similarity for hit in search(snapshot, model, query).hits]

    for weight, alone in ((0.0, Query(image=photo)), (1.0, Query("green", rerank=False))):
        composed = similarities(Query("green", image=photo, text_weight=weight, rerank=False))
        assert composed == pytest.approx(similarities(alone), abs=1e-5)
    parts = 0.2 * model.encode_texts(["green"])[0] + 0.8 * model.encode_images([photo])[0]
    expected = model.encode_images([small.photo(colour) for colour in COLOURS]) @ (parts / np.linalg.norm(parts))
    composed = similarities(Query("green", image=photo, text_weight=0.2, rerank=False))
    assert composed == pytest.approx(np.sort(expected)[::-1].tolist(), abs=1e-5)


def test_a_query_that_is_not_reranked_reads_neither_head_nor_bank(
    tiny_itm_model_dir: Path, tmp_path: Path, snapshot: Snapshot, small: SmallCollection
) -> None:
    directory = shutil.copytree(tiny_itm_model_dir, tmp_path / "model")
    for name in ("itm.onnx", "bank-texts.npy", "bank-images.npy"):
        (directory / name).unlink()
    bare = load_model(directory, threads=1)
    for query in (Query("red", rerank=False), Query(image=small.photo("red")), Query("red", to="texts")):
        assert search(snapshot, bare, query).hits


@pytest.mark.case("S28")
def test_a_forged_bank_is_refused(tiny_itm_model_dir: Path, tmp_path: Path, snapshot: Snapshot) -> None:
    directory = shutil.copytree(tiny_itm_model_dir, tmp_path / "model")
    bank = directory / "bank-texts.npy"
    data = bytearray(bank.read_bytes())
    data[-1] ^= 1
    bank.write_bytes(data)
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["files"]["bank-texts.npy"]["sha256"] != hashlib.sha256(data).hexdigest()
    with pytest.raises(ModelError, match=r"bank-texts\.npy is not the one its manifest pins"):
        search(snapshot, load_model(directory, threads=1), Query("red"))
