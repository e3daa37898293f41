"""`mmsearch eval`: how good is the search on pictures with captions, and did the last change help?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli.options import DebugOption, JsonOption, ModelOption
from mmsearch.cli.output import note, print_json, print_lines
from mmsearch.errors import UsageError
from mmsearch.safe_text import safe_path, safe_text

if TYPE_CHECKING:
    from mmsearch.eval.compare import ComparedMetric, Comparison
    from mmsearch.eval.datasets import DatasetOptions
    from mmsearch.eval.record import AnnScores, DirectionScores, EvalRun
    from mmsearch.eval.run import EvalOptions
    from mmsearch.eval.significance import Interval

_SHOWN = ("median_rank", "mean_rank", "mrr", "map_at_r")
_LABELS = {"mrr": "MRR", "map_at_r": "mAP@R"}


def eval(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="A CSV with the columns image,caption; a JSON file in Karpathy's or COCO's shape; or a folder where"
            " x.txt beside x.jpg holds its captions.",
        ),
    ],
    k: Annotated[
        str | None, typer.Option("--k", metavar="K,K,...", help="Where to cut for recall. [default: 1,5,10]")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Which split of a Karpathy file; several joined by +.")
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", metavar="DIR", help="Where the images are, if not beside the file.")
    ] = None,
    rerank: Annotated[
        bool,
        typer.Option(
            "--rerank/--no-rerank", help="Measure with the closer second look that a query takes, and without it too."
        ),
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out and count what is missing, blank, doubled or unreadable.")
    ] = False,
    all_captions: Annotated[
        bool, typer.Option("--all-captions", help="More than the first five captions of an image in a JSON file.")
    ] = False,
    merge_identical_captions: Annotated[
        bool,
        typer.Option("--merge-identical-captions", help="Equal captions are right for each other's images too."),
    ] = False,
    folds: Annotated[
        int, typer.Option("--folds", min=1, help="Also the mean over that many equal parts (5 for COCO 1K).")
    ] = 1,
    report: Annotated[
        str | None, typer.Option("--report", metavar="DIR", help="Write a report to look at into this folder.")
    ] = None,
    save: Annotated[
        str | None, typer.Option("--save", metavar="RUN.json", help="Keep the run for a comparison later.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option("--compare", metavar="RUN.json", help="Say which differences to that run are real.")
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option("--collection", metavar="NAME|DIR", help="Also measure the index of this collection."),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Embed everything anew and keep nothing.")] = False,
    as_json: JsonOption = False,
    model: ModelOption = None,
    debug: DebugOption = False,
) -> None:
    """Measure Recall@K on pictures with captions, in both directions.

    Embeddings are kept in the user's cache directory, so measuring again is quick.
    """
    from mmsearch.eval.datasets import DatasetOptions
    from mmsearch.eval.run import EvalOptions
    from mmsearch.settings import resolve_collection

    options = EvalOptions(
        k=None if k is None else _ks(k),
        rerank=rerank,
        allow_missing=allow_missing,
        use_cache=not no_cache,
        folds=folds,
        collection=None if collection is None else resolve_collection(collection),
    )
    reading = DatasetOptions(
        split=split,
        images=None if images is None else Path(images),
        allow_missing=allow_missing,
        all_captions=all_captions,
        merge_identical_captions=merge_identical_captions,
    )
    result = _measured(dataset, model, reading=reading, options=options, files=_Files(report, save, compare))
    if result.page is not None:
        note(f"report: {safe_path(str(result.page))}")
    for sentence in result.run.notes:
        note(sentence)
    if as_json:
        comparison = None if result.comparison is None else result.comparison.to_json()
        print_json({**result.run.to_json(), "comparison": comparison})
    else:
        print_lines(_page(result.run))
        if result.comparison is not None:
            print_lines(_comparison(result.comparison))


@dataclass(frozen=True, slots=True)
class _Files:
    """Where a run is written to and compared with, as the user named it."""

    report: str | None
    save: str | None
    compare: str | None


@dataclass(frozen=True, slots=True)
class _Result:
    run: EvalRun
    comparison: Comparison | None
    page: Path | None


def _measured(
    dataset: str, model: str | None, *, reading: DatasetOptions, options: EvalOptions, files: _Files
) -> _Result:
    """The run, what it is compared with, and the page of its report. What can be refused is refused before the work."""
    from mmsearch.cli.progress import progress_bar
    from mmsearch.eval.compare import compare_runs
    from mmsearch.eval.datasets import load_dataset
    from mmsearch.eval.report import require_report_directory, write_report
    from mmsearch.eval.run import embed, evaluate_embedded
    from mmsearch.eval.run_file import load_run, require_writable_run, save_run, saved
    from mmsearch.model import load_model
    from mmsearch.settings import load_settings

    settings = load_settings()
    earlier = None if files.compare is None else load_run(Path(files.compare))
    if files.save is not None:
        require_writable_run(Path(files.save))
    if files.report is not None:
        require_report_directory(Path(files.report))
    opened = load_model(model or settings.model, threads=settings.thread_count)
    data = load_dataset(dataset, reading)
    with progress_bar() as progress:
        embedded = embed(data, opened, options, progress=progress)
        run = evaluate_embedded(embedded, opened, options, progress=progress)
    comparison = None if earlier is None else compare_runs(earlier, saved(run))
    if files.save is not None:
        save_run(run, Path(files.save))
    page = None if files.report is None else write_report(Path(files.report), run, embedded, comparison)
    return _Result(run, comparison, page)


def _ks(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--k is '{safe_text(text)}', expected numbers with commas, such as 1,5,10") from None


def _page(run: EvalRun) -> Iterator[str]:
    """The numbers in two columns, then what they cost."""
    data = run.data
    split = f", split {safe_text(data.split)}" if data.split else ""
    yield (
        f"{safe_text(run.system.model)}{', reranked,' if run.system.rerank else ''} on {safe_text(data.name)}{split}:"
        f" {data.images:,} images, {data.captions:,} captions"
    )
    yield ""
    yield f"{'':<14}{'text to image':<26}image to text"
    recalls = sorted(
        {
            name
            for side in (run.text_to_image, run.image_to_text)
            for name in side.metrics
            if name.startswith("recall@")
        },
        key=lambda name: int(name.partition("@")[2]),
    )
    for name in (*recalls, *_SHOWN):
        cells = "".join(f"{_cell(side, name):<26}" for side in (run.text_to_image, run.image_to_text))
        yield f"{_LABELS.get(name, name.replace('_', ' ')):<14}{cells}".rstrip()
    if run.mean_recall is not None:
        yield f"{'mean recall':<14}{_share(run.mean_recall)}{_range(run.mean_recall_interval, percent=True)}"
    if run.folds is not None:
        for name in recalls:
            cells = "".join(
                f"{_share(side[name]) if name in side else '-':<26}"
                for side in (run.folds.text_to_image, run.folds.image_to_text)
            )
            yield f"{name:<14}{cells}over {run.folds.folds} folds of {run.folds.images:,} images"
    if run.system.rerank:
        yield from _embeddings_alone(run, recalls)
    yield ""
    yield f"{'Index':<14}{_ann(run.ann)}"
    if run.collection_ann is not None:
        yield f"{'Collection':<14}{_ann(run.collection_ann)}"
    yield f"{'Query':<14}{run.timing.query.p50:.1f} ms, 95 % within {run.timing.query.p95:.1f} ms"
    rates = (_rate(run.timing.images.per_second, "images"), _rate(run.timing.captions.per_second, "captions"))
    yield f"{'Encoding':<14}{', '.join(rates)}"
    if run.mean_recall_interval is not None:
        yield ""
        yield "In brackets 95 % intervals, by resampling images. Ties count against the model."


def _embeddings_alone(run: EvalRun, recalls: list[str]) -> Iterator[str]:
    """What the same embeddings reach without reranking."""
    yield ""
    yield "By the embeddings alone:"
    ks = [int(name.partition("@")[2]) for name in recalls]
    sides = [
        side.metrics([k for k in ks if k <= side.ranks.gallery])
        for side in (run.plain.text_to_image, run.plain.image_to_text)
    ]
    for name in recalls:
        cells = "".join(f"{_share(side[name]) if name in side else '-':<26}" for side in sides)
        yield f"{name:<14}{cells}".rstrip()
    if run.plain_mean_recall is not None:
        yield f"{'mean recall':<14}{_share(run.plain_mean_recall)}"


def _comparison(comparison: Comparison) -> Iterator[str]:
    yield ""
    yield (
        f"{safe_text(comparison.before)} before, {safe_text(comparison.after)} now, on {comparison.images:,} images:"
    )
    if comparison.mean_recall is not None:
        yield _change(comparison.mean_recall)
    for metric in comparison.metrics:
        yield _change(metric)
    yield "p of the single metrics is corrected for their number (Holm)."


def _change(metric: ComparedMetric) -> str:
    percent = not metric.name.endswith("rank")
    before, after = ((_share(v) if percent else f"{v:.3g}") for v in (metric.before, metric.after))
    text = f"{metric.name.replace('_', ' ').replace('.', ', '):<28}{before} -> {after}"
    if metric.difference is not None and metric.p_corrected is not None:
        estimate = metric.after - metric.before
        by = f"{100 * estimate:+.1f}" if percent else f"{estimate:+.3g}"
        p = "p < 0.001" if metric.p_corrected < 0.001 else f"p {metric.p_corrected:.3f}"
        text += f"  {by}{_range(metric.difference.interval, percent=percent)}, {p}"
    return f"{text}  {metric.verdict}; {metric.won:,} queries won, {metric.lost:,} lost"


def _cell(side: DirectionScores, name: str) -> str:
    value = side.metrics.get(name)
    if value is None:
        return "-"
    if name.endswith("_rank"):
        return f"{value:,.1f}{_range(side.intervals.get(name), percent=False)}"
    return f"{_share(value)}{_range(side.intervals.get(name), percent=True)}"


def _ann(ann: AnnScores) -> str:
    depth = min(ann.recall)
    return (
        f"{safe_text(ann.index)}, {ann.vectors:,} vectors: {_share(ann.recall[depth])} of the exact top {depth},"
        f" {ann.search.p50:.2f} ms (exact {ann.exact.p50:.2f} ms)"
    )


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _range(interval: Interval | None, *, percent: bool) -> str:
    if interval is None:
        return ""
    scale = 100 if percent else 1
    low, high = (round(scale * end, 1) + 0.0 for end in (interval.low, interval.high))  # + 0.0: no -0.0
    return f" ({low:.1f} to {high:.1f})"


def _rate(per_second: float | None, what: str) -> str:
    return f"{what} from the cache" if per_second is None else f"{per_second:,.0f} {what}/s"
