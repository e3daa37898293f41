"""A file's oddities are data: Pillow's warnings about them do not reach the program around us."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

_quiet_lock = threading.Lock()
_quiet_count = 0
_quiet_scope: warnings.catch_warnings[None] | None = None


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence what Pillow says about the file at hand, for as long as any thread is inside.

    All threads share one `catch_warnings`: several would restore each other's filters in the wrong order.
    """
    global _quiet_count, _quiet_scope
    with _quiet_lock:
        if _quiet_count == 0:
            _quiet_scope = warnings.catch_warnings()
            _quiet_scope.__enter__()
            warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)(\.|$)")
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        _quiet_count += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_count -= 1
            if _quiet_count == 0 and _quiet_scope is not None:
                _quiet_scope.__exit__(None, None, None)
                _quiet_scope = None
