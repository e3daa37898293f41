"""Cases that no test is marked with, and those that the quick tier leaves out, and why. Of the first none has a test,
and of neither any comes with the server.
"""

from __future__ import annotations

UNTESTED: dict[str, str] = {
    "L8": "times on a quiet machine; tests count files, rows and bytes, and never look at a clock",
}

FULL_ALONE: dict[str, str] = {
    "L10": "every point is a process that is killed and one that goes on, tens of minutes in all; the quick tier kills"
    " at a few points of the same commands (F1, F2)",
    "P1": "every protection takes a run of its test in a copy of the tree; the quick tier looks that each can still be"
    " taken away",
}
