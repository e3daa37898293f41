"""Ctrl-C and SIGTERM as a request to stop at the next safe point, instead of an exception anywhere."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopWaiting(BaseException):
    """Ends a wait. Not an Exception, so that nothing between the signal and the one who waits takes it for an error."""


class Interrupt:
    """Whether the run was asked to stop."""

    def __init__(self) -> None:
        self.requested = False
        self._waiting = False

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A stretch of code that holds nothing worth keeping: a request ends it at once, with `StopWaiting`."""
        self._waiting = True
        try:
            if self.requested:
                raise StopWaiting
            yield
        finally:
            self._waiting = False

    def request(self) -> None:
        """Asks the run to stop."""
        self.requested = True
        if self._waiting:
            raise StopWaiting


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupt]:
    """An `Interrupt` that the first SIGINT or SIGTERM sets; a second one acts as it did before.

    Python handles signals in the main thread only: elsewhere nothing is installed. A signal that was ignored stays so.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {each: signal.getsignal(each) for each in _SIGNALS}
    before = {each: handler for each, handler in before.items() if handler not in (None, signal.SIG_IGN)}

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    def stop(number: int, frame: FrameType | None) -> None:
        restore()
        interrupt.request()

    for each in before:
        signal.signal(each, stop)
    try:
        yield interrupt
    finally:
        restore()
