"""`mmsearch models`: which models there are, and getting, making and removing them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli.models_page import installed_line, list_as_json, list_page, megabytes, model_as_json, model_page
from mmsearch.cli.options import DebugOption, JsonOption
from mmsearch.cli.output import note, path_fields, print_json, print_lines
from mmsearch.cli.termination import end_in_good_order
from mmsearch.errors import ModelError, UsageError
from mmsearch.safe_text import safe_path, safe_text

if TYPE_CHECKING:
    from mmsearch.model_plan import PullPlan

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="One of `models list`, ARCHITECTURE/PRETRAINED as open_clip calls it, or hf-hub:ORG/NAME.",
    ),
]


def list_models(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Show the models there are: bundled, recommended, others known by name, and your own."""
    from mmsearch.model_listing import listing

    rows = listing()
    if as_json:
        print_json(list_as_json(rows))
    else:
        print_lines(list_page(rows))


def info(name: NameArgument, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Show everything about one model."""
    from mmsearch.model_listing import look_at

    about = look_at(name)
    if as_json:
        print_json(model_as_json(about))
    else:
        print_lines(model_page(about))


def pull(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Agree to a licence that does not allow every use.")] = False,
    no_onnx: Annotated[
        bool, typer.Option("--no-onnx", help="Leave out the ONNX form, in which it runs faster on the CPU.")
    ] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Fetch a model from the Hugging Face hub. Nothing else in mmsearch ever goes to a network.

    Needs the extra: pip install 'mmsearch[clip]'. Interrupt it and run it again: it goes on where it was. Where no GPU
    is found, the model gets its ONNX form at the end, as by `mmsearch models export NAME`.
    """
    from mmsearch.cli.progress import progress_bar
    from mmsearch.model_plan import plan_pull
    from mmsearch.model_pull import pull as run
    from mmsearch.model_store import find

    end_in_good_order()
    found = find(name)
    if found is not None:
        note(f"model '{name}' is installed already")
    else:
        plan = plan_pull(name)
        note(f"{plan.name}: {megabytes(plan.bytes)}, licence: {plan.license}, from {safe_text(plan.repository.id)}")
        if plan.ask and not yes:
            _agree(plan)
        try:
            with progress_bar() as progress:
                found = run(plan, progress=progress).directory
        except KeyboardInterrupt:
            note("what has come waits beside the models: the same command goes on from there")
            raise
    if not no_onnx:
        _add_onnx_form(found, name)
    _say_installed(found, name, as_json=as_json)


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|DIR", help="Weights in safetensors, a torch checkpoint, or a directory as on the hub."
        ),
    ],
    name: Annotated[str | None, typer.Option("--name", help="What to call it. [default: as the file]")] = None,
    architecture: Annotated[
        str | None,
        typer.Option("--architecture", metavar="NAME", help="What a file has the weights of, like ViT-B-32."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="FILE", help="Its tokenizer.json, for an architecture without CLIP's."),
    ] = None,
    license: Annotated[str, typer.Option("--license", metavar="TEXT", help="Kept with the model.")] = "not stated",
    trust: Annotated[
        bool, typer.Option("--trust", help="Open a torch checkpoint, once, for its weights: you trust its makers.")
    ] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a model of files that are here already.

    Needs the extra: pip install 'mmsearch[clip]'. The files are copied; a torch checkpoint is kept as safetensors.
    """
    from mmsearch.model_import import ImportOptions, import_model

    end_in_good_order()
    options = ImportOptions(
        source=Path(source),
        name=name,
        architecture=architecture,
        tokenizer=None if tokenizer is None else Path(tokenizer),
        license=license,
        trust=trust,
    )
    installed = import_model(options)
    _say_installed(installed.directory, installed.name, as_json=as_json)


def export(
    name: NameArgument,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="DIR", help="Where it is written; --model DIR opens it. [default: beside the original]"
        ),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Smaller and less exact weights: needs --out.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a model as ONNX, checked against the original: after that it needs neither torch nor the extra.

    Needs the extra: pip install 'mmsearch[clip]'. Without --out an installed model gets its ONNX form: the same name
    leads to it wherever it runs on the CPU.
    """
    from mmsearch.cli.progress import progress_bar
    from mmsearch.model_manifest import load_model_manifest
    from mmsearch.training.clip_export import export_model
    from mmsearch.training.clip_form import write_onnx_form

    end_in_good_order()
    if int8 and out is None:
        raise UsageError("--int8 gives other embeddings than the model's own: say where to write it with --out DIR")
    manifest = load_model_manifest(name)
    with progress_bar() as progress:
        if out is None:
            written = write_onnx_form(manifest, progress=progress)
        else:
            written = export_model(manifest, Path(out), int8=int8, progress=progress)
    if as_json:
        where = path_fields(os.fspath(written.directory) if out is None else out)
        print_json({"model": written.name, "out": where, "fingerprint": written.fingerprint})
    elif out is None:
        print_lines([f"{safe_text(name)} has its ONNX form, and runs in it on the CPU: without torch, and faster"])
    else:
        # A bare name would be a model's, not a directory's.
        path = out if os.sep in out else os.path.join(os.curdir, out)
        print_lines([f"{safe_text(written.name)} is written: mmsearch index PHOTOS --model {safe_path(path)}"])


