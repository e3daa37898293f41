"""Saved runs and what a comparison of two of them claims."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from finished_run import Finished

from mmsearch.checked_json import dump_checked, load_checked
from mmsearch.errors import UsageError
from mmsearch.eval.compare import compare_runs
from mmsearch.eval.ranks import rank_scores
from mmsearch.eval.relevance import relevance_from_pairs
from mmsearch.eval.run_file import SavedRun, load_run, require_writable_run, save_run, saved
from mmsearch.eval.scores import both_directions


def run_with_hits(base: SavedRun, chance: float, *, images: int = 200, seed: int = 0) -> SavedRun:
    """A run on made-up data whose queries have their right answer first with that chance, else at a random rank."""
    rng = np.random.default_rng(seed)
    captions = 5 * images
    pairs = np.stack([np.arange(captions) // 5, np.arange(captions)], axis=1)
    scores = rng.random((captions, images))
    own = rng.random(captions) < chance
    scores[np.flatnonzero(own), pairs[own, 0]] = 2.0
    texts = rank_scores(scores, relevance_from_pairs(pairs[:, ::-1], queries=captions, gallery=images))
    photos = rank_scores(scores.T.copy(), relevance_from_pairs(pairs, queries=images, gallery=captions))
    ranks = both_directions(texts, photos, caption_cluster=pairs[:, 0], image_cluster=np.arange(images))
    return SavedRun(base.system, replace(base.data, sha256="made up"), ranks)


def test_a_saved_run_comes_back_whole(tmp_path: Path, finished: Finished) -> None:
    save_run(finished.run, tmp_path / "run.json")
    found, kept = load_run(tmp_path / "run.json"), saved(finished.run)
    assert (found.system, found.data) == (kept.system, kept.data)
    assert found.ranks.clusters == kept.ranks.clusters
    for side in ("text_to_image", "image_to_text"):
        old, new = getattr(kept.ranks, side), getattr(found.ranks, side)
        assert new.cluster.tolist() == old.cluster.tolist()
        for field in ("positions", "offsets", "queries", "excluded", "tied"):
            assert getattr(new.ranks, field).tolist() == getattr(old.ranks, field).tolist()
        assert (new.ranks.gallery, new.ranks.depth) == (old.ranks.gallery, old.ranks.depth)


def test_a_saved_run_shows_its_result(tmp_path: Path, finished: Finished) -> None:
    save_run(finished.run, tmp_path / "run.json")
    stored = json.loads((tmp_path / "run.json").read_text())
    assert stored["result"]["text_to_image"]["recall@1"] == finished.run.text_to_image.metrics["recall@1"]


def test_a_run_replaces_a_run_and_nothing_else(tmp_path: Path, finished: Finished) -> None:
    save_run(finished.run, tmp_path / "run.json")
    save_run(finished.run, tmp_path / "run.json")
    (tmp_path / "thesis.json").write_text('{"years": 4}')
    with pytest.raises(UsageError, match=r"thesis.json is not a run that --save wrote"):
        save_run(finished.run, tmp_path / "thesis.json")
    assert (tmp_path / "thesis.json").read_text() == '{"years": 4}'
    with pytest.raises(UsageError, match="there is no folder"):
        require_writable_run(tmp_path / "no" / "run.json")


@pytest.mark.parametrize("damage", ["edited", "cut", "gone", "newer", "other kind"])
def test_what_is_no_run_is_refused(tmp_path: Path, finished: Finished, damage: str) -> None:
    path = tmp_path / "run.json"
    save_run(finished.run, path)
    data = path.read_bytes()
    body = load_checked(data)
    messages = {
        "edited": "was changed since",
        "cut": "is not a run",
        "gone": "cannot be read",
        "newer": "is a run of format 2, this version reads 1; upgrade mmsearch",
        "other kind": "is not a run",
    }
    if damage == "edited":
        path.write_bytes(data.replace(b'"gallery": 16', b'"gallery": 17', 1))
    elif damage == "cut":
        path.write_bytes(data[:1000])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(dump_checked({**body, **({"format": 2} if damage == "newer" else {"kind": "x"})}))
    with pytest.raises(UsageError, match=messages[damage]):
        load_run(path)


@pytest.mark.parametrize("change", [{"tied": [10_000]}, {"positions": [10**30]}, {"queries": "x"}, {"gallery": None}])
def test_run_that_somebody_made_up_is_refused(tmp_path: Path, finished: Finished, change: dict[str, object]) -> None:
    path = tmp_path / "run.json"
    save_run(finished.run, path)
    body = load_checked(path.read_bytes())
    body["ranks"]["text_to_image"].update(change)
    path.write_bytes(dump_checked(body))
    with pytest.raises(UsageError, match="is not a run that --save wrote"):
        load_run(path)


def test_a_run_does_not_differ_from_itself(finished: Finished) -> None:
    found = compare_runs(saved(finished.run), saved(finished.run), resamples=200)
    assert found.mean_recall is not None
    for metric in (found.mean_recall, *found.metrics):
        assert metric.verdict == "no difference shown"
        assert (metric.won, metric.lost, metric.after - metric.before) == (0, 0, 0.0)
        assert metric.difference is not None
        assert metric.difference.p == 1.0


def test_a_large_gain_is_called_better_and_back_worse(finished: Finished) -> None:
    base = saved(finished.run)
    low, high = run_with_hits(base, 0.3), run_with_hits(base, 0.6, seed=1)
    gain, loss = compare_runs(low, high, resamples=1000), compare_runs(high, low, resamples=1000)
    assert gain.mean_recall is not None and loss.mean_recall is not None
    assert (gain.mean_recall.verdict, loss.mean_recall.verdict) == ("better", "worse")
    for there, back in zip(gain.metrics, loss.metrics, strict=True):
        assert (there.won, there.lost) == (back.lost, back.won)
        if there.name.startswith("text_to_image"):  # nearly every image has one of its captions first in both runs
            assert (there.verdict, back.verdict) == ("better", "worse")
    median = next(metric for metric in gain.metrics if metric.name == "text_to_image.median_rank")
    assert median.after < median.before
    assert median.won > median.lost
    recall = gain.metrics[0]
    assert recall.name == "text_to_image.recall@1"
    assert recall.won - recall.lost == pytest.approx(1000 * (recall.after - recall.before))


def test_mean_recall_is_the_mean_of_the_six(finished: Finished) -> None:
    base = saved(finished.run)
    found = compare_runs(run_with_hits(base, 0.3), run_with_hits(base, 0.5, seed=1), resamples=200)
    assert found.mean_recall is not None
    six = [metric for metric in found.metrics if metric.name.endswith(("recall@1", "recall@5", "recall@10"))]
    assert len(six) == 6
    assert found.mean_recall.before == pytest.approx(np.mean([metric.before for metric in six]))
    assert found.mean_recall.after == pytest.approx(np.mean([metric.after for metric in six]))


def test_equal_systems_with_other_luck_are_rarely_told_apart(finished: Finished) -> None:
    base = saved(finished.run)
    verdicts = [
        compare_runs(
            run_with_hits(base, 0.4, images=40, seed=2 * i),
            run_with_hits(base, 0.4, images=40, seed=2 * i + 1),
            resamples=300,
        )
        for i in range(20)
    ]
    claims = [metric.name for found in verdicts for metric in found.metrics if metric.verdict != "no difference shown"]
    assert len(claims) <= 3  # corrected for ten metrics, one in twenty comparisons claims anything


def test_corrected_p_is_never_below_the_plain_one(finished: Finished) -> None:
    base = saved(finished.run)
    found = compare_runs(run_with_hits(base, 0.4), run_with_hits(base, 0.43, seed=1), resamples=300)
    for metric in found.metrics:
        assert metric.difference is not None and metric.p_corrected is not None
        assert metric.difference.p <= metric.p_corrected <= 1.0


def test_runs_on_other_data_are_refused_with_both_named(finished: Finished) -> None:
    base = saved(finished.run)
    other = SavedRun(base.system, replace(base.data, name="other.csv", sha256="ff" * 32), base.ranks)
    with pytest.raises(UsageError, match=r"pairs.csv \(16 images, 32 captions, sha256 .* before, other.csv"):
        compare_runs(base, other)


def test_too_few_images_compare_without_a_claim(finished: Finished) -> None:
    base = saved(finished.run)
    few = replace(base.ranks, clusters=9)
    found = compare_runs(replace(base, ranks=few), replace(base, ranks=few))
    assert found.mean_recall is not None
    assert found.mean_recall.difference is None
    assert {metric.verdict for metric in found.metrics} == {"no difference shown"}
    assert json.dumps(found.to_json())
