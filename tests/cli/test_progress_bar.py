from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

from running import CHECKOUT, python

from mmsearch.cli.progress import progress_bar

WORK = """
from mmsearch.cli.progress import progress_bar
from mmsearch.progress import Progress
with progress_bar() as progress:
    progress(Progress("scan", 0))
    progress(Progress("scan", 7))
    progress(Progress("index", 0, 10))
    progress(Progress("index", 3, 12))
print("done")
"""


QUIET = """
import sys
from mmsearch.cli.progress import progress_bar
with progress_bar() as progress:
    print(progress)
print("rich" in sys.modules)
"""


def on_a_terminal(script: str) -> tuple[bytes, str]:
    """stdout, and what a terminal on stderr was sent, control sequences removed."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=theirs, env=environment, timeout=60, check=True
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    return done.stdout, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_on_a_terminal_every_phase_shows_its_count_and_stdout_stays_clean() -> None:
    out, shown = on_a_terminal(WORK)
    assert out == b"done\n"
    assert re.search(r"Looking for files .* 7/\?", shown)
    assert re.search(r"Indexing .* 3/12", shown)


def test_where_nobody_looks_there_is_no_callback_and_no_rich() -> None:
    with progress_bar() as progress:
        assert progress is None
    outcome = python("-c", QUIET)
    assert (outcome.lines, outcome.err) == (["None", "False"], "")
