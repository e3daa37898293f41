"""Being asked to end: SIGTERM to a command that has something to finish acts as Ctrl-C does."""

from __future__ import annotations

import signal


def end_in_good_order() -> None:
    """Makes SIGTERM an interrupt, unless whoever started this process had it ignored: then it stays so."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
