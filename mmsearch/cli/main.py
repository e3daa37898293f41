"""The command line as a whole: which commands there are, and what becomes of an error.

Only typer and the standard library are imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.main import get_command

from mmsearch import __version__
from mmsearch.cli.demo import demo
from mmsearch.cli.eval import eval as measure
from mmsearch.cli.index import INTERRUPTED, index
from mmsearch.cli.info import info
from mmsearch.cli.options import DebugOption
from mmsearch.cli.output import ReaderGoneError, note, print_lines
from mmsearch.cli.query import query
from mmsearch.cli.repair import repair
from mmsearch.errors import MMSearchError

FAILURE, USAGE = 1, 2

COMMANDS: tuple[Callable[..., None], ...] = (index, query, measure, info, repair, demo)


def main() -> NoReturn:
    """Runs the command in `sys.argv` and exits with its code."""
    _fill_closed_streams()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command; errors are one line on stderr, and a traceback above it under `--debug`."""
    library = logging.getLogger("mmsearch")
    library.addHandler(warnings := _Notes(logging.WARNING))
    try:
        return _run(arguments)
    finally:
        library.removeHandler(warnings)


class _Notes(logging.Handler):
    """What the library warns of, as lines like every other."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            note(record.getMessage())
        except Exception:  # as every handler does: what is wrong with a warning is no reason to stop the work
            self.handleError(record)


def _run(arguments: Sequence[str]) -> int:
    try:
        # Depending on its version the parser returns 130 for Ctrl-C, raises Abort, or lets the exception pass.
        code = get_command(_app()).main(list(arguments), prog_name="mmsearch", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except ReaderGoneError:
        return 0
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        note(_words(error))
        return getattr(error, "exit_code", FAILURE)
    if code == INTERRUPTED:
        note("interrupted")
    return code if isinstance(code, int) else 0


def _fill_closed_streams() -> None:
    """Leads standard streams that were closed to nowhere; else a file opened later gets the number of one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


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
        app.command()(command)
    return app


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
    if context.invoked_subcommand is None:
        sys.stderr.write(context.get_help() + "\n")
        raise typer.Exit(USAGE)


def _words(error: Exception) -> str:
    """What went wrong, for a person. An error that nobody raised on purpose says its type, and how to see more."""
    if isinstance(error, MMSearchError):
        return str(error)
    if (usage := _parser_complaint(error)) is not None:
        return usage
    return f"unexpected {type(error).__name__}: {error} (--debug shows where)"


def _parser_complaint(error: Any) -> str | None:
    """What the argument parser complains about. Known by its shape: its class has moved between versions."""
    if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
        return None
    context = getattr(error, "ctx", None)
    command = "mmsearch" if context is None else context.command_path
    return f"{error.format_message().rstrip('.')}; see {command} --help"
