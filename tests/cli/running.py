"""Running the command line, within this process where that is enough, in one of its own where it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code, the bytes on stdout, the text on stderr."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli(Protocol):
    """Runs `mmsearch` with these arguments."""

    def __call__(self, *arguments: str | bytes | Path, input: bytes = b"") -> Outcome: ...


def in_process(*arguments: str | bytes | Path, input: bytes = b"") -> Outcome:
    """`python -m mmsearch` in a process of its own, with warnings as errors."""
    return python("-m", "mmsearch", *arguments, input=input)


def python(*arguments: str | bytes | Path, input: bytes = b"") -> Outcome:
    """An interpreter of its own that finds mmsearch, with warnings as errors."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, *arguments], input=input, capture_output=True, env=environment, timeout=60, check=False
    )
    return Outcome(done.returncode, done.stdout, done.stderr.decode())
