"""Reranked numbers: those of a plain loop, those of the product's search, and never flattered by a tie."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from colour_pictures import write_colour_pairs
from finished_run import Finished
from naive import metrics as naive_metrics

from mmsearch.eval import embeddings as embeddings_module
from mmsearch.eval import reranking
from mmsearch.eval.compare import compare_runs
from mmsearch.eval.datasets import load_dataset
from mmsearch.eval.embeddings import Embedded
from mmsearch.eval.metrics import recall_at_k
from mmsearch.eval.ranks import rank_embeddings
from mmsearch.eval.record import CONTRACT_METRICS
from mmsearch.eval.reranking import SecondLook, look_again
from mmsearch.eval.run import EvalOptions, embed, evaluate, evaluate_embedded
from mmsearch.eval.run_file import load_run, save_run, saved
from mmsearch.eval.sides import fold_sides, rank_side, whole_sides
from mmsearch.manifest import CollectionManifest, ModelRef, Root
from mmsearch.manifest import write as write_collection_manifest
from mmsearch.model import Model, load_model
from mmsearch.progress import Progress
from mmsearch.search import Query, search
from mmsearch.segment import SegmentRow
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_manifest import SnapshotHead
from mmsearch.snapshot_writer import Block, SnapshotWriter

CANDIDATES = 5
WEIGHT = 0.05
QUICK = EvalOptions(use_cache=False, resamples=50, rerank=True)


@pytest.fixture(scope="module")
def model(tiny_itm_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The model with a block much smaller than the set."""
    directory = tmp_path_factory.mktemp("models") / "few"
    shutil.copytree(tiny_itm_model_dir, directory)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["itm"] |= {"candidates": CANDIDATES, "weight": WEIGHT}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return load_model(directory, threads=1)


