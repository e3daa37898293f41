"""`mmsearch tag`: which of some labels fits each photo best."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli.index import SOME_SKIPPED
from mmsearch.cli.options import CollectionOption, DebugOption, JsonOption, ModelOption
from mmsearch.cli.outcome import INTERRUPTED
from mmsearch.cli.output import note
from mmsearch.cli.termination import end_in_good_order
from mmsearch.errors import UsageError
from mmsearch.safe_text import safe_path, safe_text

if TYPE_CHECKING:
    from mmsearch.model import Model
    from mmsearch.settings import Settings

_STDIN = "-"


def tag(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH",
            help="Folders and files, indexed or not. Without them, all photos of the collection.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            help="Labels to choose from, one a line; lines that begin with # are comments; - reads them from stdin.",
        ),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="LABEL", help="One more label to choose from; repeat it.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many labels for a photo at most.")] = 5,
    min_probability: Annotated[
        float, typer.Option("--min-probability", min=0, max=1, help="Only labels that are at least so likely.")
    ] = 0.0,
    template: Annotated[
        list[str] | None,
        typer.Option(
            "--template",
            metavar="TEXT",
            help="A sentence with {} where the label goes, such as 'a drawing of a {}.'; repeat it to use the mean of"
            " several. [default: five about photos]",
            show_default=False,
        ),
    ] = None,
    no_templates: Annotated[bool, typer.Option("--no-templates", help="Compare with the bare labels.")] = False,
    under: Annotated[
        str | None, typer.Option("--under", metavar="DIR", help="Of the collection, only photos below this folder.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 when a photo could not be read.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: a row for each photo and label.")] = False,
    as_json: JsonOption = False,
    collection: CollectionOption = None,
    model: ModelOption = None,
    debug: DebugOption = False,
) -> None:
    """Choose the labels that fit each photo best.

    Photos of the collection are not read again: their embeddings are there. Probabilities are shares among your labels
    and sum to 1 over them, also for a photo that none of them fits. Files and folders are compared by the model of the
    collection only where --collection names one.
    """
    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other: choose one form of output")
    if no_templates and template:
        raise UsageError("--template and --no-templates exclude each other: give templates, or none")
    if paths and under is not None:
        raise UsageError("--under is for photos that are indexed: give paths, or --under")
    from mmsearch.cli.progress import progress_bar
    from mmsearch.cli.tag_output import Csv, Json, Table, print_photos
    from mmsearch.prompts import BARE, TEMPLATES
    from mmsearch.settings import load_settings, resolve_collection
    from mmsearch.tag_run import TagRequest, open_stored, run_tag
    from mmsearch.tagging import TagOptions, logit_scale

    end_in_good_order()
    started = time.monotonic()
    settings, chosen = load_settings(), _labels(labels, label or [])
    templates = BARE if no_templates else tuple(template or TEMPLATES)
    request = TagRequest(chosen, paths or None, under, templates, TagOptions(k, min_probability))
    if paths:
        snapshot, asked = None, _model_for_files(collection, model, settings=settings)
    else:
        snapshot, asked = open_stored(resolve_collection(collection or settings.collection), model, settings)
    facts = {
        "model": asked.name,
        "logit_scale": logit_scale(asked),
        "labels": len(chosen),
        "templates": templates,
        "k": k,
        "min_probability": min_probability,
        "under": None if under is None else safe_path(under),
    }
    with contextlib.ExitStack() as display:
        progress = display.enter_context(progress_bar())
        photos = run_tag(asked, request, settings=settings, snapshot=snapshot, progress=progress)
        if sys.stdout.isatty():
            display.close()  # from here on the photos themselves show how far it is
        ending = print_photos(photos, Json(facts) if as_json else Csv() if as_csv else Table(), started=started)
    if ending.interrupted:
        raise typer.Exit(INTERRUPTED)
    if strict and ending.skipped:
        raise typer.Exit(SOME_SKIPPED)


def _model_for_files(collection: str | None, model: str | None, *, settings: Settings) -> Model:
    """`model`, else that of the collection where one is named, else that of the settings.

    Raises:
        CollectionError: there is no such collection, or it cannot be read.
        ModelError: the model is missing or not what its manifest says.
    """
    from mmsearch import manifest as manifests
    from mmsearch.collection_model import ModelChoice
    from mmsearch.model import load_model
    from mmsearch.settings import resolve_collection

    if collection is None or model is not None:
        return load_model(model or settings.model, threads=settings.thread_count)
    directory = resolve_collection(collection)
    return ModelChoice(directory, None, settings).current(manifests.read(directory))


def _labels(file: str | None, given: list[str]) -> tuple[str, ...]:
    """The labels of both options, each once.

    Raises:
        UsageError: there are none, or one cannot be used.
    """
    from mmsearch.label_list import MAX_FILE_BYTES, distinct_labels, parse_labels, read_labels

    if file is None and not given:
        raise UsageError("there are no labels to choose from: give --labels FILE, or --label for each")
    if file == _STDIN:
        read = parse_labels(sys.stdin.buffer.read(MAX_FILE_BYTES + 1), source="stdin")
    else:
        read = [] if file is None else read_labels(Path(file))
    chosen = distinct_labels([*read, *given])
    if len(chosen) == 1:
        note(f"with '{safe_text(chosen[0])}' as the only label its probability is always 1: give others to choose from")
    return chosen
