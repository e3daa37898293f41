"""`mmsearch optimize`: many small files become few."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from mmsearch.cli.options import CollectionOption, DebugOption, JsonOption
from mmsearch.cli.output import note, print_json, print_lines
from mmsearch.cli.size import size_words

if TYPE_CHECKING:
    from mmsearch.types import OptimizeReport


def optimize(as_json: JsonOption = False, collection: CollectionOption = None, debug: DebugOption = False) -> None:
    """Merge the small files of a collection and drop what nobody needs any more.

    Index runs do that too when it is worth it. What is found stays the same; it may be interrupted at any time. Old
    versions of the tables stay for a day, so right afterwards a collection may be larger than before.
    """
    from mmsearch.collection import Collection
    from mmsearch.settings import load_settings, resolve_collection

    settings = load_settings()
    merging = Collection(resolve_collection(collection or settings.collection), model=None, settings=settings)
    report = merging.optimize()
    for warning in report.warnings:
        note(warning)
    if as_json:
        print_json(asdict(report))
    else:
        print_lines(_lines(report))


def _lines(report: OptimizeReport) -> Iterator[str]:
    yield f"Done in {report.seconds:,.1f} s"
    yield f"  {size_words(report.bytes_before)} before, {size_words(report.bytes_after)} after"
    yield f"  files with rows of the tables: {report.fragments_before:,} before, {report.fragments_after:,} after"
    yield f"  parts that are searched: {report.segments_before:,} before, {report.segments_after:,} after"
    yield f"  {report.items:,} items can be found"
