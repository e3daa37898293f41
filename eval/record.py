"""The result of one evaluation, as values and as the JSON of `mmsearch eval --json`.

JSON fields that scripts may rely on: `model`, `images`, `captions`, `rerank`, `text_to_image`, `image_to_text`,
`mean_recall`, `embedding_only`, `excluded`, `ann`, `timing`. Fractions are in [0, 1], ranks count from 1, a metric
that the gallery is too small for is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mmsearch.eval.embeddings import EncodeTiming
from mmsearch.eval.latency import Latency
from mmsearch.eval.metrics import RSUM_KS
from mmsearch.eval.reranking import SecondLook
from mmsearch.eval.scores import BothDirections, Direction
from mmsearch.eval.significance import Interval

CONTRACT_METRICS = (*(f"recall@{k}" for k in RSUM_KS), "median_rank", "mrr")


@dataclass(frozen=True, slots=True)
class DataRecord:
    """What was measured on.

    `sha256` covers ids, captions, pairs and the content of every image, `file_sha256` only the file that lists them.
    `captions_per_image` is (fewest, mean, most). `dropped` counts what `--allow-missing` left out, by kind.
    """

    name: str
    format: str
    split: str | None
    sha256: str
    file_sha256: str
    images: int
    captions: int
    captions_per_image: tuple[int, float, int]
    dropped: Mapping[str, int]
    duplicate_images: int
    partial_images: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SystemRecord:
    """What was measured, and how: everything that could change a number.

    `rerank_files` are the files of the model that reranking used beyond its towers, with their SHA-256.
    """

    model: str
    fingerprint: str
    dim: int
    preprocess: Mapping[str, str | int]
    prompt: str
    score: str
    precision: str
    rerank: bool
    k: tuple[int, ...]
    seed: int
    resamples: int
    versions: Mapping[str, str]
    rerank_files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DirectionScores:
    """The metrics of one direction over `queries` queries and a gallery of `gallery` items, by name.

    `intervals` are 95 % intervals of the same names, empty where there are too few images for one. `excluded` queries
    had nothing relevant in the gallery. `tie_rate` is the share of queries whose best answer ties with a wrong one.
    """

    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    queries: int
    gallery: int
    excluded: int
    tie_rate: float

    def to_json(self) -> dict[str, Any]:
        """Return the metrics by name and what they rest on."""
        return {
            **dict.fromkeys(CONTRACT_METRICS),
            **self.metrics,
            "queries": self.queries,
            "gallery": self.gallery,
            "tie_rate": self.tie_rate,
            "intervals": {name: [found.low, found.high] for name, found in self.intervals.items()},
        }


@dataclass(frozen=True, slots=True)
class FoldScores:
    """Means over equal folds of the set, each its own gallery of `images`: with five of 1,000 the COCO 1K protocol."""

    folds: int
    images: int
    text_to_image: Mapping[str, float]
    image_to_text: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class AnnScores:
    """The product's index over the images against exact search, for captions as queries.

    `recall` maps k to `ann_recall_at_k`. `hit_rate` maps k to recall_at_k with exact and with indexed search over the
    same queries: what the index costs in answers.
    """

    index: str
    vectors: int
    queries: int
    recall: Mapping[int, float]
    hit_rate: Mapping[int, tuple[float, float]]
    search: Latency
    exact: Latency

    def to_json(self) -> dict[str, Any]:
        """Return the recalls by name and the latencies in milliseconds."""
        return {
            "index": self.index,
            "vectors": self.vectors,
            "queries": self.queries,
            **{f"ann_recall@{k}": value for k, value in self.recall.items()},
            **{f"recall@{k}": {"exact": exact, "index": found} for k, (exact, found) in self.hit_rate.items()},
            "search_ms": asdict(self.search),
            "exact_ms": asdict(self.exact),
        }


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went. `query` is a whole query: tokenize, encode, search the images, rerank if that was asked."""

    images: EncodeTiming
    captions: EncodeTiming
    scoring_seconds: float
    query: Latency
    rerank_seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return seconds, rates and milliseconds."""
        halves = {"images": self.images, "captions": self.captions}
        return {
            **{name: {**asdict(half), "per_second": half.per_second} for name, half in halves.items()},
            "rerank_seconds": self.rerank_seconds,
            "scoring_seconds": self.scoring_seconds,
            "query_ms": asdict(self.query),
        }


@dataclass(frozen=True, slots=True)
class EvalRun:
    """One evaluation.

    `mean_recall` is None where a gallery is too small for R@10. `ranks` hold every query's own result, `plain` that by
    the cosine alone: the same unless `looks`, text to image and image to text, say what was made of the cosines.
    """

    system: SystemRecord
    data: DataRecord
    text_to_image: DirectionScores
    image_to_text: DirectionScores
    mean_recall: float | None
    mean_recall_interval: Interval | None
    folds: FoldScores | None
    ann: AnnScores
    collection_ann: AnnScores | None
    timing: Timing
    notes: tuple[str, ...]
    ranks: BothDirections
    plain: BothDirections
    looks: tuple[SecondLook, SecondLook] | None = None

    @property
    def plain_mean_recall(self) -> float | None:
        """The mean of the six recalls by the cosine alone, None where a gallery is too small for R@10."""
        return self.plain.mean_recall() if self.plain.can_have_mean_recall() else None

    def to_json(self) -> dict[str, Any]:
        """Return the object that `mmsearch eval --json` prints, without `schema_version`."""
        texts = {**self.text_to_image.to_json(), **_contract_metrics(self.ranks.text_to_image)}
        images = {**self.image_to_text.to_json(), **_contract_metrics(self.ranks.image_to_text)}
        interval = self.mean_recall_interval
        return {
            "model": self.system.model,
            "images": self.data.images,
            "captions": self.data.captions,
            "rerank": self.system.rerank,
            "text_to_image": texts,
            "image_to_text": images,
            "mean_recall": self.mean_recall,
            "mean_recall_interval": None if interval is None else [interval.low, interval.high],
            "rsum": None if self.mean_recall is None else 600 * self.mean_recall,
            "embedding_only": {
                "text_to_image": {**dict.fromkeys(CONTRACT_METRICS), **_contract_metrics(self.plain.text_to_image)},
                "image_to_text": {**dict.fromkeys(CONTRACT_METRICS), **_contract_metrics(self.plain.image_to_text)},
                "mean_recall": self.plain_mean_recall,
            },
            "excluded": self._excluded(),
            "folds": None if self.folds is None else asdict(self.folds),
            "ann": self.ann.to_json(),
            "collection_ann": None if self.collection_ann is None else self.collection_ann.to_json(),
            "timing": self.timing.to_json(),
            "dataset": asdict(self.data),
            "system": asdict(self.system),
            "clusters": self.ranks.clusters,
            "notes": list(self.notes),
        }

    def _excluded(self) -> dict[str, int]:
        """Return how many queries had nothing relevant in the gallery, and what was left out of the set beforehand."""
        return {
            "text_to_image": self.text_to_image.excluded,
            "image_to_text": self.image_to_text.excluded,
            **{kind.replace(" ", "_"): count for kind, count in self.data.dropped.items()},
        }


def _contract_metrics(direction: Direction) -> dict[str, float]:
    """Return the metrics that scripts rely on, whichever k were asked for."""
    found = direction.metrics([k for k in RSUM_KS if k <= direction.ranks.gallery])
    return {name: found[name] for name in CONTRACT_METRICS if name in found}
