"""Cases that no test is marked with, and why. None with a test stands here, and none that comes with the server."""

from __future__ import annotations

UNTESTED: dict[str, str] = {
    "L8": "times on a quiet machine; tests count files, rows and bytes, and never look at a clock",
}
