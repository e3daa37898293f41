"""`mmsearch index`: photos and texts into the collection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from mmsearch.cli.options import CollectionOption, DebugOption, JsonOption, OwnModelOption
from mmsearch.cli.outcome import INTERRUPTED
from mmsearch.cli.output import note, path_fields, print_json, print_lines, switch_words
from mmsearch.cli.termination import end_in_good_order
from mmsearch.errors import PruneRefused, UsageError
from mmsearch.types import IndexReport

SOME_SKIPPED = 3


def index(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="Folders and files to index. [default: all that were indexed before]",
            show_default=False,
        ),
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what is gone from the disk.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Prune even when very much is gone.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file again, changed or not.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try files again that failed before.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 when a file could not be read.")] = False,
    keep_old: Annotated[
        bool | None,
        typer.Option(
            "--keep-old/--drop-old",
            help="Whether embeddings of other models are kept, so that going back to one is quick."
            " [default: until another model has taken over]",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    collection: CollectionOption = None,
    model: OwnModelOption = None,
    debug: DebugOption = False,
) -> None:
    """Index photos and texts in folders, or what is new there.

    Files that have not changed since the last time cost next to nothing. Interrupt it at any time and run it again: it
    goes on where it was. Originals are only ever read.

    With --model and another model than the collection's, everything is embedded anew while the old model goes on
    answering; the new one takes over when nothing is missing any more. Until then --model with the old one gives the
    change up.
    """
    if force and not prune:
        raise UsageError("--force is only for --prune: give both or neither")
    from mmsearch.cli.progress import progress_bar
    from mmsearch.collection import Collection
    from mmsearch.settings import load_settings, resolve_collection

    end_in_good_order()
    settings = load_settings()
    directory = resolve_collection(collection or settings.collection)
    with (
        Collection.open(directory, settings=settings) as opened,
        progress_bar() as progress,
    ):
        try:
            report = opened.add(
                paths or None,
                prune=prune,
                force=force,
                verify=verify,
                retry_failed=retry_failed,
                model=model,
                keep_old=keep_old,
                progress=progress,
            )
            refused = None
        except PruneRefused as error:
            if error.report is None:
                raise
            report, refused = error.report, error
    for warning in report.warnings:
        note(warning)
    if as_json:
        print_json(_as_json(report))
    else:
        print_lines(_summary(report))
    if refused is not None:
        raise refused
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)
    if strict and (report.skipped or report.failed_before):
        raise typer.Exit(SOME_SKIPPED)


def _as_json(report: IndexReport) -> dict[str, object]:
    switch = {} if report.switch is None else {"switch": asdict(report.switch)}
    return {
        "indexed": report.indexed,
        "unchanged": report.unchanged,
        "moved": report.moved,
        "missing": report.missing,
        "removed": report.removed,
        "ignored": report.ignored,
        "failed_before": report.failed_before,
        "items": report.items,
        "skipped": [{**path_fields(each.path), "reason": each.reason.value} for each in report.skipped],
        "seconds": round(report.seconds, 3),
        **switch,
    }


def _summary(report: IndexReport) -> Iterator[str]:
    rate = f" ({report.indexed / report.seconds:,.1f} files/s)" if report.indexed and report.seconds > 0 else ""
    yield f"{'Interrupted' if report.interrupted else 'Done'} in {report.seconds:,.1f} s{rate}"
    counts = {
        "indexed": report.indexed,
        "unchanged": report.unchanged,
        "moved": report.moved,
        "missing": report.missing,
        "removed": report.removed,
        "ignored": report.ignored,
        "failed before": report.failed_before,
    }
    yield "  " + ", ".join(f"{count:,} {name}" for name, count in counts.items() if count or name == "indexed")
    if report.skipped:
        reasons = Counter(each.reason.value for each in report.skipped).most_common()
        listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
        yield f"  {len(report.skipped):,} could not be read: {listed} (mmsearch info --errors lists them)"
    if report.failed_before:
        yield "  (mmsearch info --errors says what failed before, and why; --retry-failed tries it again)"
    if report.switch is not None:
        yield "  " + switch_words(report.switch)
    yield f"  {report.items:,} items can be found"
