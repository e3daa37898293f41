"""Commands that something befalls, from a test's side: what is to befall them, and what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHECKOUT = Path(__file__).resolve().parents[2]
_SMALL = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MMSEARCH_THREADS", "MMSEARCH_WORKERS"), "1")


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, or minus the signal; what it printed; its events; and what it had
    acknowledged, the rows (path, part) of the last snapshot that it had said to be safe.
    """

    code: int
    out: str
    err: str
    events: list[str]
    acknowledged: set[tuple[bytes, int]]

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class FaultServer:
    """Runs commands one after the other, each in a process of its own. A context manager.

    `scratch` is an empty directory for what they print.
    """

    scratch: Path

    def __enter__(self) -> Self:
        self.scratch.mkdir(parents=True, exist_ok=True)
        # Neither settings nor caches of the person who runs the tests.
        own = {name: value for name, value in os.environ.items() if not name.startswith(("MMSEARCH_", "XDG_"))}
        environment = {**own, **_SMALL, "PYTHONPATH": str(CHECKOUT), "HOME": str(self.scratch)}
        program = [sys.executable, str(Path(__file__).with_name("fault_child.py"))]
        self._process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._count = 0
        self._paths: dict[str, str] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=60)
        finally:
            self._process.kill()

    def start(self, *arguments: str | Path, **befalls: Any) -> int:
        """The pid of a command that has been started. What `befalls` it is described in `fault_child`."""
        self._count += 1
        names = ("stdout", "stderr", "events", "published")
        self._paths = {name: str(self.scratch / f"{self._count}-{name}") for name in names}
        spec = {**self._paths, "arguments": [str(argument) for argument in arguments], **befalls}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(spec) + "\n")
        self._process.stdin.flush()
        return int(self._answer()["pid"])

    def wait(self) -> Ended:
        """How the command that was started last ended."""
        code = self._answer()["status"]
        out, err, events, published = (_text(self._paths[name]) for name in ("stdout", "stderr", "events", "published"))
        last = [json.loads(line) for line in published.splitlines()][-1:]
        rows = {(bytes.fromhex(path), part) for each in last for path, part in each["rows"]}
        return Ended(code, out, err, events.splitlines(), rows)

    def run(self, *arguments: str | Path, **befalls: Any) -> Ended:
        """How a command ended that something befell."""
        self.start(*arguments, **befalls)
        return self.wait()

    def _answer(self) -> dict[str, int]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that runs commands has ended"
        answer: dict[str, int] = json.loads(line)
        return answer


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""
