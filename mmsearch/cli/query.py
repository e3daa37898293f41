"""`mmsearch query`: a sentence, a picture, or both -> the nearest pictures or texts."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli.options import CollectionOption, DebugOption, JsonOption, ModelOption
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


class Target(enum.StrEnum):
    """What to look for."""

    IMAGES = "images"
    TEXTS = "texts"


def query(
    sentence_or_image: Annotated[
        str | None,
        typer.Argument(
            metavar="[QUERY]",
            help="A sentence, or the path of an image; - reads the sentence from stdin.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="A sentence, whatever it looks like.")] = None,
    image: Annotated[str | None, typer.Option("--image", help="The path of an image.")] = None,
    to: Annotated[Target, typer.Option("--to", help="What to find.")] = Target.IMAGES,
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits at most.")] = 10,
    under: Annotated[str | None, typer.Option("--under", metavar="DIR", help="Only files below this folder.")] = None,
    min_similarity: Annotated[
        float | None, typer.Option("--min-similarity", min=-1, max=1, help="Only hits with at least this cosine.")
    ] = None,
    rerank: Annotated[
        bool,
        typer.Option("--rerank/--no-rerank", help="Reorder the best by a matching model (the bundled one has none)."),
    ] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Print only paths, escaped, one a line.")] = False,
    print0: Annotated[
        bool, typer.Option("-0", "--print0", help="Print only paths, exactly, each ended by NUL.")
    ] = False,
    as_json: JsonOption = False,
    collection: CollectionOption = None,
    model: ModelOption = None,
    debug: DebugOption = False,
) -> None:
    """Find pictures or texts by a sentence or a picture.

    A sentence and a picture together ask for what fits both.
    """
    if as_json and (paths or print0):
        raise UsageError("--json and --paths or --print0 exclude each other: choose one form of output")
    text, image = _parts(sentence_or_image, text, image)
    from mmsearch.search import Query, search_collection
    from mmsearch.settings import load_settings, resolve_collection

    asked = Query(text, image, to.value, k, under, min_similarity, rerank)
    settings = load_settings()
    result = search_collection(
        resolve_collection(collection or settings.collection),
        asked,
        model=model or settings.model,
        threads=settings.thread_count,
    )
    if as_json:
        print_json(_as_json(asked, result))
    elif print0:
        print_bytes(b"".join(os.fsencode(hit.path) + b"\0" for hit in result.hits))
    elif paths:
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


def _as_json(asked: Query, result: SearchResult) -> dict[str, Any]:
    under = None if asked.under is None else safe_path(os.fspath(asked.under))
    image = None if asked.image is None else safe_path(str(asked.image))
    return {
        "query": {
            "text": asked.text,
            "image": image,
            "to": asked.to,
            "k": asked.k,
            "under": under,
            "min_similarity": asked.min_similarity,
            "rerank": asked.rerank,
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
        "match_prob": hit.match_prob,
        "text": hit.text,
        "missing": hit.missing,
    }


def _table(hits: tuple[Hit, ...]) -> Iterator[str]:
    """One line a hit, and below a text its beginning."""
    width = len(str(len(hits)))
    for hit in hits:
        locator = f", {safe_text(hit.locator)}" if hit.locator else ""
        missing = "  (missing)" if hit.missing else ""
        yield f"{hit.rank:>{width}}  {hit.similarity:6.3f}  {safe_path(hit.path)}{locator}{missing}"
        if hit.text is not None:
            yield f"{'':{width}}          {_snippet(hit.text)}"


def _snippet(text: str) -> str:
    words = " ".join(text.split())
    return safe_text(words if len(words) <= SNIPPET_CHARACTERS else f"{words[: SNIPPET_CHARACTERS - 3]}...")
