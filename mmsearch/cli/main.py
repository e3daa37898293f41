"""The command line as a whole: which commands there are, and how their arguments are parsed.

Only typer and the standard library are imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, NoReturn

import typer
from typer.main import get_command

from mmsearch import __version__
from mmsearch.cli.check import check
from mmsearch.cli.demo import demo
from mmsearch.cli.eval import eval as measure
from mmsearch.cli.index import index
from mmsearch.cli.info import info
from mmsearch.cli.models import MODELS
from mmsearch.cli.optimize import optimize
from mmsearch.cli.options import DebugOption
from mmsearch.cli.outcome import INTERRUPTED, USAGE, exit_code_of, fill_closed_streams
from mmsearch.cli.output import print_lines
from mmsearch.cli.query import query
from mmsearch.cli.repair import repair
from mmsearch.cli.tag import tag
from mmsearch.cli.train import train

COMMANDS: tuple[Callable[..., None], ...] = (index, query, measure, tag, train, info, check, repair, optimize, demo)

# Commands of a command: `mmsearch models list`.
GROUPS: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
    "models": ("Show, fetch, make and remove models. Only `models pull` ever goes to a network.", MODELS)
}


def main() -> NoReturn:
    """Runs the command in `sys.argv` and exits with its code."""
    fill_closed_streams()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command; errors are one line on stderr, and a traceback above it under `--debug`."""
    return exit_code_of(lambda: _parse_and_run(arguments), arguments)


def _parse_and_run(arguments: Sequence[str]) -> object:
    try:
        # Depending on its version the parser returns 130 for Ctrl-C, raises Abort, or lets the exception pass.
        return get_command(_app()).main(list(arguments), prog_name="mmsearch", standalone_mode=False)
    except typer.Abort:
        return INTERRUPTED


def _app() -> typer.Typer:
    # Help is plain text: drawing it with rich would take longer than all the rest of `--help`.
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_mmsearch)
    for command in COMMANDS:
        app.command(short_help=_first_sentence(command.__doc__))(command)
    for name, (about, commands) in GROUPS.items():
        group = typer.Typer(rich_markup_mode=None, help=about)
        group.callback(invoke_without_command=True)(_help_without_command)
        for called, command in commands.items():
            group.command(called, short_help=_first_sentence(command.__doc__))(command)
        app.add_typer(group, name=name, short_help=_first_sentence(about))
    return app


def _first_sentence(text: str | None) -> str:
    """What a list of commands says of one. Said to the parser, which would cut it short by itself."""
    return " ".join((text or "").partition("\n\n")[0].split()).partition(". ")[0].rstrip(".") + "."


def _show_version(asked: bool) -> None:
    if asked:
        print_lines([f"mmsearch {__version__}"])
        raise typer.Exit


def _mmsearch(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Find photos by sentence and sentences by photo, offline, on this machine's CPU."""
    _help_without_command(context)


def _help_without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        sys.stderr.write(context.get_help() + "\n")
        raise typer.Exit(USAGE)