def remove(name: NameArgument, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Remove a model that was pulled or imported, or what an interrupted pull of it left."""
    from mmsearch.model_manifest import bundled_models
    from mmsearch.model_store import remove as run

    if name in bundled_models():
        raise UsageError(f"model '{name}' came with mmsearch, and stays")
    freed = run(name)
    if as_json:
        print_json({"removed": name, "bytes": freed})
    else:
        print_lines([f"{safe_text(name)} is removed: {megabytes(freed)} free"])


MODELS: dict[str, Callable[..., None]] = {
    "list": list_models,
    "info": info,
    "pull": pull,
    "import": import_,
    "export": export,
    "remove": remove,
}


def _agree(plan: PullPlan) -> None:
    """Returns when somebody at the terminal agrees to the licence.

    Raises:
        UsageError: nobody is there to be asked.
        ModelError: they do not agree.
    """
    page = f"https://huggingface.co/{safe_text(plan.repository.id)}"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"the licence of '{safe_text(plan.name)}' may not allow every use ({plan.license}; {page}):"
            " add --yes to agree"
        )
    note(f"this licence may not allow every use, commercial use for instance: read it at {page}")
    if not typer.confirm("Pull it?", err=True):
        raise ModelError(f"model '{safe_text(plan.name)}' is not pulled: its licence was not agreed to")


def _add_onnx_form(directory: Path, name: str) -> None:
    """Gives an installed model its ONNX form where it would be used and can be made. Whatever keeps it from being made
    is said, and the model runs in torch."""
    from mmsearch.cli.progress import progress_bar
    from mmsearch.model_forms import ONNX_FORM, accelerated
    from mmsearch.model_manifest import load_model_manifest
    from mmsearch.training.clip_export import missing_packages
    from mmsearch.training.clip_form import write_onnx_form

    again = f"mmsearch models export {safe_text(name)} tries it again"
    try:
        manifest = load_model_manifest(directory)
        if manifest.runtime == "onnx" or accelerated() or missing_packages() or (directory / ONNX_FORM).exists():
            return
        note("it is written as ONNX too, in which it runs faster on this machine")
        with progress_bar() as progress:
            write_onnx_form(manifest, progress=progress)
    except KeyboardInterrupt:
        note(f"the model is installed, without its ONNX form; {again}")
        raise
    except Exception as error:  # torch, its exporter and what they call have no common exception
        note(f"the model is installed, without its ONNX form: {error}; {again}")


def _say_installed(directory: Path, name: str, *, as_json: bool) -> None:
    if as_json:
        from mmsearch.model_listing import look_at

        print_json(model_as_json(look_at(directory.name)))
    else:
        print_lines([installed_line(directory, name)])
