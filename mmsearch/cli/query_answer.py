"""The work of `mmsearch query`, once its arguments are known: ask, print.

The parser of the command line is not imported here: loading it would take as long as the search.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmsearch.cli.output import note, path_fields, print_bytes, print_json, print_lines
from mmsearch.errors import UsageError
from mmsearch.image_formats import HEAD_BYTES, IMAGE_EXTENSIONS, sniff_format
from mmsearch.regular_file import open_regular
from mmsearch.safe_text import plain_text, safe_path, safe_text

if TYPE_CHECKING:
    from mmsearch.search import Query, SearchResult
    from mmsearch.types import Hit

MAX_STDIN_BYTES = 1_000_000
SNIPPET_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class QueryArguments:
    """What was typed after `mmsearch query`; the help of the command says what each means."""

    argument: str | None = None
    text: str | None = None
    image: str | None = None
    to: Literal["images", "texts"] = "images"
    k: int = 10
    under: str | None = None
    min_similarity: float | None = None
    rerank: bool | None = None
    text_weight: float = 0.5
    paths: bool = False
    print0: bool = False
    as_json: bool = False
    collection: str | None = None
    model: str | None = None


def answer(asked: QueryArguments) -> None:
    """Prints the hits, and on stderr why there are none.

    Raises:
        MMSearchError: whatever keeps the question from being answered.
    """
    if asked.as_json and (asked.paths or asked.print0):
        raise UsageError("--json and --paths or --print0 exclude each other: choose one form of output")
    text, image = _parts(asked.argument, asked.text, asked.image)
    from mmsearch.search import Query, search_collection
    from mmsearch.settings import load_settings, resolve_collection

    query = Query(text, image, asked.to, asked.k, asked.under, asked.min_similarity, asked.rerank, asked.text_weight)
    settings = load_settings()
    result = search_collection(
        resolve_collection(asked.collection or settings.collection),
        query,
        model=asked.model,
        fallback=settings.model,
        threads=settings.thread_count,
    )
    if asked.as_json:
        print_json(_as_json(query, result))
    elif asked.print0:
        print_bytes(b"".join(os.fsencode(hit.path) + b"\0" for hit in result.hits))
    elif asked.paths:
        print_lines(safe_path(hit.path) for hit in result.hits)
    else:
        print_lines(_table(result.hits))
    for sentence in result.notes:
        note(sentence)
    if not result.hits:
        note("nothing found")


def _parts(argument: str | None, text: str | None, image: str | None) -> tuple[str | None, str | None]:
    """The sentence and the path of the image that the argument and the two options make together."""
    if argument == "-":
        argument_text, argument_image = _from_stdin(), None
    elif argument is not None and _is_image(argument):
        argument_text, argument_image = None, argument
    else:
        argument_text, argument_image = argument, None
    if argument_text is not None and text is not None:
        raise UsageError(f"two sentences: '{safe_text(argument_text)}' and --text '{safe_text(text)}'; give one")
    if argument_image is not None and image is not None:
        raise UsageError(f"two images: {safe_path(argument_image)} and --image {safe_path(image)}; give one")
    text = text if argument_text is None else argument_text
    return None if text is None else plain_text(text), image if argument_image is None else argument_image


def _from_stdin() -> str:
    return sys.stdin.buffer.read(MAX_STDIN_BYTES).decode("utf-8", "replace").strip()


def _is_image(argument: str) -> bool:
    """True when `argument` names an existing file that is an image by its content or by its extension.

    Raises:
        UsageError: it has an image's extension and there is no such file: most likely a slip, hardly a sentence.
    """
    named_like_one = Path(argument).suffix.lower() in IMAGE_EXTENSIONS
    try:
        with open_regular(argument) as file:
            return named_like_one or sniff_format(file.read(HEAD_BYTES)) is not None
    except PermissionError:
        return named_like_one
    except (OSError, ValueError):  # no such file, or too long or too odd to be the name of one
        pass
    if named_like_one:
        raise UsageError(f"there is no image file {safe_path(argument)}; to ask for these words, use --text")
    return False


def _as_json(query: Query, result: SearchResult) -> dict[str, Any]:
    under = None if query.under is None else safe_path(os.fspath(query.under))
    image = None if query.image is None else safe_path(str(query.image))
    return {
        "query": {
            "text": query.text,
            "image": image,
            "to": query.to,
            "k": query.k,
            "under": under,
            "min_similarity": query.min_similarity,
            "rerank": result.reranked,
            "text_weight": query.text_weight,
        },
        "model": result.model,
        "hits": [hit_as_json(hit) for hit in result.hits],
        "timing_ms": result.timing_ms,
    }


def hit_as_json(hit: Hit) -> dict[str, Any]:
    """One hit as JSON has it everywhere."""
    return {
        "rank": hit.rank,
        "id": hit.id,
        "kind": hit.kind,
        **path_fields(hit.path),
        "part": hit.part,
        "locator": hit.locator,
        "score": round(hit.score, 6),
        "ranked_by": hit.ranked_by,
        "similarity": round(hit.similarity, 6),
        "match_prob": None if hit.match_prob is None else round(hit.match_prob, 6),
        "text": hit.text,
        "missing": hit.missing,
    }


def _table(hits: tuple[Hit, ...]) -> Iterator[str]:
    """One line a hit, and below a text its beginning. The number is the score, which the order follows."""
    width = len(str(len(hits)))
    for hit in hits:
        locator = f", {safe_text(hit.locator)}" if hit.locator else ""
        missing = "  (missing)" if hit.missing else ""
        yield f"{hit.rank:>{width}}  {hit.score:6.3f}  {safe_path(hit.path)}{locator}{missing}"
        if hit.text is not None:
            yield f"{'':{width + 10}}{_snippet(hit.text)}"


def _snippet(text: str) -> str:
    words = " ".join(text.split())
    return safe_text(words if len(words) <= SNIPPET_CHARACTERS else f"{words[: SNIPPET_CHARACTERS - 3]}...")
