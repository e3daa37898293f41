"""Which queries a report shows: those answered best and worst, each with what was returned for it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmsearch.errors import UnreadableFile
from mmsearch.eval.datasets import Direction as DirectionName
from mmsearch.eval.embeddings import Embedded, Embeddings
from mmsearch.eval.latency import spread
from mmsearch.eval.ranks import Ranks
from mmsearch.eval.relevance import Relevance
from mmsearch.exact_search import search_exact
from mmsearch.images import load_rgb
from mmsearch.safe_text import safe_path, safe_text

SHOWN_ANSWERS = 3
SHOWN_RIGHT = 2
THUMBNAIL_SIDE = 320
JPEG_QUALITY = 82
MOST_CANDIDATES = 2000  # rank-1 queries among which the clearest are looked for


@dataclass(frozen=True, slots=True)
class Item:
    """An image or a caption as it is shown.

    `picture` is a data URI, None for a caption and for a picture that cannot be read.
    """

    text: str
    picture: str | None
    right: bool = False
    similarity: float | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One query, the rank of its best right answer, that answer, and what was returned first."""

    query: Item
    rank: int
    expected: tuple[Item, ...]
    returned: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples of one direction, the clearest first."""

    direction: DirectionName
    worst: tuple[Example, ...]
    best: tuple[Example, ...]

    @property
    def sections(self) -> tuple[tuple[str, str, tuple[Example, ...]], ...]:
        """Title, explanation and examples of both parts."""
        if self.direction == "text_to_image":
            return (
                (
                    "Sentences that found the wrong photos",
                    "The worst ranks; framed in green what was wanted.",
                    self.worst,
                ),
                ("Sentences that found theirs", "The first answer is right, by the widest margins.", self.best),
            )
        return (
            ("Photos that found the wrong sentences", "The worst ranks; in green what was wanted.", self.worst),
            ("Photos that found theirs", "The first answer is right, by the widest margins.", self.best),
        )


def pick_examples(embedded: Embedded, ranks: Ranks, direction: DirectionName, *, count: int) -> Examples:
    """Return the `count` queries answered worst, and the `count` answered right with the largest margin.

    No image appears twice among the worst or the best of one direction, so that one odd photo does not fill the page.
    """
    dataset = embedded.dataset
    relevance = dataset.relevance(direction)
    queries, gallery = embedded.captions, embedded.images
    if direction == "image_to_text":
        queries, gallery = gallery, queries
    margins = _margins(queries, gallery, relevance, ranks)
    worst = np.lexsort((ranks.queries, -ranks.best))
    best = np.lexsort((ranks.queries, -margins))
    best = best[np.isfinite(margins[best])]
    view = _View(embedded, direction, relevance)

    def examples(order: npt.NDArray[np.int64]) -> tuple[Example, ...]:
        chosen = _of_distinct_images(order, ranks, relevance, direction=direction, count=count)
        found_similarities, found = search_exact(
            gallery, queries[ranks.queries[chosen]], min(SHOWN_ANSWERS, len(gallery))
        )
        return tuple(
            view.example(int(ranks.queries[place]), int(ranks.best[place]), rows, similarities)
            for place, rows, similarities in zip(chosen, found, found_similarities, strict=True)
        )

    return Examples(direction, examples(worst[ranks.best[worst] > 1]), examples(best))


class _View:
    """Shows items of one direction."""

    def __init__(self, embedded: Embedded, direction: DirectionName, relevance: Relevance) -> None:
        self._embedded = embedded
        self._relevance = relevance
        self._query_half, self._gallery_half = direction.split("_to_")
        self._pictures: dict[int, str | None] = {}

    def example(
        self, query: int, rank: int, returned: npt.NDArray[np.int64], similarities: npt.NDArray[np.float32]
    ) -> Example:
        right = set(self._relevance.of(query).tolist())
        # What was wanted needs showing only where none of it came.
        wanted = [] if right & set(returned.tolist()) else sorted(right)
        return Example(
            query=self._item(self._query_half, query),
            rank=rank,
            expected=tuple(self._item(self._gallery_half, row) for row in wanted[:SHOWN_RIGHT]),
            returned=tuple(
                self._item(self._gallery_half, row, right=row in right, similarity=similarity)
                for row, similarity in zip(returned.tolist(), similarities.tolist(), strict=True)
            ),
        )

    def _item(self, half: str, row: int, *, right: bool = False, similarity: float | None = None) -> Item:
        dataset = self._embedded.dataset
        if half == "text":
            return Item(safe_text(dataset.captions[row]), None, right, similarity)
        if row not in self._pictures:
            self._pictures[row] = thumbnail(self._embedded, row)
        return Item(safe_path(dataset.image_ids[row]), self._pictures[row], right, similarity)


def thumbnail(embedded: Embedded, row: int) -> str | None:
    """Return a picture, encoded anew from its pixels alone, as a data URI; None if it cannot be read any more.

    Nothing else of the file gets into the report: no place, no date, no comment.
    """
    try:
        image = load_rgb(embedded.dataset.image_path(row), max_side=THUMBNAIL_SIDE)
    except UnreadableFile:
        return None
    buffer = io.BytesIO()
    # A new picture: Pillow would copy the comment and the colour profile that the old one carries along.
    Image.fromarray(np.asarray(image)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _margins(queries: Embeddings, gallery: Embeddings, relevance: Relevance, ranks: Ranks) -> npt.NDArray[np.float64]:
    """Return by how much the best right answer beats the best wrong one, -inf where it is not the first."""
    margins = np.full(len(ranks.queries), -np.inf)
    first = np.flatnonzero(ranks.best == 1)
    for place in first[spread(len(first), MOST_CANDIDATES)].tolist():
        query = int(ranks.queries[place])
        scores = gallery @ queries[query]
        right = relevance.of(query)
        best_right = scores[right].max()
        scores[right] = -np.inf
        margins[place] = best_right - scores.max() if len(right) < len(scores) else -np.inf
    return margins


def _of_distinct_images(
    order: npt.NDArray[np.int64], ranks: Ranks, relevance: Relevance, *, direction: DirectionName, count: int
) -> npt.NDArray[np.int64]:
    """Return the first `count` places of `order` whose images differ."""
    seen: set[int] = set()
    chosen: list[int] = []
    for place in order.tolist():
        query = int(ranks.queries[place])
        image = query if direction == "image_to_text" else int(relevance.of(query)[0])
        if image not in seen:
            seen.add(image)
            chosen.append(place)
        if len(chosen) == count:
            break
    return np.array(chosen, dtype=np.int64)
