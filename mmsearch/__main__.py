"""`python -m mmsearch` is `mmsearch`. Imports nothing at first, so that Ctrl-C is heard from the first moment."""

from __future__ import annotations

import sys

_INTERRUPTED = 130


def main() -> None:
    """Runs the command in `sys.argv` and exits with its code."""
    try:
        if sys.argv[1:2] == ["query"]:
            _answer_quickly()
        from mmsearch.cli.main import main as run_command

        run_command()
    except KeyboardInterrupt:
        # While modules were loaded: whatever comes later is caught where it happens.
        sys.stderr.write("mmsearch: interrupted\n")
        _end_interrupted()
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            _end_interrupted()
        raise


def _end_interrupted() -> None:
    """Ends the process with the code for it. Python itself would end by the signal instead, had that come while it made
    a class or a function of text, as for dataclasses, even if somebody caught it.
    """
    from mmsearch.cli.outcome import end_at_once

    end_at_once(_INTERRUPTED)


def _answer_quickly() -> None:
    """Ends the process with the answer, or returns when the arguments need the parser of all commands."""
    from mmsearch.cli.outcome import end_at_once, fill_closed_streams
    from mmsearch.cli.quick import run_quickly

    fill_closed_streams()
    code = run_quickly(sys.argv[1:])
    if code is not None:
        end_at_once(code)


if __name__ == "__main__":
    main()
