"""`mmsearch models`: which models there are, and getting, making and removing them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from mmsearch.byte_size import size_text
from mmsearch.cli.models_page import list_as_json, list_page, model_as_json, model_page
from mmsearch.cli.models_pull import NameArgument, pull, say_installed
from mmsearch.cli.options import DebugOption, JsonOption
from mmsearch.cli.output import path_fields, print_json, print_lines
from mmsearch.cli.termination import end_in_good_order
from mmsearch.errors import UsageError
from mmsearch.safe_text import safe_path, safe_text


def list_models(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """List bundled, recommended, known and your own models."""
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
    say_installed(installed.directory, installed.name, as_json=as_json)


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
    """Write a model as ONNX, for use without torch.

    It is compared with the original, and needs neither torch nor the extra after that; writing it needs the
    extra: pip install 'mmsearch[clip]'. Without --out an installed model gets its ONNX form: the same name
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
    """Remove a model, or what an interrupted pull left.

    Any that was pulled or imported, a damaged one too.
    """
    from mmsearch.model_manifest import bundled_models
    from mmsearch.model_removal import remove as run

    if name in bundled_models():
        raise UsageError(f"model '{name}' came with mmsearch, and stays")
    freed = run(name)
    if as_json:
        print_json({"removed": name, "bytes": freed})
    else:
        print_lines([f"{safe_text(name)} is removed: {size_text(freed)} free"])


MODELS: dict[str, Callable[..., None]] = {
    "list": list_models,
    "info": info,
    "pull": pull,
    "import": import_,
    "export": export,
    "remove": remove,
}
