"""The spine of an evaluation: embed -> rerank -> rank -> score -> measure the search -> record."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from mmsearch.errors import UsageError
from mmsearch.eval.datasets import Dataset
from mmsearch.eval.embeddings import Embedded, embed_dataset
from mmsearch.eval.folds import split_into_folds
from mmsearch.eval.provenance import data_record, notes, system_record
from mmsearch.eval.record import EvalRun, Timing
from mmsearch.eval.reranking import SecondLook, look_again, require_rerank
from mmsearch.eval.run_ann import measure_own_collection, measure_product_search
from mmsearch.eval.scoring import DEFAULT_KS, rank_both, score, score_folds
from mmsearch.eval.sides import fold_sides, whole_sides
from mmsearch.eval.significance import RESAMPLES
from mmsearch.model import Model
from mmsearch.progress import Progress, ProgressCallback
from mmsearch.types import IndexKind

_STAGES = 3


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """How to evaluate.

    `k` None means 1, 5 and 10 as far as the galleries are that large; a k that was asked for must fit. `folds` above
    1 also reports means over that many equal parts of the set. `rerank` measures the system with its correction for
    hubs and its matching head, and the plain cosine beside it. `index` is the kind of vector index to compare with
    exact search, None the one the product would choose; `collection` is a collection whose own index is measured too.
    """

    k: tuple[int, ...] | None = None
    rerank: bool = False
    allow_missing: bool = False
    use_cache: bool = True
    folds: int = 1
    index: IndexKind | None = None
    collection: Path | None = None
    seed: int = 0
    resamples: int = RESAMPLES

    def __post_init__(self) -> None:
        if self.k is not None and (not self.k or min(self.k) < 1):
            raise UsageError(f"k is {self.k}, expected numbers from 1 up, such as 1,5,10")
        if self.folds < 1 or self.resamples < 1:
            raise UsageError(f"folds is {self.folds} and resamples {self.resamples}, expected 1 or more")


def evaluate(
    dataset: Dataset, model: Model, options: EvalOptions | None = None, *, progress: ProgressCallback | None = None
) -> EvalRun:
    """Return how well `model` finds the images of `dataset` by their captions, and the captions by their images.

    Raises:
        DatasetError: pictures cannot be read and `allow_missing` is off.
        UsageError: a k is larger than a gallery, the images cannot be split into the folds, or the model cannot rerank.
        ModelError: the model cannot be loaded.
    """
    options = options or EvalOptions()
    embedded = embed(dataset, model, options, progress=progress)
    return evaluate_embedded(embedded, model, options, progress=progress)


def embed(
    dataset: Dataset, model: Model, options: EvalOptions, *, progress: ProgressCallback | None = None
) -> Embedded:
    """Return `dataset` embedded for `evaluate_embedded`, after a look at whether `options` fit it at all.

    Raises:
        DatasetError: pictures cannot be read and `allow_missing` is off.
        UsageError: a k is larger than a gallery, the images cannot be split into the folds, or the model cannot rerank.
        ModelError: the model cannot be loaded.
    """
    if options.rerank:
        require_rerank(model)
    smallest = min(len(dataset.image_ids), len(dataset.captions))
    if options.k is not None and max(options.k) * options.folds > smallest:
        parts = f" in each of {options.folds} folds" if options.folds > 1 else ""
        raise UsageError(
            f"k = {max(options.k)} does not fit {len(dataset.image_ids)} images and {len(dataset.captions)}"
            f" captions{parts}; ask for a smaller k"
        )
    if options.folds > 1:
        split_into_folds(dataset.pairs, dataset.file_order, options.folds)
    return embed_dataset(
        dataset,
        model,
        allow_missing=options.allow_missing,
        use_cache=options.use_cache,
        tokens=options.rerank,
        progress=progress,
    )


def evaluate_embedded(
    embedded: Embedded, model: Model, options: EvalOptions, *, progress: ProgressCallback | None = None
) -> EvalRun:
    """Return what `evaluate` returns, from what `embed` made of a dataset with the same `model` and `options`.

    Raises:
        UsageError: a k is larger than a gallery, or the images cannot be split into the folds.
    """

    def finished(stages: int) -> None:
        if progress is not None:
            progress(Progress("score", stages, _STAGES))

    started = time.perf_counter()
    looks = _looks(embedded, model, options, progress)
    rerank_seconds = time.perf_counter() - started
    finished(0)
    started = time.perf_counter()
    plain = rank_both(embedded)
    ranks = plain if looks is None else rank_both(embedded, looks[:2])
    scoring_seconds = time.perf_counter() - started
    finished(1)
    scores = score(ranks, options.k, resamples=options.resamples, seed=options.seed)
    part_looks = None if looks is None else looks[2:]
    folds = score_folds(embedded, options.k, options.folds, part_looks) if options.folds > 1 else None
    finished(2)
    search = measure_product_search(embedded, model, plain, kind=options.index, rerank=options.rerank)
    own = None if options.collection is None else measure_own_collection(options.collection, embedded, model)
    finished(3)
    ks = options.k if options.k is not None else DEFAULT_KS
    return EvalRun(
        system=system_record(model, ks=ks, seed=options.seed, resamples=options.resamples, rerank=options.rerank),
        data=data_record(embedded),
        text_to_image=scores.text_to_image,
        image_to_text=scores.image_to_text,
        mean_recall=scores.mean_recall,
        mean_recall_interval=scores.mean_recall_interval,
        folds=folds,
        ann=search.ann,
        collection_ann=own,
        timing=Timing(
            embedded.image_timing, embedded.caption_timing, scoring_seconds, search.query, rerank_seconds=rerank_seconds
        ),
        notes=notes(embedded, ranks),
        ranks=ranks,
        plain=plain,
        looks=None if looks is None else (looks[0], looks[1]),
    )


def _looks(
    embedded: Embedded, model: Model, options: EvalOptions, progress: ProgressCallback | None
) -> list[SecondLook] | None:
    """Return what the system makes of the cosines of the whole sides and then of those of the folds."""
    if not options.rerank:
        return None
    parts = fold_sides(embedded, options.folds) if options.folds > 1 else []
    return look_again(embedded, [*whole_sides(embedded), *parts], model, progress=progress)
