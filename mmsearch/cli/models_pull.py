"""`mmsearch models pull`: a model from the hub, its licence agreed to, and its ONNX form."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.byte_size import size_text
from mmsearch.cli.models_page import installed_line, model_as_json
from mmsearch.cli.options import DebugOption, JsonOption
from mmsearch.cli.output import note, print_json, print_lines
from mmsearch.cli.termination import end_in_good_order
from mmsearch.errors import ModelError, UsageError
from mmsearch.safe_text import safe_text

if TYPE_CHECKING:
    from mmsearch.model_plan import PullPlan

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="One of `models list`, ARCHITECTURE/PRETRAINED as open_clip calls it, or hf-hub:ORG/NAME.",
    ),
]


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
    from mmsearch.model_manifest import bundled_models

    end_in_good_order()
    if name in bundled_models():
        note(f"model '{name}' came with mmsearch: it is here already")
        _say_here(name, as_json=as_json)
        return
    found = _installed_already(name) or _pulled(name, yes=yes)
    if not no_onnx:
        _add_onnx_form(found, name)
    say_installed(found, name, as_json=as_json)


def say_installed(directory: Path, name: str, *, as_json: bool) -> None:
    """Prints that the model in `directory`, called `name`, is there now."""
    if as_json:
        from mmsearch.model_listing import look_at

        print_json(model_as_json(look_at(directory.name)))
    else:
        print_lines([installed_line(directory, name)])


def _installed_already(name: str) -> Path | None:
    """The directory of the model `name`, None where it is not installed.

    Raises:
        ModelError: it is damaged; says how to get a whole one.
    """
    from mmsearch.model_listing import look_at
    from mmsearch.model_store import find, marker_damage

    if (damage := marker_damage(name)) is not None:
        raise ModelError(damage)
    found = find(name)
    if found is not None:
        about, shown = look_at(name), safe_text(name)
        if about.state == "damaged":
            raise ModelError(
                f"model '{shown}' is installed, and damaged: {about.trouble}; remove it with"
                f" `mmsearch models remove {shown}`, then pull or import it anew"
            )
        note(f"model '{shown}' is installed already")
    return found


def _pulled(name: str, *, yes: bool) -> Path:
    """The directory of the model `name`, fetched once its licence is agreed to."""
    from mmsearch.cli.progress import progress_bar
    from mmsearch.model_plan import plan_pull
    from mmsearch.model_pull import pull as run
    from mmsearch.model_removal import waiting_bytes

    plan, shown = plan_pull(name), safe_text(name)
    note(f"{shown}: {size_text(plan.bytes)}, licence: {plan.license}, from {safe_text(plan.repository.id)}")
    if plan.ask and not yes:
        _agree(plan)
    try:
        with progress_bar() as progress:
            return run(plan, progress=progress).directory
    except KeyboardInterrupt:
        if have := waiting_bytes(name):
            note(
                f"{size_text(have)} of {shown} are kept: mmsearch models pull {shown} goes on from there,"
                f" mmsearch models remove {shown} drops them"
            )
        else:
            note(f"nothing of {shown} has come yet, and nothing stays: mmsearch models pull {shown} begins anew")
        raise


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


def _say_here(name: str, *, as_json: bool) -> None:
    from mmsearch.model_listing import look_at

    if as_json:
        print_json(model_as_json(look_at(name)))
    else:
        print_lines([f"{safe_text(name)} is here: mmsearch index PHOTOS --model {safe_text(name)}"])
