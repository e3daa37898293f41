"""A whole evaluation: the numbers are those of a plain loop, and the record says what they rest on."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from colour_pictures import write_colour_pairs
from finished_run import Finished
from naive import metrics as naive_metrics
from small_collection import write_small_collection
from tiny_model import write_tiny_model

from mmsearch.errors import CollectionMismatch, UsageError
from mmsearch.eval.datasets import DatasetOptions, load_dataset
from mmsearch.eval.record import CONTRACT_METRICS
from mmsearch.eval.run import EvalOptions, embed, evaluate, evaluate_embedded
from mmsearch.model import Model, load_model
from mmsearch.progress import Progress

QUICK = EvalOptions(use_cache=False, resamples=100)


@pytest.fixture
def model(tiny_model_dir: Path) -> Model:
    return load_model(tiny_model_dir, threads=1)


def test_numbers_are_those_of_a_plain_loop_in_both_directions(finished: Finished) -> None:
    embedded, run = finished.embedded, finished.run
    scores = (embedded.captions @ embedded.images.T).astype(np.float64)
    of_captions: list[set[int]] = [set() for _ in embedded.captions]
    of_images: list[set[int]] = [set() for _ in embedded.images]
    for image, caption in embedded.dataset.pairs.tolist():
        of_captions[caption].add(image)
        of_images[image].add(caption)
    for k in (1, 5, 10):
        for side, rows, positives in (
            (run.text_to_image, scores, of_captions),
            (run.image_to_text, scores.T, of_images),
        ):
            expected = naive_metrics(rows.round(6).tolist(), positives, k)
            assert side.metrics[f"recall@{k}"] == pytest.approx(expected["recall_at_k"])
            assert side.metrics[f"ndcg@{k}"] == pytest.approx(expected["ndcg_at_k"])
            assert side.metrics["mrr"] == pytest.approx(expected["mrr"])
            assert side.metrics["median_rank"] == expected["median_rank"]


def test_json_has_the_recalls_of_the_contract_whichever_k_are_asked_for(finished: Finished) -> None:
    usual = finished.run.to_json()
    options = EvalOptions(k=(2, 12), use_cache=False, resamples=100)
    unusual = evaluate_embedded(finished.embedded, finished.model, options).to_json()
    for direction in ("text_to_image", "image_to_text"):
        for name in CONTRACT_METRICS:
            assert unusual[direction][name] == unusual["embedding_only"][direction][name] == usual[direction][name]
        assert {"recall@2", "recall@12"} <= set(unusual[direction])


def test_plain_colours_are_found_first(finished: Finished) -> None:
    ranks, dataset = finished.run.ranks.text_to_image.ranks, finished.embedded.dataset
    best = dict(zip(dataset.captions, ranks.best.tolist(), strict=True))
    assert [best[colour] for colour in ("red", "green", "blue", "white")] == [1, 1, 1, 1]


def test_json_has_the_fields_scripts_rely_on(finished: Finished) -> None:
    value = json.loads(json.dumps(finished.run.to_json(), allow_nan=False))
    assert value["model"] == "tiny"
    assert (value["images"], value["captions"], value["rerank"]) == (16, 32, False)
    for direction in ("text_to_image", "image_to_text"):
        assert set(CONTRACT_METRICS) <= set(value[direction])
        assert set(value["embedding_only"][direction]) == set(CONTRACT_METRICS)
        for name, (low, high) in value[direction]["intervals"].items():
            assert low <= value[direction][name] <= high
    six = [value[d][f"recall@{k}"] for d in ("text_to_image", "image_to_text") for k in (1, 5, 10)]
    assert value["mean_recall"] == pytest.approx(np.mean(six))
    assert value["mean_recall_interval"][0] <= value["mean_recall"] <= value["mean_recall_interval"][1]
    assert value["excluded"] == {"text_to_image": 0, "image_to_text": 0}
    assert value["ann"]["ann_recall@10"] == 1.0
    assert value["timing"]["images"]["encoded"] == 16
    assert value["dataset"]["captions_per_image"] == [2, 2.0, 2]
    assert value["system"]["fingerprint"] == finished.model.fingerprint


def test_folds_are_their_own_galleries(finished: Finished) -> None:
    folds = finished.run.folds
    assert folds is not None
    assert folds.images == 8
    assert folds.text_to_image["recall@5"] >= finished.run.text_to_image.metrics["recall@5"]
    assert "recall@10" not in folds.text_to_image


def test_order_of_rows_changes_nothing(tmp_path: Path, model: Model) -> None:
    table = write_colour_pairs(tmp_path)
    before = evaluate(load_dataset(table), model, QUICK)
    header, *rows = table.read_text().splitlines()
    random.Random(0).shuffle(rows)
    table.write_text("\n".join([header, *rows]))
    after = evaluate(load_dataset(table), model, QUICK)
    assert before.data.sha256 == after.data.sha256
    assert before.data.file_sha256 != after.data.file_sha256
    assert before.text_to_image == after.text_to_image
    assert before.image_to_text == after.image_to_text


def test_other_pairs_of_the_same_items_are_other_data(tmp_path: Path, model: Model) -> None:
    table = write_colour_pairs(tmp_path)
    with table.open("a") as rows:
        rows.write("blue.png,red\n")
    plain, merged = (
        evaluate(load_dataset(table, DatasetOptions(merge_identical_captions=merge)), model, QUICK)
        for merge in (False, True)
    )
    assert plain.data.captions == merged.data.captions
    assert plain.data.sha256 != merged.data.sha256


def test_a_small_gallery_leaves_out_what_does_not_fit(tmp_path: Path, model: Model) -> None:
    run = evaluate(load_dataset(write_colour_pairs(tmp_path, mixed=0)), model, QUICK)
    assert "recall@10" not in run.text_to_image.metrics
    assert "recall@10" in run.image_to_text.metrics
    assert run.to_json()["text_to_image"]["recall@10"] is None
    assert run.mean_recall is None
    assert run.text_to_image.intervals == {}
    assert any("no intervals: 8 independent images" in note for note in run.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EvalOptions(k=(1, 17)), "k = 17 does not fit 16 images"),
        (EvalOptions(k=(5,), folds=4), "in each of 4 folds"),
        (EvalOptions(folds=3), "cannot be split into 3 equal folds"),
        (EvalOptions(rerank=True), "'tiny' has no image-text matching head and no bank against hubs"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_embedded(
    tmp_path: Path, model: Model, options: EvalOptions, message: str
) -> None:
    dataset = load_dataset(write_colour_pairs(tmp_path))
    for name in dataset.image_ids:
        (tmp_path / name).unlink()
    with pytest.raises(UsageError, match=message):
        evaluate(dataset, model, options)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"k": (0,)}, "from 1 up"), ({"folds": 0}, "expected 1 or more")],
)
def test_impossible_options_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EvalOptions(**values)  # type: ignore[arg-type]


def test_queries_with_nothing_relevant_are_excluded_loudly(tmp_path: Path, model: Model) -> None:
    write_colour_pairs(tmp_path)
    for name in ("red", "blue-extra"):
        (tmp_path / f"{name}.txt").write_text(f"a {name} picture")
    (tmp_path / "pairs.csv").unlink()
    dataset = load_dataset(tmp_path, DatasetOptions(allow_missing=True))
    run = evaluate(dataset, model, EvalOptions(use_cache=False, resamples=100, k=(1,)))
    assert run.image_to_text.excluded == 15
    assert run.image_to_text.queries == 1
    assert any("15 images have nothing relevant in the gallery" in note for note in run.notes)
    assert run.to_json()["excluded"] == {"text_to_image": 0, "image_to_text": 15, "sidecars_without_a_picture": 1}


def test_same_file_under_two_names_is_reported_and_ties(tmp_path: Path, model: Model) -> None:
    table = write_colour_pairs(tmp_path)
    (tmp_path / "copy.png").write_bytes((tmp_path / "red.png").read_bytes())
    with table.open("a") as rows:
        rows.write("copy.png,red once more\n")
    run = evaluate(load_dataset(table), model, QUICK)
    assert run.data.duplicate_images == 2
    assert any("2 images are the same file under several names (copy.png = red.png)" in note for note in run.notes)
    assert run.text_to_image.tie_rate == pytest.approx(3 / 33)
    assert any("tie with a wrong answer" in note for note in run.notes)


def test_ties_do_not_make_an_index_look_better_than_exact_search(tmp_path: Path, model: Model) -> None:
    table = write_colour_pairs(tmp_path)
    with table.open("a") as rows:
        for number in range(12):
            (tmp_path / f"copy{number}.png").write_bytes((tmp_path / "red.png").read_bytes())
            rows.write(f"copy{number}.png,red {number}\n")
    run = evaluate(load_dataset(table), model, QUICK)
    exact, indexed = run.ann.hit_rate[10]
    assert exact == indexed < 1


def test_progress_ends_with_all_stages_done(tmp_path: Path, model: Model) -> None:
    seen: list[Progress] = []
    evaluate(load_dataset(write_colour_pairs(tmp_path)), model, QUICK, progress=seen.append)
    assert seen[-1] == Progress("score", 3, 3)


def test_another_index_is_measured_on_request(tmp_path: Path, model: Model) -> None:
    dataset = load_dataset(write_colour_pairs(tmp_path))
    run = evaluate(dataset, model, EvalOptions(use_cache=False, resamples=100, index="sqfp16"))
    assert run.ann.index == "sqfp16"
    assert run.ann.recall[10] == 1.0
    exact, indexed = run.ann.hit_rate[10]
    assert exact == indexed == run.text_to_image.metrics["recall@10"]


def test_a_collection_of_the_model_is_measured_too(tmp_path: Path, finished: Finished) -> None:
    small = write_small_collection(tmp_path, finished.model)
    options = EvalOptions(use_cache=False, resamples=100, collection=small.directory)
    run = evaluate_embedded(finished.embedded, finished.model, options)
    assert run.collection_ann is not None
    assert run.collection_ann.vectors == 8
    assert run.collection_ann.recall == {8: 1.0}


def test_a_collection_of_another_model_is_refused(tmp_path: Path, finished: Finished) -> None:
    other = load_model(write_tiny_model(tmp_path / "other", name="other", seed=1), threads=1)
    small = write_small_collection(tmp_path, other)
    options = EvalOptions(use_cache=False, resamples=100, collection=small.directory)
    with pytest.raises(CollectionMismatch, match="built by the model 'other'"):
        evaluate_embedded(finished.embedded, finished.model, options)


def test_embed_and_score_apart_equal_evaluate(tmp_path: Path, model: Model, finished: Finished) -> None:
    dataset = load_dataset(write_colour_pairs(tmp_path))
    together = evaluate(dataset, model, QUICK)
    apart = evaluate_embedded(embed(dataset, model, QUICK), model, QUICK)
    assert together.text_to_image == apart.text_to_image
    assert together.data == apart.data
