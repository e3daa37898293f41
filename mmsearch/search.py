"""The query, from sentence or picture to hits: parse, embed, candidates, filter, hits."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from mmsearch import manifest as manifests
from mmsearch.errors import CollectionMismatch, UsageError
from mmsearch.model import Model, load_model
from mmsearch.root_health import root_trouble
from mmsearch.safe_text import safe_path, safe_text
from mmsearch.snapshot import Candidate, Snapshot
from mmsearch.snapshot_filter import places_under
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
    fits both. `to` is what to find, `k` how many at most. `under` keeps to files below one directory,
    reached by links or not; `min_similarity` drops hits with a smaller cosine.

    Raises:
        UsageError: neither text nor image is given, or a value is out of range.
    """

    text: str | None = None
    image: ImageInput | None = None
    to: Target = "images"
    k: int = 10
    under: str | os.PathLike[str] | None = None
    min_similarity: float | None = None
    rerank: bool = False

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
        if self.rerank:
            raise UsageError("rerank is not possible: this model has no image-text matching head; leave it off")


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, best first, by the model called `model`; `timing_ms` has load, encode, search and total. `notes` are
    sentences for a person about why there are none.
    """

    hits: tuple[Hit, ...]
    model: str
    timing_ms: dict[str, float]
    notes: tuple[str, ...] = ()


def search_collection(
    directory: Path, query: Query, *, model: str | os.PathLike[str] = "mini", threads: int | None = None
) -> SearchResult:
    """The answer to one query from the collection in `directory`, everything opened for it and let go after it.

    Raises:
        CollectionNotFound, CollectionDamaged: there is no collection at `directory`, or its files do not fit together.
        CollectionMismatch: another model built it, or a newer mmsearch.
        ModelError: `model` is missing or not what its manifest says.
        UnreadableFile, UsageError: the image of the query cannot be used.
    """
    started = time.perf_counter()
    # The marker is what refuses a newer format and a directory that is somebody else's.
    manifests.read(directory)
    with Snapshot.open(directory, threads=threads) as snapshot:
        return search(snapshot, load_model(model, threads=threads), query, started=started)


def search(snapshot: Snapshot, model: Model, query: Query, *, started: float | None = None) -> SearchResult:
    """The answer to one query: hits by descending cosine.

    `started` is the `time.perf_counter()` from which loading is counted, where the caller opened things for this query.

    Raises:
        CollectionMismatch: the snapshot was built by another model than `model`.
        UnreadableFile, UsageError: the image of the query cannot be used.
    """
    started = time.perf_counter() if started is None else started
    _check_model(snapshot, model)
    model.load(images=query.image is not None, texts=query.text is not None)
    loaded = time.perf_counter()
    embedding = _embed(model, query)
    encoded = time.perf_counter()
    under = None if query.under is None else manifests.normal_path(query.under)
    candidates = snapshot.search(
        embedding[np.newaxis],
        query.k,
        kind=_KIND[query.to],
        under=under,
        include_missing=_unhealthy_roots(snapshot),
    )[0]
    hits = _hits(snapshot, candidates, query.min_similarity)
    finished = time.perf_counter()
    timing = {"load": loaded - started, "encode": encoded - loaded, "search": finished - encoded}
    timing["total"] = finished - started
    timing_ms = {name: round(seconds * 1000, 3) for name, seconds in timing.items()}
    notes = () if candidates or under is None else _notes_on(under, snapshot)
    return SearchResult(hits, model.name, timing_ms, notes)


def _notes_on(under: bytes, snapshot: Snapshot) -> tuple[str, ...]:
    """Why there is nothing below `under`, where the reason is that it was never indexed."""
    if places_under(snapshot.roots, under):
        return ()
    roots = ", ".join(safe_path(root.path) for root in snapshot.roots)
    return (f"{safe_path(under)} lies in no indexed folder and holds none; indexed are: {roots or 'none'}",)


def _check_model(snapshot: Snapshot, model: Model) -> None:
    if snapshot.fingerprint != model.fingerprint:
        raise CollectionMismatch(
            f"the collection was built by the model '{safe_text(snapshot.model_name)}' ({snapshot.fingerprint[:12]}),"
            f" not by '{safe_text(model.name)}' ({model.fingerprint[:12]}): ask with --model for the one that built it,"
            " or index the files into a new collection: mmsearch index --collection NEW_NAME PATH"
        )


def _embed(model: Model, query: Query) -> NDArray[np.float32]:
    """The query as one embedding (dim,): of the text, of the image, or the direction between both."""
    parts = []
    if query.text is not None:
        parts.append(model.encode_texts([query.text])[0])
    if query.image is not None:
        parts.append(model.encode_images([query.image])[0])
    total: NDArray[np.float32] = np.sum(parts, axis=0, dtype=np.float32)
    length = float(np.linalg.norm(total))
    if not math.isfinite(length) or length < _SMALLEST_SUM:
        raise UsageError("the text and the image of the query cancel each other out: ask for one of them")
    return total / np.float32(length)


def _unhealthy_roots(snapshot: Snapshot) -> set[int]:
    """Ids of the roots that cannot be believed about what is missing, so that their missing items stay visible."""
    return {root.id for root in snapshot.roots if root_trouble(root.path, root.device) is not None}


def _hits(snapshot: Snapshot, candidates: list[Candidate], min_similarity: float | None) -> tuple[Hit, ...]:
    hits: list[Hit] = []
    for candidate in candidates:
        if min_similarity is not None and candidate.similarity < min_similarity:
            break
        row = snapshot.row(candidate)
        hits.append(
            Hit(
                rank=len(hits) + 1,
                id=row.id,
                kind=row.kind,
                path=os.fsdecode(row.path),
                part=row.part,
                locator=row.locator,
                score=candidate.similarity,
                ranked_by="similarity",
                similarity=candidate.similarity,
                match_prob=None,
                text=row.text,
                missing=row.missing,
            )
        )
    return tuple(hits)
