"""What becomes of a command's work: its exit code, and one line on stderr for whatever went wrong.

Nothing heavy is imported here: the shortest way to an answer goes through this module too.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mmsearch.cli.output import ReaderGoneError, note
from mmsearch.errors import MMSearchError

FAILURE, USAGE, INTERRUPTED = 1, 2, 130


def exit_code_of(work: Callable[[], object], arguments: Sequence[str]) -> int:
    """The exit code of `work`, which may return one; errors are one line on stderr, and with `--debug` among
    `arguments` a traceback above it. What the library warns of meanwhile is a line too.
    """
    library = logging.getLogger("mmsearch")
    library.addHandler(warnings := _Notes(logging.WARNING))
    try:
        return _exit_code_of(work, arguments)
    finally:
        library.removeHandler(warnings)


class _Notes(logging.Handler):
    """What the library warns of, as lines like every other."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            note(record.getMessage())
        except Exception:  # as every handler does: what is wrong with a warning is no reason to stop the work
            self.handleError(record)


def _exit_code_of(work: Callable[[], object], arguments: Sequence[str]) -> int:
    try:
        code = work()
    except KeyboardInterrupt:
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


def fill_closed_streams() -> None:
    """Leads standard streams that were closed to nowhere; else a file opened later gets the number of one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def end_at_once(code: int) -> NoReturn:
    """Ends the process without taking apart what was loaded, which is a tenth of a query's time. Only for a command
    that has written nothing but its output, and that has been printed.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.exit(code)  # Python's own way out knows what to say about a stream that cannot be flushed
    os._exit(code)


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
