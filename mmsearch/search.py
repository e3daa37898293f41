"""The query, from sentence or picture to hits: parse, embed, candidates, filter, rerank, hits."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from mmsearch import manifest as manifests
from mmsearch.errors import CollectionMismatch, UsageError
from mmsearch.model import Model, load_model
from mmsearch.model_facts import Direction
from mmsearch.model_lookup import find_model, load_named, reference
from mmsearch.root_health import root_trouble
from mmsearch.safe_text import safe_path, safe_text
from mmsearch.search_rerank import Match, Ranked, RerankPlan, match_images, match_texts, plan_rerank, rerank
from mmsearch.snapshot import Candidate, Snapshot
from mmsearch.snapshot_filter import places_under, was_indexed
from mmsearch.types import Hit, Kind

if TYPE_CHECKING:
    from mmsearch.model import ImageInput

Target = Literal["images", "texts"]
_KIND: dict[Target, Kind] = {"images": "image", "texts": "text"}

# Two embeddings this close to opposite have no direction in between.
_SMALLEST_SUM = 1e-3


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for, and among what.

    `text` and `image` (a path, a PIL image or a uint8 array) may come alone or together; together they ask for what
    fits both, the text counting `text_weight` and the image the rest of 1. `to` is what to find, `k` how many at most.
    `under` keeps to files below one directory, reached by links or not; `min_similarity` drops hits with a smaller
    cosine. `rerank` is whether to correct for hubs and to look at the best again with the model's matching head: None
    for wherever the model can, True to insist.

    Raises:
        UsageError: neither text nor image is given, or a value is out of range.
    """

    text: str | None = None
    image: ImageInput | None = None
    to: Target = "images"
    k: int = 10
    under: str | os.PathLike[str] | None = None
    min_similarity: float | None = None
    rerank: bool | None = None
    text_weight: float = 0.5

    def __post_init__(self) -> None:
        if self.text is None and self.image is None:
            raise UsageError("the query is empty: give a sentence, an image, or both")
        if self.text is not None and (not isinstance(self.text, str) or not self.text.strip()):
            raise UsageError(f"the query text is {safe_text(repr(self.text))}: expected words")
        if self.to not in ("images", "texts"):
            raise UsageError(f"to is {safe_text(repr(self.to))}: expected 'images' or 'texts'")
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1:
            raise UsageError(f"k is {self.k!r}: expected a whole number, at least 1")
        # Written so that a value that is not a number fails it too.
        lowest = self.min_similarity
        if lowest is not None and not (isinstance(lowest, int | float) and -1 <= lowest <= 1):
            raise UsageError(f"min_similarity is {safe_text(repr(lowest))}: expected a cosine, from -1 to 1")
        share = self.text_weight
        if not (isinstance(share, int | float) and 0 <= share <= 1):
            raise UsageError(f"text_weight is {safe_text(repr(share))}: expected the share of the text, from 0 to 1")


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, best first, by the model called `model`; `timing_ms` has load, encode, search, rerank and total. `notes`
    are sentences for a person about why there are none. `reranked` is true where more than the cosine
    decided on the order.
    """

    hits: tuple[Hit, ...]
    model: str
    timing_ms: dict[str, float]
    notes: tuple[str, ...] = ()
    reranked: bool = False


def search_collection(
    directory: Path,
    query: Query,
    *,
    model: str | os.PathLike[str] | None = None,
    fallback: str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> SearchResult:
    """The answer to one query from the collection in `directory`, everything opened for it and let go after it.

    `model` None is the one that built the collection, which may turn out to be `fallback` where it is not found.

    Raises:
        CollectionNotFound, CollectionDamaged: there is no collection at `directory`, or its files do not fit together.
        CollectionMismatch: another model built it, or a newer mmsearch.
        ModelError: `model` is missing or not what its manifest says.
        UnreadableFile, UsageError: the image of the query cannot be used.
    """
    started = time.perf_counter()
    # The marker is what refuses a newer format and a directory that is somebody else's.
    manifests.read(directory)
    load = partial(load_model, threads=threads, once=True)
    with Snapshot.open(directory, threads=threads) as snapshot:
        own = snapshot.head.model
        asked = find_model(own, fallback=fallback, load=load) if model is None else load_named(model, (own,), load=load)
        return search(snapshot, asked, query, started=started)


def search(snapshot: Snapshot, model: Model, query: Query, *, started: float | None = None) -> SearchResult:
    """The answer to one query: hits by descending score, which is the cosine where nothing is reranked.

    `started` is the `time.perf_counter()` from which loading is counted, where the caller opened things for this query.

    Raises:
        CollectionMismatch: the snapshot was built by another model than `model`.
        UnreadableFile, UsageError: the image of the query cannot be used, or reranking was insisted on in vain.
        UsageError: `under` is a folder that is not there and never was.
    """
    started = time.perf_counter() if started is None else started
    require_same_model(snapshot, model)
    plan = _load(model, query)
    loaded = time.perf_counter()
    embedding, match = _encode(model, query, plan, snapshot)
    encoded = time.perf_counter()
    under = None if query.under is None else manifests.normal_path(query.under)
    candidates = snapshot.search(
        embedding[np.newaxis],
        query.k if plan is None else plan.depth(query.k),
        kind=_KIND[query.to],
        under=under,
        include_missing=unhealthy_roots(snapshot),
    )[0]
    found = time.perf_counter()
    ranked = _ranked(_near_enough(candidates, query.min_similarity), plan, match, snapshot)
    looked_again = time.perf_counter()
    hits = tuple(_hit(snapshot, each, rank) for rank, each in enumerate(ranked[: query.k], start=1))
    finished = time.perf_counter()
    timing = {
        "load": loaded - started,
        "encode": encoded - loaded,
        "search": found - encoded + finished - looked_again,
        "rerank": looked_again - found,
        "total": finished - started,
    }
    timing_ms = {name: round(seconds * 1000, 3) for name, seconds in timing.items()}
    notes = () if candidates or under is None else notes_on_place(under, snapshot)
    # A head alone decides nothing where the photos lack the tokens it takes.
    decided = plan is not None and (plan.bank is not None or any(each.match_prob is not None for each in ranked))
    return SearchResult(hits, model.name, timing_ms, notes, reranked=decided)


def _load(model: Model, query: Query) -> RerankPlan | None:
    """What the query is reranked with; everything of the model that the query needs is loaded."""
    composed = query.text is not None and query.image is not None
    plan = plan_rerank(model, _direction(query), asked=query.rerank, hubs=not composed)
    matches_texts = plan is not None and plan.scorer is not None and plan.direction == "image_to_text"
    model.load(images=query.image is not None, texts=query.text is not None or matches_texts)
    return plan


def _direction(query: Query) -> Direction | None:
    """Which way the query crosses from one kind to the other; None where it does not.

    Text and image together look for images by both embeddings; of the best, the matching head is asked whether they
    fit the text. Given a photo like the wanted one and its caption (Flickr8k val), it brings 49 % first instead of 43.
    """
    if query.text is not None and query.to == "images":
        return None if query.image is not None and query.text_weight == 0 else "text_to_image"
    return "image_to_text" if query.text is None and query.to == "texts" else None


def notes_on_place(under: bytes, snapshot: Snapshot) -> tuple[str, ...]:
    """Why there is nothing below `under`, where the reason is that it was never indexed.

    Raises:
        UsageError: there is no such folder, and there was none when the collection was indexed.
    """
    places = places_under(snapshot.roots, under)
    roots = ", ".join(safe_path(root.path) for root in snapshot.roots) or "none"
    if not os.path.lexists(under) and not any(was_indexed(segment, places) for segment in snapshot.segments):
        raise UsageError(f"{safe_path(under)}: there is no such folder, and none was indexed; indexed are: {roots}")
    return () if places else (f"{safe_path(under)} lies in no indexed folder and holds none; indexed are: {roots}",)


def require_same_model(snapshot: Snapshot, model: Model) -> None:
    """Raises CollectionMismatch when the snapshot was built by another model than `model`."""
    if snapshot.fingerprint != model.fingerprint:
        raise CollectionMismatch(
            f"the collection was built by the model '{safe_text(snapshot.model_name)}' ({snapshot.fingerprint[:12]}),"
            f" not by '{safe_text(model.name)}' ({model.fingerprint[:12]}): ask without --model, and the one that built"
            f" it answers, or give the collection the other one: mmsearch index --model {reference(model).argument}"
            " (and --collection, as for the query)"
        )


def _encode(
    model: Model, query: Query, plan: RerankPlan | None, snapshot: Snapshot
) -> tuple[NDArray[np.float32], Match | None]:
    """The query as one embedding (dim,), and how its best candidates are looked at again."""
    scorer = None if plan is None else plan.scorer
    direction = None if plan is None else plan.direction
    match: Match | None = None
    parts: list[NDArray[np.float32]] = []
    if query.text is not None:
        if scorer is not None and direction == "text_to_image":
            text = model.encode_texts_with_states([query.text])
            parts.append(text.embeddings[0])
            match = match_images(scorer, text, snapshot, required=query.rerank is True)
        else:
            parts.append(model.encode_texts([query.text])[0])
    if query.image is not None:
        if scorer is not None and direction == "image_to_text":
            embeddings, tokens = model.encode_images_with_tokens([query.image])
            parts.append(embeddings[0])
            match = None if tokens is None else match_texts(scorer, tokens, snapshot, model)
        else:
            parts.append(model.encode_images([query.image])[0])
    return _composed(parts, query.text_weight), match


def _composed(parts: list[NDArray[np.float32]], text_weight: float) -> NDArray[np.float32]:
    """The only part, or the direction (dim,) between text and image, which are given in this order."""
    if len(parts) == 2:
        text, image = parts
        parts = [np.float32(2 * text_weight) * text, np.float32(2 - 2 * text_weight) * image]
    total: NDArray[np.float32] = np.sum(parts, axis=0, dtype=np.float32)
    length = float(np.linalg.norm(total))
    if not math.isfinite(length) or length < _SMALLEST_SUM:
        raise UsageError("the text and the image of the query cancel each other out: ask for one of them")
    return total / np.float32(length)


def unhealthy_roots(snapshot: Snapshot) -> set[int]:
    """Ids of the roots that cannot be believed about what is missing, so that their missing items stay visible."""
    return {root.id for root in snapshot.roots if root_trouble(root.path, root.device) is not None}


def _near_enough(candidates: list[Candidate], min_similarity: float | None) -> list[Candidate]:
    return [each for each in candidates if min_similarity is None or each.similarity >= min_similarity]


def _ranked(
    candidates: list[Candidate], plan: RerankPlan | None, match: Match | None, snapshot: Snapshot
) -> list[Ranked]:
    if plan is None:
        return [Ranked(candidate, candidate.similarity) for candidate in candidates]
    return rerank(candidates, plan, match, snapshot=snapshot)


def _hit(snapshot: Snapshot, ranked: Ranked, rank: int) -> Hit:
    row = snapshot.row(ranked.candidate)
    return Hit(
        rank=rank,
        id=row.id,
        kind=row.kind,
        path=os.fsdecode(row.path),
        part=row.part,
        locator=row.locator,
        score=ranked.score,
        ranked_by="similarity" if ranked.match_prob is None else "itm",
        similarity=ranked.candidate.similarity,
        match_prob=ranked.match_prob,
        text=row.text,
        missing=row.missing,
    )
