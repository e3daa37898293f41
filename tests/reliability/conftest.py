"""What the reliability tests share."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from types import FrameType

import pytest
from fault_scenes import commands, scenes, server

__all__ = ["commands", "scenes", "server"]

_CPU_S = 120
_MEMORY_BYTES = 400 * 1024 * 1024


@pytest.fixture
def bounded() -> Iterator[None]:
    """Ends a test that computes for ever, and fails one whose process has grown by much. Only our own time counts."""

    def hangs(signal_number: int, frame: FrameType | None) -> None:
        pytest.fail(f"no end after {_CPU_S} s of computing")

    before = _peak_bytes()
    previous = signal.signal(signal.SIGVTALRM, hangs)
    signal.setitimer(signal.ITIMER_VIRTUAL, _CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)
    grown = _peak_bytes() - before
    assert grown < _MEMORY_BYTES, f"{grown / 1e6:.0f} MB of memory"


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
