"""Commands under strace: the system calls they make, and what is injected into them.

strace counts calls for each thread and each kind by itself, so the N-th of a kind is the N-th in whichever thread comes
to it first.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fault_server import Ended, FaultServer

WRITING = (
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"),
    *("write", "pwrite64", "fsync", "fdatasync", "ftruncate"),
)
_CALL = re.compile(r"^(\d+) +(\w+)\(")

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@dataclass(frozen=True)
class Traced:
    """How a command ended, and the lines of its trace in order, each beginning with the thread's id."""

    ended: Ended
    lines: list[str]

    @property
    def calls(self) -> list[tuple[int, str]]:
        """Thread and name of each call."""
        found = (_CALL.match(line) for line in self.lines)
        return [(int(match[1]), match[2]) for match in found if match]

    def most_in_a_thread(self) -> Counter[str]:
        """For each kind of call, how many of it the busiest thread made."""
        most: Counter[str] = Counter()
        for (_, name), count in Counter(self.calls).items():
            most[name] = max(most[name], count)
        return most


def traced(
    server: FaultServer,
    *words: str | Path,
    options: tuple[str, ...] = (),
    calls: tuple[str, ...] = WRITING,
    **befalls: Any,
) -> Traced:
    """Runs a command under strace with `options`, such as `-e inject=...`; `calls` are the kinds that are traced."""
    log, gate = server.scratch / "trace", server.scratch / "gate"
    for path in (log, gate):
        path.unlink(missing_ok=True)
    pid = server.start(*words, gate=str(gate), **befalls)
    command = ["strace", "-f", "-p", str(pid), "-o", str(log), "-e", f"trace={','.join(calls)}", "-e", "signal=none"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        told = strace.stderr.readline()
        gate.touch()
        ended = server.wait()
        told += strace.stderr.read()
    assert "attached" in told, f"strace cannot be used here: {told}"
    return Traced(ended, log.read_text(encoding="latin-1").splitlines())
