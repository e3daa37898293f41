"""Timing in alternation: A B A B ..., so that whatever else the machine does falls on all contestants alike.

Absolute times on a shared machine say little; the ratio of two times taken one right after the other says much. A ratio
is the median over pairs, with the interval that holds the true median in 95 of 100 cases (order statistics, without
assumptions about the distribution).
"""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mmsearch.errors import MMSearchError

_MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: wall and CPU seconds, and the peak resident memory in MiB, 0 where it was not a process of its own."""

    wall: float
    cpu: float
    peak_mib: float = 0.0


Work = Callable[[], Sample]


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as long A takes as B: the median over pairs, and its 95 % interval."""

    value: float
    low: float
    high: float


def alternate(contestants: Mapping[str, Work], rounds: int, *, warm_up: int = 1) -> dict[str, list[Sample]]:
    """Return `rounds` samples of each contestant, taken in turns after `warm_up` rounds that do not count."""
    samples: dict[str, list[Sample]] = {name: [] for name in contestants}
    for turn in range(warm_up + rounds):
        for name, work in contestants.items():
            sample = work()
            if turn >= warm_up:
                samples[name].append(sample)
    return samples


def in_process(work: Callable[[], object]) -> Work:
    """Return `work` as a contestant of this process."""

    def timed() -> Sample:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return Sample(time.perf_counter() - wall, time.process_time() - cpu)

    return timed


def command(arguments: Sequence[str], environment: Mapping[str, str], *, output: Path | None = None) -> Work:
    """Return a command as a contestant, from its start to its end, everything between included.

    Its stdout goes to `output`. A command that fails ends the bench: the time of a failure is the time of nothing.
    """
    request = {"arguments": list(arguments), "environment": dict(environment), "output": str(output or os.devnull)}
    line = json.dumps(request) + "\n"

    def timed() -> Sample:
        server = _spawner()
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(line)
        server.stdin.flush()
        answer = json.loads(server.stdout.readline())
        if answer["code"]:
            words = f"{' '.join(arguments[:6])} ... failed with {answer['code']}: {answer['complaint']}"
            raise MMSearchError(words)
        return Sample(answer["wall"], answer["cpu"], answer["peak"] / _MEBIBYTE)

    return timed


@functools.cache
def _spawner() -> subprocess.Popen[str]:
    """The small process that starts commands for us; it ends when we do."""
    script = [sys.executable, "-I", "-S", str(Path(__file__).with_name("spawner.py"))]
    return subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def end_spawner() -> None:
    """End that small process now, where one was started."""
    if _spawner.cache_info().currsize:
        with _spawner() as server:  # closes its pipes, which ends it, and waits
            pass
        assert server.returncode is not None
        _spawner.cache_clear()


def median_ms(samples: Sequence[Sample]) -> float:
    """Return the median wall time in milliseconds."""
    return 1000 * median(sample.wall for sample in samples)


def median_cpu_ms(samples: Sequence[Sample]) -> float:
    """Return the median CPU time in milliseconds."""
    return 1000 * median(sample.cpu for sample in samples)


def median_peak_mib(samples: Sequence[Sample]) -> float:
    """Return the median of the peak resident memory in MiB."""
    return median(sample.peak_mib for sample in samples)


def paired_ratio(samples: Sequence[Sample], baseline: Sequence[Sample]) -> Ratio:
    """Return how many times the wall time of `baseline` each sample took, pair by pair."""
    return ratio_of([one.wall / other.wall for one, other in zip(samples, baseline, strict=True)])


def ratio_of(values: Sequence[float]) -> Ratio:
    """Return the median of `values` with the order statistics that enclose the true one with 95 %.

    With fewer than six values no two of them do, and the interval is everything seen.
    """
    ordered = sorted(values)
    count = len(ordered)
    # The largest number of values that may be dropped at either end: P(Binomial(count, 1/2) <= dropped) <= 2.5 %.
    dropped, cumulated = 0, 1 + count
    while 40 * cumulated <= 1 << count:
        dropped += 1
        cumulated += math.comb(count, dropped + 1)
    return Ratio(median(ordered), ordered[dropped], ordered[count - 1 - dropped])
