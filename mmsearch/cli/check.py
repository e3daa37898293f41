"""`mmsearch check`: is everything that is stored what it was?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli.options import CollectionOption, DebugOption, JsonOption
from mmsearch.cli.output import path_fields, print_json, print_lines
from mmsearch.safe_text import safe_message, safe_path

if TYPE_CHECKING:
    from mmsearch.types import CheckReport

DAMAGED = 5


def check(
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Read every byte, and find any that has changed.")
    ] = False,
    as_json: JsonOption = False,
    collection: CollectionOption = None,
    debug: DebugOption = False,
) -> None:
    """Look whether a collection is whole, and name every damaged file with what mends it.

    Nothing is written, and an index run may be under way. Exits with 5 when something is damaged.
    """
    from mmsearch.cli.progress import progress_bar
    from mmsearch.collection import Collection
    from mmsearch.settings import load_settings, resolve_collection

    settings = load_settings()
    # Not opened first: what is to be found may be what opening would refuse.
    looking = Collection(resolve_collection(collection or settings.collection), model=None, settings=settings)
    with progress_bar() as progress:
        report = looking.check(read_data=read_data, progress=progress)
    if as_json:
        print_json(_as_json(report))
    else:
        print_lines(_lines(report))
    if not report.ok:
        raise typer.Exit(DAMAGED)


def _as_json(report: CheckReport) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "read_data": report.read_data,
        "files": report.files,
        "bytes": report.bytes,
        "damaged": [
            {**path_fields(each.path), "what": safe_message(each.what), "remedy": each.remedy}
            for each in report.damaged
        ],
        "unrecorded": report.unrecorded,
        "without_embedding": report.without_embedding,
        "quarantine": [path_fields(path) for path in report.quarantine],
        "notes": [safe_message(note) for note in report.notes],
        "seconds": round(report.seconds, 3),
    }


def _lines(report: CheckReport) -> Iterator[str]:
    for each in report.damaged:
        yield f"{safe_path(each.path)}: {safe_message(each.what)}; {each.remedy}"
    yield from (safe_message(note) for note in report.notes)
    if report.unrecorded:
        yield f"no checksums yet for {report.unrecorded:,} files: the next index records them"
    if report.without_embedding:
        yield f"{report.without_embedding:,} items have no embedding: the next index makes it"
    for path in report.quarantine:
        yield f"{safe_path(path)}: was moved there when the collection was mended; it can be deleted"
    read = f"{report.bytes:,} bytes read in {report.seconds:,.1f} s"
    if not report.ok:
        yield f"{len(report.damaged):,} of {report.files:,} files are damaged ({read})"
    elif report.read_data:
        yield f"{report.files:,} files are as they were written ({read})"
    else:
        yield f"{report.files:,} files are there, with the right sizes ({read}; --read-data reads all of them)"
