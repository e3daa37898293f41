"""`mmsearch demo`: the whole path, both directions, for somebody with no photos at hand."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli.options import DebugOption, JsonOption, ModelOption
from mmsearch.cli.output import note, path_fields, print_json, print_lines
from mmsearch.cli.query_answer import hit_as_json
from mmsearch.cli.termination import end_in_good_order
from mmsearch.safe_text import safe_path, safe_text

if TYPE_CHECKING:
    from mmsearch.demo import DemoAnswer, DemoResult
    from mmsearch.types import Hit

_TITLES = {
    "text_to_image": "A sentence finds photos",
    "image_to_text": "A photo finds captions",
    "image_to_image": "A photo finds photos like it",
    "text_to_text": "A sentence finds captions",
}


def demo(
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="DIR", help="Keep photos, captions and index in this new directory."),
    ] = None,
    as_json: JsonOption = False,
    model: ModelOption = None,
    debug: DebugOption = False,
) -> None:
    """Index and search photos that come with Python packages.

    Needs the extra: pip install 'mmsearch[demo]'. Nothing is downloaded, and without --keep nothing stays.
    """
    from mmsearch.cli.progress import progress_bar
    from mmsearch.demo import run_demo
    from mmsearch.settings import load_settings

    # An ended demo tidies up behind itself as an interrupted one does.
    end_in_good_order()
    with _directory(keep) as directory:
        with progress_bar() as progress:
            result = run_demo(directory, model=model or load_settings().model, progress=progress)
        counts = f"{result.photo_count} photos and {result.caption_count} captions"
        note(f"{counts} indexed in {result.report.seconds:.1f} s")
        if as_json:
            print_json(_as_json(result, kept=keep is not None))
        else:
            print_lines(_page(result, kept=keep is not None))


@contextlib.contextmanager
def _directory(keep: str | None) -> Iterator[Path]:
    """Where the demo works: a directory to stay, or one that goes with the demo."""
    if keep is not None:
        yield Path(os.path.abspath(keep))
        return
    with tempfile.TemporaryDirectory(prefix="mmsearch-demo-") as name:
        yield Path(name)


def _as_json(result: DemoResult, *, kept: bool) -> dict[str, Any]:
    return {
        "photos": result.photo_count,
        "captions": result.caption_count,
        "packages": list(result.packages),
        "collection": {**path_fields(str(result.collection)), "kept": kept},
        "indexed": result.report.indexed,
        "unchanged": result.report.unchanged,
        "seconds": round(result.report.seconds, 3),
        "answers": [
            {"direction": each.direction, "query": each.query, "hits": [hit_as_json(hit) for hit in each.hits]}
            for each in result.answers
        ],
    }


def _page(result: DemoResult, *, kept: bool) -> Iterator[str]:
    yield f"{result.photo_count} photographs from {' and '.join(result.packages)}, with two captions each."
    yield "Their names are for you: the search sees pixels and sentences only."
    yield "Numbers are scores: cosines, after a second look at the best where words meet pictures."
    last = None
    for answer in result.answers:
        if answer.direction != last:
            last = answer.direction
            yield ""
            yield _styled(_TITLES[last], bold=True)
        yield from _line_of_photos(answer) if answer.direction == "text_to_image" else _list_of_hits(answer)
    yield ""
    yield from _what_next(result, kept=kept)


def _line_of_photos(answer: DemoAnswer) -> Iterator[str]:
    """The query, and below it the hits side by side; three fit a terminal of 80 columns."""
    columns = [f"{hit.score:5.2f} {_name(hit):<19}" for hit in answer.hits]
    columns[:1] = [_styled(column, fg="green") for column in columns[:1]]
    yield f"  {safe_text(answer.query)}"
    yield f"    {'  '.join(columns)}".rstrip()


def _list_of_hits(answer: DemoAnswer) -> Iterator[str]:
    yield f"  {safe_text(answer.query)}"
    for hit in answer.hits:
        words = _name(hit) if hit.text is None else safe_text(hit.text)
        yield f"    {hit.score:5.2f} {_styled(words, fg='green') if hit.rank == 1 else words}"


def _name(hit: Hit) -> str:
    return safe_path(Path(hit.path).name)


def _what_next(result: DemoResult, *, kept: bool) -> Iterator[str]:
    if kept:
        collection = safe_path(shlex.quote(str(result.collection)))
        photo = safe_path(shlex.quote(str(result.photos / "eagle.jpg")))
        yield _styled("Ask more of these photos", bold=True)
        yield f'  mmsearch query --collection {collection} "something red"'
        yield f"  mmsearch query --collection {collection} {photo} --to texts"
        yield ""
    yield _styled("The same with your own photos", bold=True)
    yield "  mmsearch index ~/Pictures"
    yield '  mmsearch query "a dog on a beach"'
    yield "  mmsearch query some-photo.jpg"


def _styled(text: str, *, fg: str | None = None, bold: bool | None = None) -> str:
    """`text` with colour where a person looks: never in a pipe or a file, nor where NO_COLOR asks for none."""
    return typer.style(text, fg=fg, bold=bold) if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text