@pytest.fixture(scope="module")
def embedded(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    return embed(load_dataset(write_colour_pairs(tmp_path_factory.mktemp("set"), mixed=20)), model, QUICK)


def naive_scores(embedded: Embedded, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Final scores (C, I) and (I, C), pair by pair and query by query."""
    assert model.matcher is not None and embedded.tokens is not None
    texts = [model.encode_texts_with_states([caption]) for caption in embedded.dataset.captions]
    logits = np.array([model.matcher.logits(embedded.tokens, text.states, text.mask) for text in texts])
    found = []
    for direction, queries, gallery, said in (
        ("text_to_image", embedded.captions, embedded.images, logits),
        ("image_to_text", embedded.images, embedded.captions, logits.T),
    ):
        bank = model.hubness(direction)  # type: ignore[arg-type]
        assert bank is not None
        # Both ways round, as there: mixtures of two colours nearly tie, and rounding decides.
        corrected = (queries @ gallery.T).astype(np.float64) - bank.bias(gallery)
        final = np.empty_like(corrected)
        for query, row in enumerate(corrected):
            order = np.argsort(-row, kind="stable")
            block, rest = order[:CANDIDATES], order[CANDIDATES:]
            final[query, block] = row[block] + WEIGHT * said[query, block]
            final[query, rest] = final[query, block].min() - 1 + row[rest]
        found.append(final)
    return found[0], found[1]


def test_numbers_are_those_of_a_plain_loop_in_both_directions(embedded: Embedded, model: Model) -> None:
    run = evaluate_embedded(embedded, model, QUICK)
    of_captions: list[set[int]] = [set() for _ in embedded.captions]
    of_images: list[set[int]] = [set() for _ in embedded.images]
    for image, caption in embedded.dataset.pairs.tolist():
        of_captions[caption].add(image)
        of_images[image].add(caption)
    texts, images = naive_scores(embedded, model)
    for side, scores, positives in (
        (run.text_to_image, texts, of_captions),
        (run.image_to_text, images, of_images),
    ):
        for k in (1, 5, 10):
            expected = naive_metrics(scores.tolist(), positives, k)
            assert side.metrics[f"recall@{k}"] == pytest.approx(expected["recall_at_k"])
            assert side.metrics[f"ndcg@{k}"] == pytest.approx(expected["ndcg_at_k"])
            assert side.metrics["mrr"] == pytest.approx(expected["mrr"])
            assert side.metrics["mean_rank"] == pytest.approx(expected["mean_rank"])
    assert run.text_to_image.metrics != evaluate_embedded(embedded, model, EvalOptions(resamples=50)).text_to_image


def published(embedded: Embedded, model: Model, base: Path) -> Path:
    """A collection with the images and the captions of a set; ids are rows, captions from 1,000 on."""
    directory = base / "collection"
    directory.mkdir(parents=True)
    device = embedded.dataset.root.stat().st_dev
    root = Root(1, os.fsencode(embedded.dataset.root), device)
    head = SnapshotHead(model.fingerprint, model.name, model.dim, (root,))
    common = {"root_id": 1, "status": "ok", "missing": False}
    photos = [
        SegmentRow(id=row + 1, revision=row + 1, kind="image", path=name.encode(), part=0, **common)  # type: ignore[arg-type]
        for row, name in enumerate(embedded.dataset.image_ids)
    ]
    texts = [
        SegmentRow(id=1000 + row, revision=1000 + row, kind="text", path=b"x.txt", part=row, text=text, **common)  # type: ignore[arg-type]
        for row, text in enumerate(embedded.dataset.captions)
    ]
    manifest = CollectionManifest(
        roots=(root,), model=ModelRef(model.name, model.fingerprint, model.dim), next_id=10_000
    )
    write_collection_manifest(directory, manifest)
    blocks = [Block(photos, embedded.images, embedded.tokens), Block(texts, embedded.captions)]
    SnapshotWriter(directory).publish(head, previous=None, added=blocks)
    return directory


def test_the_product_gives_the_scores_that_are_evaluated(embedded: Embedded, model: Model, tmp_path: Path) -> None:
    texts, images = whole_sides(embedded)
    looks = look_again(embedded, [texts, images], model)
    with Snapshot.open(published(embedded, model, tmp_path)) as snapshot:
        for side, look, asked in (
            (texts, looks[0], [Query(caption, k=100) for caption in embedded.dataset.captions[::7]]),
            (
                images,
                looks[1],
                [
                    Query(image=embedded.dataset.image_path(row), to="texts", k=100)
                    for row in range(0, len(embedded.images), 7)
                ],
            ),
        ):
            queries, gallery = side.embeddings(embedded)
            for place, query in enumerate(asked):
                expected = look.scores(queries[7 * place][np.newaxis] @ gallery.T, 7 * place)[0]
                hits = search(snapshot, model, query).hits
                rows = [hit.id - (1 if hit.kind == "image" else 1000) for hit in hits]
                assert sorted(rows) == list(range(len(gallery)))
                np.testing.assert_allclose([hit.score for hit in hits], expected[rows], atol=2e-5)


def test_ranks_outside_the_block_are_those_of_the_corrected_cosine(embedded: Embedded, model: Model) -> None:
    for side, look in zip(whole_sides(embedded), look_again(embedded, whole_sides(embedded), model), strict=True):
        ranks = rank_side(embedded, side, look)
        queries, gallery = side.embeddings(embedded)
        corrected = rank_embeddings(
            queries, gallery, side.relevance, adjust=lambda cosines, _, biases=look.biases: cosines - biases
        )
        beyond = corrected.best > CANDIDATES
        assert beyond.any()
        np.testing.assert_array_equal(ranks.best[beyond], corrected.best[beyond])
        assert (ranks.best[~beyond] <= CANDIDATES).all()


def test_a_constant_head_changes_no_hit_and_ties_count_against_the_model() -> None:
    look = SecondLook(None, np.array([[0, 1]]), np.zeros((1, 2), np.float32), 1.0)
    scores = look.scores(np.float32([[0.5, 0.5, 0.5, 0.25]]), 0)
    assert scores[0, 0] == scores[0, 1] > scores[0, 2] > scores[0, 3]


class NoisyBank:
    """Gives every item another bias, equal ones too, as rounding may."""

    def bias(self, items: np.ndarray) -> np.ndarray:
        return 0.001 * np.random.default_rng(1).random(len(items), dtype=np.float32)


def test_copies_still_tie_after_reranking_whatever_rounding_does(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_colour_pairs(tmp_path)
    with table.open("a") as rows:
        for number in range(7):
            shutil.copy(tmp_path / "red.png", tmp_path / f"x{number}.png")
            rows.write(f"x{number}.png,red {number}\nx{number}.png,blue\n")
    embedded = embed(load_dataset(table), model, QUICK)
    assert model.matcher is not None
    noise = np.random.default_rng(2)
    monkeypatch.setattr(model.matcher, "logits", lambda tokens, *_: noise.random(len(tokens), dtype=np.float32))
    monkeypatch.setattr(model, "hubness", lambda _: NoisyBank())
    names, captions = list(embedded.dataset.image_ids), list(embedded.dataset.captions)
    texts, images = look_again(embedded, whole_sides(embedded), model)

    copies = [row for row, name in enumerate(names) if name.startswith("x") or name == "red.png"]
    asked, right = captions.index("red"), names.index("red.png")
    inside = np.intersect1d(texts.blocks[asked], copies)
    scores = texts.scores(embedded.captions @ embedded.images.T, 0)[asked]
    assert len(inside) == CANDIDATES
    assert len(set(scores[inside].tolist())) == 1
    assert right not in inside, "in a tie at the edge of the block the wrong ones come first"
    assert rank_side(embedded, whole_sides(embedded)[0], texts).best[asked] == len(copies)

    equal = [row for row, caption in enumerate(captions) if caption == "blue"]
    looked_at = np.intersect1d(images.blocks[names.index("blue.png")], equal)
    scores = images.scores(embedded.images @ embedded.captions.T, 0)[names.index("blue.png")]
    assert len(looked_at) > 1
    assert len(set(scores[looked_at].tolist())) == 1


def test_json_has_both_the_system_and_the_embeddings_alone(reranked: Finished) -> None:
    value = json.loads(json.dumps(reranked.run.to_json(), allow_nan=False))
    plain = evaluate_embedded(reranked.embedded, reranked.model, EvalOptions(resamples=50)).to_json()
    assert (value["rerank"], plain["rerank"]) == (True, False)
    assert value["embedding_only"] == plain["embedding_only"]
    for direction in ("text_to_image", "image_to_text"):
        assert set(value["embedding_only"][direction]) == set(CONTRACT_METRICS)
        assert {name: plain[direction][name] for name in CONTRACT_METRICS} == plain["embedding_only"][direction]
    assert value["mean_recall"] != value["embedding_only"]["mean_recall"]
    assert value["system"]["score"] == (
        "cosine - 0.5 x mean of the 4 nearest of a bank (text to image) - 0.5 x mean of the 4 nearest of a bank"
        " (image to text) + 0.1 x matching logit of the best 20"
    )
    assert set(value["system"]["rerank_files"]) == {"itm.onnx", "bank-texts.npy", "bank-images.npy"}
    assert value["timing"]["rerank_seconds"] > 0
    assert value["ann"]["recall@10"]["exact"] == value["embedding_only"]["text_to_image"]["recall@10"]


def test_folds_are_reranked_in_their_own_galleries(embedded: Embedded, model: Model) -> None:
    sides = fold_sides(embedded, 2)
    alone = [look_again(embedded, [side], model)[0] for side in sides]
    together = look_again(embedded, [*whole_sides(embedded), *sides], model)[2:]
    assert model.matcher is not None and embedded.tokens is not None
    for side, one, other in zip(sides, alone, together, strict=True):
        np.testing.assert_array_equal(one.blocks, other.blocks)
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)
        asking, among = side.queries[3], side.gallery[one.blocks[3]]
        captions, images = ([asking], among) if side.direction == "text_to_image" else (among, [asking])
        text = model.encode_texts_with_states([embedded.dataset.captions[row] for row in captions])
        expected = model.matcher.logits(embedded.tokens[images], text.states, text.mask)
        np.testing.assert_allclose(one.logits[3], expected, atol=1e-4)
    folds = evaluate_embedded(embedded, model, replace(QUICK, folds=2)).folds
    assert folds is not None
    expected = np.mean([recall_at_k(rank_side(embedded, sides[n], alone[n]), 1) for n in (0, 2)])
    assert folds.text_to_image["recall@1"] == pytest.approx(expected)


def test_a_saved_run_is_the_reranked_one_and_compares_with_a_plain_one(tmp_path: Path, reranked: Finished) -> None:
    save_run(reranked.run, tmp_path / "run.json")
    found = load_run(tmp_path / "run.json")
    assert found.system == saved(reranked.run).system
    assert found.ranks.text_to_image.ranks.positions.tolist() == (
        reranked.run.ranks.text_to_image.ranks.positions.tolist()
    )
    plain = evaluate_embedded(reranked.embedded, reranked.model, EvalOptions(resamples=50))
    comparison = compare_runs(saved(plain), found, resamples=50)
    assert comparison.after == f"{comparison.before}, reranked"
    assert comparison.mean_recall is not None
    assert comparison.mean_recall.before == pytest.approx(plain.mean_recall)
    assert comparison.mean_recall.after == pytest.approx(reranked.run.mean_recall)


def test_a_pair_is_matched_once_and_a_caption_encoded_once(
    embedded: Embedded, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    matched = 0
    encode, scorer = model.encode_texts_with_states, model.matcher
    assert scorer is not None
    logits = scorer.logits

    def counting_encode(texts: list[str]) -> object:
        encoded.extend(texts)
        return encode(texts)

    def counting_logits(tokens: np.ndarray, states: np.ndarray, mask: np.ndarray) -> np.ndarray:
        nonlocal matched
        assert len(tokens) <= reranking.PAIRS_AT_ONCE
        matched += len(tokens)
        return logits(tokens, states, mask)

    monkeypatch.setattr(model, "encode_texts_with_states", counting_encode)
    monkeypatch.setattr(scorer, "logits", counting_logits)
    sides = whole_sides(embedded)
    seen: list[Progress] = []
    texts, images = look_again(embedded, sides, model, progress=seen.append)
    assert sorted(encoded) == sorted(set(embedded.dataset.captions))
    pairs = {(caption, image) for caption, block in enumerate(texts.blocks.tolist()) for image in block}
    pairs |= {(caption, image) for image, block in enumerate(images.blocks.tolist()) for caption in block}
    assert matched == len(pairs)
    assert seen[-1] == Progress("rerank", len(pairs), len(pairs))
    assert [event.done for event in seen] == sorted(event.done for event in seen)


def test_tokens_are_cached_beside_the_embeddings(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset(write_colour_pairs(tmp_path))
    options = EvalOptions(resamples=50)
    plain = embed(dataset, model, options)
    assert plain.tokens is None
    first = embed(dataset, model, replace(options, rerank=True))
    assert (first.image_timing.encoded, first.image_timing.cached) == (16, 0)
    monkeypatch.setattr(embeddings_module, "decode_image", lambda *_, **__: pytest.fail("decoded again"))
    again = embed(dataset, model, replace(options, rerank=True))
    assert (again.image_timing.encoded, again.image_timing.cached) == (0, 16)
    assert first.tokens is not None and again.tokens is not None
    assert again.tokens.dtype == np.int8
    np.testing.assert_array_equal(first.tokens, again.tokens)
    np.testing.assert_array_equal(plain.images, again.images)
    assert model.manifest.itm is not None
    expected = model.encode_images_with_tokens([dataset.image_path(3)])[1]
    assert expected is not None
    np.testing.assert_array_equal(again.tokens[3], expected[0])


def test_a_model_with_a_bank_for_one_direction_reranks_that_one(tiny_itm_model_dir: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_itm_model_dir, tmp_path / "model")
    manifest = json.loads((directory / "manifest.json").read_text())
    del manifest["itm"], manifest["hubness"]["image_to_text"]
    (directory / "manifest.json").write_text(json.dumps(manifest))
    run = evaluate(load_dataset(write_colour_pairs(tmp_path)), load_model(directory, threads=1), QUICK)
    value = run.to_json()
    assert value["image_to_text"]["mrr"] == value["embedding_only"]["image_to_text"]["mrr"]
    assert value["text_to_image"]["mrr"] != value["embedding_only"]["text_to_image"]["mrr"]
