"""Starts commands and times them, from a process that is smaller than any of them.

A process inherits the peak memory of the one that started it, so a bench that holds a gallery would report its own
size for every child. Run as a script, this file is that small process: a request a line on stdin, an answer a line on
stdout. It imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

_SHOWN_BYTES = 400


def timed(arguments: list[str], environment: dict[str, str], output: str) -> dict[str, Any]:
    """Return exit code, wall and CPU seconds, peak memory in bytes, and the end of stderr; stdout goes to `output`."""
    started = time.perf_counter()
    with (
        open(output, "wb") as stdout,  # noqa: PTH123
        subprocess.Popen(
            arguments, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE
        ) as process,
    ):
        assert process.stderr is not None
        complaint = process.stderr.read()
        # wait4 and not wait: it alone tells what this one child used.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
    return {
        "code": process.returncode,
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
        "complaint": complaint.decode("utf-8", "replace").strip()[-_SHOWN_BYTES:],
    }


def serve() -> None:
    """Answer requests until stdin ends."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = timed(request["arguments"], request["environment"], request["output"])
        except OSError as error:
            answer = {"code": 127, "complaint": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
