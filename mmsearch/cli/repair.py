"""`mmsearch repair`: a damaged collection answers again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli.options import CollectionOption, DebugOption, JsonOption
from mmsearch.cli.outcome import INTERRUPTED
from mmsearch.cli.output import print_json, print_lines
from mmsearch.cli.termination import end_in_good_order
from mmsearch.safe_text import safe_message

if TYPE_CHECKING:
    from mmsearch.types import RepairReport


def repair(
    embed: Annotated[
        bool, typer.Option("--embed/--no-embed", help="Whether to embed the photos and texts again that lost theirs.")
    ] = True,
    as_json: JsonOption = False,
    collection: CollectionOption = None,
    debug: DebugOption = False,
) -> None:
    """Mend a damaged collection from what can still be read.

    Damaged files are moved aside, never deleted. Embeddings that are lost for good are made again from the originals,
    and only those; what cannot be had back comes in with the next index.
    """
    from mmsearch.collection import Collection
    from mmsearch.settings import load_settings, resolve_collection

    end_in_good_order()
    settings = load_settings()
    # Not opened first: what is to be mended may be what opening would refuse.
    mending = Collection(resolve_collection(collection or settings.collection), model=None, settings=settings)
    report = mending.repair(embed=embed)
    if as_json:
        print_json(asdict(report))
    else:
        print_lines(_lines(report))
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)


def _lines(report: RepairReport) -> Iterator[str]:
    yield from (safe_message(sentence) for sentence in report.mended)
    if report.interrupted:
        yield "Interrupted: what answers is as it was; run mmsearch repair again"
    elif not report.mended:
        yield "nothing was damaged"
    yield f"{report.items} items can be found"
    if report.embedded:
        yield f"{report.embedded} items had lost their embedding, and have a new one"
    if report.without_embedding:
        lost = f"{report.without_embedding} items have lost their embedding, and wait for their originals"
        yield f"{lost}: run mmsearch index on their folders"
