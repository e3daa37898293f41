"""The numbers of a report in words and per cent, ready to be shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmsearch.eval.compare import ComparedMetric, Comparison
from mmsearch.eval.record import DirectionScores, EvalRun
from mmsearch.eval.significance import Interval
from mmsearch.safe_text import safe_text

_EXPLAINED = {
    "recall": "a right answer is among the first {k}",
    "median_rank": "half of the queries have a right answer at this rank or better",
    "mean_rank": "mean rank of the first right answer; the worst queries dominate it",
    "mrr": "mean of 1 / rank of the first right answer",
    "map_at_r": "precision over the first R answers, R being how many are right",
    "ndcg": "gain of the first {k} answers, discounted by rank, over the best possible",
}
_NAMES = {"median_rank": "Median rank", "mean_rank": "Mean rank", "mrr": "MRR", "map_at_r": "mAP@R"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of the table; `bar` is (value, low, high) in per cent of the width, None for ranks. `alone` is what
    the embeddings reach without reranking, empty where nothing was reranked.
    """

    value: str
    interval: str
    bar: tuple[float, float, float] | None
    alone: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric in both directions; None where the gallery is too small for it."""

    name: str
    explained: str
    text_to_image: Cell | None
    image_to_text: Cell | None


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One metric of a comparison."""

    name: str
    before: str
    after: str
    by: str
    interval: str
    p: str
    won: int
    lost: int
    verdict: str


@dataclass(frozen=True, slots=True)
class Tile:
    """One large number; `side` names the colour of a direction, empty for none."""

    label: str
    value: str
    below: str
    side: str


@dataclass(frozen=True, slots=True)
class Words:
    """Everything of the page that is text made of numbers."""

    title: str
    dataset: str
    headline: str
    headline_interval: str
    headline_alone: str
    tiles: tuple[Tile, ...]
    rows: tuple[Row, ...]
    before: str
    changes: tuple[ChangeRow, ...]
    notes: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]


def words(run: EvalRun, comparison: Comparison | None) -> Words:
    """Return the text of the page for `run`."""
    data = run.data
    split = f", {safe_text(data.split)}" if data.split else ""
    headline = "-" if run.mean_recall is None else percent(run.mean_recall)
    return Words(
        title=f"{safe_text(run.system.model)}{', reranked,' if run.system.rerank else ''} on {safe_text(data.name)}",
        dataset=f"{safe_text(data.name)}{split}",
        headline=headline,
        headline_interval=_range(run.mean_recall_interval, scale=100),
        headline_alone="" if run.looks is None or run.plain_mean_recall is None else percent(run.plain_mean_recall),
        tiles=_tiles(run),
        rows=_rows(run),
        before="" if comparison is None else safe_text(comparison.before),
        changes=() if comparison is None else tuple(_change(metric) for metric in _compared(comparison)),
        notes=tuple(safe_text(note) for note in run.notes),
        facts=_facts(run),
    )


def percent(value: float) -> str:
    """Return a fraction as it is printed."""
    return f"{100 * value:.1f} %"


def _tiles(run: EvalRun) -> tuple[Tile, ...]:
    """Return the three numbers next to the headline: a sentence's photo, a photo's sentences, and the wait."""
    tiles = []
    for side, scores, label in (
        ("t2i", run.text_to_image, "A sentence has its photo in the first {k}"),
        ("i2t", run.image_to_text, "A photo has a sentence of its own in the first {k}"),
    ):
        k = max((int(name.partition("@")[2]) for name in scores.metrics if name.startswith("recall@")), default=None)
        if k is not None:
            below = f"median rank {scores.metrics['median_rank']:,g} of {scores.gallery:,}"
            tiles.append(Tile(label.format(k=k), percent(scores.metrics[f"recall@{k}"]), below, side))
    query = run.timing.query
    return (*tiles, Tile("A query takes", f"{query.p50:.1f} ms", f"95 % within {query.p95:.1f} ms", ""))


def _names(run: EvalRun) -> list[str]:
    """Return the metrics of the table: recall at every k, the ranks, and those that reward many right answers."""
    ks = sorted(
        {
            int(name.partition("@")[2])
            for side in (run.text_to_image, run.image_to_text)
            for name in side.metrics
            if "recall@" in name
        }
    )
    return [*(f"recall@{k}" for k in ks), *_NAMES, f"ndcg@{ks[-1]}"] if ks else list(_NAMES)


