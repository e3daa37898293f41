"""A report of one evaluation: a single HTML file to look at, from disk, with nothing fetched from anywhere."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmsearch.durable import make_directory, write_atomic
from mmsearch.errors import MissingExtra, UsageError
from mmsearch.eval import per_query, report_charts
from mmsearch.eval.compare import Comparison
from mmsearch.eval.embeddings import Embedded
from mmsearch.eval.record import EvalRun
from mmsearch.eval.report_charts import Curve
from mmsearch.eval.report_examples import Answered, pick_examples
from mmsearch.eval.report_words import words
from mmsearch.eval.scores import Direction
from mmsearch.eval.sides import whole_sides
from mmsearch.eval.significance import FEWEST_CLUSTERS, MeanOf, interval, resample
from mmsearch.safe_text import safe_path

if TYPE_CHECKING:
    from markupsafe import Markup

PAGE = "index.html"
MARKER = "mmsearch-report.json"
TEMPLATE = "report.html"
NEEDS = ("matplotlib", "jinja2")

EXAMPLES = 6
OTHER_PAIRS = 200_000
CURVE_KS = (1, 2, 3, 4, 5, 7, 10, 14, 20, 30, 50, 70, 100, 200, 300, 500, 700, 1000)
CURVE_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class _Charts:
    """SVG of ours, which the template puts in as it is. No name and no caption is in it."""

    recall: Markup
    ranks: Markup
    similarity: Markup


def require_report_directory(directory: Path) -> None:
    """Refuse a directory a report cannot be written to, before any work is done for it.

    Raises:
        MissingExtra: what draws and fills the page is not installed.
        UsageError: it holds something that is no report of ours.
    """
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(f"a report needs {' and '.join(missing)}; install them with: pip install 'mmsearch[report]'")
    if not directory.exists() or (directory / MARKER).is_file():
        return
    if not directory.is_dir() or any(directory.iterdir()):
        raise UsageError(
            f"{safe_path(str(directory))} is not a report of ours ({MARKER} is not there) and not empty;"
            " choose another --report"
        )


def write_report(directory: Path, run: EvalRun, embedded: Embedded, comparison: Comparison | None = None) -> Path:
    """Return the page written to `directory`, which is made, or had an earlier report.

    `embedded` is what `run` was computed from. The page holds captions and small pictures of the dataset.

    Raises:
        MissingExtra: what draws and fills the page is not installed.
        UsageError: the directory holds something that is no report of ours, or cannot be written.
    """
    require_report_directory(directory)
    page = render(run, embedded, comparison)
    try:
        make_directory(directory)
        write_atomic(directory / MARKER, json.dumps({"format": 1, "page": PAGE}).encode("ascii") + b"\n")
        write_atomic(directory / PAGE, page.encode("utf-8"))
    except OSError as error:
        raise UsageError(f"{safe_path(str(directory))} cannot be written: {error.strerror}; choose another") from error
    return directory / PAGE


def render(run: EvalRun, embedded: Embedded, comparison: Comparison | None = None) -> str:
    """Return the page."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))
    examples = [
        pick_examples(Answered(embedded, ranks.ranks, side, look), count=EXAMPLES)
        for ranks, side, look in zip(
            (run.ranks.text_to_image, run.ranks.image_to_text),
            whole_sides(embedded),
            run.looks or (None, None),
            strict=True,
        )
    ]
    return template.render(
        run=run, comparison=comparison, words=words(run, comparison), charts=_charts(run, embedded), examples=examples
    )


def _charts(run: EvalRun, embedded: Embedded) -> _Charts:
    texts, images = run.ranks.text_to_image, run.ranks.image_to_text
    from markupsafe import Markup

    return _Charts(
        recall=Markup(report_charts.recall_chart(_curve(texts, run), _curve(images, run))),
        ranks=Markup(report_charts.rank_chart(texts.ranks, images.ranks)),
        similarity=Markup(report_charts.similarity_chart(*_pair_similarities(embedded, seed=run.system.seed))),
    )


def _curve(direction: Direction, run: EvalRun) -> Curve:
    """Return recall over k with its band, and what guessing would reach."""
    ranks = direction.ranks
    ks = tuple(k for k in CURVE_KS if k <= ranks.gallery)
    hits = [per_query.hit_at_k(ranks, k) for k in ks]
    low: list[float] = []
    high: list[float] = []
    if run.ranks.clusters >= FEWEST_CLUSTERS:
        statistics = [MeanOf(values, direction.cluster) for values in hits]
        draws = resample(statistics, clusters=run.ranks.clusters, resamples=CURVE_RESAMPLES, seed=run.system.seed)
        bands = [interval(draws[:, column]) for column in range(len(ks))]
        low, high = [band.low for band in bands], [band.high for band in bands]
    return Curve(
        ks=ks,
        recall=tuple(float(values.mean()) for values in hits),
        low=tuple(low),
        high=tuple(high),
        chance=tuple(_chance(ranks.relevant, ranks.gallery, k) for k in ks),
    )


def _chance(relevant: npt.NDArray[np.int64], gallery: int, k: int) -> float:
    """Return the recall_at_k of random answers: the chance that k draws from the gallery hold a positive."""
    drawn = np.arange(k)
    numbers, counts = np.unique(relevant, return_counts=True)
    missed = [float(np.prod(np.clip((gallery - number - drawn) / (gallery - drawn), 0, 1))) for number in numbers]
    return 1.0 - float(np.average(missed, weights=counts))


def _pair_similarities(embedded: Embedded, *, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the cosines of all matching pairs and of a random sample of other pairs."""
    pairs = embedded.dataset.pairs
    images, captions = embedded.images, embedded.captions
    rng = np.random.default_rng(seed)
    chosen = pairs if len(pairs) <= OTHER_PAIRS else pairs[rng.choice(len(pairs), OTHER_PAIRS, replace=False)]
    sample = rng.integers(0, (len(images), len(captions)), (OTHER_PAIRS, 2))
    known = pairs[:, 0] * len(captions) + pairs[:, 1]
    other = sample[~np.isin(sample[:, 0] * len(captions) + sample[:, 1], known)]
    return _cosines(images, captions, chosen), _cosines(images, captions, other)


def _cosines(
    images: npt.NDArray[np.float32], captions: npt.NDArray[np.float32], pairs: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    parts = [
        np.einsum("ij,ij->i", images[part[:, 0]], captions[part[:, 1]])
        for part in np.array_split(pairs, max(1, len(pairs) // 8192))
    ]
    return np.concatenate(parts)