def _rows(run: EvalRun) -> tuple[Row, ...]:
    names = _names(run)
    ks = [int(name.partition("@")[2]) for name in names if name.startswith("recall@")]
    alone: list[dict[str, float]] = [{}, {}]
    if run.looks is not None:
        alone = [
            side.metrics([k for k in ks if k <= side.ranks.gallery])
            for side in (run.plain.text_to_image, run.plain.image_to_text)
        ]
    rows = []
    for name in names:
        kind, _, k = name.partition("@")
        shown = _NAMES.get(name) or f"{'nDCG' if kind == 'ndcg' else 'Recall'}@{k}"
        cells = [
            _cell(name, side, plain) for side, plain in zip((run.text_to_image, run.image_to_text), alone, strict=True)
        ]
        rows.append(Row(shown, _EXPLAINED[kind].format(k=k), *cells))
    return tuple(rows)


def _cell(name: str, side: DirectionScores, alone: Mapping[str, float]) -> Cell | None:
    value, found = side.metrics.get(name), side.intervals.get(name)
    if value is None:
        return None
    if name.endswith("_rank"):
        return Cell(_rank(value), _range(found, scale=1), None, _rank(alone[name]) if name in alone else "")
    low, high = (value, value) if found is None else (found.low, found.high)
    bar = (100 * value, 100 * low, 100 * high)
    return Cell(percent(value), _range(found, scale=100), bar, percent(alone[name]) if name in alone else "")


def _rank(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")


def _range(found: Interval | None, *, scale: int) -> str:
    return "" if found is None else f"{_number(scale * found.low)} to {_number(scale * found.high)}"


def _number(value: float) -> str:
    return f"{round(value, 1) + 0.0:,.1f}"  # + 0.0: no -0.0


def _compared(comparison: Comparison) -> list[ComparedMetric]:
    return [*([] if comparison.mean_recall is None else [comparison.mean_recall]), *comparison.metrics]


def _change(metric: ComparedMetric) -> ChangeRow:
    ranks = metric.name.endswith("_rank")
    scale, unit = (1, "") if ranks else (100, " %")
    direction, _, name = metric.name.rpartition(".")
    named = f"{direction.replace('_', ' ')}, {name.replace('_', ' ')}" if direction else "mean recall"
    p = metric.p_corrected
    return ChangeRow(
        name=named,
        before=f"{scale * metric.before:,.1f}{unit}",
        after=f"{scale * metric.after:,.1f}{unit}",
        by=f"{scale * (metric.after - metric.before):+,.1f}",
        interval="" if metric.difference is None else _range(metric.difference.interval, scale=scale),
        p="-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
        won=metric.won,
        lost=metric.lost,
        verdict=metric.verdict,
    )


def _facts(run: EvalRun) -> tuple[tuple[str, str], ...]:
    data, system, timing = run.data, run.system, run.timing
    fewest, mean, most = data.captions_per_image
    captions = f"{mean:g}" if fewest == most else f"{fewest} to {most}, {mean:.1f} on average"
    depth = min(run.ann.recall)
    return (
        (
            "Data",
            f"{data.images:,} images, {data.captions:,} captions ({captions} an image), sha256 {data.sha256[:16]}",
        ),
        ("Left out", ", ".join(f"{count:,} {kind}" for kind, count in data.dropped.items()) or "nothing"),
        ("Model", f"{safe_text(system.model)}, {system.dim} dimensions, fingerprint {system.fingerprint}"),
        (
            "Score",
            f"{system.score}, {system.precision} embeddings{'' if system.rerank else ', no reranking'};"
            " ties count against the model",
        ),
        (
            "Ties",
            f"{percent(run.text_to_image.tie_rate)} of the captions, {percent(run.image_to_text.tie_rate)} of the"
            " images: the best right answer ties with a wrong one",
        ),
        ("Intervals", f"95 %, {system.resamples:,} resamples of {run.ranks.clusters:,} images, seed {system.seed}"),
        (
            "Index",
            f"{run.ann.index} over {run.ann.vectors:,} vectors finds {percent(run.ann.recall[depth])} of the exact top"
            f" {depth}, in {run.ann.search.p50:.2f} ms",
        ),
        ("A query", f"{timing.query.p50:.1f} ms, 95 % within {timing.query.p95:.1f} ms, on this machine"),
        ("Encoding", f"{_rate(timing.images.per_second)} images, {_rate(timing.captions.per_second)} captions"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in system.versions.items())),
    )


def _rate(per_second: float | None) -> str:
    return "cached" if per_second is None else f"{per_second:,.0f} a second:"
